"""Drawing negatives for sampled evaluation, which is done on request only and labelled everywhere."""

from __future__ import annotations

import numpy as np

from lmrs.answers import Jagged
from lmrs.errors import ContractError
from lmrs.measures import Sampling
from lmrs.order import priority

_STREAM = 0x5A3D1E  # keeps the draws apart from the tie-breaking hash of the same seed
_ROWS = 4096
_ROUNDS = 8


def draw(
    *,
    query: np.ndarray,
    seen: Jagged,
    truth: Jagged,
    n_items: int,
    sampling: Sampling,
    seed: int,
    counts: np.ndarray | None = None,
) -> np.ndarray:
    """int64[B, most true items + n]: the true items of each query, then n distinct negatives, -1 where there are fewer.

    Negatives are items below `n_items` that are neither in `seen` nor in `truth`, drawn one after another without replacement:
    each with the same chance ("uniform") or in proportion to `counts` int64[V] ("popularity"; items with count 0 are never
    drawn). A draw depends on (seed, query) only, not on the blocks the queries come in.
    Raises ContractError if popularity is asked for without counts.
    """
    if sampling.by == "popularity" and (counts is None or len(counts) != n_items or counts.sum() <= 0):
        raise ContractError(
            needed=f"training counts of {n_items} items for {sampling.label}",
            came="none" if counts is None else str(counts.shape),
        )
    weight = np.ones(n_items) if sampling.by == "uniform" or counts is None else counts.astype(np.float64)
    query = np.asarray(query, np.int64)
    true_key, most = _keys(truth, n_items), int(np.diff(truth[0]).max(initial=0))
    taken = np.union1d(true_key, _keys(seen, n_items))
    out = np.full((len(query), most + sampling.n), -1, np.int64)
    row, item = np.divmod(true_key, n_items)
    out[row, np.arange(len(row)) - np.searchsorted(row, row)] = item
    for at in range(0, len(query), _ROWS):
        rows = np.arange(at, min(at + _ROWS, len(query)))
        out[rows, most:] = _negatives(rows, query[rows], taken, weight, n=sampling.n, seed=seed ^ _STREAM)
    return out


def _negatives(rows: np.ndarray, query: np.ndarray, taken: np.ndarray, weight: np.ndarray, *, n: int, seed: int) -> np.ndarray:
    """int64[B, n]. Draws with replacement and passes over what is taken; what that leaves open is drawn from the rest."""
    n_items, edges = len(weight), np.cumsum(weight)
    found = np.full((len(rows), n), -1, np.int64)
    have = np.zeros((len(rows), 0), np.int64)
    open_ = np.arange(len(rows))
    for turn in range(_ROUNDS):
        tick = np.arange(turn * 2 * n, (turn + 1) * 2 * n)
        unit = (priority(seed, query[open_, None], tick[None]) >> np.uint64(11)) * 2.0**-53
        item = np.minimum(np.searchsorted(edges, unit * edges[-1], side="right"), n_items - 1)
        tried = np.concatenate([have, np.where(_contains(taken, rows[open_, None] * n_items + item), -1, item)], axis=1)
        tried[_repeats(tried)] = -1
        order = np.argsort(tried < 0, axis=1, kind="stable")  # the new ones to the front, in the order of the draws
        have = np.take_along_axis(tried, order, axis=1)[:, :n]
        full = have[:, -1] >= 0
        found[open_[full]] = have[full]
        have, open_ = have[~full], open_[~full]
        if not len(open_):
            return found
    every = np.arange(n_items)
    for place, got in zip(open_, have):  # most of the weight is gone: order the rest at once (Efraimidis & Spirakis 2006)
        got = got[got >= 0]
        free = np.setdiff1d(every[(weight > 0) & ~_contains(taken, rows[place] * n_items + every)], got)
        unit = ((priority(seed + 1, query[place : place + 1], free) >> np.uint64(11)) + 0.5) * 2.0**-53
        line = np.concatenate([got, free[np.argsort(-np.log(unit) / weight[free], kind="stable")]])[:n]
        found[place, : len(line)] = line
    return found


def _keys(jagged: Jagged, width: int) -> np.ndarray:
    offsets, items = jagged
    return np.unique(np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)) * width + np.asarray(items, np.int64))


def _contains(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    if not len(keys):
        return np.zeros(wanted.shape, bool)
    return keys[np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)] == wanted


def _repeats(cells: np.ndarray) -> np.ndarray:
    """bool like cells: the cell's value (>= 0) stands further left in its row."""
    order = np.argsort(cells, axis=1, kind="stable")
    tidy = np.take_along_axis(cells, order, axis=1)
    again = np.zeros(cells.shape, bool)
    np.put_along_axis(again, order[:, 1:], (tidy[:, 1:] == tidy[:, :-1]) & (tidy[:, 1:] >= 0), axis=1)
    return again
