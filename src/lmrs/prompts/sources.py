"""Sources of soft prompts: free vectors, a row by id, computed from a profile, projected from an outside vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lmrs.prompts.source import STD, SourceModule, linear, normal, positive, take, within


@dataclass(frozen=True)
class Free:
    """The same learned vectors for every example (prompt tuning, Lester et al. 2021)."""

    length: int

    def __post_init__(self) -> None:
        positive(length=self.length)

    def build(self, width: int, rng: torch.Generator) -> SourceModule:
        return _Free(self, width, rng)


class _Free(SourceModule):
    def __init__(self, source: Free, width: int, rng: torch.Generator) -> None:
        super().__init__()
        self.length, self.width = source.length, width
        self.table = nn.Parameter(normal((source.length, width), STD, rng))

    def forward(self, n: int, given: Mapping[str, Tensor]) -> Tensor:
        return self.table.expand(n, -1, -1)

    def start(self, vectors: Tensor) -> None:
        self.table.data.copy_(self.check(vectors))


@dataclass(frozen=True)
class ById:
    """Learned vectors of a user, an item, a domain: row given[key] of a table (PEPLER, Li et al. 2023, section 4.2).

    key: name of the ids, int64[B] in 0..n-1. n: how many there are.
    """

    key: str
    n: int
    length: int = 1

    def __post_init__(self) -> None:
        positive(n=self.n, length=self.length)

    def build(self, width: int, rng: torch.Generator) -> SourceModule:
        return _ById(self, width, rng)


class _ById(SourceModule):
    def __init__(self, source: ById, width: int, rng: torch.Generator) -> None:
        super().__init__()
        self.source, self.length, self.width = source, source.length, width
        self.table = nn.Parameter(normal((source.n, source.length * width), STD, rng))

    def forward(self, n: int, given: Mapping[str, Tensor]) -> Tensor:
        ids = take(given, self.source.key, (n,))
        within(self.source.key, ids, 0, self.source.n)
        return F.embedding(ids, self.table).view(n, self.length, self.width)

    def start(self, vectors: Tensor) -> None:
        self.table.data.copy_(self.check(vectors).reshape(1, -1).expand_as(self.table))


@dataclass(frozen=True)
class FromProfile:
    """Vectors computed from the example's attributes (PPR, Wu et al. 2022): P = W2 relu(W1 x + b1) + b2, x their embeddings.

    attributes: (name, number of values) of each; given[name] is int64[B], -1 where unknown (a zero embedding).
    dim: width of one attribute's embedding. hidden: width of the layer between.
    """

    attributes: tuple[tuple[str, int], ...]
    length: int = 1
    dim: int = 16
    hidden: int = 64

    def __post_init__(self) -> None:
        positive(length=self.length, dim=self.dim, hidden=self.hidden, attributes=len(self.attributes))
        positive(**{f"values of {name}": count for name, count in self.attributes})

    def build(self, width: int, rng: torch.Generator) -> SourceModule:
        return _FromProfile(self, width, rng)


class _FromProfile(SourceModule):
    def __init__(self, source: FromProfile, width: int, rng: torch.Generator) -> None:
        super().__init__()
        self.source, self.length, self.width = source, source.length, width
        self.tables = nn.ParameterList([normal((count, source.dim), 1.0, rng) for _, count in source.attributes])
        self.first = linear(source.dim * len(source.attributes), source.hidden, 1.0, rng)
        self.second = linear(source.hidden, source.length * width, STD, rng)

    def forward(self, n: int, given: Mapping[str, Tensor]) -> Tensor:
        parts = []
        for (name, count), table in zip(self.source.attributes, self.tables, strict=True):
            values = take(given, name, (n,))
            within(name, values, -1, count)
            known = (values >= 0)[:, None].to(table.dtype)
            parts.append(F.embedding(values.clamp(min=0), table) * known)
        return self.second(self.first(torch.cat(parts, 1)).relu()).view(n, self.length, self.width)

    def start(self, vectors: Tensor) -> None:
        self.second.bias.data.copy_(self.check(vectors).reshape(-1))


@dataclass(frozen=True)
class FromVector:
    """A projector of an outside vector: a recommender's user or item embedding, an image, a sentence (LLaRA, VIP5, MESE).

    key: name of the vectors, float[B, dim]. hidden: width of a GELU layer between, or None for one linear map.
    """

    key: str
    dim: int
    length: int = 1
    hidden: int | None = None

    def __post_init__(self) -> None:
        positive(dim=self.dim, length=self.length, hidden=1 if self.hidden is None else self.hidden)

    def build(self, width: int, rng: torch.Generator) -> SourceModule:
        return _FromVector(self, width, rng)


class _FromVector(SourceModule):
    def __init__(self, source: FromVector, width: int, rng: torch.Generator) -> None:
        super().__init__()
        self.source, self.length, self.width = source, source.length, width
        self.first = None if source.hidden is None else linear(source.dim, source.hidden, 1.0, rng)
        self.second = linear(source.hidden or source.dim, source.length * width, STD, rng)

    def forward(self, n: int, given: Mapping[str, Tensor]) -> Tensor:
        vectors = take(given, self.source.key, (n, self.source.dim))
        if self.first is not None:
            vectors = F.gelu(self.first(vectors))
        return self.second(vectors).view(n, self.length, self.width)

    def start(self, vectors: Tensor) -> None:
        self.second.bias.data.copy_(self.check(vectors).reshape(-1))
