"""A prompted language model read by titles: an item's score is the likelihood of its title after the prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmrs.batch import Batch
from lmrs.decoding import Context, Likelihoods, causal, continuations, left_padded
from lmrs.errors import DataError
from lmrs.language.running import dropping
from lmrs.models.prompted import ByItem, Prompted, wide
from lmrs.prompts import Compiled
from lmrs.visibility import Visibility
from lmrs.vocab import Vocab


class TitleNetwork(ByItem):
    """Titles are read one token after the other; the prompt's keys and values are shared by all of them."""

    def __init__(self, model: Prompted, vocab: Vocab) -> None:
        super().__init__(model, vocab)
        self.answers: tuple[np.ndarray, np.ndarray] | None = None

    def _answers(self) -> tuple[np.ndarray, np.ndarray]:
        """(offsets int64[V + 1], token ids) of all titles as answers; a space before each, as in running text."""
        if self.answers is None:
            ids, offsets = self.tokens.batch([f" {title}{self.model.ending}" for title in self.titles])
            longest = int(np.diff(offsets).argmax())
            if (size := int(np.diff(offsets)[longest])) >= self.context:
                raise DataError(
                    needed=f"titles of fewer than {self.context} tokens, the context of {self.model.backbone.name}",
                    came=f"{self.titles[longest][:40]!r}... of {size:,}", remedy="shorten it in the catalogue",
                )  # fmt: skip
            self.answers = offsets, ids
        return self.answers

    @property
    def longest_answer(self) -> int:
        """Tokens of the longest title: so many are kept free behind a prompt."""
        return int(np.diff(self._answers()[0]).max())

    def likelihood(
        self, batch: Batch, visible: Visibility, at: Tensor, target: Tensor, rng: torch.Generator | None = None
    ) -> Tensor:
        self.check(visible)
        offsets, words = self._answers()
        wanted = target.cpu().numpy()
        size = np.diff(offsets)[wanted]
        prompt = self.prompts(batch, at, room=int(size.max()))
        row = np.concatenate([prompt.row_of, np.repeat(np.arange(len(wanted)), size)])
        order = np.argsort(row, kind="stable")
        answer = np.arange(int(size.sum())) - np.repeat(np.cumsum(size) - size, size) + np.repeat(offsets[wanted], size)
        ends = torch.from_numpy(prompt.offsets + np.concatenate([[0], np.cumsum(size)]))

        def padded(prompts: np.ndarray, answers: np.ndarray, pad: int) -> Tensor:
            return left_padded(torch.from_numpy(np.concatenate([prompts, answers])[order]), ends, pad)[0].to(self.place)

        ids = padded(prompt.ids, words[answer], self.tokens.pad or 0)
        soft = padded(prompt.soft, np.full(len(answer), -1), -1)
        mask = left_padded(torch.zeros(int(ends[-1])), ends, 0)[1].to(self.place)
        charged = torch.arange(ids.shape[1], device=self.place) >= ids.shape[1] - torch.from_numpy(size).to(self.place)[:, None]
        longest = int(size.max())
        with dropping(self.backbone, rng):
            options = {"logits_to_keep": longest + 1} if "logits_to_keep" in self.takes else {}
            logits = wide(self.run(self.embedded(ids, soft), mask, **options).logits[:, -longest - 1 : -1])
        gain = logits.gather(2, ids[:, -longest:, None])[..., 0] - logits.logsumexp(2)
        return gain.masked_fill(~charged[:, -longest:], 0).sum(1)

    @torch.no_grad()
    def score_among(self, batch: Batch, visible: Visibility, candidates: Tensor) -> Tensor:
        self.check(visible)
        at = batch.channels["asked"].nonzero()[:, 0]
        items = candidates.cpu().numpy()
        out = torch.full(items.shape, -torch.inf)
        prior: dict[int, float] = {}
        if self.model.score == "pmi":
            known = np.unique(items[items >= 0])
            prior = dict(zip(known.tolist(), self._after(self._nothing(), [known])[0].tolist(), strict=True))
        for begin in range(0, len(items), 8):
            rows = [row[row >= 0] for row in items[begin : begin + 8]]
            compiled = self.prompts(batch, at[begin : begin + 8], room=self.longest_answer)
            for row, (among, found) in enumerate(zip(rows, self._after(compiled, rows), strict=True), begin):
                if prior:
                    found = found - np.array([prior[item] for item in among.tolist()])
                out[row, torch.from_numpy(items[row] >= 0)] = torch.from_numpy(found).float()
        return out.to(candidates.device)

    @torch.no_grad()
    def blank(self, items: np.ndarray) -> np.ndarray:
        return self._after(self._nothing(), [items])[0]

    def _nothing(self) -> Compiled:
        """The prompt without history."""
        return self.compiled(np.zeros(0, np.int64), np.zeros(2, np.int64), room=self.longest_answer)

    def _after(self, compiled: Compiled, rows: list[np.ndarray]) -> list[np.ndarray]:
        """Scores float64[K] of the titles of some items after each prompt."""
        contexts = self._contexts(compiled)
        said, words = self._of_prompts(compiled) if self.model.score == "sentence" else (None, None)
        found = []
        for row, items in enumerate(rows):
            if not len(items):
                found.append(np.zeros(0))
                continue
            each = self._judged(contexts.select(torch.tensor([row])), items)
            if said is not None and words is not None:
                found.append((said[row] + each.total) / (words[row] + each.tokens))
            else:
                found.append(each.mean if self.model.score == "mean" else each.total)
        return found

    def _of_prompts(self, compiled: Compiled) -> tuple[np.ndarray, np.ndarray]:
        """(log p of each prompt's own words given those before, how many).

        The first one, and learned vectors, are not predicted."""
        ids, mask, soft = self.padded(compiled)
        logits = wide(self.run(self.embedded(ids, soft), mask).logits[:, :-1])
        gain = logits.gather(2, ids[:, 1:, None])[..., 0] - logits.logsumexp(2)
        charged = mask[:, :-1] & (soft[:, 1:] < 0)
        total = gain.double().masked_fill(~charged, 0).sum(1)
        return total.cpu().numpy(), charged.sum(1).cpu().numpy()

    def _contexts(self, compiled: Compiled) -> Context:
        ids, mask, soft = self.padded(compiled)
        embedded = None if self.prompt is None else self.embedded(ids, soft)
        language: Any = self.backbone
        return causal(language, ids if embedded is None else None, mask, embeddings=embedded)

    def _judged(self, context: Context, items: np.ndarray) -> Likelihoods:
        """The titles of some items after one prompt."""
        offsets, words = self._answers()
        size = np.diff(offsets)[items]
        flat = np.arange(int(size.sum())) - np.repeat(np.cumsum(size) - size, size) + np.repeat(offsets[items], size)
        return continuations(context, (np.concatenate([[0], np.cumsum(size)]), words[flat]))
