"""From questions to ranks: asks a trained scorer every query and says where the truth ended up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from lmrs.answers import Jagged, Ranked, rank, rank_candidates, rank_states
from lmrs.candidates import draw
from lmrs.errors import DataError
from lmrs.measures import Lists, Ranks, Sampling
from lmrs.models.network import Scorer
from lmrs.native import Kernel, chosen_kernel
from lmrs.objectives import Objective
from lmrs.progress import Reporter
from lmrs.split import Queries
from lmrs.tasks import Ranking
from lmrs.tasks.ranking import Placed, questions
from lmrs.vocab import Vocab


@dataclass(frozen=True, eq=False)
class Judged:
    """Ranks and lists of Q queries, in the order of the Queries.

    ranks: of the true items. items: int32[Q, k], scores: float32[Q, k], best first, -1 / -inf where a list is shorter.
    fallback: queries without history, answered by training popularity. truth_seen: share of queries with a true item that was
    in the history.
    sampled: ranks among drawn negatives instead of the whole catalogue, where that was asked for.
    """

    ranks: Ranks
    items: np.ndarray
    scores: np.ndarray
    fallback: int
    truth_seen: float
    sampled: dict[Sampling, Ranks] = field(default_factory=dict)

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
    task: Ranking,
    queries: Queries,
    vocab: Vocab,
    *,
    k: int,
    seed: int,
    device: torch.device | str = "cpu",
    samplings: Sequence[Sampling] = (),
    unknown: int = 0,
    reporter: Reporter | None = None,
) -> Judged:
    """Rank the whole catalogue for every query, exactly, in bounded memory.

    k: length of the lists kept. seed: of the random order of tied scores, and of negatives.
    samplings: rank among drawn negatives as well. unknown: how many items beyond the vocabulary (V, V + 1, ...) are true items of
    queries: the scorer cannot offer them, so they are misses. Raises DivergedError for scores that are not numbers, DataError
    if there is no query.
    """
    if not len(queries):
        raise DataError(needed="at least one query to judge by", came="none", remedy="use another split or more data")
    blocks: list[Ranked] = []
    drawn: dict[Sampling, list[Ranks]] = {sampling: [] for sampling in samplings}
    asked: list[np.ndarray] = []
    fallback = again = 0
    if reporter is not None:
        reporter.begin("ranking", len(queries))
    kernel = chosen_kernel("ranking") if not samplings and not unknown else None
    for which, scores, empty, _ in questions(scorer, objective, task, queries, vocab, device, stream=kernel is not None):
        some = queries.take(which)
        history = jagged(some.dataset.item, some.start, some.stop)
        seen, truth = _spans(task, some)
        if isinstance(scores, Placed):
            assert kernel is not None
            blocks.append(_streamed(kernel, scores, task, some, which, k=k, seed=seed))
        else:
            if unknown:
                scores = torch.cat([scores, scores.new_full((len(scores), unknown), -torch.inf)], 1)
            blocks.append(rank(scores, query=which, seen=seen, truth=truth, k=k, seed=seed))
            for sampling, parts in drawn.items():
                parts.append(_among(sampling, scores, which, seen, truth, vocab, k, seed))
        asked.append(which)
        again += int(_met_before(history, truth).sum())
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
        truth_seen=again / len(queries),
        sampled={sampling: replace(_together(parts, order), sampling=sampling) for sampling, parts in drawn.items()},
    )


def _streamed(kernel: Kernel, placed: Placed, task: Ranking, some: Queries, which: np.ndarray, *, k: int, seed: int) -> Ranked:
    """The ranking of `some` queries by their states: by the kernel where it serves, else by scores, some rows at a time."""
    seen, truth = _spans(task, some)
    found = rank_states(kernel, placed.states, placed.output, query=which, seen=seen, truth=truth, k=k, seed=seed)
    if found is not None:
        return found
    blocks = []
    for rows, scores in placed.parts():
        seen, truth = _spans(task, some.take(np.arange(len(some))[rows]))
        blocks.append(rank(scores, query=which[rows], seen=seen, truth=truth, k=k, seed=seed))
    return Ranked.join(blocks)


def judge_among(
    scorer: Scorer,
    objective: Objective | None,
    task: Ranking,
    queries: Queries,
    vocab: Vocab,
    *,
    sampling: Sampling,
    seed: int,
    device: torch.device | str = "cpu",
    reporter: Reporter | None = None,
) -> tuple[Ranks, int]:
    """(the ranks that `judge` gives under `sampling`, queries without history), scoring no item but the drawn ones.

    For scorers that work item by item, such as language models, and for nothing else: the value is a sampled one.
    All items to be found must be known to the scorer. Raises as `judge` does.
    """
    if not len(queries):
        raise DataError(needed="at least one query to judge by", came="none", remedy="use another split or more data")
    parts: list[Ranks] = []
    asked: list[np.ndarray] = []
    fallback = 0
    if reporter is not None:
        reporter.begin("ranking", len(queries))

    def candidates(which: np.ndarray) -> np.ndarray:
        return _drawn(sampling, which, *_spans(task, queries.take(which)), vocab.n_items, vocab, seed)

    for which, scores, empty, among in questions(scorer, objective, task, queries, vocab, device, candidates=candidates):
        assert among is not None
        assert not isinstance(scores, Placed)
        _, truth = _spans(task, queries.take(which))
        ranked = rank_candidates(scores, candidates=among, query=which, truth=truth, k=1, seed=seed, sampling=sampling)
        assert ranked.ranks is not None
        parts.append(ranked.ranks)
        asked.append(which)
        fallback += empty
        if reporter is not None:
            reporter.step(by=len(which))
    together = _together(parts, np.argsort(np.concatenate(asked), kind="stable"))
    return replace(together, sampling=sampling), fallback


def _spans(task: Ranking, queries: Queries) -> tuple[Jagged | None, Jagged]:
    """(what is left out of the ranking, what is to be found) of some queries."""
    seen = jagged(queries.dataset.item, queries.start, queries.stop) if task.exclude_seen else None
    return seen, jagged(queries.dataset.item, queries.stop, queries.target)


def _met_before(history: Jagged, truth: Jagged) -> np.ndarray:
    """bool[B]: some true item of the query is in its history, whether or not the history is left out of the ranking."""
    if not len(history[1]):
        return np.zeros(len(truth[0]) - 1, bool)
    width = 1 + int(max(history[1].max(), truth[1].max(initial=0)))
    old, new = (np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)) * width + items for offsets, items in (history, truth))
    found = np.zeros(len(truth[0]) - 1, bool)
    old.sort()
    at = np.minimum(np.searchsorted(old, new), len(old) - 1)
    found[new[old[at] == new] // width] = True
    return found


def _among(
    sampling: Sampling, scores: Tensor, query: np.ndarray, seen: Jagged | None, truth: Jagged, vocab: Vocab, k: int, seed: int
) -> Ranks:
    """Ranks of the true items among themselves and drawn negatives."""
    found = _drawn(sampling, query, seen, truth, scores.shape[1], vocab, seed)
    picked = scores.gather(1, torch.from_numpy(np.maximum(found, 0)).to(scores.device))
    ranked = rank_candidates(picked, candidates=found, query=query, truth=truth, k=k, seed=seed, sampling=sampling)
    assert ranked.ranks is not None
    return ranked.ranks


def _drawn(
    sampling: Sampling, query: np.ndarray, seen: Jagged | None, truth: Jagged, n_items: int, vocab: Vocab, seed: int
) -> np.ndarray:
    nothing = (np.zeros(len(query) + 1, np.int64), np.zeros(0, np.int64))
    counts = None if vocab.counts is None else np.pad(vocab.counts, (0, n_items - len(vocab.counts)))
    return draw(query=query, seen=seen or nothing, truth=truth, n_items=n_items, sampling=sampling, seed=seed, counts=counts)


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
