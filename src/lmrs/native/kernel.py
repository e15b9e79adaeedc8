"""What the compiled kernels compute, called with torch's tensors."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lmrs.errors import StorageError
from lmrs.files import write_atomic

ORDERS = ("post", "pre", "query", "gated")  # of the steps of a layer, as models.blocks has them
PARTS = (  # the tensors of a layer
    "mix.weight", "mix.bias", "key", "out.weight", "out.bias", "up.weight", "up.bias", "down.weight", "down.bias",
    "norm_attention.weight", "norm_attention.bias", "norm_feed.weight", "norm_feed.bias",
    "gate_attention.weight", "gate_attention.bias", "gate_feed.weight", "gate_feed.bias",
)  # fmt: skip
_HELD = 2**29  # bytes of probabilities at most, which bounds how many blocks of rows are under way at once


class Charged(NamedTuple):
    """log_mass: float64[M], log of the sum of exponentials. The gradients are those of its sum; None where not asked for."""

    log_mass: Tensor
    states: Tensor | None
    table: Tensor | None
    bias: Tensor | None


class Best(NamedTuple):
    """values float32[B, m], falling, -inf behind the last candidate; items int64[B, m]. greater, equal: int64[B], other
    candidates above and beside the true item."""

    values: np.ndarray
    items: np.ndarray
    greater: np.ndarray
    equal: np.ndarray


class Attended(NamedTuple):
    """out: float32[N, D]. level, share: [N, heads], a query's largest score in base 2 and its part of the sum of exponentials."""

    out: Tensor
    level: Tensor
    share: Tensor


class Positions(NamedTuple):
    """How N positions begin: vectors[symbols] * scale + places[position], then LayerNorm.

    vectors: float32[V, D], or [N, D] where symbols (int64[N]) is None. places: [length, D] or None. position: int64[N], or None
    without places. right: the last position of a row has the last place. norm: (weight, bias) or None.
    """

    vectors: Tensor
    symbols: Tensor | None
    scale: float
    places: Tensor | None
    position: Tensor | None
    right: bool
    norm: tuple[Tensor, Tensor] | None


class Layers(NamedTuple):
    """tensors: of each layer by PARTS; linear maps as [inputs, outputs], but "key", that of the keys, as [outputs, inputs];
    None where an order has no such part. hidden: width of the feed-forward. order: one of ORDERS. gelu: else relu. norm: (weight,
    bias) of the LayerNorm that closes, or None."""

    tensors: tuple[tuple[Tensor | None, ...], ...]
    heads: int
    hidden: int
    order: str
    gelu: bool
    causal: bool
    norm: tuple[Tensor, Tensor] | None


@dataclass(frozen=True, eq=False)
class Kernel:
    """The loaded library. path: where it is. lanes: numbers of a register. rows, panel: rows and items at a time. rounds: it
    has products of numbers rounded to bf16."""

    path: Path
    library: Any
    lanes: int
    rows: int
    panel: int
    rounds: bool = False

    def serves(self, states: Tensor, table: Tensor) -> bool:
        """Whether states [M, D] and table [V, D] are of a kind that it knows: fp32 on a processor."""
        return all(each.dtype == torch.float32 and each.device.type == "cpu" for each in (states, table))

    def softmax(
        self,
        states: Tensor,
        scaled: Tensor,
        table: Tensor,
        offset: Tensor | None,
        own: Tensor,
        needs: tuple[bool, bool, bool],
        *,
        rounded: bool = False,
    ) -> Charged:
        """log sum_i 2^(scaled . table[i] + offset[i]) of each row; its gradients by states, table and bias where `needs` says.

        states: float32[M, D]; scaled: the same times log2(e). table: [V, D]. offset: [V], the bias times log2(e), or None.
        own: [M], the score of some item in base 2, best the target's. Everything is finite (the caller sees to that).
        Blocks of rows go to torch's number of threads. rounded: the factors of each product to bf16, where the kernel `rounds`.
        """
        if missing := -states.shape[1] % self.lanes:  # zeros add nothing
            wide = [F.pad(each, (0, missing)) for each in (states, scaled, table)]
            found = self.softmax(wide[0], wide[1], wide[2], offset, own, needs, rounded=rounded)
            thin = [None if each is None else each[:, :-missing].contiguous() for each in (found.states, found.table)]
            return Charged(found.log_mass, thin[0], thin[1], found.bias)
        count, width, items = len(states), states.shape[1], len(table)
        states, scaled, table = states.contiguous(), scaled.contiguous(), table.contiguous()
        found = Charged(
            torch.empty(count, dtype=torch.float64),
            torch.empty_like(states) if needs[0] else None,
            torch.zeros_like(table) if needs[1] else None,
            torch.zeros(items) if needs[2] and offset is not None else None,
        )
        blocks = range(0, count, self.rows)
        threads = torch.get_num_threads()
        group = max(1, min(threads, len(blocks), _HELD // (4 * items * self.rows)))
        held = torch.empty(group, items * self.rows, dtype=torch.bfloat16 if rounded else torch.float32)
        read = table.bfloat16() if rounded else table
        row_by_row = self.library.lmrs_rows_rounded if rounded else self.library.lmrs_rows
        item_by_item = self.library.lmrs_items_rounded if rounded else self.library.lmrs_items
        inverse = torch.empty(group, self.rows)
        work = torch.empty(threads, 3 * self.rows * width + (self.panel * (self.rows + width) if rounded else 0))

        def score(slot: int, begin: int) -> None:
            row_by_row(
                _at(scaled, begin * width), _at(own, begin), min(self.rows, count - begin), _at(read), _at(offset), items, width,
                _at(found.log_mass, begin), _at(inverse[slot]), _at(held[slot]), _at(found.states, begin * width),
                _at(work[slot]),
            )  # fmt: skip

        def share(slot: int, first: int, last: int, begins: range) -> None:
            for place, begin in enumerate(begins):
                item_by_item(
                    _at(states, begin * width), min(self.rows, count - begin), _at(inverse[place]), _at(held[place]), first, last,
                    width, _at(found.table), _at(found.bias), _at(work[slot]),
                )  # fmt: skip

        learns = found.table is not None or found.bias is not None
        step = -(-items // threads)
        each: Callable[..., Any] = map if threads == 1 else _pool(threads, os.getpid()).map
        for at in range(0, len(blocks), group):
            begins = blocks[at : at + group]
            list(each(score, range(len(begins)), begins))
            if learns:
                firsts = range(0, items, step)
                lasts = [min(first + step, items) for first in firsts]
                list(each(share, range(len(firsts)), firsts, lasts, [begins] * len(firsts)))
        return found

    def rank(
        self,
        states: Tensor,
        table: Tensor,
        bias: Tensor | None,
        left: tuple[np.ndarray, np.ndarray],
        truth: np.ndarray | None,
        m: int,
    ) -> Best:
        """The m best items of each row of states [B, D] among those of table [V, D], and where its true item stands.

        bias: [V] or None. left: (int64[B + 1] offsets, int64 items, rising within a row): what is left out, the true item not
        among it. truth: int64[B], or None: then `greater` and `equal` of what returns mean nothing. Everything is finite.
        """
        states, table = self._wide(states), self._wide(table)
        count, width, items = len(states), states.shape[1], len(table)
        begin, out = (torch.from_numpy(np.ascontiguousarray(each, np.int64)) for each in left)
        true = torch.zeros(count, dtype=torch.int64) if truth is None else torch.from_numpy(np.ascontiguousarray(truth, np.int64))
        values, found = torch.empty(count, m), torch.empty(count, m, dtype=torch.int64)
        greater, equal = torch.empty(count, dtype=torch.int64), torch.empty(count, dtype=torch.int64)
        longest = int((begin[1:] - begin[:-1]).max()) if count else 0
        threads = torch.get_num_threads()

        def block(at: int) -> None:
            work = torch.empty(self.rows * (width + self.panel) + longest)
            self.library.lmrs_rank(
                _at(states, at * width), min(self.rows, count - at), _at(table), _at(bias), items, width,
                _at(begin, at), _at(out), _at(true, at), m,
                _at(values, at * m), _at(found, at * m), _at(greater, at), _at(equal, at), _at(work),
            )  # fmt: skip

        each: Callable[..., Any] = map if threads == 1 else _pool(threads, os.getpid()).map
        list(each(block, range(0, count, self.rows)))
        return Best(values.numpy(), found.numpy(), greater.numpy(), equal.numpy())

    def attend(self, query: Tensor, pairs: Tensor, offsets: Tensor, *, heads: int, causal: bool) -> Attended | None:
        """Scaled dot-product attention inside the rows offsets[b] .. offsets[b + 1] - 1; None if a score is not finite.

        query: float32[N, D]; pairs: [N, 2 D], keys and values side by side; the numbers of a position follow one another in
        memory, and the width of a head is a multiple of `lanes`. Rows go to torch's number of threads.
        """
        (count, width), each = query.shape, query.shape[1] // heads
        found = Attended(query.new_empty(count, width), query.new_empty(count, heads), query.new_empty(count, heads))

        def share(first: int, last: int, longest: int) -> bool:
            work = torch.empty((each + longest) * self.rows)
            return bool(
                self.library.lmrs_attend(
                    _at(query), query.stride(0), _at(pairs), pairs.stride(0), width, heads, causal, _at(offsets), first, last,
                    _at(found.out), _at(found.level), _at(found.share), _at(work),
                )
            )  # fmt: skip

        return found if all(_shared(offsets, share)) else None

    def attend_back(
        self, grad: Tensor, query: Tensor, pairs: Tensor, offsets: Tensor, made: Attended, *, heads: int, causal: bool
    ) -> tuple[Tensor, Tensor]:
        """The gradients of `attend` by query and pairs, given that by its result (float32[N, D])."""
        (count, width), each = query.shape, query.shape[1] // heads
        grad, by_query, by_pairs = grad.contiguous(), query.new_empty(count, width), query.new_empty(count, 2 * width)

        def share(first: int, last: int, longest: int) -> None:
            work = torch.empty(2 * (each + longest) * self.rows)
            self.library.lmrs_attend_back(
                _at(query), query.stride(0), _at(pairs), pairs.stride(0), width, heads, causal, _at(offsets), first, last,
                _at(made.out), _at(grad), _at(made.level), _at(made.share), _at(by_query), _at(by_pairs), _at(work),
            )  # fmt: skip

        _shared(offsets, share)
        return by_query, by_pairs

    def last(self, positions: Positions, layers: Layers, offsets: Tensor) -> Tensor | None:
        """float32[B, D]: states of the last positions of rows offsets[b] .. offsets[b + 1] - 1, none of them empty.

        Widths of the states, of a head and of the feed-forward are multiples of `lanes`; all is contiguous float32 on the CPU.
        None if a score of the attention is not finite: what that means is left to torch. Rows go to torch's number of threads.
        """
        width, count = positions.vectors.shape[1], len(offsets) - 1
        offsets, found = offsets.contiguous(), positions.vectors.new_empty(count, width)
        pointers = torch.tensor([[_at(each) or 0 for each in layer] for layer in layers.tensors])
        norms = (positions.norm, layers.norm)
        begin, end = (None if norm is None else torch.tensor([_at(each) for each in norm]) for norm in norms)
        places = 0 if positions.places is None else len(positions.places)

        def share(first: int, last: int, longest: int) -> bool:
            work = torch.empty(self.library.lmrs_last_work(longest, width, layers.heads, layers.hidden))
            return bool(
                self.library.lmrs_last(
                    _at(pointers), len(layers.tensors), width, layers.heads, layers.hidden, ORDERS.index(layers.order),
                    layers.gelu, layers.causal, _at(positions.vectors), _at(positions.symbols), positions.scale,
                    _at(positions.places), _at(positions.position), places, positions.right, _at(begin), _at(end),
                    _at(offsets), first, last, longest, _at(found), _at(work),
                )
            )  # fmt: skip

        return found if all(_shared(offsets, share)) else None

    def noted(self, name: str, measure: Callable[[], float]) -> float:
        """A figure of this machine: measured once and kept beside the library, so that every later run makes the same choice."""
        note = self.path.with_suffix(".json")

        def kept() -> dict[str, float]:
            return json.loads(note.read_bytes()) if note.is_file() else {}

        if name in (known := kept()):
            return known[name]
        value = measure()
        known = kept()  # another process may have been first, and its word counts
        if name not in known:
            with suppress(StorageError):  # a cache that was filled by somebody else is still good
                write_atomic(note, json.dumps(known | {name: value}).encode())
        return known.get(name, value)

    def line(self, state: Tensor, table: Tensor, bias: Tensor | None) -> np.ndarray:
        """float32[V]: the scores that `rank` compares, of one state [D]."""
        row, table = self._wide(state[None]), self._wide(table)
        found, work = torch.empty(len(table)), torch.empty(self.rows * (row.shape[1] + self.panel))
        self.library.lmrs_line(_at(row), _at(table), _at(bias), len(table), row.shape[1], _at(found), _at(work))
        return found.numpy()

    def _wide(self, rows: Tensor) -> Tensor:
        """Contiguous, with zeros up to whole registers."""
        missing = -rows.shape[1] % self.lanes
        return F.pad(rows, (0, missing)) if missing else rows.contiguous()


def _at(tensor: Tensor | None, offset: int = 0) -> int | None:
    """The address of a contiguous tensor's number `offset`."""
    return None if tensor is None else tensor.data_ptr() + offset * tensor.element_size()


def _shared(offsets: Tensor, share: Callable[[int, int, int], Any]) -> list[Any]:
    """What `share(first row, last row + 1, longest row)` gives for as many shares of all rows as torch has threads."""
    threads = torch.get_num_threads()
    bounds = [0, len(offsets) - 1]
    if threads > 1:
        bounds = torch.searchsorted(offsets, torch.linspace(0, int(offsets[-1]), threads + 1).long()).tolist()
    sizes = offsets[1:] - offsets[:-1]
    parts = [(a, b, int(sizes[a:b].max())) for a, b in pairwise(bounds) if a < b]
    if len(parts) == 1:
        return [share(*parts[0])]
    return list(_pool(threads, os.getpid()).map(lambda part: share(*part), parts))


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """C code runs without the interpreter's lock, so plain threads do. A forked process has none of its parent's."""
    return ThreadPoolExecutor(threads, thread_name_prefix="lmrs-native")
