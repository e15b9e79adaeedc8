"""Liked: will the user like this item? Every rated event of a part is a question, judged by AUC (TALLRec, section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from lmrs.errors import DataError, UserError
from lmrs.measures import AUC, rank_impressions
from lmrs.models.network import Scorer
from lmrs.objectives import Objective
from lmrs.split import Queries
from lmrs.tasks.ranking import network_objective, scores
from lmrs.tasks.task import Answered, AnyMeasure, RecordTask
from lmrs.views import ItemSequence, Rated, Rows
from lmrs.vocab import Vocab

if TYPE_CHECKING:
    from lmrs.progress import Reporter

BLOCK = 64  # questions asked together


@dataclass(frozen=True, eq=False)
class RatedRows:
    """R questions. history: what came before. place: int64[R], the event that is asked about."""

    history: Rows
    place: np.ndarray

    @property
    def user(self) -> np.ndarray:
        return self.history.user

    def __len__(self) -> int:
        return len(self.place)

    def take(self, which: np.ndarray) -> RatedRows:
        return RatedRows(self.history.take(which), self.place[which])


@dataclass(frozen=True)
class Liked(RecordTask):
    """For every true event of a part, whether it was rated above `view.above`, from the history before the first of them.

    AUC: over all questions together, one number (paper), the share of (liked, not liked) pairs in the right order. Questions
    without history are left out and counted. A bare history gets the catalogue in the order of the scores.
    """

    view: Rated = Rated()  # noqa: RUF009 - a frozen value

    measures = ("AUC",)
    among = "the item that was rated"

    @property
    def serving(self) -> ItemSequence:
        return self.view.sequence

    def measure(self, name: str) -> AUC:
        if name != "AUC":
            raise UserError(needed="the measure AUC for likes and dislikes", came=name, remedy="use AUC")
        return AUC()

    def rows(self, queries: Queries) -> RatedRows:
        if queries.dataset.rating is None:
            raise DataError(needed="ratings", came=f"{queries.dataset.name}, which has none", remedy="set rating=none")
        size = queries.target - queries.stop
        which = np.repeat(np.arange(len(queries)), size)
        place = np.arange(int(size.sum())) - np.repeat(np.cumsum(size) - size, size) + np.repeat(queries.stop, size)
        rows = Rows(queries.dataset, queries.user, queries.start, queries.stop)
        return RatedRows(rows.take(which), place)

    def judge(
        self,
        scorer: Scorer,
        objective: Objective | None,
        rows: RatedRows,
        vocab: Vocab,
        *,
        measures: Sequence[AnyMeasure],
        seed: int,
        device: torch.device | str = "cpu",
        reporter: Reporter | None = None,
    ) -> Answered:
        """Raises DataError if all were liked or none: AUC is not defined then."""
        ask = network_objective(scorer, objective)
        rating = rows.history.dataset.rating
        assert rating is not None
        kept = np.flatnonzero(self.view.known(self.view.asked(rows.history, asks=0)))
        left, rows = len(rows) - len(kept), rows.take(kept)
        liked = np.asarray(rating[rows.place] > self.view.above)
        if liked.all() or not liked.any():
            raise DataError(
                needed=f"questions with ratings above {self.view.above:g} and others",
                came="one kind",
                remedy="set another rating",
            )
        item = np.asarray(rows.history.dataset.item[rows.place], np.int64)
        score = np.zeros(len(rows))
        if reporter is not None:
            reporter.begin("judging", -(-len(rows) // BLOCK))
        for begin in range(0, len(rows), BLOCK):
            some = np.arange(begin, min(begin + BLOCK, len(rows)))
            found, _ = scores(scorer, ask, self.view, rows.history.take(some), vocab, device, candidates=item[some, None])
            score[some] = found[:, 0].double().numpy()
            if reporter is not None:
                reporter.step("")
        ranks, _ = rank_impressions(offsets=np.array([0, len(rows)]), clicked=liked, score=score, seed=seed)
        return Answered(
            values={str(each): float(each(ranks)[0]) for each in measures if isinstance(each, AUC)},
            user=rows.user,
            targets=np.ones(len(rows), np.int64),
            columns={"item": vocab.items.take(pa.array(item)), "liked": pa.array(liked), "score": pa.array(score)},
            facts={"without_history": float(left), "liked": float(liked.mean())},
        )
