"""Measures against hand-worked numbers, ir_measures, pytrec_eval and scikit-learn."""

from __future__ import annotations

import math

import ir_measures
import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from lmrs import measures
from lmrs.errors import ContractError, UserError
from lmrs.measures import (
    ARP,
    AUC,
    BLEU,
    F1,
    GAUC,
    HR,
    MAE,
    MAP,
    MINDMRR,
    MRR,
    NDCG,
    PPL,
    RMSE,
    ROUGE,
    USR,
    Coverage,
    Lists,
    Novelty,
    PopularityBias,
    Precision,
    Ranks,
    Recall,
    Sampled,
    Sampling,
    TagF1,
    TagRecall,
    auc,
    canonical,
    falls,
    gauc,
    mae,
    parse,
    rmse,
)  # fmt: skip

EVERY = [
    HR(10), Recall(5), Precision(3), F1(20), NDCG(10), NDCG(), MRR(10), MRR(), MAP(7), MAP(), AUC(), GAUC(), GAUC("positives"),
    GAUC("candidates"), RMSE(), MAE(), Coverage(10), Novelty(10), ARP(10), PopularityBias(10), Sampled(NDCG(10), 99),
    Sampled(MRR(), 100, "popularity"), MINDMRR(), TagRecall(5), TagF1(5),
]  # fmt: skip
BY_QUERY = [HR(3), Recall(3), Precision(3), F1(3), NDCG(3), NDCG(), MRR(3), MRR(), MAP(3), MAP()]


def ranks(rows: list[list[int]], *, n: int = 20) -> Ranks:
    return Ranks(np.cumsum([0, *map(len, rows)]), np.array([r for row in rows for r in row], np.int64), np.full(len(rows), n))


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", EVERY, ids=str)
def test_a_measure_is_a_value_that_can_be_written_and_read(measure):
    assert parse(str(measure)) == measure
    assert parse(f" {str(measure).lower()} ") == measure
    assert eval(repr(measure), vars(measures)) == measure
    assert hash(parse(str(measure))) == hash(measure)


@pytest.mark.parametrize("measure", [*EVERY, BLEU(4), ROUGE("L"), USR(), PPL()], ids=str)
def test_the_canonical_name_is_what_str_writes(measure):
    assert canonical(str(measure)) == canonical(f" {str(measure).lower()} ") == str(measure)
    assert falls(measure) == isinstance(measure, RMSE | MAE | PPL)


def test_every_family_is_in_the_list():
    assert {type(m) for m in EVERY} - {Sampled} == set(measures.ALL)
    assert str(NDCG(10)) == "NDCG@10"
    assert str(MRR()) == "MRR"
    assert str(GAUC("positives")) == "GAUC[positives]"
    assert str(Sampled(NDCG(10), 99)) == "NDCG@10/99neg"
    assert str(Sampled(HR(10), 100, "popularity")) == "HR@10/100popneg"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("NDGC@10", "needed a measure such as NDCG@10, got 'NDGC@10'; did you mean NDCG"),
        ("NDCG@", "needed a measure such as"),
        ("", "choose one of ARP, AUC"),
        ("HR", "HR with a cutoff, got 'HR'; write HR@10"),
        ("AUC@10", "AUC without a cutoff, got 'AUC@10'; write AUC"),
        ("NDCG@0", "a cutoff k >= 1 for NDCG, got 0"),
        ("NDCG[positives]@10", "NDCG without a weight"),
        ("GAUC[loud]", "a GAUC weight of uniform, positives, candidates, got 'loud'"),
        ("Coverage@10/99neg", "a ranking measure before '/'"),
        ("NDCG@10/0neg", "n >= 1 negatives"),
    ],
)
def test_names_that_cannot_be_read_say_what_would_be_right(text, message):
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        parse(text)


@pytest.mark.parametrize("k", [0, -1, 2.5, True, "10"])
def test_a_cutoff_is_a_whole_number(k):
    with pytest.raises(ContractError, match="a cutoff k >= 1 for HR"):
        HR(k)


# --- worked by hand ------------------------------------------------------------------------------------------------


def test_numbers_worked_by_hand():
    # Three true items at ranks 1, 3 and 6; one at 4; one that was never offered.
    got = ranks([[6, 1, 3], [4], [0]])
    three = 1 / math.log2(2) + 1 / math.log2(4)
    ideal = 1 + 1 / math.log2(3) + 1 / 2
    expected = {
        HR(3): [1, 0, 0],
        Recall(3): [2 / 3, 0, 0],
        Precision(5): [2 / 5, 1 / 5, 0],
        F1(5): [2 * (2 / 5) * (2 / 3) / (2 / 5 + 2 / 3), 2 * (1 / 5) / (1 / 5 + 1), 0],
        NDCG(5): [three / ideal, 1 / math.log2(5), 0],
        NDCG(2): [1 / (1 + 1 / math.log2(3)), 0, 0],
        NDCG(): [(three + 1 / math.log2(7)) / ideal, 1 / math.log2(5), 0],
        MRR(3): [1, 0, 0],
        MRR(): [1, 1 / 4, 0],
        MAP(3): [(1 + 2 / 3) / 3, 0, 0],
        MAP(2): [1 / 2, 0, 0],
        MAP(): [(1 + 2 / 3 + 3 / 6) / 3, 1 / 4, 0],
    }
    for measure, values in expected.items():
        found = measure(got)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, values, rtol=0, atol=1e-15, err_msg=str(measure))


def test_auc_worked_by_hand():
    # Scores: true 5, 3, 3 and false 4, 3, 1. Pairs won: 5 beats 3 of 3; each 3 ties one and beats one, 1.5 of 3.
    one = Ranks(np.array([0, 3]), np.array([1, 3, 4]), np.array([6]), np.array([0, 2, 2]), np.array([0, 2, 2]))
    assert AUC()(one) == pytest.approx([6 / 9], abs=1e-15)


def test_auc_where_a_class_is_missing():
    both = Ranks(np.array([0, 1, 3]), np.array([1, 1, 2]), np.array([3, 2]), np.array([0, 0, 1]), np.array([0, 0, 0]))
    np.testing.assert_allclose(AUC()(both), [1, 0])  # the second query has true items only
    assert GAUC()(both).mean() == pytest.approx(1.0)
    alone = Ranks(np.array([0, 1]), np.array([1]), np.array([1]), np.array([0]), np.array([0]))
    assert GAUC()(alone).mean() == 0
    with pytest.raises(ContractError, match="needed counts of candidates above and beside"):
        AUC()(ranks([[1]]))


# --- independent implementations -----------------------------------------------------------------------------------


@st.composite
def runs(draw):
    """Q complete rankings of V items in a random order, with 1..V-1 true items each."""
    n_items, n_queries = draw(st.integers(2, 15)), draw(st.integers(1, 5))
    orders = [draw(st.permutations(range(n_items))) for _ in range(n_queries)]
    truth = [draw(st.sets(st.integers(0, n_items - 1), min_size=1, max_size=n_items - 1)) for _ in range(n_queries)]
    return n_items, orders, [sorted(t) for t in truth]


def as_ranks(n_items, orders, truth) -> Ranks:
    place = [[order.index(item) + 1 for item in t] for order, t in zip(orders, truth)]
    flat = np.concatenate(place)
    return Ranks(np.cumsum([0, *map(len, truth)]), flat, np.full(len(truth), n_items), flat - 1, np.zeros(len(flat), int))


def as_trec(orders, truth):
    run = {str(q): {f"d{item}": float(len(order) - at) for at, item in enumerate(order)} for q, order in enumerate(orders)}
    return {str(q): {f"d{item}": 1 for item in t} for q, t in enumerate(truth)}, run


@settings(max_examples=60, deadline=None)
@given(runs(), st.integers(1, 17))
def test_equal_to_ir_measures(run, k):
    n_items, orders, truth = run
    ours, (qrels, trec) = as_ranks(n_items, orders, truth), as_trec(orders, truth)
    theirs = {
        HR(k): ir_measures.Success @ k,
        Recall(k): ir_measures.R @ k,
        Precision(k): ir_measures.P @ k,
        NDCG(k): ir_measures.nDCG @ k,
        NDCG(): ir_measures.nDCG,
        MRR(k): ir_measures.RR @ k,
        MRR(): ir_measures.RR,
        MAP(k): ir_measures.AP @ k,
        MAP(): ir_measures.AP,
    }
    values = {m: np.zeros(len(truth)) for m in theirs.values()}
    for one in ir_measures.iter_calc(list(theirs.values()), qrels, trec):
        values[one.measure][int(one.query_id)] = one.value
    n = np.array([len(t) for t in truth])
    for mine, other in theirs.items():
        # trec_eval divides average precision at k by n; ours by min(k, n).
        scale = n / np.minimum(n, k) if mine == MAP(k) else 1.0
        np.testing.assert_allclose(mine(ours), values[other] * scale, rtol=0, atol=1e-9, err_msg=str(mine))


@settings(max_examples=60, deadline=None)
@given(runs())
def test_equal_to_pytrec_eval(run):
    n_items, orders, truth = run
    ours, (qrels, trec) = as_ranks(n_items, orders, truth), as_trec(orders, truth)
    found = pytrec_eval.RelevanceEvaluator(
        qrels, {"ndcg_cut.3,10", "ndcg", "recall.3,10", "P.3,10", "map", "recip_rank"}
    ).evaluate(trec)
    names = {
        "ndcg_cut_3": NDCG(3), "ndcg_cut_10": NDCG(10), "ndcg": NDCG(), "recall_3": Recall(3), "recall_10": Recall(10),
        "P_3": Precision(3), "P_10": Precision(10), "map": MAP(), "recip_rank": MRR(),
    }  # fmt: skip
    for name, mine in names.items():
        theirs = [found[str(q)][name] for q in range(len(truth))]
        np.testing.assert_allclose(mine(ours), theirs, rtol=0, atol=1e-9, err_msg=name)


@settings(max_examples=60, deadline=None)
@given(runs(), st.integers(1, 17))
def test_equal_to_scikit_learn(run, k):
    n_items, orders, truth = run
    ours = as_ranks(n_items, orders, truth)
    relevant, score = np.zeros((len(truth), n_items)), np.zeros((len(truth), n_items))
    for q, (order, t) in enumerate(zip(orders, truth)):
        relevant[q, t] = 1
        score[q, order] = np.arange(n_items, 0, -1)
    for q in range(len(truth)):
        row = relevant[q : q + 1], score[q : q + 1]
        assert NDCG(k)(ours)[q] == pytest.approx(sk.ndcg_score(*row, k=k), abs=1e-9)
        assert MAP()(ours)[q] == pytest.approx(sk.average_precision_score(relevant[q], score[q]), abs=1e-9)
        assert AUC()(ours)[q] == pytest.approx(sk.roc_auc_score(relevant[q], score[q]), abs=1e-9)
        top = score[q] > n_items - k
        assert F1(k)(ours)[q] * (k + len(truth[q])) == pytest.approx(
            sk.f1_score(relevant[q], top, zero_division=0.0) * (min(k, n_items) + len(truth[q])), abs=1e-9
        )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(-2, 2)), min_size=1, max_size=40))
def test_labelled_pairs_equal_scikit_learn_with_ties(rows):
    group, label, score = (np.array(column) for column in zip(*rows))
    by_group = {g: (label[group == g], score[group == g]) for g in np.unique(group)}
    both = {g: sk.roc_auc_score(*pair) for g, pair in by_group.items() if 0 < pair[0].sum() < len(pair[0])}
    if 0 < label.sum() < len(label):
        assert auc(label, score) == pytest.approx(sk.roc_auc_score(label, score), abs=1e-9)
    else:
        with pytest.raises(ContractError, match="one class only"):
            auc(label, score)
    if not both:
        with pytest.raises(ContractError, match="a group with true and false examples"):
            gauc(group, label, score)
        return
    weights = {
        "uniform": [1] * len(both),
        "positives": [by_group[g][0].sum() for g in both],
        "candidates": [len(by_group[g][0]) for g in both],
    }
    for name, weight in weights.items():
        assert gauc(group, label, score, weight=name) == pytest.approx(np.average(list(both.values()), weights=weight), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(runs(), st.sampled_from(["uniform", "positives", "candidates"]))
def test_the_plain_mean_of_gauc_is_its_weighted_mean(run, weight):
    n_items, orders, truth = run
    group = np.repeat(np.arange(len(truth)), n_items)
    label = np.concatenate([np.isin(order, t) for order, t in zip(orders, truth)])
    score = np.tile(np.arange(n_items, 0, -1), len(truth))
    assert GAUC(weight)(as_ranks(n_items, orders, truth)).mean() == pytest.approx(
        gauc(group, label, score, weight=weight), abs=1e-12
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(-10, 10), st.floats(1, 5)), min_size=1, max_size=30))
def test_rating_errors_equal_scikit_learn(pairs):
    prediction, truth = (np.array(column) for column in zip(*pairs))
    assert (
        RMSE()(prediction, truth)
        == rmse(prediction, truth)
        == pytest.approx(sk.root_mean_squared_error(truth, prediction), abs=1e-9)
    )
    assert (
        MAE()(prediction, truth) == mae(prediction, truth) == pytest.approx(sk.mean_absolute_error(truth, prediction), abs=1e-9)
    )


def test_ratings_that_are_not_numbers_are_refused():
    with pytest.raises(ContractError, match=r"needed finite predictions and ratings, got nan for 2\.0 at place 1"):
        rmse(np.array([1, np.nan]), np.array([1, 2.0]))
    with pytest.raises(ContractError, match="as many predictions as ratings"):
        mae(np.array([1.0]), np.array([1, 2.0]))
    with pytest.raises(ContractError, match="needed finite scores, got inf at place 1"):
        auc(np.array([0, 1]), np.array([0, np.inf]))


# --- properties ----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(runs(), st.randoms())
def test_bounds_order_and_queries_apart(run, random):
    n_items, orders, truth = run
    whole = as_ranks(n_items, orders, truth)
    shuffled = [random.sample(t, len(t)) for t in truth]
    for measure in [*BY_QUERY, AUC()]:
        values = measure(whole)
        assert values.shape == (len(truth),)
        assert ((values >= 0) & (values <= 1)).all()
        np.testing.assert_allclose(measure(as_ranks(n_items, orders, shuffled)), values, rtol=0, atol=1e-12)
        alone = [measure(as_ranks(n_items, [order], [t]))[0] for order, t in zip(orders, truth)]
        np.testing.assert_allclose(values, alone, rtol=0, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(runs(), st.data())
def test_moving_a_hit_up_never_lowers_a_measure(run, data):
    n_items, orders, truth = run
    order, t = list(orders[0]), truth[0]
    item = data.draw(st.sampled_from(t))
    at = order.index(item)
    to = data.draw(st.integers(0, at))
    better = [*order[:to], item, *order[to:at], *order[at + 1 :]]
    for measure in [*BY_QUERY, AUC()]:
        assert measure(as_ranks(n_items, [better], [t]))[0] >= measure(as_ranks(n_items, [order], [t]))[0] - 1e-12


@settings(max_examples=30, deadline=None)
@given(runs())
def test_the_best_order_scores_one(run):
    n_items, _, truth = run
    best = [[*t, *(i for i in range(n_items) if i not in t)] for t in truth]
    for measure in [HR(3), NDCG(3), NDCG(), MRR(3), MRR(), MAP(3), MAP(), AUC()]:
        np.testing.assert_allclose(measure(as_ranks(n_items, best, truth)), 1.0, rtol=0, atol=1e-12, err_msg=str(measure))


# --- what is read --------------------------------------------------------------------------------------------------


def test_lists_give_the_ranks_of_what_they_hold():
    lists = np.array([[4, 2, 7], [1, -1, -1], [-1, -1, -1]], np.int32)
    found = Ranks.from_lists(lists, offsets=np.array([0, 2, 3, 4]), items=np.array([7, 9, 1, 5]), n_candidates=10)
    assert found.rank.tolist() == [3, 0, 1, 0]
    assert found.n_candidates.tolist() == [10, 10, 10]
    with pytest.raises(ContractError, match="needed lists that name an item once, got item 4 twice in list 0"):
        Ranks.from_lists(np.array([[4, 2, 4]]), offsets=np.array([0, 1]), items=np.array([2]), n_candidates=10)


def test_ranks_that_cannot_be_are_refused():
    with pytest.raises(ContractError, match="at least one true item a query, got 1 without, the first at place 1"):
        ranks([[1], []])
    with pytest.raises(ContractError, match=r"ranks in 0\.\.n_candidates, got ranks 21\.\.21"):
        ranks([[21]])
    with pytest.raises(ContractError, match="offsets from 0 to 1"):
        Ranks(np.array([0, 2]), np.array([1]), np.array([5]))
    with pytest.raises(ContractError, match="n_candidates for 1 queries, got 2"):
        Ranks(np.array([0, 1]), np.array([1]), np.array([5, 5]))


def test_sampled_ranks_carry_another_name():
    exact = ranks([[1], [3]])
    among = Ranks(exact.offsets, exact.rank, np.full(2, 100), sampling=Sampling(99))
    np.testing.assert_allclose(Sampled(NDCG(10), 99)(among), [1, 0.5])
    with pytest.raises(ContractError, match="got ranks among 99 uniform negatives; ask for 'NDCG@10/99neg'"):
        NDCG(10)(among)
    with pytest.raises(
        ContractError, match="ranks among 99 uniform negatives for NDCG@10/99neg, got ranks in the whole catalogue"
    ):
        Sampled(NDCG(10), 99)(exact)
    with pytest.raises(ContractError, match="got ranks in 99 uniform negatives"):
        Sampled(NDCG(10), 99, "popularity")(among)
    with pytest.raises(ContractError, match="a ranking measure to sample, got Coverage@10"):
        Sampled(Coverage(10), 99)


def test_what_is_in_the_lists_worked_by_hand():
    counts = np.array([6, 3, 3, 0])  # 12 events, 4 items
    lists = Lists(
        np.array([[0, 1], [2, -1], [-1, -1]], np.int32),
        counts,
        history_offsets=np.array([0, 1, 3, 4]),
        history_items=np.array([3, 0, 1, 2]),
    )
    assert lists.n_empty == 1
    assert Coverage(1)(lists) == 2 / 4
    assert Coverage(2)(lists) == 3 / 4
    bits = -np.log2((counts + 1) / 16)
    np.testing.assert_allclose(Novelty(2)(lists), [(bits[0] + bits[1]) / 2, bits[2], 0])
    np.testing.assert_allclose(Novelty(1)(lists), [bits[0], bits[2], 0])
    np.testing.assert_allclose(ARP(2)(lists), [4.5, 3, 0])
    # Mid-rank percentiles: item 3 is alone at the bottom, 1 and 2 share the middle, 0 is on top.
    np.testing.assert_allclose(lists.percentile, [3.5 / 4, 2 / 4, 2 / 4, 0.5 / 4])
    np.testing.assert_allclose(PopularityBias(2)(lists), [(3.5 + 2) / 8 - 0.5 / 4, 2 / 4 - (3.5 + 2) / 8, 0])
    with pytest.raises(ContractError, match="needed lists of 3, got lists of 2"):
        Coverage(3)(lists)
    with pytest.raises(ContractError, match="the users' histories for PopularityBias@2"):
        PopularityBias(2)(Lists(lists.items, counts))
    with pytest.raises(ContractError, match="items below 4"):
        Lists(np.array([[4]]), counts)
