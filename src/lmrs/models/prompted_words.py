"""A prompted language model read by words: the prompt names a candidate, and the model's yes or no judges it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.decoding import causal
from lmrs.language.running import dropping
from lmrs.models.prompted import ByItem, Prompted, wide
from lmrs.prompts import Compiled
from lmrs.visibility import Visibility
from lmrs.vocab import Vocab

ROWS = 16  # prompts read at once when candidates are ranked


class WordsNetwork(ByItem):
    """Encoders are read at the mask, causal models at the token after the prompt."""

    def __init__(self, model: Prompted, vocab: Vocab) -> None:
        super().__init__(model, vocab)
        self.verbaliser = model.words.build(self.tokens)

    def verdicts(
        self, batch: Batch, visible: Visibility, at: Tensor, items: Tensor, rng: torch.Generator | None = None
    ) -> Tensor:
        self.check(visible)
        return self._log_odds(self.prompts(batch, at, candidates=items.cpu().numpy()), rng).view(items.shape)

    @torch.no_grad()
    def score_among(self, batch: Batch, visible: Visibility, candidates: Tensor) -> Tensor:
        self.check(visible)
        at = batch.channels["asked"].nonzero()[:, 0]
        items = candidates.cpu().numpy()
        out = torch.full(items.shape, -torch.inf)
        for row in range(len(items)):
            places = np.flatnonzero(items[row] >= 0)
            for some in (places[begin : begin + ROWS] for begin in range(0, len(places), ROWS)):
                compiled = self.prompts(batch, at[row : row + 1], candidates=items[row][None, some])
                shared = 0 if self.encoder or self.prompt is not None else common(compiled)
                found = self._log_odds(compiled) if not shared else self._after(compiled, shared)
                out[row, torch.from_numpy(some)] = found.float().cpu()
        return out.to(candidates.device)

    @torch.no_grad()
    def blank(self, items: np.ndarray) -> np.ndarray:
        found = []
        for some in np.split(items, range(ROWS, len(items), ROWS)):
            compiled = self.compiled(np.zeros(0, np.int64), np.zeros(len(some) + 1, np.int64), candidate=some)
            found.append(self._log_odds(compiled).double().cpu().numpy())
        return np.concatenate(found)

    def _log_odds(self, compiled: Compiled, rng: torch.Generator | None = None) -> Tensor:
        """[B]: log p(yes) - log p(no)."""
        ids, mask, soft = self.padded(compiled)
        keep = {"logits_to_keep": 1} if not self.encoder and "logits_to_keep" in self.takes else {}
        place = np.full(len(ids), -1) if not self.encoder else compiled.mask - compiled.offsets[1:] + ids.shape[1]
        only = _read_at(self._language().base_model, torch.from_numpy(place)) if self.encoder else nullcontext()
        with dropping(self.backbone, rng), only:
            logits = self.run(self.embedded(ids, soft), mask, **keep).logits
        return self._read(logits, torch.zeros(len(ids), dtype=torch.int64) if self.encoder else torch.from_numpy(place))

    def _after(self, compiled: Compiled, shared: int) -> Tensor:
        """`_log_odds` of prompts whose first `shared` tokens are the same and are read once."""
        language: Any = self.backbone
        same = torch.from_numpy(compiled.ids[None, :shared]).to(self.place)
        context = causal(language, same, torch.ones_like(same, dtype=torch.bool))
        size = np.diff(compiled.offsets) - shared
        step = np.arange(size.max())
        flat = compiled.offsets[:-1, None] + np.where(step < size[:, None], shared + step, 0)
        logits, _ = context.select(torch.zeros(len(size), dtype=torch.long)).read(
            torch.from_numpy(compiled.ids[flat]).to(self.place)
        )
        return self._read(logits, torch.from_numpy(size - 1))

    def _read(self, logits: Tensor, place: Tensor) -> Tensor:
        """[B]: log-odds from logits [B, T, W] at one place of each prompt."""
        scores = self.verbaliser.score(wide(logits[torch.arange(len(place)), place]))
        return scores[:, 1] - scores[:, 0]


@contextmanager
def _read_at(base: nn.Module, place: Tensor) -> Iterator[None]:
    """Within it an encoder gives the state of one token of each row, [B, 1, D], so that the head scores no others: with a large
    vocabulary that head is most of the work."""

    def chosen(module: nn.Module, given: Any, found: Any) -> Any:
        states = found.last_hidden_state
        found["last_hidden_state"] = states[torch.arange(len(states)), place.to(states.device)][:, None]
        return found

    hook = base.register_forward_hook(chosen)
    try:
        yield
    finally:
        hook.remove()


def common(compiled: Compiled) -> int:
    """How many tokens all prompts begin with, at least one of each left over."""
    size = int(np.diff(compiled.offsets).min()) - 1
    first = compiled.ids[compiled.offsets[:-1, None] + np.arange(size)]
    differs = (first != first[0]).any(0)
    return int(differs.argmax()) if differs.any() else size
