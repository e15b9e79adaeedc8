"""Soft prompts, first axis: where the vectors come from. The second, where they enter, is `places.py`; any source goes anywhere.

A source is a description; `build(width, rng)` makes its module, whose `forward(n, given)` returns [B, length, width] for B = n
examples. given: what is known of each example, by name: int64[B] ids and attributes, float[B, dim] outside vectors.
Everything starts near scale 0.02, that of trained embedding tables; `start` puts it near chosen vectors instead.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from lmrs.errors import ContractError, did_you_mean

STD = 0.02


class SourceModule(nn.Module):
    """The weights of a source. length: vectors an example. width: D, or whatever the place asks for."""

    length: int
    width: int

    @abstractmethod
    def forward(self, n: int, given: Mapping[str, Tensor]) -> Tensor:
        """[n, length, width]."""

    @abstractmethod
    def start(self, vectors: Tensor) -> None:
        """Begin at vectors [length, width], the same for every example (exactly, or but for a term of scale 0.02)."""

    def __call__(self, n: int, given: Mapping[str, Tensor]) -> Tensor:
        return cast(Tensor, super().__call__(n, given))

    def check(self, vectors: Tensor) -> Tensor:
        if vectors.shape != (self.length, self.width):
            raise ContractError(
                needed=f"starting vectors of shape ({self.length}, {self.width})",
                came=f"{tuple(vectors.shape)}",
                remedy="see start.py",
            )
        return vectors.detach()


class Source(Protocol):
    """The description of a source: a frozen dataclass with these."""

    @property
    def length(self) -> int:
        """Vectors an example."""
        ...

    def build(self, width: int, rng: torch.Generator) -> SourceModule:
        """Its weights, drawn from rng, for vectors of `width`."""
        ...


def positive(**counts: int) -> None:
    """Refuse counts below 1, by name."""
    for name, count in counts.items():
        if count < 1:
            raise ContractError(needed=f"{name} of at least 1", came=f"{count}")


def normal(shape: tuple[int, int], std: float, rng: torch.Generator) -> Tensor:
    """Draws of deviation `std`."""
    return torch.empty(shape).normal_(0, std, generator=rng)


def linear(inputs: int, outputs: int, scale: float, rng: torch.Generator) -> nn.Linear:
    """A linear layer whose outputs have deviation `scale` where its inputs have 1."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    layer.weight.data.normal_(0, scale / math.sqrt(inputs), generator=rng)
    layer.bias.data.zero_()
    return layer


def take(given: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """given[name], checked to be there and of that shape."""
    if name not in given:
        raise ContractError(
            needed=f"{name!r} of every example for the soft prompt",
            came=", ".join(given) or "nothing",
            remedy=did_you_mean(name, given) if given else "",
        )
    if given[name].shape != shape:
        raise ContractError(needed=f"{name!r} of shape {shape}", came=f"{tuple(given[name].shape)}")
    return given[name]


def within(name: str, values: Tensor, least: int, count: int) -> None:
    """Refuse values outside least..count-1."""
    if values.numel() and not least <= int(values.min()) <= int(values.max()) < count:
        raise ContractError(
            needed=f"{name!r} from {least} to {count - 1}",
            came=f"{int(values.min())} to {int(values.max())}",
            remedy="check the ids",
        )
