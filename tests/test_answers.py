"""Exact ranking against a brute-force oracle; ties, masks, blocks, scores that are no numbers; sampled candidates."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lmrs import answers
from lmrs.answers import Answers, Ranked, block_rows, rank, rank_candidates
from lmrs.candidates import draw
from lmrs.errors import ContractError, DivergedError
from lmrs.measures import AUC, HR, NDCG, Sampled, Sampling
from lmrs.order import mix, priority


def jagged(rows):
    return np.cumsum([0, *map(len, rows)]), np.array([item for row in rows for item in row], np.int64)


def hashed(seed: int, query: int, item: int) -> int:
    """The documented hash, in Python's own integers."""

    def spread(x):
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    golden = 0x9E3779B97F4A7C15
    start = spread((seed + golden) % 2**64)
    return spread((spread(start ^ query) + item * golden) % 2**64)


def oracle(scores, query, seen, truth, seed):
    """For each row: candidates in order, those that were offered."""
    out = []
    for row, q in enumerate(query):
        allowed = [i for i in range(scores.shape[1]) if i not in seen[row] or i in truth[row]]
        order = sorted(allowed, key=lambda i: (-scores[row, i], -hashed(seed, int(q), i)))
        out.append((len(allowed), [i for i in order if scores[row, i] > -np.inf]))
    return out


@st.composite
def questions(draw_):
    """Scores with many ties and some items that are not offered, jagged seen and truth with repeats."""
    n_items, n_rows = draw_(st.integers(1, 12)), draw_(st.integers(1, 5))
    cell = st.sampled_from([-np.inf, -1.0, -0.0, 0.0, 0.5, 0.5, 2.0])
    scores = np.array([[draw_(cell) for _ in range(n_items)] for _ in range(n_rows)])
    item = st.integers(0, n_items - 1)
    seen = [draw_(st.lists(item, max_size=2 * n_items)) for _ in range(n_rows)]
    truth = [draw_(st.lists(item, min_size=1, max_size=12)) for _ in range(n_rows)]
    query = draw_(st.lists(st.integers(0, 2**40), min_size=n_rows, max_size=n_rows, unique=True))
    return scores, np.array(query), seen, truth, draw_(st.integers(-(2**63), 2**63))


def agrees(found: Ranked, scores, query, seen, truth, k, seed) -> None:
    wanted = oracle(scores, query, seen, truth, seed)
    assert found.ranks is not None
    for row, (n_candidates, order) in enumerate(wanted):
        items = sorted(set(truth[row]))
        here = slice(found.ranks.offsets[row], found.ranks.offsets[row + 1])
        assert found.n_candidates[row] == found.ranks.n_candidates[row] == n_candidates
        assert found.truth[here].tolist() == items
        assert found.ranks.rank[here].tolist() == [order.index(i) + 1 if i in order else 0 for i in items]
        allowed = [scores[row, i] for i in range(scores.shape[1]) if i not in seen[row] or i in truth[row]]
        assert found.ranks.greater[here].tolist() == [sum(s > scores[row, i] for s in allowed) for i in items]
        assert found.ranks.equal[here].tolist() == [sum(s == scores[row, i] for s in allowed) - 1 for i in items]
        top = (order + [-1] * k)[:k]
        assert found.items[row].tolist() == top
        assert found.scores[row].tolist() == [scores[row, i] if i >= 0 else -np.inf for i in top]
        assert found.truth_seen[row] == bool(set(truth[row]) & set(seen[row]))


@settings(max_examples=150, deadline=None)
@given(questions(), st.integers(1, 14), st.sampled_from([torch.float32, torch.float64]))
def test_equal_to_the_oracle(question, k, dtype):
    scores, query, seen, truth, seed = question
    given_ = torch.tensor(scores, dtype=dtype)
    before = given_.clone()
    found = rank(given_, query=query, seen=jagged(seen), truth=jagged(truth), k=k, seed=seed)
    agrees(found, scores, query, seen, truth, k, seed)
    assert torch.equal(given_, before)
    assert found.items.dtype == np.int32


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 9))
def test_long_rows_equal_the_oracle(seed, k, levels):
    # Long enough for the two-step top-k, a last block that is not whole, and few distinct scores.
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels**3, size=(3, 64 * 30 + 17)).astype(np.float64)
    scores[rng.random(scores.shape) < 0.1] = -np.inf
    seen = [rng.integers(0, scores.shape[1], 40).tolist() for _ in scores]
    truth = [rng.integers(0, scores.shape[1], n).tolist() for n in (1, 3, 30)]
    for small in (0, 2**30):  # two steps and one
        with mock.patch.object(answers, "_SMALL", small):
            found = rank(torch.tensor(scores), query=np.arange(3), seen=jagged(seen), truth=jagged(truth), k=k, seed=seed)
        agrees(found, scores, np.arange(3), seen, truth, k, seed)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(300, 4000))
def test_the_two_step_top_k_has_the_largest_values(seed, m, width):
    scores = torch.from_numpy(np.random.default_rng(seed).integers(0, 200, size=(2, width)).astype(np.float32))
    scores[0, -2:] = torch.tensor([300.0, 200.0])  # also where they stand behind the last whole block
    with mock.patch.object(answers, "_SMALL", 0):
        values, columns = answers._top(scores, m)
    assert torch.equal(values, torch.sort(scores, dim=1, descending=True).values[:, :m])
    assert torch.equal(scores.gather(1, columns), values)
    assert all(len(set(row)) == m for row in columns.tolist())


@settings(max_examples=40, deadline=None)
@given(questions(), st.integers(1, 6), st.integers(0, 5))
def test_cutting_the_queries_into_blocks_changes_nothing(question, k, cut):
    scores, query, seen, truth, seed = question
    cut = min(cut, len(query) - 1)

    def part(rows):
        return rank(
            torch.tensor(scores[rows]), query=query[rows], seen=jagged(seen[rows]), truth=jagged(truth[rows]), k=k, seed=seed
        )  # fmt: skip

    whole = part(slice(None))
    joined = Ranked.join([part(slice(0, cut)), part(slice(cut, None))]) if cut else Ranked.join([whole])
    for name in ("query", "truth", "n_candidates", "items", "scores", "truth_seen"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
    for name in ("offsets", "rank", "greater", "equal"):
        np.testing.assert_array_equal(getattr(joined.ranks, name), getattr(whole.ranks, name))


def test_a_constant_model_scores_chance():
    n, v, k = 4000, 50, 10
    truth = jagged([[q % v] for q in range(n)])
    found = rank(torch.zeros(n, v), query=np.arange(n), truth=truth, k=k, seed=1)
    hits = HR(k)(found.ranks).mean()
    assert abs(hits - k / v) < 4 * np.sqrt(0.2 * 0.8 / n)
    chance = (1 / np.log2(np.arange(2, k + 2))).sum() / v
    assert abs(NDCG(k)(found.ranks).mean() - chance) < 4 * NDCG(k)(found.ranks).std() / np.sqrt(n)
    assert AUC()(found.ranks).mean() == pytest.approx(0.5, abs=1e-12)
    assert stats.chisquare(np.bincount(found.ranks.rank, minlength=v + 1)[1:]).pvalue > 0.001
    other = rank(torch.zeros(n, v), query=np.arange(n), truth=truth, k=k, seed=2)
    assert (other.ranks.rank != found.ranks.rank).mean() > 0.9
    items, counts = np.unique(found.items, return_counts=True)
    assert len(items) == v
    assert stats.chisquare(counts).pvalue > 0.001


def test_no_two_items_share_a_priority_and_the_hash_is_the_documented_one():
    got = priority(7, np.array([3]), np.arange(100_000))
    assert len(np.unique(got)) == 100_000
    for seed, query, item in [(0, 0, 0), (7, 3, 11), (-1, 2**40, 5), (2**70, 1, 2**31)]:
        assert int(priority(seed, np.array([query]), np.array([item]))[0]) == hashed(seed % 2**64, query, item)
    # The first outputs of SplitMix64 from state 0, as published with the generator.
    golden = np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert [hex(int(x)) for x in mix(golden)] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f"]


def test_three_users_by_hand():
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.6], [0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.9, -torch.inf]])
    seen = jagged([[0, 0], [], [2]])
    truth = jagged([[2], [0, 3], [2]])  # the third user's truth was seen before: it stays a candidate
    found = rank(scores, query=np.array([10, 11, 12]), seen=seen, truth=truth, k=3, seed=0)
    assert found.ranks.rank.tolist() == [2, 4, 1, 1]
    assert found.n_candidates.tolist() == [3, 4, 4]
    assert found.items[0].tolist() == [1, 2, 3]
    assert found.items[1].tolist() == [3, 2, 1]
    assert found.items[2, 0] == 2
    assert set(found.items[2, 1:].tolist()) == {0, 1}
    assert found.truth_seen.tolist() == [False, False, True]
    assert found.share_truth_seen == pytest.approx(1 / 3)
    table = Answers.of(found).table
    assert table.column_names == ["query", "item", "score", "rank"]
    assert table.column("query").to_pylist()[:4] == [10, 10, 10, 11]
    assert table.column("rank").to_pylist()[:4] == [1, 2, 3, 1]
    assert table.column("score").to_pylist()[:2] == pytest.approx([0.8, 0.7])


def test_users_without_recommendations_are_counted_and_score_nothing():
    scores = torch.full((2, 3), -torch.inf)
    scores[1, 1] = 0.0
    found = rank(scores, query=np.arange(2), truth=jagged([[0], [1]]), k=2, seed=0)
    assert found.n_empty == 1
    assert found.ranks.rank.tolist() == [0, 1]
    assert HR(2)(found.ranks).tolist() == [0, 1]
    assert len(Answers.of(found).table) == 1
    everything_seen = rank(torch.zeros(1, 2), query=np.arange(1), seen=jagged([[0, 1]]), k=3, seed=0)
    assert everything_seen.ranks is None
    assert everything_seen.n_candidates.tolist() == [0]
    assert everything_seen.items.tolist() == [[-1, -1, -1]]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("width", [5, 2000])
@pytest.mark.parametrize("seen", [[], [3]], ids=["asked", "left out"])
def test_scores_that_are_no_numbers_name_query_and_item(value, width, seen):
    scores = torch.zeros(3, width)
    scores[1, 3] = value
    with pytest.raises(DivergedError, match=f"needed finite scores, got {value} for query 21, item 3"):
        rank(scores, query=np.array([20, 21, 22]), seen=jagged([[], seen, []]), truth=jagged([[0], [1], [2]]), k=2, seed=0)
    kept = scores[1, 3]  # left as it came, also after the error
    assert kept.isnan() if np.isnan(value) else kept == value


def test_score_tensors_of_every_make_are_ranked_alike():
    base = torch.tensor([3.0, 1.0, 2.0, 0.0])
    seen, truth = jagged([[0], []]), jagged([[1], [0]])
    with torch.inference_mode():
        frozen = base.repeat(2, 1)
    makes = [
        base.repeat(2, 1),
        base.expand(2, 4),  # one row in memory for all
        base.repeat(2, 1).t().contiguous().t(),
        base.repeat(2, 1).requires_grad_(),
        base.repeat(2, 1).requires_grad_() * 1,
        frozen,
    ]
    for scores in makes:
        found = rank(scores, query=np.arange(2), seen=seen, truth=truth, k=2, seed=0)
        assert found.items.tolist() == [[2, 1], [0, 2]]
        assert found.ranks.rank.tolist() == [2, 1]
        assert scores[0].tolist() == [3, 1, 2, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": torch.zeros(2, 4, dtype=torch.int64)}, "float32 or float64"),
        ({"scores": torch.zeros(3, 4)}, "B query numbers"),
        ({"k": 0}, "lists of k >= 1, got 0"),
        ({"truth": jagged([[4], [0]])}, r"truth items in 0\.\.3, got 0\.\.4"),
        ({"seen": jagged([[-1], [0]])}, r"seen items in 0\.\.3, got -1\.\.0"),
        ({"seen": jagged([[1]])}, "offsets of seen for 2 queries"),
        ({"truth": jagged([[1], []])}, "at least one true item a query"),
    ],
)
def test_what_does_not_fit_together_is_refused(change, message):
    call = {"scores": torch.zeros(2, 4), "query": np.arange(2), "seen": None, "truth": jagged([[0], [0]]), "k": 2, "seed": 0}
    with pytest.raises(ContractError, match=message):
        rank(**{**call, **change})


def test_blocks_keep_to_their_memory():
    assert block_rows(3416) * 3416 * 4 <= 2**28
    assert block_rows(10**9) == 1
    with pytest.raises(ContractError, match="blocks ranked in the same way"):
        Ranked.join([])


# --- sampled candidates --------------------------------------------------------------------------------------------


def test_sampled_ranking_is_full_ranking_of_the_candidates():
    rng = np.random.default_rng(3)
    n, v, seed = 200, 60, 5
    scores = torch.from_numpy(rng.integers(0, 9, size=(n, v)).astype(np.float32))
    seen = [rng.choice(v, 20, replace=False).tolist() for _ in range(n)]
    truth = [[int(rng.integers(v))] for _ in range(n)]
    how = Sampling(15)
    some = draw(query=np.arange(n), seen=jagged(seen), truth=jagged(truth), n_items=v, sampling=how, seed=seed)
    call = {"query": np.arange(n), "truth": jagged(truth), "k": 5, "seed": seed}
    found = rank_candidates(scores.gather(1, torch.from_numpy(some)), candidates=some, sampling=how, **call)
    hidden = [sorted(set(range(v)) - set(row)) for row in some.tolist()]
    whole = rank(scores, seen=jagged(hidden), **call)
    np.testing.assert_array_equal(found.ranks.rank, whole.ranks.rank)
    np.testing.assert_array_equal(found.items, whole.items)
    np.testing.assert_array_equal(found.n_candidates, 16)
    assert found.ranks.sampling == how
    np.testing.assert_array_equal(Sampled(NDCG(5), 15)(found.ranks), NDCG(5)(whole.ranks))
    with pytest.raises(ContractError, match="ask for 'NDCG@5/15neg'"):
        NDCG(5)(found.ranks)


@pytest.mark.parametrize("by", ["uniform", "popularity"])
def test_negatives_are_new_distinct_and_repeatable(by):
    rng = np.random.default_rng(0)
    v, n = 40, 10
    counts = rng.integers(0, 9, v)
    seen = [rng.choice(v, m, replace=False).tolist() for m in (0, 5, 25, 36, 39)]
    truth = [[1], [2, 3], [4], [39], [0]]
    call = {"n_items": v, "sampling": Sampling(n, by), "seed": 9, "counts": counts}
    found = draw(query=np.arange(5), seen=jagged(seen), truth=jagged(truth), **call)
    assert found.shape == (5, 2 + n)
    for row in range(5):
        negatives = [i for i in found[row, 2:].tolist() if i >= 0]
        free = set(range(v)) - set(seen[row]) - set(truth[row])
        if by == "popularity":
            free -= set(np.flatnonzero(counts == 0).tolist())
        assert set(truth[row]) <= set(found[row].tolist())
        assert len(set(negatives)) == len(negatives) == min(n, len(free))
        assert set(negatives) <= free
    again = draw(query=np.array([2]), seen=jagged([seen[2]]), truth=jagged([truth[2]]), **call)
    assert again[0, 1:].tolist() == found[2, 2:].tolist()
    assert draw(query=np.arange(5), seen=jagged(seen), truth=jagged(truth), **{**call, "seed": 10}).tolist() != found.tolist()


@pytest.mark.parametrize("by", ["uniform", "popularity"])
@pytest.mark.parametrize("n_seen", [2, 17], ids=["roomy", "nearly all seen"])
def test_negatives_have_the_chances_of_drawing_one_after_another(by, n_seen):
    v, n = 20, 6000
    counts = np.arange(v, 0, -1) ** 2  # what is seen holds most of the weight
    seen = jagged([list(range(1, 1 + n_seen))] * n)
    how = Sampling(1, by)
    found = draw(query=np.arange(n), seen=seen, truth=jagged([[0]] * n), n_items=v, sampling=how, seed=4, counts=counts)
    free = np.arange(1 + n_seen, v)
    weight = counts[free] if by == "popularity" else np.ones(len(free))
    got = np.bincount(found[:, 1], minlength=v)[free]
    assert got.sum() == n
    assert stats.chisquare(got, n * weight / weight.sum()).pvalue > 0.001


def test_sampling_asks_for_what_it_needs():
    call = {"query": np.arange(1), "seen": jagged([[]]), "truth": jagged([[0]]), "n_items": 5, "seed": 0}
    with pytest.raises(ContractError, match="training counts of 5 items for 3 popularity negatives"):
        draw(sampling=Sampling(3, "popularity"), **call)
    with pytest.raises(ContractError, match="needed every true item once among the candidates, got item 0 0 times for query 0"):
        rank_candidates(
            torch.zeros(1, 2),
            candidates=np.array([[1, 2]]),
            query=np.arange(1),
            truth=jagged([[0]]),
            k=1,
            seed=0,
            sampling=Sampling(1),
        )
