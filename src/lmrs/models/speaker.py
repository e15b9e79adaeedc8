"""What every network must be able to do that says something in a dialogue."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from lmrs.batch import Batch
from lmrs.errors import ContractError, UserError
from lmrs.models.network import Network, Scorer
from lmrs.records import SLOT


class Told(NamedTuple):
    """What a network makes of B responses that are given.

    total: [B], log p(response | dialogue), summed over its tokens, the end included. tokens: int64[B], how many were summed.
    """

    total: Tensor
    tokens: Tensor


class Speaker(Network):
    """Batches are those of `views.Replies`: what was named before a turn, what was said, and in `texts["response"]` the turn.

    It ranks items as any Network does. An item within a text is the one character `records.SLOT`: the network says where it
    names one, its ranking says which.
    """

    @property
    @abstractmethod
    def speaks(self) -> bool:
        """Whether this one was built to: the same description may leave it out."""

    @abstractmethod
    def tell(self, batch: Batch, rng: torch.Generator | None = None) -> Told:
        """Judges the responses in `batch.texts`. rng: of dropout, None for none. Gradients reach all that is tuned."""

    @abstractmethod
    def write(self, batch: Batch) -> list[str]:
        """A response for each row, in row order: greedily, the likeliest token at every step."""


def speaker(scorer: Scorer) -> Speaker:
    """The scorer as one that speaks. Raises UserError if it does not."""
    if not isinstance(scorer, Speaker):
        raise UserError(
            needed="a system that says something in a dialogue, such as unicrs", came=type(scorer).__name__, remedy="fit one"
        )
    if not scorer.speaks:
        raise ContractError(
            needed="a network that was built to speak", came=f"{type(scorer).__name__} without that part",
            remedy="write answers='response' or answers='both'",
        )  # fmt: skip
    return scorer


def filled(text: str, titles: Iterable[str]) -> str:
    """A response with titles in its slots, in order. Slots for which there is no title are left out."""
    parts, names = text.split(SLOT), iter(titles)
    return " ".join((parts[0] + "".join(next(names, "") + part for part in parts[1:])).split())
