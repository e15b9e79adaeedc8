"""Next item: given a history, rank the whole catalogue. Evaluation and serving ask through the same function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lmrs.errors import ContractError
from lmrs.models.network import Network, Scorer
from lmrs.objectives import NextItem, Objective
from lmrs.split import Queries
from lmrs.views import Rows, View
from lmrs.vocab import Vocab

SCORE_CELLS = 32_000_000  # scores held at once: at most 128 MB in fp32, whatever the catalogue


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


class Question(NamedTuple):
    """Scores of a block of queries. which: int64[B] places in the Queries; scores: [B, V] in that order, or [B, K] of the
    candidates; fallback: queries without any known history, which got training popularity instead."""

    which: np.ndarray
    scores: Tensor
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
        batch = view.collate(short.take(np.flatnonzero(known)))
        asked = ask.ask(batch, vocab)
        if asked is None:
            raise ContractError(
                needed="an objective that can be asked for the next item in the last stage",
                came=type(ask).__name__,
                remedy="add a stage with NextItem or Cloze",
            )
        order = torch.from_numpy(np.flatnonzero(known))[batch.rows["example"]]
        if among is None:
            found = scorer.score(asked.to(device), ask.asked_visible)
        else:
            found = scorer.score_among(asked.to(device), ask.asked_visible, among[order].to(device))
        found = found.float().cpu()
        if isinstance(scorer, Network) and len(order) == len(rows) and bool((order[1:] > order[:-1]).all()):
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


def questions(
    scorer: Scorer,
    objective: Objective | None,
    task: Ranking,
    queries: Queries,
    vocab: Vocab,
    device: torch.device | str = "cpu",
    *,
    candidates: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Iterator[Question]:
    """Blocks of queries with their scores, in bounded memory. Queries of similar history length are asked together.

    candidates: gives the items int64[B, K] to score for the queries at the places int64[B], instead of the whole catalogue.
    """
    block = max(1, min(256, SCORE_CELLS // max(1, vocab.n_items)))
    length = queries.stop - queries.start
    order = np.argsort(-length, kind="stable")
    for begin in range(0, len(order), block):
        which = order[begin : begin + block]
        rows = Rows(queries.dataset, queries.user[which], queries.start[which], queries.stop[which])
        among = None if candidates is None else candidates(which)
        found, empty = scores(scorer, objective, task.view, rows, vocab, device, candidates=among)
        yield Question(which, found, empty, among)


def network_objective(scorer: Scorer, objective: Objective | None) -> Objective | None:
    """The objective that asks, checked: a Network needs one, a control has none."""
    if isinstance(scorer, Network) and objective is None:
        raise ContractError(needed="the objective of the last stage", came="none", remedy="pass the stage's objective")
    return objective
