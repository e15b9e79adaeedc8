"""Schedules against hand-computed steps, torch's schedulers and their properties."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from lmrs.errors import ContractError
from lmrs.schedule import Constant, Cosine, Linear, filled


def test_linear_by_hand():
    # W=4, T=10: quarters up, then sixths down.
    expected = [1 / 4, 2 / 4, 3 / 4, 1, 6 / 6, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0, 0]
    assert [Linear(warmup=4, total=10).factor(s) for s in range(12)] == pytest.approx(expected, abs=1e-15)


def test_cosine_by_hand():
    # W=2, T=6, floor .1: the cosine at 0, 45, 90, 135 and 180 degrees.
    h = math.sqrt(0.5)
    expected = [0.5, 1, 1, 0.1 + 0.45 * (1 + h), 0.55, 0.1 + 0.45 * (1 - h), 0.1, 0.1]
    got = [Cosine(warmup=2, total=6, floor=0.1).factor(s) for s in range(8)]
    assert got == pytest.approx(expected, abs=1e-15)


def test_constant():
    assert {Constant().factor(s) for s in (0, 1, 10**9)} == {1.0}


def torch_rates(make, steps):
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_linear_decay_equals_torch():
    rates = torch_rates(lambda o: lr_scheduler.LinearLR(o, start_factor=1.0, end_factor=0.0, total_iters=20), 25)
    assert [Linear(total=20).factor(s) for s in range(25)] == pytest.approx(rates, abs=1e-12)


def test_warm_up_equals_torch():
    rates = torch_rates(lambda o: lr_scheduler.LinearLR(o, start_factor=1 / 8, end_factor=1.0, total_iters=7), 8)
    assert [Linear(warmup=8, total=100).factor(s) for s in range(8)] == pytest.approx(rates, abs=1e-12)
    assert [Cosine(warmup=8, total=100).factor(s) for s in range(8)] == pytest.approx(rates, abs=1e-12)


def test_cosine_equals_torch():
    rates = torch_rates(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=30, eta_min=0.05), 31)
    assert [Cosine(total=30, floor=0.05).factor(s) for s in range(31)] == pytest.approx(rates, abs=1e-12)


@given(st.sampled_from([Linear, Cosine]), st.integers(1, 300), st.data())
def test_shape_of_every_schedule(kind, total, data):
    """Rises to exactly 1 at the end of the warm-up, never falls before it, never rises after it, stays in (0, 1] before T."""
    warm = data.draw(st.integers(0, total - 1) | st.floats(0, 1, exclude_max=True))
    schedule = kind(warmup=warm, total=total)
    steps = int(warm * total) if isinstance(warm, float) else warm
    factors = [schedule.factor(s) for s in range(total + 3)]
    assert factors[steps] == 1.0
    assert factors[: steps + 1] == sorted(factors[: steps + 1])
    assert factors[steps:] == sorted(factors[steps:], reverse=True)
    assert min(factors[:total]) > 0
    assert factors[total:] == [pytest.approx(0, abs=1e-12)] * 3


def test_share_of_all_steps():
    assert Linear(warmup=0.25, total=40) != Linear(warmup=10, total=40)
    assert [Linear(warmup=0.25, total=40).factor(s) for s in range(40)] == [
        Linear(warmup=10, total=40).factor(s) for s in range(40)
    ]


def test_total_from_the_budget():
    assert filled(Linear(warmup=3), 12) == Linear(warmup=3, total=12)
    assert filled(Cosine(floor=0.2), 12) == Cosine(floor=0.2, total=12)
    assert filled(Linear(warmup=3, total=7), 12) == Linear(warmup=3, total=7)
    assert filled(Constant(), 12) == Constant()
    with pytest.raises(ContractError, match=r"number of steps, got Linear\(warmup=3, total=None\)"):
        Linear(warmup=3).factor(0)
    with pytest.raises(ContractError, match="warm-up shorter than the 3 steps of the stage, got warmup=3"):
        filled(Linear(warmup=3), 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linear(warmup=-1), "at least 0 steps, got warmup=-1"),
        (lambda: Linear(warmup=1.0), "write warmup=1 for steps"),
        (lambda: Linear(warmup=-0.1), r"a float in \[0, 1\)\), got warmup=-0.1"),
        (lambda: Cosine(warmup=float("nan")), "got warmup=nan"),
        (lambda: Cosine(total=0), "at least 1 step, got total=0"),
        (lambda: Cosine(floor=1.5), r"a floor in \[0, 1\], got floor=1.5"),
        (lambda: Linear(warmup=10, total=10), "shorter than the 10 steps"),
    ],
)
def test_bad_values(make, message):
    with pytest.raises(ContractError, match=message):
        make()


@pytest.mark.parametrize("schedule", [Constant(), Linear(warmup=0.1), Cosine(warmup=5, total=50, floor=0.1)])
def test_repr_is_the_value(schedule):
    names = {"Constant": Constant, "Linear": Linear, "Cosine": Cosine}
    assert eval(repr(schedule), names) == schedule
