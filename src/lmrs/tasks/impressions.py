"""Clicks: the items of an impression are ranked, and the clicked ones should come first (MIND; Wu et al., ACL 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from lmrs.errors import ContractError, UserError
from lmrs.measures import RankMeasure, parse, rank_impressions
from lmrs.models.network import Scorer
from lmrs.objectives import Objective
from lmrs.split import Queries
from lmrs.tasks.ranking import network_objective, scores
from lmrs.tasks.task import Answered, AnyMeasure, RecordTask
from lmrs.views import Impressions, ItemSequence
from lmrs.views.impressions import ShownRows, log_of
from lmrs.vocab import Vocab

if TYPE_CHECKING:
    from lmrs.progress import Reporter

BLOCK = 256  # impressions asked together


@dataclass(frozen=True)
class Clicks(RecordTask):
    """Rank what was shown, for impressions whose clicks are all of the part that is asked.

    Asked of a bare history, a system with this task ranks the whole catalogue. Impressions without history are answered by
    training popularity and counted; those without a clicked or without an unclicked item have no AUC
    and are left out, counted too.
    """

    view: Impressions = Impressions()  # noqa: RUF009 - a frozen value

    measures = ("AUC", "MINDMRR", "NDCG@5", "NDCG@10")
    among = "the items that were shown"

    @property
    def serving(self) -> ItemSequence:
        return ItemSequence(max_len=self.view.max_len)

    def measure(self, name: str) -> RankMeasure:
        found = parse(name)
        if not isinstance(found, RankMeasure):
            raise UserError(
                needed="a measure of the ranks in an impression",
                came=name,
                remedy=f"choose among {', '.join(self.measures)}",
            )
        return found

    def rows(self, queries: Queries) -> ShownRows:
        """The impressions with clicks among the true events of the queries, with all that was shown."""
        users = queries.dataset.n_users
        if len(np.unique(queries.user)) < len(queries):
            raise ContractError(needed="one query a user", came="several", remedy="split by time or leave one out")
        start, stop = np.zeros(users, np.int64), np.zeros(users, np.int64)
        start[queries.user], stop[queries.user] = queries.stop, queries.target
        log = log_of(queries.dataset)
        return ShownRows(queries.dataset, log, np.flatnonzero(log.told & log.within(start, stop)))

    def judge(
        self,
        scorer: Scorer,
        objective: Objective | None,
        rows: ShownRows,
        vocab: Vocab,
        *,
        measures: Sequence[AnyMeasure],
        seed: int,
        device: torch.device | str = "cpu",
        reporter: Reporter | None = None,
    ) -> Answered:
        """Asks blocks of impressions with about as many items; a scorer computes no others than those shown."""
        ask = network_objective(scorer, objective)
        log = rows.log
        size = log.shown_offsets[rows.which + 1] - log.shown_offsets[rows.which]
        ends = np.concatenate([[0], np.cumsum(size)])
        score, clicked, fallback = np.zeros(int(ends[-1])), np.zeros(int(ends[-1]), bool), 0
        order = np.argsort(-size, kind="stable")
        if reporter is not None:
            reporter.begin("impressions", -(-len(order) // BLOCK))
        for begin in range(0, len(order), BLOCK):
            some = order[begin : begin + BLOCK]
            block = rows.take(some)
            candidates = block.candidates()
            found, empty = scores(scorer, ask, self.view, block, vocab, device, candidates=candidates)
            real = candidates >= 0
            flat = np.repeat(ends[some], size[some]) + np.arange(int(size[some].sum()))
            flat -= np.repeat(np.cumsum(size[some]) - size[some], size[some])
            score[flat], clicked[flat] = found.double().numpy()[real], block.clicked()[real]
            fallback += empty
            if reporter is not None:
                reporter.step("")
        ranks, kept = rank_impressions(offsets=ends, clicked=clicked, score=score, seed=seed)
        chosen = rows.which[kept]
        return Answered(
            values={str(each): each(ranks) for each in measures if isinstance(each, RankMeasure)},
            user=log.user[chosen].astype(np.int64),
            targets=np.diff(ranks.offsets),
            columns={"impression": log.keys.take(chosen)},
            facts={
                "without_history": float(fallback),
                "left_out": float(len(rows) - len(kept)),
                "shown_without_training_events": _strange(rows, vocab),
            },
        )


def _strange(rows: ShownRows, vocab: Vocab) -> float:
    """The share of shown items that have no training event: what only the text can rank."""
    if vocab.counts is None or not len(rows):
        return 0.0
    candidates = rows.candidates()
    return float((vocab.counts[candidates[candidates >= 0]] == 0).mean())
