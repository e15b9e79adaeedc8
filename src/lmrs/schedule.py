"""Learning-rate schedules as values: what share of the peak rate a step uses.

`factor(step)` is a pure function of the step, so a run that stops and goes on needs no scheduler state. Steps are counted
from 0: `factor(s)` is used by the (s+1)-th update. Nothing is wasted at either end: the first update of a warm-up has
rate 1/warmup (not 0), the last update of a decay has a positive rate, and 0 (or the floor) would be reached at `total`.

`warmup` is a number of steps (an int) or a share of `total` (a float in [0, 1)). `total=None` means "all steps of the
stage": `fit` fills it in with `filled`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from lmrs.errors import ContractError


@dataclass(frozen=True)
class Constant:
    """The peak rate at every step: factor = 1."""

    def factor(self, step: int) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Warm up linearly, then fall linearly to 0 (Devlin et al. 2019, BERT, appendix A.2).

        factor(s) = (s + 1) / W            for s < W
                  = (T - s) / (T - W)      for W <= s < T
                  = 0                      for s >= T

    warmup: W, steps (int >= 0) or share of T (float in [0, 1)). total: T, steps > W, or None until `filled`.
    Raises ContractError for values out of range, and from `factor` while total is None.
    """

    warmup: int | float = 0
    total: int | None = None

    def __post_init__(self) -> None:
        _check(self)

    def factor(self, step: int) -> float:
        warm, total = _steps(self)
        if step < warm:
            return (step + 1) / warm
        return max(0.0, (total - step) / (total - warm))


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Warm up linearly, then fall along half a cosine to `floor` (Loshchilov & Hutter 2017, SGDR, eq. 5 without restarts).

        factor(s) = (s + 1) / W                                                 for s < W
                  = floor + (1 - floor) (1 + cos(pi (s - W) / (T - W))) / 2     for W <= s < T
                  = floor                                                       for s >= T

    warmup, total: as in Linear. floor: share of the peak rate that remains, in [0, 1].
    Raises ContractError for values out of range, and from `factor` while total is None.
    """

    warmup: int | float = 0
    total: int | None = None
    floor: float = 0.0

    def __post_init__(self) -> None:
        _check(self)
        if not 0 <= self.floor <= 1:
            raise ContractError(needed="a floor in [0, 1]", came=f"floor={self.floor}")

    def factor(self, step: int) -> float:
        warm, total = _steps(self)
        if step < warm:
            return (step + 1) / warm
        done = min(1.0, (step - warm) / (total - warm))
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2


Schedule = Constant | Linear | Cosine


def filled(schedule: Schedule, total: int) -> Schedule:
    """The schedule with `total` set to the steps of the stage where it was None; one that has a total keeps it.

    Raises ContractError if the warm-up would not end before `total`.
    """
    if isinstance(schedule, Constant) or schedule.total is not None:
        return schedule
    return replace(schedule, total=total)


def _steps(schedule: Linear | Cosine) -> tuple[int, int]:
    """(W, T) in steps; a share is rounded down, so it stays below T."""
    if schedule.total is None:
        raise ContractError(
            needed="a schedule with a number of steps",
            came=repr(schedule),
            remedy="give total=, or let schedule.filled set it from the budget",
        )
    warm = schedule.warmup
    return (math.floor(warm * schedule.total) if isinstance(warm, float) else warm), schedule.total


def _check(schedule: Linear | Cosine) -> None:
    warm, total = schedule.warmup, schedule.total
    if isinstance(warm, float) and not 0 <= warm < 1:
        raise ContractError(
            needed="a warm-up of whole steps (an int) or of a share of all steps (a float in [0, 1))",
            came=f"warmup={warm!r}",
            remedy=f"write warmup={int(warm)} for steps" if warm >= 1 and warm.is_integer() else "",
        )
    if warm < 0:
        raise ContractError(needed="a warm-up of at least 0 steps", came=f"warmup={warm}")
    if total is None:
        return
    if total < 1:
        raise ContractError(needed="a schedule of at least 1 step", came=f"total={total}")
    if _steps(schedule)[0] >= total:
        raise ContractError(
            needed=f"a warm-up shorter than the {total} steps of the stage",
            came=f"warmup={warm!r}",
            remedy="train longer, or give the warm-up as a share of all steps, such as warmup=0.1",
        )
