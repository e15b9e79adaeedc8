"""Intervals, tests and corrections against exact laws, scipy and worked examples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lmrs import statistics
from lmrs.errors import ContractError
from lmrs.statistics import (
    Interval,
    benjamini_hochberg,
    bootstrap_mean,
    holm,
    paired_interval,
    seeds_difference,
    seeds_interval,
    sign_flip_test,
)

LEVELS = np.array([0.0, 0.0, 0.0, 0.3, 0.5, 1.0])  # what NDCG looks like: many zeros, few distinct values


def few(rng, n):
    return rng.choice(LEVELS, n)


def many(rng, n):
    return rng.gamma(2.0, size=n)


# --- bootstrap -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [few, many], ids=["few distinct values", "many"])
def test_the_interval_is_the_percentile_bootstrap_of_scipy(values):
    data = values(np.random.default_rng(1), 300)
    ours = bootstrap_mean(data, seed=0, resamples=20_000)
    theirs = stats.bootstrap((data,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2), batch=2_000)
    width = ours.high - ours.low
    assert ours.mean == data.mean()
    assert abs(ours.low - theirs.confidence_interval.low) < 0.03 * width
    assert abs(ours.high - theirs.confidence_interval.high) < 0.03 * width


def test_a_small_bootstrap_follows_the_law_worked_by_hand():
    # Of two values 0 and 1 the resampled mean is 0, 1/2, 1 with chances 1/4, 1/2, 1/4.
    means = statistics._resampled_means(np.array([[0.0], [1.0]]), np.random.default_rng(0), 40_000)[:, 0]
    assert stats.chisquare(np.unique(means, return_counts=True)[1], [10_000, 20_000, 10_000]).pvalue > 0.001
    # The same by counts of distinct values: the number of ones is binomial(40, 1/4).
    data = np.repeat([0.0, 1.0], [30, 10])[:, None]
    ones = np.rint(statistics._resampled_means(data, np.random.default_rng(0), 40_000)[:, 0] * 40).astype(int)
    law = stats.binom(40, 0.25).pmf(np.arange(41)) * 40_000
    near = slice(3, 18)
    assert (
        stats.chisquare(np.bincount(ones, minlength=41)[near], law[near] * np.bincount(ones)[near].sum() / law[near].sum()).pvalue
        > 0.001
    )


@pytest.mark.parametrize(("values", "mean"), [(few, 0.3), (many, 2.0)], ids=["few distinct values", "many"])
def test_coverage_is_nominal(values, mean):
    rng = np.random.default_rng(5)
    trials = 700
    inside = sum(mean in bootstrap_mean(values(rng, 200), seed=trial, resamples=400) for trial in range(trials))
    assert 0.93 < inside / trials < 0.97


def test_where_resamples_would_take_too_long_the_limiting_law_agrees_with_them(monkeypatch):
    data = many(np.random.default_rng(7), 5_000)
    exact = bootstrap_mean(data, seed=0, resamples=4_000)
    monkeypatch.setattr(statistics, "_LIMIT", 10)
    limit = bootstrap_mean(data, seed=0, resamples=4_000)
    width = exact.high - exact.low
    assert limit != exact
    assert abs(limit.low - exact.low) < 0.05 * width
    assert abs(limit.high - exact.high) < 0.05 * width


def test_intervals_repeat_by_seed_and_stay_in_memory(monkeypatch):
    data = many(np.random.default_rng(3), 500)
    assert bootstrap_mean(data, seed=4) == bootstrap_mean(data, seed=4)
    assert bootstrap_mean(data, seed=4) != bootstrap_mean(data, seed=5)
    monkeypatch.setattr(statistics, "_CELLS", 1_000)  # many small blocks
    assert bootstrap_mean(data, seed=4, resamples=999).low == pytest.approx(
        bootstrap_mean(data, seed=5, resamples=999).low, rel=0.02
    )
    assert 0.4 in Interval(0.5, 0.4, 0.6)
    assert 0.39 not in Interval(0.5, 0.4, 0.6)


def test_pairs_are_kept():
    rng = np.random.default_rng(0)
    a = rng.random(400)
    b = a - 0.01  # every user gains the same
    assert paired_interval(a, b, seed=0).low == pytest.approx(0.01)
    assert paired_interval(a, b, seed=0).high == pytest.approx(0.01)
    assert paired_interval(b, a, seed=0).mean == pytest.approx(-0.01)


def test_seeds_widen_the_interval_as_their_variance_says():
    rng = np.random.default_rng(2)
    runs, users = 8, 2_000
    effect = rng.normal(0, 0.05, runs)
    values = 0.5 + effect[:, None] + rng.normal(0, 0.2, users) + rng.normal(0, 0.1, (runs, users))
    got = seeds_interval(values, seed=0)
    # Users and runs are crossed: the variances of the run means and of the user means over their numbers add up.
    spread = np.sqrt(values.mean(axis=1).var() / runs + values.mean(axis=0).var() / users)
    assert got.mean == values.mean()
    assert (got.high - got.low) / (2 * 1.96 * spread) == pytest.approx(1, abs=0.08)
    alone = bootstrap_mean(values.mean(axis=0), seed=0)
    assert got.high - got.low > 2 * (alone.high - alone.low)


def test_differences_of_runs_draw_users_in_common():
    rng = np.random.default_rng(2)
    users = rng.normal(0, 1, 500)
    a = users + 0.1 + rng.normal(0, 0.01, (3, 500))
    b = users + rng.normal(0, 0.01, (2, 500))
    got = seeds_difference(a, b, seed=0)
    assert got.mean == pytest.approx(a.mean() - b.mean())
    assert got.high - got.low < 0.01  # against 0.25 for users drawn apart
    one = seeds_difference(a[:1], b[:1], seed=0)
    same = paired_interval(a[0], b[0], seed=0)
    assert (one.low, one.high) == pytest.approx((same.low, same.high))
    single = seeds_interval(a[:1], seed=0)
    plain = bootstrap_mean(a[0], seed=0)
    assert (single.low, single.high) == pytest.approx((plain.low, plain.high))


# --- randomisation -------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.sampled_from([0.0, 0.125, 0.5, 1.0])] * 2), min_size=2, max_size=9))
def test_equal_to_scipy_on_small_samples(pairs):  # eighths add up without rounding, which scipy does not allow for around 0
    a, b = (np.array(column) for column in zip(*pairs))
    theirs = stats.permutation_test((a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_test(a, b, seed=0) == pytest.approx(theirs.pvalue, abs=1e-12)


@pytest.mark.parametrize("kind", ["few", "many"])
def test_random_signs_agree_with_all_signs(kind):
    rng = np.random.default_rng(8)
    n = 300 if kind == "few" else 14
    difference = rng.choice([0.5, -0.5, 1.0], n, p=[0.48, 0.48, 0.04]) if kind == "few" else rng.normal(0.4, 1, n)
    got = sign_flip_test(difference, np.zeros(n), seed=1, resamples=40_000)
    if kind == "few":
        # Sums of +-1/2 and +-1: exact by convolution.
        halves, ones = np.count_nonzero(np.abs(difference) == 0.5), np.count_nonzero(np.abs(difference) == 1)
        total = (2 * np.arange(halves + 1) - halves)[:, None] / 2 + (2 * np.arange(ones + 1) - ones)[None]
        law = stats.binom(halves, 0.5).pmf(np.arange(halves + 1))[:, None] * stats.binom(ones, 0.5).pmf(np.arange(ones + 1))[None]
        exact = law[np.abs(total) >= abs(difference.sum()) - 1e-9].sum()
    else:
        signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
        exact = np.mean(np.abs(signs @ difference) >= abs(difference.sum()) - 1e-9)
    assert 0.001 < exact < 0.999
    assert abs(got - exact) < 4 * np.sqrt(exact * (1 - exact) / 40_000) + 1e-4


def test_sums_that_differ_by_rounding_alone_count_as_equal():
    a = np.array([0.0, 0.0, 0.3, 0.3, 1.0, 1.0])
    b = np.array([0.3, 0.5, 0.5, 0.5, 0.3, 0.5])
    assert sign_flip_test(a, b, seed=0) == 1.0  # the differences add up to 0, in floating point nearly
    assert sign_flip_test(np.array([0.1, 0.2, 0.3]), np.zeros(3), seed=0) == 2 / 8
    assert sign_flip_test(np.array([0.1, 0.2, -0.3, 0.3]), np.zeros(4), seed=0) == 12 / 16


def test_p_is_never_zero_and_one_for_equal_systems():
    a = np.random.default_rng(0).random(1_000)
    assert sign_flip_test(a + 1, a, seed=0, resamples=999) == 1 / 1000
    assert sign_flip_test(a, a, seed=0) == 1.0
    assert sign_flip_test(np.array([1.0, 2.0]), np.array([0.0, 0.0]), seed=0) == 0.5
    assert sign_flip_test(a, a[::-1], seed=0) == sign_flip_test(a[::-1], a, seed=0)


@pytest.mark.parametrize("values", [few, many], ids=["few distinct values", "many"])
def test_p_is_uniform_where_there_is_no_difference(values):
    rng = np.random.default_rng(11)
    p = [sign_flip_test(values(rng, 150), values(rng, 150), seed=trial, resamples=500) for trial in range(500)]
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert 0.02 < np.mean(np.array(p) <= 0.05) < 0.08


def test_long_samples_use_the_limiting_law(monkeypatch):
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.02, 1, 10_000), np.zeros(10_000)
    exact = sign_flip_test(a, b, seed=0, resamples=2_000)
    monkeypatch.setattr(statistics, "_LIMIT", 10)
    assert sign_flip_test(a, b, seed=0, resamples=2_000) == pytest.approx(exact, abs=0.04)


# --- corrections ---------------------------------------------------------------------------------------------------


def test_holm_worked_by_hand():
    # Sorted .005 .01 .03 .04 times 4, 3, 2, 1 = .02 .03 .06 .04; the last is lifted to .06.
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.5, 0.9])), [1, 1])
    assert holm(np.array([])).tolist() == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_corrections_keep_order_and_bounds_and_equal_scipy(p):
    p = np.array(p)
    np.testing.assert_allclose(benjamini_hochberg(p), stats.false_discovery_control(p), rtol=0, atol=1e-12)
    adjusted = holm(p)
    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(1, p * len(p)) + 1e-12).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()
    # Step by step: at level .05 Holm rejects in rising order while p_(i) <= .05 / (m - i + 1).
    passed = np.logical_and.accumulate(np.sort(p) * np.arange(len(p), 0, -1) <= 0.05)
    assert np.count_nonzero(adjusted <= 0.05) == np.count_nonzero(passed)


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_mean(np.array([]), seed=0), "at least one"),
        (lambda: bootstrap_mean(np.array([1, np.nan]), seed=0), "needed finite values, got 1 NaN"),
        (lambda: bootstrap_mean(np.ones(3), seed=0, level=95), "a level between 0 and 1, got 95; write 0.95"),
        (lambda: bootstrap_mean(np.ones(3), seed=0, resamples=0), "at least one resample"),
        (lambda: paired_interval(np.ones(3), np.ones(2), seed=0), "the same users on both sides, got 3 and 2"),
        (lambda: seeds_difference(np.ones((1, 3)), np.ones((1, 2)), seed=0), "the same users on both sides"),
        (lambda: seeds_interval(np.ones(3), seed=0), "values with 2 axes"),
        (lambda: holm(np.array([0.1, np.nan])), r"p values in \[0, 1\]"),
        (lambda: benjamini_hochberg(np.array([1.2])), r"p values in \[0, 1\]"),
    ],
)
def test_what_cannot_be_computed_is_refused(call, message):
    with pytest.raises(ContractError, match=message):
        call()
