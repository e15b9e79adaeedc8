"""From questions to ranks: asks a trained scorer every query and says where the truth ended up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from lmrs.answers import Ranked, rank
from lmrs.measures import Lists, Ranks
from lmrs.models.network import Scorer
from lmrs.objectives import Objective
from lmrs.progress import Reporter
from lmrs.split import Queries
from lmrs.tasks import Task
from lmrs.tasks.next_item import questions
from lmrs.vocab import Vocab


@dataclass(frozen=True, eq=False)
class Judged:
    """Ranks and lists of Q queries, in the order of the Queries.

    ranks: of the true items. items: int32[Q, k], scores: float32[Q, k], best first, -1 / -inf where a list is shorter.
    fallback: queries without history, answered by training popularity. truth_seen: share of queries whose truth was in the history.
    """

    ranks: Ranks
    items: np.ndarray
    scores: np.ndarray
    fallback: int
    truth_seen: float

    def lists(self, queries: Queries, vocab: Vocab) -> Lists:
        """The lists as the measures of what is recommended read them."""
        offsets, items = jagged(queries.dataset.item, queries.start, queries.stop)
        assert vocab.counts is not None
        return Lists(self.items, vocab.counts, offsets, items)


def jagged(values: np.ndarray, start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(offsets int64[Q+1], values of the spans [start, stop) one after the other)."""
    size = stop - start
    offsets = np.concatenate([[0], np.cumsum(size)])
    flat = np.arange(int(offsets[-1])) + np.repeat(start - offsets[:-1], size)
    return offsets, values[flat].astype(np.int64)


def judge(
    scorer: Scorer,
    objective: Objective | None,
    task: Task,
    queries: Queries,
    vocab: Vocab,
    *,
    k: int,
    seed: int,
    device: torch.device | str = "cpu",
    reporter: Reporter | None = None,
) -> Judged:
    """Rank the whole catalogue for every query, exactly, in bounded memory.

    k: length of the lists kept. seed: of the random order of tied scores. Raises DivergedError for scores that are not numbers.
    """
    blocks: list[Ranked] = []
    asked: list[np.ndarray] = []
    fallback = 0
    if reporter is not None:
        reporter.begin("ranking", len(queries))
    for which, scores, empty in questions(scorer, objective, task, queries, vocab, device):
        some = queries.take(which)
        seen = jagged(some.dataset.item, some.start, some.stop) if task.exclude_seen else None
        truth = jagged(some.dataset.item, some.stop, some.target)
        blocks.append(rank(scores, query=which, seen=seen, truth=truth, k=k, seed=seed))
        asked.append(which)
        fallback += empty
        if reporter is not None:
            reporter.step(by=len(which))
    order = np.argsort(np.concatenate(asked), kind="stable")
    ranks = [block.ranks for block in blocks if block.ranks is not None]
    return Judged(
        ranks=_together(ranks, order),
        items=np.concatenate([block.items for block in blocks])[order],
        scores=np.concatenate([block.scores for block in blocks])[order],
        fallback=fallback,
        truth_seen=float(np.concatenate([block.truth_seen for block in blocks]).mean()),
    )


def _together(blocks: list[Ranks], order: np.ndarray) -> Ranks:
    """The Ranks of all blocks, queries in the given order."""
    size = np.concatenate([block.n_truth for block in blocks])
    start = np.cumsum(size) - size
    size, start = size[order], start[order]
    offsets = np.concatenate([[0], np.cumsum(size)])
    flat = np.arange(int(offsets[-1])) + np.repeat(start - offsets[:-1], size)

    def pick(name: str) -> np.ndarray:
        return np.concatenate([getattr(block, name) for block in blocks])[flat]

    return Ranks(
        offsets, pick("rank"), np.concatenate([block.n_candidates for block in blocks])[order], pick("greater"), pick("equal")
    )
