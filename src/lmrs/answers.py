"""Scores in, exact ranks and top-k lists out: ties broken at random but reproducibly, in memory that does not grow.

The order of candidates is (score falling, priority falling), where the priority is a hash of (seed, query, item). A model
that scores all items alike therefore gets what chance gets, and the same run gives the same list on every machine
and for every way of cutting the queries into blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from lmrs.errors import ContractError
from lmrs.losses import Output, largest
from lmrs.measures import Ranks, Sampling
from lmrs.native import Best, Kernel
from lmrs.order import priority, refuse

Jagged = tuple[np.ndarray, np.ndarray]  # (offsets int64[B+1], items integer[n])

_WIDTH = 64  # columns a block of the two-step top-k
_CELLS = 2**14  # cells of one temporary comparison, which stays in the first cache with its result
_FEW = 8  # up to so many true items a query are counted one by one; more are worth a sort
_SMALL = 2**16  # so many cells are searched in one step before two take less time


@dataclass(frozen=True, eq=False)
class Ranked:
    """What became of B queries.

    query: int64[B]. ranks: where the distinct true items ended up (`Ranks`), or None if no truth was given.
    truth: int64[T], those items, rising within a query, in the order of `ranks.rank`.
    n_candidates: int64[B]. items: int32[B, k], best first, -1 where there are fewer candidates. scores: float[B, k], -inf there.
    truth_seen: bool[B], some true item was in `seen` (it stays a candidate all the same).
    """

    query: np.ndarray
    ranks: Ranks | None
    truth: np.ndarray
    n_candidates: np.ndarray
    items: np.ndarray
    scores: np.ndarray
    truth_seen: np.ndarray

    def __len__(self) -> int:
        return len(self.query)

    @property
    def share_truth_seen(self) -> float:
        """Share of the queries that ask for an item the user already had."""
        return float(self.truth_seen.mean()) if len(self) else 0.0

    @property
    def n_empty(self) -> int:
        """Queries that got no recommendation: they score 0 and are counted."""
        return int((self.items < 0).all(axis=1).sum())

    @classmethod
    def join(cls, blocks: Sequence[Ranked]) -> Ranked:
        """One Ranked of the blocks in their order (all with truth or all without, ranked among the same kind of candidates)."""
        if len({block.ranks is None or block.ranks.sampling for block in blocks}) != 1:
            raise ContractError(needed="blocks ranked in the same way", came=f"{len(blocks)} blocks, different or none")
        parts = [block.ranks for block in blocks if block.ranks is not None]
        n_candidates = np.concatenate([block.n_candidates for block in blocks])
        ranks = None
        if parts:
            counts = [(part.greater, part.equal) for part in parts]
            ranks = Ranks(
                np.concatenate([[0], np.cumsum(np.concatenate([part.n_truth for part in parts]))]),
                np.concatenate([part.rank for part in parts]),
                n_candidates,
                np.concatenate([greater for greater, _ in counts if greater is not None]),
                np.concatenate([equal for _, equal in counts if equal is not None]),
                parts[0].sampling,
            )
        return cls(
            np.concatenate([block.query for block in blocks]),
            ranks,
            np.concatenate([block.truth for block in blocks]),
            n_candidates,
            np.concatenate([block.items for block in blocks]),
            np.concatenate([block.scores for block in blocks]),
            np.concatenate([block.truth_seen for block in blocks]),
        )


@dataclass(frozen=True, eq=False)
class Answers:
    """The lists as a table: query int64, item int32, score float, rank int32 (1 = best), by query and rank; no padding."""

    table: pa.Table

    @classmethod
    def of(cls, ranked: Ranked) -> Answers:
        row, place = np.nonzero(ranked.items >= 0)
        return cls(
            pa.table(
                {
                    "query": ranked.query[row],
                    "item": ranked.items[row, place],
                    "score": ranked.scores[row, place],
                    "rank": (place + 1).astype(np.int32),
                }
            )
        )


def block_rows(n_items: int, *, memory: int = 2**28) -> int:
    """How many queries to score at once so that one float32 score matrix takes at most `memory` bytes (at least 1)."""
    return max(1, memory // (4 * max(1, n_items)))


@torch.inference_mode()
def rank(
    scores: Tensor, *, query: np.ndarray, seen: Jagged | None = None, truth: Jagged | None = None, k: int, seed: int
) -> Ranked:
    """Rank the whole catalogue of V items for B queries, exactly.

    scores: float32 or float64 [B, V]; -inf means "not offered": the item is in no list, and as truth it is a miss (rank 0).
    The tensor is used as working space and has its old values again when the call returns.
    query: int64[B] numbers of the queries over the whole evaluation (they seed the ties).
    seen: items of each query to leave out; repeats are allowed. truth: items to find; repeats count once.
    A true item in `seen` is not left out - it could not be found otherwise - and its query is marked in `truth_seen`.
    k: length of the lists, >= 1.

    Raises DivergedError if a score is NaN or +inf, naming query and item, and ContractError for what does not fit together.
    """
    scores, query = _check(scores, query, k)
    rows, width = scores.shape
    true, out, truth_seen = _settled(seen, truth, rows, width)
    n_candidates = width - np.bincount(out // width, minlength=rows)

    cells, places = scores.view(-1), torch.from_numpy(out).to(scores.device)
    kept = cells[places]
    cells[places] = -torch.inf
    try:
        if not bool((kept < torch.inf).all()):  # False for NaN as well
            odd = int((~(kept < torch.inf)).nonzero()[0])
            refuse(query[out[odd] // width], int(out[odd] % width), float(kept[odd]))
        return _order(
            _Held(scores),
            query=query,
            item_of=lambda row, column: column,
            true=np.divmod(true, width),
            truth=None if truth is None else true % width,
            n_candidates=n_candidates,
            truth_seen=truth_seen,
            k=k,
            seed=seed,
            sampling=None,
        )
    finally:
        cells[places] = kept


@torch.inference_mode()
def rank_states(
    kernel: Kernel,
    states: Tensor,
    output: Output,
    *,
    query: np.ndarray,
    seen: Jagged | None = None,
    truth: Jagged | None = None,
    k: int,
    seed: int,
) -> Ranked | None:
    """`rank` for scores states [B, E] . output.table + output.bias, which are never held; None where the kernel does not serve.

    It serves finite fp32 states and tables on a processor, and queries with one true item each, or without truth.
    """
    table, bias = output
    if not kernel.serves(states, table) or not math.isfinite(largest(states, table, bias)):
        return None
    rows, width = len(states), len(table)
    true, out, truth_seen = _settled(seen, truth, rows, width)
    if truth is not None and (len(true) != rows or not (true // width == np.arange(rows)).all()):
        return None
    left = np.searchsorted(out, np.arange(rows + 1) * width), out % width
    wanted = None if truth is None else true % width
    return _order(
        _Streamed(kernel, states, output, left, kernel.rank(states, table, bias, left, wanted, min(k + 1, width))),
        query=np.asarray(query).astype(np.int64),
        item_of=lambda row, column: column,
        true=np.divmod(true, width),
        truth=wanted,
        n_candidates=width - np.diff(left[0]),
        truth_seen=truth_seen,
        k=k,
        seed=seed,
        sampling=None,
    )


def _settled(seen: Jagged | None, truth: Jagged | None, rows: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(true items, items to leave out, both as row * width + item, rising; bool[B], whether a true item was in `seen`)."""
    true = _distinct("truth", truth, rows, width)
    out = _distinct("seen", seen, rows, width)
    truth_seen = np.zeros(rows, bool)
    if len(true) and len(out):
        at = np.searchsorted(out, true)
        again = at[(at < len(out)) & (out[np.minimum(at, len(out) - 1)] == true)]
        truth_seen[out[again] // width] = True
        out = np.delete(out, again)
    return true, out, truth_seen


@dataclass(frozen=True, eq=False)
class _Held:
    """Scores [B, C] that are there, -inf where a column is no candidate."""

    scores: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.scores.shape[0], self.scores.shape[1]

    def top(self, m: int) -> tuple[np.ndarray, np.ndarray]:
        """(values, columns) [B, m] of the largest cells of each row, falling."""
        values, columns = _top(self.scores, m)
        return values.cpu().numpy(), columns.cpu().numpy()

    def counts(self, row: np.ndarray, column: np.ndarray, n_candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(greater, equal, missed) of each true cell."""
        return _counts(self.scores, row, column, n_candidates)

    def line(self, row: int) -> np.ndarray:
        """All scores of a row."""
        return self.scores[row].cpu().numpy()


@dataclass(frozen=True, eq=False)
class _Streamed:
    """The same of scores that a kernel has gone through; one true cell a row."""

    kernel: Kernel
    states: Tensor
    output: Output
    left: Jagged
    best: Best

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.states), len(self.output.table)

    def top(self, m: int) -> tuple[np.ndarray, np.ndarray]:
        return self.best.values, self.best.items

    def counts(self, row: np.ndarray, column: np.ndarray, n_candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.best.greater, self.best.equal, np.zeros(len(row), bool)

    def line(self, row: int) -> np.ndarray:
        found = self.kernel.line(self.states[row], *self.output)
        found[self.left[1][self.left[0][row] : self.left[0][row + 1]]] = -np.inf
        return found


@torch.inference_mode()
def rank_candidates(
    scores: Tensor, *, candidates: np.ndarray, query: np.ndarray, truth: Jagged, k: int, seed: int, sampling: Sampling
) -> Ranked:
    """Rank C given candidates for B queries: sampled evaluation, labelled as such by `sampling`.

    scores: float [B, C] of `candidates` int64 [B, C] (distinct within a row, true items among them, -1 where a row is shorter).
    The rest as in `rank`. `candidates.draw` makes the candidates.
    """
    scores, query = _check(scores, query, k)
    rows, width = scores.shape
    if candidates.shape != (rows, width):
        raise ContractError(needed=f"candidates {(rows, width)} like the scores", came=str(candidates.shape))
    bound = 1 + int(max(candidates.max(initial=0), np.max(truth[1], initial=0)))
    true_row, true_item = np.divmod(_distinct("truth", truth, rows, bound), bound)
    match = candidates[true_row] == true_item[:, None]
    if not (match.sum(axis=1) == 1).all():
        at = int(np.flatnonzero(match.sum(axis=1) != 1)[0])
        raise ContractError(
            needed="every true item once among the candidates",
            came=f"item {true_item[at]} {int(match[at].sum())} times for query {query[true_row[at]]}",
        )
    gaps = torch.from_numpy(candidates < 0).to(scores.device)
    return _order(
        _Held(scores.masked_fill(gaps, -torch.inf)),
        query=query,
        item_of=lambda row, column: candidates[row, column],
        true=(true_row, match.argmax(axis=1)),
        truth=true_item,
        n_candidates=(candidates >= 0).sum(axis=1),
        truth_seen=np.zeros(rows, bool),
        k=k,
        seed=seed,
        sampling=sampling,
    )


def _order(
    source: _Held | _Streamed,
    *,
    query: np.ndarray,
    item_of: Callable[[np.ndarray, np.ndarray], np.ndarray],
    true: tuple[np.ndarray, np.ndarray],
    truth: np.ndarray | None,
    n_candidates: np.ndarray,
    truth_seen: np.ndarray,
    k: int,
    seed: int,
    sampling: Sampling | None,
) -> Ranked:
    """The one ranking of the columns that are candidates; `item_of(row, column)` names the items."""
    rows, width = source.shape
    values, columns = source.top(min(k + 1, width))
    bad = np.flatnonzero(~(values[:, :1] < np.inf).all(axis=1))  # the top value is NaN or +inf if any value of the row is
    if len(bad):
        line = source.line(int(bad[0]))
        worst = np.flatnonzero(~(line < np.inf))[:1]
        refuse(query[bad[0]], item_of(bad[:1], worst)[0], float(line[worst[0]]))

    def precedence(row: np.ndarray, column: np.ndarray) -> np.ndarray:
        return priority(seed, query[row], item_of(row, column))

    places, best = _lists(source, values, columns, k=k, precedence=precedence)
    lists = np.where(places >= 0, item_of(np.arange(rows)[:, None], places), -1).astype(np.int32)
    ranks = None
    if truth is not None:
        row, column = true
        greater, equal, missed = source.counts(row, column, n_candidates)
        place = 1 + greater
        for at in np.flatnonzero((equal > 0) & ~missed):  # only rows where someone shares the true item's score
            line = source.line(int(row[at]))
            beside = np.flatnonzero(line == line[column[at]])
            place[at] += int((precedence(row[[at]], beside) > precedence(row[[at]], column[[at]])).sum())
        offsets = np.searchsorted(row, np.arange(rows + 1))
        ranks = Ranks(offsets, np.where(missed, 0, place), n_candidates, greater, equal, sampling)
    return Ranked(query, ranks, np.zeros(0, np.int64) if truth is None else truth, n_candidates, lists, best, truth_seen)


def _lists(
    source: _Held | _Streamed,
    values: np.ndarray,
    columns: np.ndarray,
    *,
    k: int,
    precedence: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """(columns [B, k], scores [B, k]) in exact order from the k + 1 largest values; -1 and -inf behind the last candidate."""
    rows, got = values.shape
    if got > k:
        for row in np.flatnonzero((values[:, k - 1] == values[:, k]) & (values[:, k] > -np.inf)):  # who is in is open
            line = source.line(int(row))
            above, beside = np.flatnonzero(line > values[row, k]), np.flatnonzero(line == values[row, k])
            want = k - len(above)
            first = np.argpartition(~precedence(np.array([row]), beside), want - 1)[:want]
            columns[row, :k] = np.concatenate([above, beside[first]])
            values[row, :k] = line[columns[row, :k]]
        values, columns = values[:, :k], columns[:, :k]
    tied = np.flatnonzero(((values[:, 1:] >= values[:, :-1]) & (values[:, 1:] > -np.inf)).any(axis=1))
    if len(tied):
        order = np.lexsort((~precedence(tied[:, None], columns[tied]), -values[tied]), axis=1)
        values[tied] = np.take_along_axis(values[tied], order, axis=1)
        columns[tied] = np.take_along_axis(columns[tied], order, axis=1)
    out = np.full((rows, k), -1, np.int64)
    best = np.full((rows, k), -np.inf, values.dtype)
    out[:, : values.shape[1]] = np.where(values > -np.inf, columns, -1)
    best[:, : values.shape[1]] = values
    return out, best


def _top(scores: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """(values, columns) of the m largest cells of each row, falling; among equal values at the end any may be taken.

    Long rows go in two steps, unless they are so few that one is quicker: the m blocks of 64 columns with the largest maxima hold
    m cells that are as large as any others, since no unchosen block's maximum exceeds a chosen one's. The last columns, less than
    a block, always join.
    """
    rows, width = scores.shape
    blocks = width // _WIDTH
    if blocks <= 4 * m or rows * width <= _SMALL:
        return torch.topk(scores, m, dim=1)
    body, tail = scores[:, : blocks * _WIDTH].unflatten(1, (blocks, _WIDTH)), scores[:, blocks * _WIDTH :]
    chosen = torch.topk(body.amax(dim=2), m, dim=1, sorted=False).indices
    cells = body.gather(1, chosen[:, :, None].expand(rows, m, _WIDTH)).flatten(1)
    values, at = torch.topk(torch.cat([cells, tail], dim=1), m, dim=1)
    block = chosen.gather(1, (at // _WIDTH).clamp(max=m - 1)) * _WIDTH + at % _WIDTH
    return values, torch.where(at < m * _WIDTH, block, at - m * _WIDTH + blocks * _WIDTH)


def _counts(
    scores: Tensor, row: np.ndarray, column: np.ndarray, n_candidates: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(greater, equal, missed) of each true item: other candidates above it, beside it, and whether it was not offered at all."""
    rows, width = scores.shape
    mine = scores[torch.from_numpy(row).to(scores.device), torch.from_numpy(column).to(scores.device)]
    start = np.searchsorted(row, np.arange(rows + 1))
    many = np.diff(start)[row] > _FEW
    greater, least = np.zeros(len(row), np.int64), np.zeros(len(row), np.int64)  # cells above, cells above or beside
    slot = np.arange(len(row)) - start[row]
    # NumPy compares faster than torch where both can.
    cells: Any
    owns: Any
    cells, owns, step = (scores.numpy(), mine.numpy(), _CELLS) if scores.device.type == "cpu" else (scores, mine, 2**24)
    step = max(1, step // max(1, width))
    for number in range(min(_FEW, int(slot.max(initial=-1)) + 1)):
        which = np.flatnonzero((slot == number) & ~many)
        for part in (which[at : at + step] for at in range(0, len(which), step)):
            line, own = _rows(cells, row[part]), owns[part][:, None]
            greater[part], least[part] = _count(line > own), _count(line >= own)
    for number in np.unique(row[many]):
        line, own = torch.sort(scores[number]).values, mine[start[number] : start[number + 1]]
        here = slice(start[number], start[number + 1])
        greater[here] = width - torch.searchsorted(line, own, right=True).cpu().numpy()
        least[here] = width - torch.searchsorted(line, own).cpu().numpy()
    missed = (mine == -torch.inf).cpu().numpy()
    # Beside an item that was not offered are the candidates that were not offered either, not the items left out.
    return greater, np.where(missed, n_candidates[row] - greater, least - greater) - 1, missed


def _count(cells: np.ndarray | Tensor) -> np.ndarray:
    """int64[B]: how many cells of each row of bool [B, C] are true."""
    if isinstance(cells, np.ndarray):  # row by row, since along an axis it would add up integers
        return np.fromiter(map(np.count_nonzero, cells), np.int64, len(cells))
    return cells.sum(dim=1).cpu().numpy()


def _rows(scores: Any, row: np.ndarray) -> Any:
    """scores[row] of an array or a tensor, without a copy where the rows follow one another."""
    return scores[row[0] : row[-1] + 1] if row[-1] - row[0] == len(row) - 1 else scores[row]


def _check(scores: Tensor, query: np.ndarray, k: int) -> tuple[Tensor, np.ndarray]:
    query = np.asarray(query)
    if scores.ndim != 2 or scores.dtype not in (torch.float32, torch.float64) or query.shape != (len(scores),):
        raise ContractError(
            needed="scores [B, V] of float32 or float64 and B query numbers",
            came=f"{scores.dtype} {tuple(scores.shape)} and {query.shape}",
        )
    if k < 1:
        raise ContractError(needed="lists of k >= 1", came=str(k))
    # A view such as popularity.expand(B, V) shares cells between rows and cannot be written to.
    return (scores if scores.is_contiguous() else scores.contiguous()), query.astype(np.int64)


def _distinct(name: str, jagged: Jagged | None, rows: int, width: int) -> np.ndarray:
    """Distinct row * width + item, rising."""
    if jagged is None:
        return np.zeros(0, np.int64)
    offsets, items = np.asarray(jagged[0], np.int64), np.asarray(jagged[1], np.int64)
    sizes = offsets[1:] - offsets[:-1]  # np.diff takes longer than all the rest for one query
    if offsets.shape != (rows + 1,) or offsets[0] != 0 or offsets[-1] != len(items) or (sizes < 0).any():
        raise ContractError(
            needed=f"offsets of {name} for {rows} queries over {len(items)} items", came=f"offsets {offsets.shape}"
        )
    if len(items) and (items.min() < 0 or items.max() >= width):
        raise ContractError(needed=f"{name} items in 0..{width - 1}", came=f"{items.min()}..{items.max()}")
    cells = np.sort(np.repeat(np.arange(rows), sizes) * width + items)
    first = np.ones(len(cells), bool)
    first[1:] = cells[1:] != cells[:-1]
    return cells[first]  # np.unique goes by a hash table, which takes far longer
