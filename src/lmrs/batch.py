"""Batch: jagged rows of flat channels. Padding is a view of it, never the truth.

Shape letters used everywhere: N flat positions of the batch, B rows, T positions of the longest row in a bucket, D width,
E width of the item space, V items, K candidates, M charged positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor


class Bucket(NamedTuple):
    """A slice of neighbouring rows that a kernel may treat as one rectangle of `rows` x `length` cells.

    cells: int64, the place of each real position among the rows * length cells, or None if the rectangle is full.
    """

    rows: slice
    flat: slice
    length: int
    cells: Tensor | None

    @property
    def n_rows(self) -> int:
        return self.rows.stop - self.rows.start


@dataclass(frozen=True, eq=False)
class Batch:
    """B rows of real positions, longest row first.

    channels: each of shape [N, ...]; `item` (int64 symbol ids) and `position` (int64, 0-based within the row) are standard.
    offsets: int64[B+1] on the CPU; row b is `[offsets[b], offsets[b+1])`; lengths never rise.
    rows: each of shape [B, ...]; `example` (int64) numbers the examples so that parts of one example stay together.
    extra: batch-level tensors such as shared negatives.
    texts: each B texts (None where there is none), beside `rows`: what the records of a row say. A network tokenises them.
    parts: further Batches made from the same examples (S3-Rec's segments); sharded and moved together with this one.
    """

    channels: dict[str, Tensor]
    offsets: Tensor
    rows: dict[str, Tensor] = field(default_factory=dict)
    extra: dict[str, Tensor] = field(default_factory=dict)
    parts: dict[str, Batch] = field(default_factory=dict)
    texts: dict[str, tuple[str | None, ...]] = field(default_factory=dict)

    @property
    def n_rows(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_positions(self) -> int:
        return int(self.offsets[-1])

    @cached_property
    def lengths(self) -> Tensor:
        """int64[B] on the CPU."""
        return self.offsets[1:] - self.offsets[:-1]  # Tensor.diff takes twice as long

    @cached_property
    def row_of(self) -> Tensor:
        """int64[N]: the row of each position."""
        device = self.channels["item"].device
        if self.n_rows == 1:
            return torch.zeros(self.n_positions, dtype=torch.int64, device=device)
        return torch.repeat_interleave(torch.arange(self.n_rows), self.lengths).to(device)

    @cached_property
    def last(self) -> Tensor:
        """int64[B]: flat place of the last position of each row."""
        return (self.offsets[1:] - 1).to(self.channels["item"].device)

    @cached_property
    def buckets(self) -> tuple[Bucket, ...]:
        """Neighbouring rows of similar length: at most a quarter, or four cells, of a row is padding."""
        lengths = self.lengths.tolist()
        device = self.channels["item"].device
        found, begin = [], 0
        while begin < len(lengths):
            longest = lengths[begin]
            floor = max(1, min(longest - 4, longest * 3 // 4))
            end = begin
            while end < len(lengths) and lengths[end] >= floor:
                end += 1
            if end == begin:  # rows without positions take no part
                break
            flat = slice(int(self.offsets[begin]), int(self.offsets[end]))
            cells = None
            if lengths[end - 1] != longest:
                size = self.lengths[begin:end]
                pad = torch.repeat_interleave(torch.arange(end - begin) * longest - (self.offsets[begin:end] - flat.start), size)
                cells = (pad + torch.arange(flat.stop - flat.start)).to(device)
            found.append(Bucket(slice(begin, end), flat, longest, cells))
            begin = end
        return tuple(found)

    def with_channels(self, **channels: Tensor) -> Batch:
        """The same rows with channels added or replaced."""
        return replace(self, channels={**self.channels, **channels})

    def keep(self, mask: Tensor) -> Batch:
        """Only the positions where mask (bool[N]) holds. Rows must stay sorted by length, as when each loses equally many."""
        kept = torch.zeros(self.n_rows, dtype=torch.int64).index_add_(0, self.row_of.cpu(), mask.cpu().long())
        return replace(
            self, channels={k: v[mask] for k, v in self.channels.items()}, offsets=torch.cat([kept.new_zeros(1), kept.cumsum(0)])
        )

    def take(self, which: Tensor) -> Batch:
        """Only the rows `which` (int64, rising, so that lengths stay sorted), with their examples' parts."""
        size = self.lengths[which]
        offsets = torch.cat([size.new_zeros(1), size.cumsum(0)])
        flat = torch.repeat_interleave(self.offsets[which] - offsets[:-1], size) + torch.arange(int(offsets[-1]))
        examples = self.rows["example"][which]
        return Batch(
            channels={k: v[flat] for k, v in self.channels.items()},
            offsets=offsets,
            rows={k: v[which] for k, v in self.rows.items()},
            extra=self.extra,
            parts={k: p.take(torch.isin(p.rows["example"], examples).nonzero()[:, 0]) for k, p in self.parts.items()},
            texts={k: tuple(v[row] for row in which.tolist()) for k, v in self.texts.items()},
        )

    def to(self, device: torch.device | str) -> Batch:
        """The same Batch with its tensors on a device (offsets stay on the CPU)."""
        if torch.device(device).type == "cpu" and self.channels["item"].device.type == "cpu":
            return self
        return Batch(
            channels={k: v.to(device) for k, v in self.channels.items()},
            offsets=self.offsets,
            rows={k: v.to(device) for k, v in self.rows.items()},
            extra={k: v.to(device) for k, v in self.extra.items()},
            parts={k: p.to(device) for k, p in self.parts.items()},
            texts=self.texts,
        )

    def __repr__(self) -> str:
        return f"<Batch: {self.n_rows} rows, {self.n_positions} positions, channels {sorted(self.channels)}>"


def from_rows(
    channels: dict[str, Tensor],
    lengths: Tensor,
    rows: dict[str, Tensor] | None = None,
    texts: dict[str, Sequence[str | None]] | None = None,
) -> Batch:
    """A Batch from rows in any order: sorts them by falling length (ties keep their order) and numbers positions.

    channels: each [N, ...], row after row. lengths: int64[B]. rows: each [B, ...]. texts: each B
    texts. `rows["example"]` is 0..B-1 in the order given unless present.
    """
    if len(lengths) == 1:  # somebody waits for the answer, and there is nothing to sort
        n = int(lengths[0])
        return Batch(
            channels={"position": torch.arange(n), **{k: v[:n] for k, v in channels.items()}},
            offsets=torch.tensor([0, n]),
            rows={"example": torch.zeros(1, dtype=torch.int64), **(rows or {})},
            texts={k: tuple(v) for k, v in (texts or {}).items()},
        )
    order = torch.argsort(lengths, descending=True, stable=True)
    size = lengths[order]
    offsets = torch.cat([size.new_zeros(1), size.cumsum(0)])
    start = lengths.cumsum(0) - lengths
    within = torch.arange(int(offsets[-1])) - torch.repeat_interleave(offsets[:-1], size)
    flat = within + torch.repeat_interleave(start[order], size)
    rows = {"example": torch.arange(len(lengths)), **(rows or {})}
    return Batch(
        channels={"position": within, **{k: v[flat] for k, v in channels.items()}},
        offsets=offsets,
        rows={k: v[order] for k, v in rows.items()},
        texts={k: tuple(v[row] for row in order.tolist()) for k, v in (texts or {}).items()},
    )


def appended(batch: Batch, **symbols: int) -> Batch:
    """Every row with one more position at its end, holding the given value in the named channels and 0 elsewhere.

    `position` continues the row.
    """
    bump = torch.arange(batch.n_rows + 1)
    offsets = batch.offsets + bump
    device = batch.channels["item"].device
    old = torch.arange(batch.n_positions, device=device) + batch.row_of
    new = (offsets[1:] - 1).to(device)
    channels = {}
    for name, values in batch.channels.items():
        grown = values.new_zeros(batch.n_positions + batch.n_rows, *values.shape[1:])
        grown[old] = values
        if name == "position":
            grown[new] = batch.lengths.to(device)
        elif name in symbols:
            grown[new] = symbols[name]
        channels[name] = grown
    return replace(batch, channels=channels, offsets=offsets)
