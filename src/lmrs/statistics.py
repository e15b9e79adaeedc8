"""How sure a mean over users is, and whether two systems differ: bootstrap, randomisation, corrections.

Means over users take few distinct values (NDCG@10 with one true item has eleven), so most resamples are drawn as counts of
distinct values instead of as users: the same law, some hundred times faster.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lmrs.errors import ContractError

RESAMPLES = 10_000
EXACT = 12  # so many differences at most are tested by going through all their signs
_CELLS = 2**22  # numbers drawn at once: 32 MiB
_LIMIT = 5 * 10**8  # draws above which the limiting normal law stands in for the resamples


@dataclass(frozen=True)
class Interval:
    """A mean with its percentile bootstrap interval. level: nominal coverage in (0, 1)."""

    mean: float
    low: float
    high: float
    level: float = 0.95

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def bootstrap_mean(values: np.ndarray, *, seed: int, resamples: int = RESAMPLES, level: float = 0.95) -> Interval:
    """Percentile bootstrap interval of the mean over users (Efron & Tibshirani 1993, chapter 13).

    values: finite float [n], n >= 1, one a user. Where n x resamples exceeds 5e8 and the values are not few, the resampled
    means are drawn from their limiting normal law (n is then above 50,000 by default; the ends move by about
    0.6 skewness / sqrt(n) standard errors). Raises ContractError for no values or values that are not finite.
    """
    values = _finite(values)
    means = _resampled_means(values[:, None], np.random.default_rng(seed), _positive(resamples))[:, 0]
    return _percentiles(values.mean(), means, level)


def paired_interval(a: np.ndarray, b: np.ndarray, *, seed: int, resamples: int = RESAMPLES, level: float = 0.95) -> Interval:
    """Bootstrap interval of mean(a - b), users resampled in pairs. a, b: float [n], the same users in the same order."""
    return bootstrap_mean(_paired(a, b), seed=seed, resamples=resamples, level=level)


def seeds_interval(values: np.ndarray, *, seed: int, resamples: int = RESAMPLES, level: float = 0.95) -> Interval:
    """Hierarchical bootstrap interval of the mean over runs and users: runs and, crossed with them, users are drawn anew.

    values: float [S, n], run s on user u. With S = 1 it is `bootstrap_mean`. With few runs the part of the width that
    comes from the runs is too small by about (S - 1) / S, as for every bootstrap of S values: read it as a lower bound.
    """
    values = _finite(values, axes=2)
    return _percentiles(values.mean(), _run_means(values, np.random.default_rng(seed), _positive(resamples)), level)


def seeds_difference(a: np.ndarray, b: np.ndarray, *, seed: int, resamples: int = RESAMPLES, level: float = 0.95) -> Interval:
    """Hierarchical bootstrap interval of mean(a) - mean(b). a: float [S, n], b: float [R, n], the same users in the same order.

    Users are drawn in common, the runs of a and of b apart from each other. With S = R = 1 it is `paired_interval`.
    """
    a, b = _finite(a, axes=2), _finite(b, axes=2)
    if a.shape[1] != b.shape[1]:
        raise ContractError(needed="the same users on both sides", came=f"{a.shape[1]} and {b.shape[1]}")
    rng, m = np.random.default_rng(seed), _positive(resamples)
    if len(a) == len(b) == 1:
        means = _resampled_means((a - b).T, rng, m)[:, 0]
    else:
        both = _resampled_means(np.concatenate([a, b]).T, rng, m)
        means = _weighted_runs(both[:, : len(a)], rng) - _weighted_runs(both[:, len(a) :], rng)
    return _percentiles(a.mean() - b.mean(), means, level)


def sign_flip_test(a: np.ndarray, b: np.ndarray, *, seed: int, resamples: int = RESAMPLES) -> float:
    """Two-sided p of the paired randomisation test (Fisher 1935, section 21) of "a and b have the same mean on every user".

    Under that hypothesis each user's difference d_u is as likely with either sign; p is the share of sign patterns with
    |sum of s_u d_u| >= |sum of d_u|. Up to 12 differences other than 0 all patterns are gone through; else m random ones,
    and p = (b + 1) / (m + 1) with b of them as extreme (Phipson & Smyth 2010), so p is never 0.
    a, b: finite float [n], the same users in the same order.
    """
    difference = _paired(a, b)
    difference = difference[difference != 0]
    n, m = len(difference), _positive(resamples)
    if not n:
        return 1.0
    slack = 1e-12 * np.abs(difference).sum()  # sums of the same numbers in another order may differ by rounding
    observed = abs(difference.sum()) - slack
    if n <= EXACT:
        patterns = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
        return float(np.mean(np.abs(patterns @ difference) >= observed))
    null = _flipped_sums(np.abs(difference), np.random.default_rng(seed), m)
    return float((np.count_nonzero(np.abs(null) >= observed) + 1) / (m + 1))


def holm(p: np.ndarray) -> np.ndarray:
    """Adjusted p values, family-wise error (Holm 1979): max over j <= i of min(1, (m - j + 1) p_(j)), in the order given."""
    p = _probabilities(p)
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate(np.minimum(1.0, p[order] * np.arange(len(p), 0, -1)))
    return _back(adjusted, order)


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Adjusted p values, false discovery rate (Benjamini & Hochberg 1995): min over j >= i of m p_(j) / j, in the order given."""
    p = _probabilities(p)
    order = np.argsort(p, kind="stable")
    scaled = np.minimum(1.0, p[order] * len(p) / np.arange(1, len(p) + 1))
    return _back(np.minimum.accumulate(scaled[::-1])[::-1], order)


def _resampled_means(values: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """float64[resamples, m]: column means of `values` [n, m] with rows drawn with replacement."""
    n, columns = values.shape
    distinct, counts = np.unique(values, axis=0, return_counts=True) if columns > 1 else _unique(values[:, 0])
    out = np.empty((resamples, columns))
    if len(distinct) * 10 <= n or len(distinct) == 1:
        step = max(1, _CELLS // len(distinct))
        for at in range(0, resamples, step):
            drawn = rng.multinomial(n, counts / n, size=min(step, resamples - at))
            out[at : at + step] = drawn @ distinct / n
    elif n * resamples > _LIMIT:
        spread = np.atleast_2d(np.cov(values, rowvar=False, bias=True)) / n
        out[:] = rng.multivariate_normal(values.mean(axis=0), spread, size=resamples, method="eigh")
    else:
        step = max(1, _CELLS // n)
        for at in range(0, resamples, step):
            rows = min(step, resamples - at)
            drawn = rng.integers(0, n, size=(rows, n)) + np.arange(rows)[:, None] * n
            times = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)  # how often each row was drawn
            out[at : at + step] = times @ values / n
    return out


def _unique(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    distinct, counts = np.unique(values, return_counts=True)
    return distinct[:, None], counts


def _run_means(values: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    return _weighted_runs(_resampled_means(values.T, rng, resamples), rng)


def _weighted_runs(means: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[resamples]: for each resample [runs], the mean of as many runs drawn with replacement."""
    runs = means.shape[1]
    return (means * rng.multinomial(runs, np.full(runs, 1 / runs), size=len(means))).sum(axis=1) / runs


def _flipped_sums(size: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """float64[resamples]: sums of `size` [n] under random signs."""
    distinct, counts = np.unique(size, return_counts=True)
    out = np.empty(resamples)
    if len(distinct) * 20 <= len(size):
        step = max(1, _CELLS // len(distinct))
        for at in range(0, resamples, step):
            plus = rng.binomial(counts, 0.5, size=(min(step, resamples - at), len(distinct)))
            out[at : at + step] = (2 * plus - counts) @ distinct
    elif len(size) * resamples > _LIMIT:
        out[:] = rng.normal(0.0, np.sqrt((size**2).sum()), size=resamples)
    else:
        step = max(1, _CELLS // len(size))
        for at in range(0, resamples, step):
            rows = min(step, resamples - at)
            bits = np.unpackbits(rng.integers(0, 256, size=(rows, -(-len(size) // 8)), dtype=np.uint8), axis=1)[:, : len(size)]
            out[at : at + step] = 2 * (bits @ size) - size.sum()
    return out


def _percentiles(mean: float, means: np.ndarray, level: float) -> Interval:
    if not 0 < level < 1:
        raise ContractError(needed="a level between 0 and 1", came=str(level), remedy="write 0.95 for 95 %")
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(mean), float(low), float(high), level)


def _finite(values: np.ndarray, *, axes: int = 1) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != axes or not values.size:
        raise ContractError(needed=f"values with {axes} axes, at least one", came=f"shape {values.shape}")
    if not np.isfinite(values).all():
        raise ContractError(needed="finite values", came=f"{np.count_nonzero(~np.isfinite(values)):,} NaN or infinite ones")
    return values


def _paired(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = _finite(a), _finite(b)
    if a.shape != b.shape:
        raise ContractError(needed="the same users on both sides", came=f"{len(a)} and {len(b)}")
    return a - b


def _positive(resamples: int) -> int:
    if resamples < 1:
        raise ContractError(needed="at least one resample", came=str(resamples))
    return resamples


def _probabilities(p: np.ndarray) -> np.ndarray:
    p = np.asarray(p, np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():  # False for NaN as well
        raise ContractError(needed="p values in [0, 1]", came=str(p.tolist())[:80])
    return p


def _back(adjusted: np.ndarray, order: np.ndarray) -> np.ndarray:
    out = np.empty(len(order))
    out[order] = adjusted
    return out
