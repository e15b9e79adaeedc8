"""When an item's text is encoded: in every step, again after some steps, or once for all (`frozen`). One interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lmrs.errors import ContractError
from lmrs.texts.encoder import TextEncoder


class ItemVectors(nn.Module, ABC):
    """Vectors of V items made from their texts. dim: E. n_items: V."""

    dim: int
    n_items: int

    @abstractmethod
    def forward(self, items: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """[*, E] for item numbers [*]. rng: for the encoder's dropout, where it is run."""

    @abstractmethod
    def table(self) -> Tensor:
        """[V, E]: all items as the weights are now, without gradient."""

    @abstractmethod
    def fresh(self, items: Tensor) -> Tensor:
        """[n, E]: rows of `table` for different items (int64[n]), the others left out."""


@dataclass(frozen=True)
class Joint:
    """The texts of a step's items are encoded in that step and the encoder learns. An item that occurs often is encoded once: the
    gradient is that of encoding each occurrence, for it adds up at the vector they share."""

    def build(self, encoder: TextEncoder, texts: Sequence[str]) -> ItemVectors:
        return _Joint(encoder, texts)


@dataclass(frozen=True)
class Cached:
    """Vectors are kept and used again for up to `staleness` steps; then they are encoded anew, when they are next needed.

    The encoder learns through the items that were encoded in this very step alone; a kept vector is a constant.
    staleness: >= 0. A step is one call with gradients enabled (with micro-batches, each of them); 0 is Joint.
    The vectors, when each was made and the number of steps are buffers, so that a run goes on where it stopped.
    """

    staleness: int = 100

    def __post_init__(self) -> None:
        if self.staleness < 0:
            raise ContractError(needed="staleness of at least 0 steps", came=f"staleness={self.staleness}")

    def build(self, encoder: TextEncoder, texts: Sequence[str]) -> ItemVectors:
        return _Cached(self.staleness, encoder, texts)


class _Joint(ItemVectors):
    def __init__(self, encoder: TextEncoder, texts: Sequence[str]) -> None:
        super().__init__()
        self.encoder = encoder.build()
        self.read = self.encoder.read(texts)
        self.dim, self.n_items = self.encoder.dim, len(texts)

    def forward(self, items: Tensor, rng: torch.Generator | None = None) -> Tensor:
        distinct, inverse = items.unique(return_inverse=True)
        return self.encoder(self.read, distinct, rng)[inverse]

    @torch.no_grad()
    def table(self) -> Tensor:
        return self.encoder(self.read)

    @torch.no_grad()
    def fresh(self, items: Tensor) -> Tensor:
        return self.encoder(self.read, items)


NEVER = -(2**62)


class _Cached(_Joint):
    """kept: [V, E]. made: int64[V], the step that encoded each, NEVER before the first time. step: int64, calls so far."""

    kept: Tensor
    made: Tensor
    step: Tensor

    def __init__(self, staleness: int, encoder: TextEncoder, texts: Sequence[str]) -> None:
        super().__init__(encoder, texts)
        self.staleness = staleness
        self.register_buffer("kept", torch.zeros(self.n_items, self.dim))
        self.register_buffer("made", torch.full((self.n_items,), NEVER))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, items: Tensor, rng: torch.Generator | None = None) -> Tensor:
        if torch.is_grad_enabled():
            self.step += 1
        distinct, inverse = items.unique(return_inverse=True)
        stale = (self.step - self.made[distinct] > self.staleness).nonzero()[:, 0]
        vectors = self.kept[distinct]
        if len(stale):
            fresh = self.encoder(self.read, distinct[stale], rng).to(vectors)
            with torch.no_grad():
                self.kept[distinct[stale]] = fresh.detach()
                self.made[distinct[stale]] = self.step
            vectors = vectors.index_copy(0, stale, fresh)
        return vectors[inverse]
