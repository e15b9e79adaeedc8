"""Towers over the parts of a document: a language model reads each, one layer over all of them, then the labels (PTM4Tag)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.errors import ContractError, did_you_mean
from lmrs.language import Backbone
from lmrs.losses import Output
from lmrs.models.checks import below_one
from lmrs.models.dropout import dropout
from lmrs.models.network import Model, Network
from lmrs.texts import Encoder, TextEncoder
from lmrs.visibility import Visibility
from lmrs.vocab import Vocab

TOWERS = ("own", "shared", "joined")


@dataclass(frozen=True)
class TextTowers(Model):
    """h = tanh(W drop[t_1; t_2; ...]), s = C drop(h) + b; t_p is the pooled vector of part p of a document, 0 if it lacks it.

    encoder: reads a part. parts: which, as views.Documents gives them. towers: a copy of the encoder for each part that learns by
    itself ("own", the paper's triplet), one for all ("shared", its twin), or one that reads all parts as one text ("joined").
    hidden: width of h, None for that of the encoder. dropout: before both maps, in [0, 1).

    An encoder that no stage tunes reads each text once in a process, and its own dropout does not act.
    """

    encoder: TextEncoder = TextEncoder(Backbone("minilm"), normalise=False)  # noqa: RUF009 - a frozen value
    parts: tuple[str, ...] = ("title", "text", "code")
    towers: str = "own"
    hidden: int | None = None
    dropout: float = 0.1

    max_len = 0  # reads texts, no positions

    def __post_init__(self) -> None:
        if self.towers not in TOWERS:
            raise ContractError(
                needed=f"towers {', '.join(map(repr, TOWERS))}", came=repr(self.towers), remedy=did_you_mean(self.towers, TOWERS)
            )
        if not self.parts:
            raise ContractError(needed="at least one part of a document", came="none", remedy="such as title")
        if self.hidden is not None and self.hidden < 1:
            raise ContractError(needed="hidden of at least 1, or None", came=f"hidden={self.hidden}")
        below_one(dropout=self.dropout)

    @property
    def pretrained(self) -> bool:
        return True

    @property
    def origin(self) -> str:
        return self.encoder.backbone.info().fingerprint

    def given(self, name: str) -> bool:
        return name.startswith("encoders.") and ".backbone." in name

    def group(self, name: str) -> str:
        return "head" if name.startswith(("dense.", "tags.")) else "model"

    def allows(self, visible: Visibility) -> bool:
        return True

    def build(self, vocab: Vocab) -> TextTowersNetwork:
        """Raises UserError if the backbone is not at hand."""
        return TextTowersNetwork(self, vocab)


class TextTowersNetwork(Network):
    """encoders: one for each part, or one. dense: the layer over all parts. tags: a vector and a bias of each label."""

    def __init__(self, model: TextTowers, vocab: Vocab) -> None:
        super().__init__()
        self.model, self.n_items = model, vocab.n_items
        copies = len(model.parts) if model.towers == "own" else 1
        towers = [model.encoder.build() for _ in range(copies)]
        width = towers[0].dim
        self.encoders = nn.ModuleList(towers)
        self.dim = model.hidden or width
        self.dense = nn.Linear(width * (1 if model.towers == "joined" else len(model.parts)), self.dim)
        self.tags = nn.Linear(self.dim, vocab.n_items)
        self._kept: list[dict[str, Tensor] | None] = [None] * copies

    def documents(self, batch: Batch, rng: torch.Generator | None = None) -> Tensor:
        """[B, D]: the document of each row."""
        if lost := [part for part in self.model.parts if part not in batch.texts]:
            raise ContractError(
                needed=f"rows with the texts {', '.join(self.model.parts)}",
                came=f"none under {', '.join(lost)}",
                remedy="use views.Documents with the parts of the model",
            )
        parts = [batch.texts[part] for part in self.model.parts]
        if self.model.towers == "joined":
            parts = [tuple("\n".join(filter(None, texts)) or None for texts in zip(*parts, strict=True))]
        read = torch.cat([self._read(at % len(self.encoders), texts, rng) for at, texts in enumerate(parts)], 1)
        return dropout(torch.tanh(self.dense(dropout(read, self.model.dropout, rng))), self.model.dropout, rng)

    def _read(self, which: int, texts: tuple[str | None, ...], rng: torch.Generator | None) -> Tensor:
        """[B, E]: the vectors of one part; each different text is read once."""
        encoder = self.encoders[which]
        assert isinstance(encoder, Encoder)
        there = [row for row, text in enumerate(texts) if text]
        distinct = list(dict.fromkeys(text for text in texts if text))
        like = self.dense.weight
        if any(each.requires_grad for each in encoder.parameters()):
            self._kept[which] = None
            vectors = encoder(encoder.read(distinct), rng=rng) if distinct else like.new_zeros(0, encoder.dim)
        else:
            kept = self._known(which)
            new = [text for text in distinct if text not in kept]
            with torch.no_grad():
                kept.update(zip(new, encoder(encoder.read(new)).unbind(), strict=True) if new else ())
            vectors = torch.stack([kept[text] for text in distinct]) if distinct else like.new_zeros(0, encoder.dim)
        number = {text: at for at, text in enumerate(distinct)}
        of = torch.tensor([number[text] for text in texts if text], dtype=torch.int64, device=like.device)
        out = like.new_zeros(len(texts), encoder.dim)
        return out.index_copy(0, torch.tensor(there, dtype=torch.int64, device=like.device), vectors[of].to(like))

    def _known(self, which: int) -> dict[str, Tensor]:
        """The texts that an encoder with these very weights has read in this process."""
        kept = self._kept[which]
        if kept is None:
            digest = hashlib.sha256(repr(self.model.encoder).encode())
            for tensor in self.encoders[which].state_dict().values():
                digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
            kept = self._kept[which] = _memory(digest.hexdigest())
        return kept

    # -- the contract ----------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch, visible: Visibility, rng: torch.Generator | None = None, at: Tensor | None = None) -> Tensor:
        """At every position the document of its row: labels that are known are not read."""
        rows = batch.row_of if at is None else batch.row_of[at]
        return self.documents(batch, rng)[rows]

    def output(self) -> Output:
        return Output(self.tags.weight, self.tags.bias)

    def score(self, batch: Batch, visible: Visibility) -> Tensor:
        return self.output().scores(self.documents(batch))


@lru_cache(maxsize=8)
def _memory(weights: str) -> dict[str, Tensor]:
    """Vectors by text, of an encoder with the weights of that fingerprint; the last eight encoders are remembered."""
    return {}
