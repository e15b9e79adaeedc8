"""Next item: given a history, rank the whole catalogue. Evaluation and serving ask through the same function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lmrs.batch import Batch
from lmrs.errors import ContractError
from lmrs.losses import Output
from lmrs.models.network import Network, Scorer
from lmrs.objectives import NextItem, Objective
from lmrs.split import Queries
from lmrs.views import Rows, View
from lmrs.vocab import Vocab

SCORE_CELLS = 32_000_000  # scores held at once: at most 128 MB in fp32, whatever the catalogue
STREAMED = 240  # queries at a time where no scores are held: whole blocks of the kernel


@dataclass(frozen=True)
class Ranking:
    """Rank all items for a history.

    view: how a history is read. exclude_seen: leave items of the history out of the ranking (the usual protocol; a target that
    was seen before stays a candidate and is counted in the report).
    """

    view: View
    exclude_seen: bool = True

    @property
    def serving(self) -> View:
        """How a bare history is read."""
        return self.view


class Placed(NamedTuple):
    """States [B, E] whose products with `output` are scores: what is asked for where nobody needs to hold these."""

    states: Tensor
    output: Output

    def parts(self) -> Iterator[tuple[slice, Tensor]]:
        """(rows, scores [b, V]) in bounded memory."""
        block = _block(len(self.output.table))
        for begin in range(0, len(self.states), block):
            yield slice(begin, begin + block), self.output.scores(self.states[begin : begin + block]).float().cpu()


class Question(NamedTuple):
    """Scores of a block of queries. which: int64[B] places in the Queries; scores: [B, V] in that order, [B, K] of the
    candidates, or Placed; fallback: queries without any known history, which got training popularity instead."""

    which: np.ndarray
    scores: Tensor | Placed
    fallback: int
    candidates: np.ndarray | None = None


@torch.no_grad()
def scores(
    scorer: Scorer,
    objective: Objective | None,
    view: View,
    rows: Any,
    vocab: Vocab,
    device: torch.device | str = "cpu",
    *,
    candidates: np.ndarray | None = None,
) -> tuple[Tensor, int]:
    """[R, V] scores for the histories `rows` (Examples of the view), in their order, and how many rows had no history to go by.

    objective: the signal of the last stage, which knows how to ask (None for controls). candidates: int64[R, K], -1 where a row
    has fewer: score these alone, [R, K].
    """
    ask = objective if objective is not None else NextItem()
    short = view.asked(rows, asks=ask.asks)
    known = view.known(short)
    among = None if candidates is None else torch.from_numpy(candidates)
    width = vocab.n_items if among is None else among.shape[1]
    out = None
    if known.any():  # a row without positions is no question for a network, alone or among others
        asked = _asked(ask, view, short.take(np.flatnonzero(known)), vocab)
        order = torch.from_numpy(np.flatnonzero(known))[asked.rows["example"]]
        if among is None:
            found = scorer.score(asked.to(device), ask.asked_visible)
        else:
            found = scorer.score_among(asked.to(device), ask.asked_visible, among[order].to(device))
        found = found.float().cpu()
        if isinstance(scorer, Network) and len(order) == len(rows) and _rising(order):
            return found, 0  # every row, in the order of the batch: a copy would cost as much (a control may give its own table)
        out = torch.empty(len(rows), width, dtype=torch.float32)
        out[order] = found
    if out is None:
        out = torch.empty(len(rows), width, dtype=torch.float32)
    if not known.all():
        counts = torch.from_numpy(
            np.zeros(vocab.n_items, np.float32) if vocab.counts is None else vocab.counts.astype(np.float32)
        )
        out[torch.from_numpy(~known)] = counts if among is None else counts[among[torch.from_numpy(~known)].clamp_min(0)]
    return out, int((~known).sum())


@torch.no_grad()
def placed(
    scorer: Scorer, objective: Objective | None, view: View, rows: Any, vocab: Vocab, device: torch.device | str = "cpu"
) -> Placed | None:
    """What `scores` would multiply; None if some row has no history to go by, or if scores are made otherwise."""
    ask = objective if objective is not None else NextItem()
    short = view.asked(rows, asks=ask.asks)
    if not isinstance(scorer, Network) or not view.known(short).all():
        return None
    asked = _asked(ask, view, short, vocab)
    states = scorer.placed(asked.to(device), ask.asked_visible)
    if states is None:
        return None
    order = asked.rows["example"].to(states.device)
    return Placed(states if _rising(order) else states[order.argsort()], scorer.output())


def _asked(ask: Objective, view: View, rows: Any, vocab: Vocab) -> Batch:
    asked = ask.ask(view.collate(rows), vocab)
    if asked is None:
        raise ContractError(
            needed="an objective that can be asked for the next item in the last stage",
            came=type(ask).__name__,
            remedy="add a stage with NextItem or Cloze",
        )
    return asked


def _rising(order: Tensor) -> bool:
    return bool((order[1:] > order[:-1]).all())


def _block(n_items: int) -> int:
    """How many queries are scored at once."""
    return max(1, min(256, SCORE_CELLS // max(1, n_items)))


def questions(
    scorer: Scorer,
    objective: Objective | None,
    task: Ranking,
    queries: Queries,
    vocab: Vocab,
    device: torch.device | str = "cpu",
    *,
    candidates: Callable[[np.ndarray], np.ndarray] | None = None,
    stream: bool = False,
) -> Iterator[Question]:
    """Blocks of queries with their scores, in bounded memory. Queries of similar history length are asked together.

    candidates: gives the items int64[B, K] to score for the queries at the places int64[B], instead of the whole catalogue.
    stream: give states instead of scores where that can be.
    """
    length = queries.stop - queries.start
    order = np.argsort(-length, kind="stable")
    block = _block(vocab.n_items)
    blocks = [order[begin : begin + block] for begin in range(0, len(order), block)]
    if stream:  # nothing as large as the catalogue is held: the network reads as many as it likes
        blocks = [order[begin : begin + STREAMED] for begin in range(0, len(order), STREAMED)]
    while blocks:
        which = blocks.pop(0)
        rows = Rows(queries.dataset, queries.user[which], queries.start[which], queries.stop[which])
        if stream:
            found = placed(scorer, objective, task.view, rows, vocab, device)
            if found is not None:
                yield Question(which, found, 0)
                continue
            if len(which) > block:
                blocks = [*(which[begin : begin + block] for begin in range(0, len(which), block)), *blocks]
                continue
        among = None if candidates is None else candidates(which)
        given, empty = scores(scorer, objective, task.view, rows, vocab, device, candidates=among)
        yield Question(which, given, empty, among)


def network_objective(scorer: Scorer, objective: Objective | None) -> Objective | None:
    """The objective that asks, checked: a Network needs one, a control has none."""
    if isinstance(scorer, Network) and objective is None:
        raise ContractError(needed="the objective of the last stage", came="none", remedy="pass the stage's objective")
    return objective
