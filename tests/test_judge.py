"""From questions to ranks, against a written-out ranking."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lmrs import tasks, views
from lmrs.errors import DataError, DivergedError
from lmrs.judge import Judged, jagged, judge, judge_among
from lmrs.measures import HR, NDCG, Novelty, Sampling
from lmrs.models import ControlScorer
from lmrs.progress import Reporter
from lmrs.split import Queries
from lmrs.tasks import ranking
from lmrs.testing import tiny

V = tiny.dataset().n_items
VIEW = views.ItemSequence(max_len=9)
TASK = tasks.Ranking(VIEW)


class Table(ControlScorer):
    """P(next | last) from a fixed table without ties."""

    def __init__(self, table: np.ndarray) -> None:
        super().__init__()
        self.n_items, self.table = len(table), torch.from_numpy(table)

    def estimate(self, train) -> None: ...

    def score(self, batch, visible):
        return self.table[batch.channels["item"][batch.channels["asked"]]]


def table() -> np.ndarray:
    rng = np.random.default_rng(3)
    return np.stack([rng.permutation(V) for _ in range(V)]).astype(np.float32)


def queries() -> Queries:
    return tiny.split().valid


def vocab():
    return tiny.vocab(tiny.split().train)


def by_hand(which: Queries, scores: np.ndarray, *, exclude_seen: bool, k: int) -> tuple[list[int], list[list[int]]]:
    """(rank of the true item, best k items) of every query of one true item, with plain loops."""
    ranks, lists = [], []
    for query in range(len(which)):
        history, truth = which.history(query).tolist(), int(which.truth(query)[0])
        candidates = [item for item in range(V) if item == truth or not exclude_seen or item not in history]
        order = sorted(candidates, key=lambda item: -scores[history[-1], item])
        ranks.append(1 + order.index(truth))
        lists.append((order + [-1] * k)[:k])
    return ranks, lists


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_ranks_and_lists_are_those_of_a_loop(exclude_seen: bool) -> None:
    task = replace(TASK, exclude_seen=exclude_seen)
    found = judge(Table(table()), None, task, queries(), vocab(), k=5, seed=0)
    ranks, lists = by_hand(queries(), table(), exclude_seen=exclude_seen, k=5)
    assert found.ranks.rank.tolist() == ranks
    assert found.items.tolist() == lists
    assert found.fallback == 0


def test_lists_end_where_the_candidates_end() -> None:
    found = judge(Table(table()), None, TASK, queries(), vocab(), k=V, seed=0)
    _, lists = by_hand(queries(), table(), exclude_seen=True, k=V)
    assert found.items.tolist() == lists
    assert (found.items == -1).any()
    assert ((found.items == -1) == np.isneginf(found.scores)).all()


@pytest.mark.parametrize("cells", [V, 3 * V])
def test_blocks_change_nothing(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ties included: they are broken by a hash of the query, not of its place in a block."""
    coarse = np.floor(table() / 5)
    whole = judge(Table(coarse), None, TASK, queries(), vocab(), k=5, seed=0)
    monkeypatch.setattr(ranking, "SCORE_CELLS", cells)
    parts = judge(Table(coarse), None, TASK, queries(), vocab(), k=5, seed=0)
    assert np.array_equal(whole.ranks.rank, parts.ranks.rank)
    assert np.array_equal(whole.items, parts.items)
    assert np.array_equal(whole.scores, parts.scores)


def test_the_seed_breaks_ties() -> None:
    flat = np.zeros((V, V), np.float32)
    one, two, again = (judge(Table(flat), None, TASK, queries(), vocab(), k=5, seed=seed) for seed in (0, 1, 0))
    assert np.array_equal(one.items, again.items)
    assert not np.array_equal(one.items, two.items)


def test_a_constant_model_scores_chance() -> None:
    many = queries().take(np.arange(4000) % len(queries()))
    found = judge(Table(np.zeros((V, V), np.float32)), None, replace(TASK, exclude_seen=False), many, vocab(), k=1, seed=0)
    hit = HR(3)(found.ranks)
    assert abs(hit.mean() - 3 / V) < 4 * hit.std() / np.sqrt(len(hit))


def test_queries_with_several_true_items() -> None:
    """Histories that end earlier, everything after them is wanted; one of the true items may come twice."""
    train = tiny.split().train
    user = np.flatnonzero(train.lengths >= 6)
    start = train.start[user]
    several = Queries(train.dataset, user, start + 2, start + 6)
    found = judge(Table(table()), None, replace(TASK, exclude_seen=False), several, vocab(), k=5, seed=0)
    for query in range(len(several)):
        last, wanted = int(several.history(query)[-1]), sorted(set(several.truth(query).tolist()))
        order = np.argsort(-table()[last], kind="stable").tolist()
        mine = found.ranks.rank[found.ranks.offsets[query] : found.ranks.offsets[query + 1]].tolist()
        assert mine == [1 + order.index(item) for item in wanted]


def test_queries_without_history_are_answered_by_popularity_and_counted() -> None:
    split = tiny.split()
    some = queries().take(np.arange(3))
    cold = replace(
        some,
        stop=np.array([some.start[0], some.stop[1], some.start[2]]),
        target=np.array([some.start[0] + 1, some.target[1], some.start[2] + 1]),
    )
    found = judge(Table(table()), None, TASK, cold, vocab(), k=3, seed=0)
    assert found.fallback == 2
    assert split.train.counts()[found.items[0]].tolist() == sorted(split.train.counts().tolist(), reverse=True)[:3]


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_the_share_of_truths_that_were_seen_before_whatever_is_excluded(exclude_seen: bool) -> None:
    found = judge(Table(table()), None, replace(TASK, exclude_seen=exclude_seen), queries(), vocab(), k=1, seed=0)
    again = [int(queries().truth(q)[0]) in queries().history(q).tolist() for q in range(len(queries()))]
    assert found.truth_seen == pytest.approx(np.mean(again))
    assert 0 < found.truth_seen < 1


def test_a_score_that_is_no_number_is_an_error_not_a_rank() -> None:
    broken = table()
    broken[:, 4] = np.nan
    with pytest.raises(DivergedError, match=r"finite scores, got nan for query \d+, item 4"):
        judge(Table(broken), None, TASK, queries(), vocab(), k=1, seed=0)


def test_no_query_is_told() -> None:
    with pytest.raises(DataError, match="at least one query to judge by"):
        judge(Table(table()), None, TASK, queries().take(np.arange(0)), vocab(), k=1, seed=0)


def test_progress_counts_queries() -> None:
    class Counter(Reporter):
        def __init__(self) -> None:
            super().__init__(quiet=True)
            self.total, self.done = 0, 0

        def begin(self, what: str, total: int, done: int = 0) -> None:
            self.total = total

        def step(self, note: str = "", *, by: int = 1) -> None:
            self.done += by

    counter = Counter()
    judge(Table(table()), None, TASK, queries(), vocab(), k=1, seed=0, reporter=counter)
    assert counter.total == counter.done == len(queries())


def test_lists_carry_histories_and_popularity() -> None:
    found: Judged = judge(Table(table()), None, TASK, queries(), vocab(), k=4, seed=0)
    lists = found.lists(queries(), vocab())
    assert lists.history_offsets is not None
    assert lists.history_items is not None
    for query in range(len(queries())):
        mine = lists.history_items[lists.history_offsets[query] : lists.history_offsets[query + 1]]
        assert mine.tolist() == queries().history(query).tolist()
    assert Novelty(4)(lists).shape == (len(queries()),)
    assert lists.counts.tolist() == tiny.split().train.counts().tolist()


def test_ranks_are_exact_for_measures() -> None:
    found = judge(Table(table()), None, TASK, queries(), vocab(), k=1, seed=0)
    ranks, _ = by_hand(queries(), table(), exclude_seen=True, k=1)
    wanted = [1 / np.log2(rank + 1) if rank <= 5 else 0.0 for rank in ranks]
    assert np.allclose(NDCG(5)(found.ranks), wanted, atol=1e-12)


class Watched(Table):
    """Remembers how many scores it gave."""

    given = 0

    def score(self, batch, visible):
        raise AssertionError("the whole catalogue was scored")

    def score_among(self, batch, visible, candidates):
        self.given += candidates.numel()
        return super().score(batch, visible).gather(1, candidates.clamp_min(0))


@pytest.mark.parametrize("by", ["uniform", "popularity"])
@pytest.mark.parametrize("n", [3, 50])
def test_ranks_among_drawn_candidates_need_no_other_scores(by: str, n: int) -> None:
    sampling = Sampling(n, by)
    wanted = judge(Table(table()), None, TASK, queries(), vocab(), k=5, seed=4, samplings=(sampling,)).sampled[sampling]
    watched = Watched(table())
    found, fallback = judge_among(watched, None, TASK, queries(), vocab(), sampling=sampling, seed=4)
    assert found.sampling == sampling
    assert found.rank.tolist() == wanted.rank.tolist()
    assert found.n_candidates.tolist() == wanted.n_candidates.tolist()
    assert watched.given <= len(queries()) * (n + 1)
    assert fallback == 0


def test_ranks_among_drawn_candidates_without_history() -> None:
    data = tiny.dataset()
    nobody = Queries(data, np.arange(4), data.offsets[:4].copy(), data.offsets[:4] + 1)
    counted = vocab()
    found, fallback = judge_among(Watched(table()), None, TASK, nobody, counted, sampling=Sampling(5, "uniform"), seed=0)
    assert fallback == 4
    wanted = judge(
        Table(table()), None, TASK, nobody, counted, k=1, seed=0, samplings=(Sampling(5, "uniform"),)
    ).sampled[Sampling(5, "uniform")]  # fmt: skip
    assert found.rank.tolist() == wanted.rank.tolist()


def test_jagged_spans() -> None:
    offsets, values = jagged(np.array([5, 6, 7, 8, 9]), np.array([3, 0, 1]), np.array([5, 0, 3]))
    assert offsets.tolist() == [0, 2, 2, 4]
    assert values.tolist() == [8, 9, 6, 7]
