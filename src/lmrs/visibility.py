"""Who may see whom: attention masks as small values, not as matrices.

A Visibility is a description. `models/attention.py` turns it into the fastest kernel it has; a dense mask is
the last resort. `mask(...)` states the meaning: entry (i, j) is True if position i may see position j.
Padding is handled by the kernel and is no business of these values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Causal:
    """A position sees itself and what came before (next-item prediction, AM)."""


@dataclass(frozen=True)
class Full:
    """Every position sees every position of its row (cloze, MLM)."""


@dataclass(frozen=True)
class Prefix:
    """The first `length` positions see each other; later ones see the prefix and their past (prefix LM).

    length: number of positions, >= 0.
    """

    length: int


@dataclass(frozen=True)
class Segments:
    """A position sees only positions whose channel `by` has the same value."""

    by: str = "segment"


@dataclass(frozen=True)
class Permutation:
    """Permuted language modelling: i sees itself, the context, and content that comes earlier in the order.

    rank: channel with the place in the order, -1 for context that everybody sees.
    query: channel that is 1 for query copies, which nobody but themselves may see (they hold a mask symbol where the
    content position holds the item). Yang et al. 2019 (XLNet), section 2.3, with the query stream laid out
    as extra positions.
    """

    rank: str = "rank"
    query: str = "query"


@dataclass(frozen=True)
class Bus:
    """Own segment, plus the first position of every other segment (SpeedyFeed's bus connection)."""

    by: str = "segment"


@dataclass(frozen=True)
class Custom:
    """Positions i, j are visible iff the row-wise channels say so: `sees[i] >= level[j]`."""

    sees: str = "sees"
    level: str = "level"


Visibility = Causal | Full | Prefix | Segments | Permutation | Bus | Custom


def channels(visible: Visibility) -> tuple[str, ...]:
    """Names of the batch channels that a Visibility reads."""
    match visible:
        case Segments(by) | Bus(by):
            return (by,)
        case Permutation(rank, query):
            return (rank, query)
        case Custom(sees, level):
            return (sees, level)
    return ()


def mask(visible: Visibility, cells: dict[str, Tensor], length: int) -> Tensor:
    """Bool[R, T, T] (or [1, T, T]): may position i (second axis) see position j (third axis)?

    cells: the channels named by `channels(visible)` as [R, T] tensors. length: T.
    """
    import torch

    at = torch.arange(length)
    match visible:
        case Causal():
            return (at[None, :] <= at[:, None])[None]
        case Full():
            return torch.ones(1, length, length, dtype=torch.bool)
        case Prefix(n):
            return ((at[None, :] <= at[:, None]) | (at[None, :] < n))[None]
        case Segments(by):
            seg = cells[by]
            return seg[:, :, None] == seg[:, None, :]
        case Bus(by):
            seg = cells[by]
            first = torch.ones_like(seg, dtype=torch.bool)
            first[:, 1:] = seg[:, 1:] != seg[:, :-1]
            return (seg[:, :, None] == seg[:, None, :]) | first[:, None, :]
        case Permutation(rank, query):
            order, content = cells[rank], cells[query] == 0
            earlier = (order[:, None, :] < order[:, :, None]) | (order[:, None, :] < 0)
            return (earlier & content[:, None, :]) | torch.eye(length, dtype=torch.bool, device=order.device)[None]
        case Custom(sees, level):
            return cells[sees][:, :, None] >= cells[level][:, None, :]
    raise TypeError(f"not a Visibility: {visible!r}")
