"""What every Measure must keep to: a name that reads back, bounds, one number a query, and better ranks never scoring less."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from lmrs.errors import ContractError, DataError, UserError
from lmrs.measures import Lists, Measure, Ranks, Sampled, parse
from lmrs.testing.values import check_repr

Q, V, K = 40, 300, 10
DEEPEST = 30  # ranks are drawn from 1 to this


def ranks(*, seed: int = 0, measure: Measure | None = None) -> Ranks:
    """Q queries with 1 to 3 true items among V: hits, deep ones, and items that were not offered at all."""
    rng = np.random.default_rng(seed)
    count = rng.integers(1, 4, Q)
    offsets = np.concatenate([[0], np.cumsum(count)])
    rank = np.concatenate([rng.choice(np.arange(1, DEEPEST + 1), n, replace=False) for n in count])
    rank[rng.random(len(rank)) < 0.1] = 0
    return made(offsets, rank, measure)


def made(offsets: np.ndarray, rank: np.ndarray, measure: Measure | None) -> Ranks:
    """Ranks without ties among the items that were offered; those that were not (rank 0) are tied with each other at the end."""
    query = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    missed = np.bincount(query[rank == 0], minlength=len(offsets) - 1)[query]
    greater, equal = np.where(rank > 0, rank - 1, V - missed), np.where(rank > 0, 0, missed - 1)
    sampling = measure.sampling if isinstance(measure, Sampled) else None
    return Ranks(offsets, rank, np.full(len(offsets) - 1, V), greater, equal, sampling)


def lists(*, seed: int = 0) -> Lists:
    """Q lists of K from V items, some of them short or empty, with popularity and histories."""
    rng = np.random.default_rng(seed)
    items = np.stack([rng.permutation(V)[:K] for _ in range(Q)])
    items[0] = -1
    items[1, 4:] = -1
    history = rng.integers(0, V, 3 * Q)
    return Lists(items, rng.integers(0, 50, V), np.arange(0, 3 * Q + 1, 3), history)


class MeasureTests:
    """Subclass, name it Test..., set `part` to the measure. low, high: its bounds, both included."""

    part: ClassVar[Measure]
    low: ClassVar[float] = 0.0
    high: ClassVar[float] = 1.0

    def value(self, seed: int = 0) -> np.ndarray:
        """What the measure says about drawn material, as float64 [Q] or [1]."""
        match self.part.reads:
            case "ranks":
                found = self.part(ranks(seed=seed, measure=self.part))  # type: ignore[call-arg, arg-type]
            case "lists":
                found = self.part(lists(seed=seed))  # type: ignore[call-arg, arg-type]
            case "pairs":
                rng = np.random.default_rng(seed)
                found = self.part(rng.random(Q) * 4 + 1, rng.integers(1, 6, Q).astype(float))  # type: ignore[call-arg, arg-type]
            case _:
                raise AssertionError(f"reads {self.part.reads!r}: must be 'ranks', 'lists' or 'pairs'")
        return np.atleast_1d(np.asarray(found, np.float64))

    def test_repr_evaluates_to_an_equal_value(self) -> None:
        check_repr(self.part)

    def test_its_name_reads_back(self) -> None:
        assert parse(str(self.part)) == self.part, f"{str(self.part)!r} reads back as {parse(str(self.part))!r}"
        assert parse(str(self.part).lower()) == self.part, "case matters"

    def test_one_number_a_query_or_one_in_all(self) -> None:
        assert self.value().shape == (Q if self.part.per_query else 1,)

    def test_it_keeps_to_its_bounds(self) -> None:
        for seed in range(20):
            found = self.value(seed)
            assert np.isfinite(found).all(), found
            assert self.low - 1e-12 <= found.min(), f"{found.min()} below {self.low}"
            assert found.max() <= self.high + 1e-12, f"{found.max()} above {self.high}"

    def test_it_is_not_constant(self) -> None:
        assert len({tuple(self.value(seed).tolist()) for seed in range(5)}) > 1

    def test_the_best_ranking_scores_highest_and_the_worst_lowest(self) -> None:
        """Measures of ranks alone: all true items on top, and none offered."""
        if self.part.reads != "ranks":
            return
        some = ranks(measure=self.part)
        place = np.arange(len(some.rank)) - some.offsets[:-1][some.query]
        best, none = (made(some.offsets, rank, self.part) for rank in (place + 1, np.zeros_like(place)))
        top, bottom, middle = (self.part(given) for given in (best, none, some))  # type: ignore[call-arg, arg-type]
        assert np.all(top >= middle - 1e-12)
        assert np.all(bottom <= middle + 1e-12)

    def test_moving_a_true_item_up_never_lowers_it(self) -> None:
        if self.part.reads != "ranks":
            return
        for seed in range(10):
            some = ranks(seed=seed, measure=self.part)
            before = self.part(some)  # type: ignore[call-arg, arg-type]
            for at in np.flatnonzero(some.rank > 1)[:20]:
                mine = slice(some.offsets[some.query[at]], some.offsets[some.query[at] + 1])
                if some.rank[at] - 1 in some.rank[mine]:
                    continue  # the place above is taken by another true item
                rank = some.rank.copy()
                rank[at] -= 1
                assert np.all(self.part(made(some.offsets, rank, self.part)) >= before - 1e-12)  # type: ignore[call-arg, arg-type]

    def test_sampled_ranks_are_refused_by_exact_measures_and_the_other_way_round(self) -> None:
        if self.part.reads != "ranks":
            return
        wrong = ranks(measure=None if isinstance(self.part, Sampled) else Sampled(parse("HR@10"), 99))  # type: ignore[arg-type]
        try:
            self.part(wrong)  # type: ignore[call-arg, arg-type]
        except (ContractError, DataError, UserError):
            return
        raise AssertionError(f"{self.part} took ranks that were made in another way")
