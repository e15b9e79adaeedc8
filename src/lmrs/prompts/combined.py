"""Sources made of sources: a shared one beside one of the example's own, and one seen through an MLP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from lmrs.errors import ContractError
from lmrs.prompts.source import STD, Source, SourceModule, linear, positive


@dataclass(frozen=True)
class SharedPlus:
    """Two sources together, as a rule one shared by all and one of the example's own (PLCR, Guo et al. 2023; UniCRS).

    how: "concat" (the shared vectors first) or "add" (equal lengths).
    """

    shared: Source
    own: Source
    how: str = "concat"

    def __post_init__(self) -> None:
        if self.how not in ("concat", "add"):
            raise ContractError(needed="how='concat' or 'add'", came=repr(self.how), remedy="choose one of them")
        if self.how == "add" and self.shared.length != self.own.length:
            raise ContractError(
                needed="sources of equal length to add",
                came=f"{self.shared.length} and {self.own.length}",
                remedy="use how='concat'",
            )

    @property
    def length(self) -> int:
        return self.own.length + (self.shared.length if self.how == "concat" else 0)

    def build(self, width: int, rng: torch.Generator) -> SourceModule:
        return _SharedPlus(self, width, rng)


class _SharedPlus(SourceModule):
    def __init__(self, source: SharedPlus, width: int, rng: torch.Generator) -> None:
        super().__init__()
        self.add, self.length, self.width = source.how == "add", source.length, width
        self.shared, self.own = source.shared.build(width, rng), source.own.build(width, rng)

    def forward(self, n: int, given: Mapping[str, Tensor]) -> Tensor:
        shared, own = self.shared(n, given), self.own(n, given)
        return shared + own if self.add else torch.cat([shared, own], 1)

    def start(self, vectors: Tensor) -> None:
        vectors = self.check(vectors)
        self.shared.start(vectors[: self.shared.length])
        if not self.add:
            self.own.start(vectors[self.shared.length :])


@dataclass(frozen=True)
class Reparameterised:
    """A source seen through an MLP, by position: P = W2 tanh(W1 P' + b1) + b2.

    With Free(...) inside it is prefix tuning's remedy for unstable training (Li and Liang 2021, section 4.3).

    dim: width of the inner vectors P'. hidden: width of the layer between.
    """

    source: Source
    dim: int = 64
    hidden: int = 128

    def __post_init__(self) -> None:
        positive(dim=self.dim, hidden=self.hidden)

    @property
    def length(self) -> int:
        return self.source.length

    def build(self, width: int, rng: torch.Generator) -> SourceModule:
        return _Reparameterised(self, width, rng)


class _Reparameterised(SourceModule):
    def __init__(self, source: Reparameterised, width: int, rng: torch.Generator) -> None:
        super().__init__()
        self.length, self.width = source.length, width
        self.source = source.source.build(source.dim, rng)
        self.first = linear(source.dim, source.hidden, 1.0 / STD, rng)  # the vectors that come in have scale 0.02
        self.second = linear(source.hidden, width, STD, rng)

    def forward(self, n: int, given: Mapping[str, Tensor]) -> Tensor:
        return cast(Tensor, self.second(self.first(self.source(n, given)).tanh()))

    def start(self, vectors: Tensor) -> None:
        raise ContractError(
            needed="a source that can start at given vectors",
            came="Reparameterised, whose vectors come out of an MLP",
            remedy="use the source inside it, without the MLP",
        )
