"""Conversing: after every turn of the seeker, which item does the recommender name next?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from lmrs.answers import Ranked, rank
from lmrs.errors import UserError
from lmrs.measures import RankMeasure, Sampled, parse
from lmrs.models.network import Scorer
from lmrs.objectives import Objective
from lmrs.progress import Reporter
from lmrs.split import Queries
from lmrs.tasks.ranking import SCORE_CELLS, network_objective, scores
from lmrs.tasks.task import Answered, AnyMeasure, RecordTask
from lmrs.views import ItemSequence
from lmrs.views.dialogues import TurnRows, Turns, dialogues_of
from lmrs.vocab import Vocab


@dataclass(frozen=True)
class Conversing(RecordTask):
    """Rank all items for every item that a held-out turn of the recommender names.

    Asked are the turns all of whose items were kept from training (`Queries.unseen`): every turn of a dialogue that is held out
    whole (split.by_user), else those behind the training part. A turn that names two items is two questions, and the other item
    stays a candidate: as KBRD, KGSF and UniCRS report (Recall@k, which with one true item is HR@k).

    view: how a turn is read. repeats: False asks only for items that nobody has named before in the dialogue; with True, as
    published, they are asked for, and nothing that was named is left out of the ranking.
    """

    view: Turns = Turns()  # noqa: RUF009 - a frozen value
    repeats: bool = True

    measures: ClassVar[tuple[str, ...]] = ("Recall@1", "Recall@10", "Recall@50", "NDCG@10", "MRR@10")

    @property
    def serving(self) -> ItemSequence:
        """A bare history is what was named so far."""
        return ItemSequence(max_len=self.view.max_len)

    def measure(self, name: str) -> AnyMeasure:
        found = parse(name)
        if not isinstance(found, RankMeasure) or isinstance(found, Sampled):
            raise UserError(
                needed="a measure of ranks in the whole catalogue", came=repr(name), remedy=f"such as {self.measures[1]}"
            )
        return found

    def rows(self, queries: Queries) -> TurnRows:
        found = self.view.within(queries.dataset, *unseen(queries))
        if self.repeats:
            return found
        return found.take(np.flatnonzero(~_named_before(found)))

    def judge(
        self,
        scorer: Scorer,
        objective: Objective | None,
        rows: Any,
        vocab: Vocab,
        *,
        measures: Sequence[AnyMeasure],
        seed: int,
        device: torch.device | str = "cpu",
        reporter: Reporter | None = None,
    ) -> Answered:
        blocks: list[Ranked] = []
        places: list[np.ndarray] = []
        if reporter is not None:
            reporter.begin("ranking", len(rows))
        ask = network_objective(scorer, objective)
        for which in _blocks(rows, vocab.n_items):
            some = rows.take(which)
            found, _ = scores(scorer, ask, self.view, some, vocab, device)
            truth = (np.arange(len(some) + 1), some.target)
            seen = None if self.repeats else _jagged(some)
            blocks.append(rank(found, query=which, seen=seen, truth=truth, k=1, seed=seed))
            places.append(which)
            if reporter is not None:
                reporter.step(by=len(which))
        order = np.argsort(np.concatenate(places), kind="stable")
        ranks = Ranked.join(blocks).ranks
        assert ranks is not None
        values: dict[str, np.ndarray | float] = {}
        for each in measures:
            assert isinstance(each, RankMeasure)
            values[str(each)] = each(ranks)[order]
        again = _named_before(rows)
        return Answered(
            values,
            user=rows.user,
            targets=np.ones(len(rows), np.int64),
            facts={
                "dialogues": float(len(np.unique(rows.user))),
                "named_before": float(again.mean()),
                "nothing_named": float((dialogues_of(rows.dataset).event[rows.turn] == rows.dataset.offsets[rows.user]).mean()),
            },
        )


def unseen(queries: Queries) -> tuple[np.ndarray, np.ndarray]:
    """(start, stop), int64[U]: the events of each dialogue that the queries keep from training; none of the others."""
    start, stop = queries.dataset.offsets[:-1].copy(), queries.dataset.offsets[:-1].copy()
    start[queries.user] = queries.stop if queries.unseen is None else queries.unseen
    stop[queries.user] = queries.target
    return start, stop


def _blocks(rows: TurnRows, n_items: int) -> Iterator[np.ndarray]:
    """Places of rows in blocks of bounded memory; turns of similar standing in their dialogue together (texts of one length)."""
    size = max(1, min(128, SCORE_CELLS // max(1, n_items)))
    order = np.argsort(-dialogues_of(rows.dataset).turn[rows.turn], kind="stable")
    for begin in range(0, len(order), size):
        yield order[begin : begin + size]


def _jagged(rows: TurnRows) -> tuple[np.ndarray, np.ndarray]:
    """(offsets, items) of everything that was named before each turn, however far back."""
    start, stop = rows.dataset.offsets[rows.user], dialogues_of(rows.dataset).event[rows.turn]
    offsets = np.concatenate([[0], np.cumsum(stop - start)])
    flat = np.arange(int(offsets[-1])) + np.repeat(start - offsets[:-1], stop - start)
    return offsets, rows.dataset.item[flat].astype(np.int64)


def _named_before(rows: TurnRows) -> np.ndarray:
    """bool[R]: the item was named before its turn."""
    offsets, items = _jagged(rows)
    owner = np.repeat(np.arange(len(rows)), np.diff(offsets))
    found = np.zeros(len(rows), bool)
    found[owner[items == rows.target[owner]]] = True
    return found
