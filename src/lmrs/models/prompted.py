"""A pre-trained language model as a recommender: a history becomes a prompt; items are scored by what the model makes of it.

Two ways to read the answer, over one prompt and one backbone:
"title": log p(title of the item | prompt), item by item, which needs no training and works for items never seen;
"state": the model's state after the prompt times a table with a vector for each item, which must be trained.
"""

from __future__ import annotations

import fnmatch
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from lmrs import prompts
from lmrs.batch import Batch
from lmrs.decoding import Context, causal, continuations, left_padded
from lmrs.errors import ContractError
from lmrs.language import Backbone, require
from lmrs.language.adapters import Adapter, apply
from lmrs.language.known import family_named, names_of
from lmrs.language.running import dropping
from lmrs.losses import Output
from lmrs.models.network import Model, Network
from lmrs.prompts import Column, Compiled, Soft, Template, declare, parse
from lmrs.prompts.places import InputVectors, SoftPrompts, build
from lmrs.prompts.sources import Free
from lmrs.prompts.start import from_vocabulary
from lmrs.visibility import Causal, Visibility
from lmrs.vocab import Vocab

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PLAIN = "{list history}"  # no words of the author's: the text of the items and nothing else
READS = ("title", "state")
SCORES = ("sum", "mean", "pmi")


@dataclass(frozen=True)
class Prompted(Model):
    """A language model that reads a history as text.

    backbone: which one; "title" needs a causal one, "state" a causal one or an encoder.
    template: in the notation of `prompts.parse`. Columns: `history` (titles, oldest first) and `history.NAME` for a column NAME
    of the catalogue or an item attribute. Soft slots get free vectors, begun at words drawn from the vocabulary.
    read: "title" or "state", as above. score: of "title": "sum" of the log-probabilities of the title's tokens, their "mean", or
    "pmi", the sum less that after a prompt without history. ending: what closes a title, so that "Alien" is not half of
    "Aliens". pooling: of "state": the "last" token or the "mean" (encoders).
    max_len: events of the history; what the backbone's context cannot hold is left out, oldest first.
    context: tokens of a prompt, or None for what the backbone takes. adapter: LoRA or a prefix in the backbone.
    fresh: random weights in place of the trained ones (the architecture alone).
    """

    backbone: Backbone
    template: str = PLAIN
    read: str = "title"
    score: str = "sum"
    ending: str = "."
    pooling: str = "last"
    max_len: int = 10
    context: int | None = None
    adapter: Adapter | None = None
    fresh: bool = False

    def __post_init__(self) -> None:
        for name, choices in (("read", READS), ("score", SCORES), ("pooling", ("last", "mean"))):
            if getattr(self, name) not in choices:
                raise ContractError(needed=f"{name} {' or '.join(map(repr, choices))}", came=repr(getattr(self, name)))
        if self.max_len < 1:
            raise ContractError(needed="max_len of at least 1", came=f"max_len={self.max_len}")
        parse(self.template)
        family, able = family_named(self.backbone.name), ("causal",) if self.read == "title" else ("causal", "encoder")
        if family is None:
            require(self.backbone, for_=f"Prompted(read={self.read!r})", family=able)
        elif family not in able:
            raise ContractError(
                needed=f"a backbone of family {' or '.join(able)} for Prompted(read={self.read!r})",
                came=f"{self.backbone.name}, of family {family}",
                remedy=f"choose one of {', '.join(names_of(able))}, or a folder",
            )

    @property
    def pretrained(self) -> bool:
        return not self.fresh

    @property
    def prompted(self) -> bool:
        """The prompt says more than the items: words of the author's, or learned vectors."""
        return parse(self.template) != parse(PLAIN)

    @property
    def soft(self) -> bool:
        return bool(parse(self.template).slots(Soft))

    @property
    def by_item(self) -> bool:
        return self.read == "title"

    def allows(self, visible: Visibility) -> bool:
        return isinstance(visible, Causal)

    @property
    def origin(self) -> str:
        return "" if self.fresh else self.backbone.info().fingerprint

    def given(self, name: str) -> bool:
        own = () if self.adapter is None else self.adapter.patterns
        return self.pretrained and name.startswith("backbone.") and not any(fnmatch.fnmatchcase(name, each) for each in own)

    def group(self, name: str) -> str:
        if name.startswith("prompt"):
            return "prompt"
        return "head" if name.startswith("item") else "model"

    def build(self, vocab: Vocab) -> PromptedNetwork:
        return PromptedNetwork(self, vocab)


class PromptedNetwork(Network):
    """backbone: the language model (with its adapter). prompt: learned vectors. items, item_bias: the table of "state"."""

    backbone: nn.Module

    def __init__(self, model: Prompted, vocab: Vocab) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        info = model.backbone.info()
        self.model, self.n_items, self.dim = model, vocab.n_items, info.dim
        self.template: Template = parse(model.template)
        self.tokens = model.backbone.tokenizer()
        if declare(self.tokens, self.template).size != self.tokens.size:
            raise ContractError(
                needed="control tokens that the backbone has", came=model.template, remedy="write them as words or soft slots"
            )
        self.context = min(info.context, model.context or info.context)
        language: Any = model.backbone.build()
        if model.fresh:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(torch.randint(2**62, (), generator=rng)))
                language = type(language)(language.config).eval()
        if model.read == "state":
            language = language.base_model  # without the head that scores words
        self.takes = frozenset(inspect.signature(language.forward).parameters)
        table = language.get_input_embeddings().weight
        assert isinstance(table, Tensor)
        slots = self.template.slots(Soft)
        self.prompt: SoftPrompts | None = None
        if slots:
            sources = {name: Free(place.stop - place.start) for name, place in slots.items()}
            self.prompt = build(self.template, Soft, sources, info.dim, rng)
            for module, place in zip(self.prompt.sources.values(), slots.values(), strict=True):
                module.start(from_vocabulary(self.tokens, table.float(), place.stop - place.start, rng))  # type: ignore[operator]
        self.items = self.item_bias = None
        if model.read == "state":
            self.items = nn.Embedding(vocab.n_items, info.dim)
            nn.init.normal_(self.items.weight, std=0.02, generator=rng)
            self.item_bias = nn.Parameter(torch.zeros(vocab.n_items))
        self.backbone = language if model.adapter is None else apply(model.adapter, language, rng=rng)
        self.backbone.requires_grad_(True)
        self.titles = vocab.titles(np.arange(vocab.n_items))
        self.columns = {name: vocab.texts(name.removeprefix("history.")) for name in self.template.columns if "." in name}
        for name in self.template.columns:
            if name != "history" and not name.startswith("history."):
                raise ContractError(needed="columns history and history.NAME", came=name, remedy="change the template")
        self.answers: tuple[np.ndarray, np.ndarray] | None = None

    def train(self, mode: bool = True) -> PromptedNetwork:
        """There is no train mode: the backbone's dropout acts where a generator is given, and only there."""
        super().train(mode)
        self.backbone.eval()
        return self

    # -- the prompt ------------------------------------------------------------------------------------------------------

    def prompts(self, batch: Batch, at: Tensor | None = None, *, room: int = 0) -> Compiled:
        """What the model reads when it is asked after the places `at` (int64[M]; None: after every place).

        Each prompt holds the items of its row up to and with that place, `max_len` of them at most. room: tokens kept free.
        """
        offsets = batch.offsets.numpy()
        places = np.arange(batch.n_positions) if at is None else at.cpu().numpy()
        begin = np.maximum(offsets[np.searchsorted(offsets, places, side="right") - 1], places + 1 - self.model.max_len)
        size = places + 1 - begin
        ends = np.concatenate([[0], np.cumsum(size)])
        flat = np.arange(int(ends[-1])) - np.repeat(ends[:-1], size) + np.repeat(begin, size)
        item = batch.channels["item"].cpu().numpy()[flat]
        return self._compiled(item, ends, room)

    def _compiled(self, item: np.ndarray, offsets: np.ndarray, room: int) -> Compiled:
        given = {"history": Column(self.titles, item, offsets)}
        given |= {name: Column(texts, item, offsets) for name, texts in self.columns.items()}
        columns = {name: each for name, each in given.items() if name in self.template.columns}
        return prompts.compile(self.template, self.tokens, columns, context=self.context - room, missing="")

    def _answers(self) -> tuple[np.ndarray, np.ndarray]:
        """(offsets int64[V + 1], token ids) of all titles as answers; a space before each, as in running text."""
        if self.answers is None:
            ids, offsets = self.tokens.batch([f" {title}{self.model.ending}" for title in self.titles])
            self.answers = offsets, ids
        return self.answers

    def _embedded(self, ids: Tensor, soft: Tensor) -> Tensor:
        """[B, T, D] input vectors of padded tokens, learned ones at the soft places."""
        found = self._language().get_input_embeddings()(ids)
        if self.prompt is None:
            return found
        row = torch.arange(len(ids), device=ids.device)[:, None].expand_as(ids)
        return InputVectors().inject(found, soft, row, self.prompt(len(ids), {}))

    def _language(self) -> PreTrainedModel:
        """The model of the transformers package itself, without the adapter's wrapper."""
        inner: Any = self.backbone
        return inner if self.model.adapter is None else inner.get_base_model()

    def _run(self, embedded: Tensor, mask: Tensor, **options: Any) -> Any:
        """A forward pass over left-padded input vectors."""
        if "position_ids" in self.takes:
            options["position_ids"] = (mask.long().cumsum(1) - 1).clamp_min(0)
        return self.backbone(inputs_embeds=embedded, attention_mask=mask.long(), **options)

    def _padded(self, compiled: Compiled) -> tuple[Tensor, Tensor, Tensor]:
        """(ids, mask, soft places), each [B, T], padded on the left, on the model's device."""
        device = next(self.backbone.parameters()).device
        offsets = torch.from_numpy(compiled.offsets)
        ids, mask = left_padded(torch.from_numpy(compiled.ids), offsets, self.tokens.pad or 0)
        soft, _ = left_padded(torch.from_numpy(compiled.soft), offsets, -1)
        return ids.to(device), mask.to(device), soft.to(device)

    # -- read as a state -------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch, visible: Visibility, rng: torch.Generator | None = None, at: Tensor | None = None) -> Tensor:
        if not self.model.allows(visible):
            raise ContractError(needed="Causal() visibility for a prompt of what came before", came=repr(visible))
        if self.items is None:
            raise ContractError(
                needed="a network with states",
                came="Prompted(read='title')",
                remedy="use the objective Continuation, or read='state'",
            )
        if not batch.n_positions or (at is not None and not len(at)):
            return self.items.weight[:0]
        ids, mask, soft = self._padded(self.prompts(batch, at))
        with dropping(self.backbone, rng):
            states = self._run(self._embedded(ids, soft), mask).last_hidden_state
        if self.model.pooling == "last":
            return _wide(states[:, -1])
        return _wide((states * mask[..., None]).sum(1)) / mask.sum(1, keepdim=True)

    def output(self) -> Output:
        if self.items is None:
            raise ContractError(
                needed="a table of items", came="Prompted(read='title'), which scores titles", remedy="use read='state'"
            )
        return Output(self.items.weight, self.item_bias)

    # -- read as a title -------------------------------------------------------------------------------------------------

    def likelihood(
        self, batch: Batch, visible: Visibility, at: Tensor, target: Tensor, rng: torch.Generator | None = None
    ) -> Tensor:
        if self.items is not None:
            return super().likelihood(batch, visible, at, target, rng)
        offsets, words = self._answers()
        wanted = target.cpu().numpy()
        size = np.diff(offsets)[wanted]
        prompt = self.prompts(batch, at, room=int(size.max()))
        row = np.concatenate([prompt.row_of, np.repeat(np.arange(len(wanted)), size)])
        order = np.argsort(row, kind="stable")
        answer = np.arange(int(size.sum())) - np.repeat(np.cumsum(size) - size, size) + np.repeat(offsets[wanted], size)
        ends = torch.from_numpy(prompt.offsets + np.concatenate([[0], np.cumsum(size)]))
        device = next(self.backbone.parameters()).device

        def padded(prompts: np.ndarray, answers: np.ndarray, pad: int) -> Tensor:
            return left_padded(torch.from_numpy(np.concatenate([prompts, answers])[order]), ends, pad)[0].to(device)

        ids = padded(prompt.ids, words[answer], self.tokens.pad or 0)
        soft = padded(prompt.soft, np.full(len(answer), -1), -1)
        mask = left_padded(torch.zeros(int(ends[-1])), ends, 0)[1].to(device)
        charged = torch.arange(ids.shape[1], device=device) >= ids.shape[1] - torch.from_numpy(size).to(device)[:, None]
        longest = int(size.max())
        with dropping(self.backbone, rng):
            options = {"logits_to_keep": longest + 1} if "logits_to_keep" in self.takes else {}
            logits = _wide(self._run(self._embedded(ids, soft), mask, **options).logits[:, -longest - 1 : -1])
        gain = logits.gather(2, ids[:, -longest:, None])[..., 0] - logits.logsumexp(2)
        return gain.masked_fill(~charged[:, -longest:], 0).sum(1)

    @torch.no_grad()
    def score(self, batch: Batch, visible: Visibility) -> Tensor:
        if self.items is not None:
            return super().score(batch, visible)
        every = torch.arange(self.n_items).expand(batch.n_rows, -1)
        return self.score_among(batch, visible, every)

    @torch.no_grad()
    def score_among(self, batch: Batch, visible: Visibility, candidates: Tensor) -> Tensor:
        if self.items is not None:
            return super().score_among(batch, visible, candidates)
        if not self.model.allows(visible):
            raise ContractError(needed="Causal() visibility for a prompt of what came before", came=repr(visible))
        at = batch.channels["asked"].nonzero()[:, 0]
        items = candidates.cpu().numpy()
        out = torch.full(items.shape, -torch.inf)
        prior: dict[int, float] = {}
        if self.model.score == "pmi":
            known = np.unique(items[items >= 0])
            nothing = self._contexts(self._compiled(np.zeros(0, np.int64), np.zeros(2, np.int64), self.longest_answer))
            prior = dict(zip(known.tolist(), self._judged(nothing, known).tolist(), strict=True))
        for begin in range(0, len(items), 8):
            contexts = self._contexts(self.prompts(batch, at[begin : begin + 8], room=self.longest_answer))
            for row in range(begin, min(begin + 8, len(items))):
                real = items[row] >= 0
                found = self._judged(contexts.select(torch.tensor([row - begin])), items[row][real])
                if prior:
                    found = found - np.array([prior[item] for item in items[row][real].tolist()])
                out[row, torch.from_numpy(real)] = torch.from_numpy(found).float()
        return out.to(candidates.device)

    @property
    def longest_answer(self) -> int:
        """Tokens of the longest title: so many are kept free behind a prompt."""
        return int(np.diff(self._answers()[0]).max())

    def _contexts(self, compiled: Compiled) -> Context:
        ids, mask, soft = self._padded(compiled)
        embedded = None if self.prompt is None else self._embedded(ids, soft)
        language: Any = self.backbone
        return causal(language, ids if embedded is None else None, mask, embeddings=embedded)

    def _judged(self, context: Context, items: np.ndarray) -> np.ndarray:
        """float64[K]: scores of the titles of some items after one prompt."""
        offsets, words = self._answers()
        size = np.diff(offsets)[items]
        flat = np.arange(int(size.sum())) - np.repeat(np.cumsum(size) - size, size) + np.repeat(offsets[items], size)
        found = continuations(context, (np.concatenate([[0], np.cumsum(size)]), words[flat]))
        return found.mean if self.model.score == "mean" else found.total


def _wide(values: Tensor) -> Tensor:
    """Half precision as fp32, the rest as it is."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
