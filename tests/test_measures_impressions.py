"""Impressions and tags, against the formulas of MIND's evaluation and of PTM4Tag written out, and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from lmrs.errors import ContractError
from lmrs.measures import AUC, MINDMRR, MRR, NDCG, Precision, Ranks, TagF1, TagRecall, rank_impressions


def mind_mrr(label: np.ndarray, score: np.ndarray) -> float:
    """Reciprocal ranks of all clicks, divided by the number of clicks."""
    ranked = label[np.argsort(-score)]
    return float((ranked / np.arange(1, len(ranked) + 1)).sum() / ranked.sum())


def ndcg(label: np.ndarray, score: np.ndarray, k: int) -> float:
    """(2^label - 1) / log2(place + 1), over the same for the labels in falling order."""

    def gain(ranked: np.ndarray) -> float:
        return float((ranked[:k] / np.log2(np.arange(2, len(ranked[:k]) + 2))).sum())

    return gain(label[np.argsort(-score)]) / gain(np.sort(label)[::-1])


def drawn(seed: int, n: int = 1000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shown = rng.integers(1, 12, n)
    offsets = np.concatenate([[0], np.cumsum(shown)])
    return offsets, rng.random(offsets[-1]) < 0.3, rng.permutation(offsets[-1]).astype(float)


def test_a_thousand_impressions_equal_the_published_formulas():
    offsets, clicked, score = drawn(0)
    ranks, kept = rank_impressions(offsets=offsets, clicked=clicked, score=score)
    rows = [slice(offsets[i], offsets[i + 1]) for i in range(1000)]
    assert kept.tolist() == [i for i, row in enumerate(rows) if len(set(clicked[row])) == 2]
    assert 500 < len(kept) < 950
    every = [(clicked[rows[i]].astype(float), score[rows[i]]) for i in kept]
    assert MINDMRR()(ranks) == pytest.approx(np.array([mind_mrr(*pair) for pair in every]), abs=1e-12)
    assert NDCG(5)(ranks) == pytest.approx(np.array([ndcg(*pair, 5) for pair in every]), abs=1e-12)
    assert NDCG(10)(ranks) == pytest.approx(np.array([ndcg(*pair, 10) for pair in every]), abs=1e-12)
    assert AUC()(ranks) == pytest.approx(np.array([roc_auc_score(*pair) for pair in every]), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(st.booleans(), st.integers(0, 2)), max_size=6), min_size=1, max_size=6))
def test_ties_count_one_half_for_auc(rows):
    usable = [i for i, row in enumerate(rows) if len({flag for flag, _ in row}) == 2]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    flat = [pair for row in rows for pair in row]
    given_ = {"offsets": offsets, "clicked": np.array([f for f, _ in flat], bool), "score": np.array([s for _, s in flat], float)}
    if not usable:
        with pytest.raises(ContractError, match="a clicked and an unclicked item"):
            rank_impressions(**given_)
        return
    ranks, kept = rank_impressions(**given_)
    assert kept.tolist() == usable
    expected = [roc_auc_score(*zip(*rows[i])) for i in usable]
    assert AUC()(ranks) == pytest.approx(np.array(expected))
    for at, i in enumerate(usable):
        own = ranks.rank[ranks.offsets[at] : ranks.offsets[at + 1]]
        assert len(set(own)) == len(own)
        assert (own <= len(rows[i])).all()


def test_equal_scores_are_ordered_by_chance_and_the_same_way_again():
    shown = np.arange(0, 10 * 2001, 10)
    clicked = np.tile(np.arange(10) == 0, 2000)  # the click is always shown first: a stable sort would find it
    flat = {"offsets": shown, "clicked": clicked, "score": np.zeros(20000)}
    ranks, _ = rank_impressions(**flat)
    again, _ = rank_impressions(**flat)
    other, _ = rank_impressions(**flat, seed=1)
    assert ranks.rank.tolist() == again.rank.tolist() != other.rank.tolist()
    chance = sum(1 / r for r in range(1, 11)) / 10
    assert MINDMRR()(ranks).mean() == pytest.approx(chance, abs=4 * 0.27 / np.sqrt(2000))
    assert AUC()(ranks).tolist() == [0.5] * 2000


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(ContractError, match="finite scores, got nan at place 1 of impression 1"):
        rank_impressions(offsets=np.array([0, 1, 3]), clicked=np.array([1, 0, 1]), score=np.array([0, 1, np.nan]))
    with pytest.raises(ContractError, match="3 flags and scores"):
        rank_impressions(offsets=np.array([0, 1, 3]), clicked=np.array([1, 0]), score=np.zeros(3))


def test_minds_mrr_counts_every_click():
    ranks = Ranks(np.array([0, 2, 3, 5]), np.array([1, 4, 2, 0, 2]), np.array([5, 5, 5]))
    assert MINDMRR()(ranks) == pytest.approx([(1 + 1 / 4) / 2, 1 / 2, 1 / 4])
    assert MRR()(ranks) == pytest.approx([1, 1 / 2, 1 / 2])


def test_tags_worked_by_hand():
    # Three tags at 1, 2, 9; one at 2; five of which three are in the first four.
    ranks = Ranks(np.array([0, 3, 4, 9]), np.array([1, 2, 9, 2, 1, 3, 4, 6, 7]), np.full(3, 20))
    assert TagRecall(2)(ranks) == pytest.approx([1, 1, 1 / 2])
    assert TagRecall(4)(ranks) == pytest.approx([2 / 3, 1, 3 / 4])
    assert TagRecall(1)(ranks) == pytest.approx([1, 0, 1])
    precision, recall = Precision(4)(ranks), TagRecall(4)(ranks)
    assert TagF1(4)(ranks) == pytest.approx(2 * precision * recall / (precision + recall))
    assert TagF1(1)(ranks) == pytest.approx([1, 0, 1])
