"""The softmax in C with products rounded to bf16: loss of rounded factors to the precision of fp32, gradients to that of bf16."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lmrs import native
from lmrs.hardware import threads_restored
from lmrs.losses import FullSoftmax, Output, rounded_products

STEP = 2.0**-8  # between bf16 numbers of the size of 1


@pytest.fixture(scope="module")
def kernel() -> native.Kernel:
    found = native.load()
    if not isinstance(found, native.Kernel) or not found.rounds:
        pytest.skip("no C compiler here, or no products of bf16 numbers")
    return found


def problem(rows: int, items: int, width: int, *, bias: bool, scale: float = 1.0, seed: int = 0):
    """float32 states, table, bias or None, target."""
    rng = torch.Generator().manual_seed(seed)
    states, table = (torch.randn(n, width, generator=rng).div(width**0.25) for n in (rows, items))
    own = torch.randn(items, generator=rng) if bias else None
    return scale * states, table, own, torch.randint(items, (rows,), generator=rng)


def charged(kernel, states, table, own, target, *, smoothing: float = 0.0):
    """(loss, gradients by states, table and bias) with rounded products."""
    leaves = [None if each is None else each.clone().requires_grad_() for each in (states, table, own)]
    with native.by_kernel(kernel), rounded_products(True):
        cost = FullSoftmax(smoothing=smoothing).charge(leaves[0], Output(leaves[1], leaves[2]), target)
    return cost.detach(), *torch.autograd.grad(cost, [leaf for leaf in leaves if leaf is not None])


def wanted(states, table, own, target, *, smoothing: float = 0.0):
    """The same in fp64, of the states (in base 2, as they are multiplied) and the table as bf16 has them."""
    log2_e = math.log2(math.e)
    low, items = (states * log2_e).bfloat16().double() / log2_e, table.bfloat16().double()
    scores = low @ items.T + (0 if own is None else own.double())
    share = scores.softmax(1)
    aim = (1 - smoothing) * F.one_hot(target, len(table)).double() + smoothing / len(table)
    exact = states.double() @ table.double().T + (0 if own is None else own.double())
    cost = scores.logsumexp(1).sum() - (aim * exact).sum()
    off = (share @ items - aim @ table.double(), (share - aim).T @ states.double(), (share - aim).sum(0))
    sizes = (
        (share @ items.abs()).norm() + (aim @ table.double().abs()).norm(),
        (share.T @ states.double().abs()).norm() + (aim.T @ states.double().abs()).norm(),
        share.sum(0).norm() + aim.sum(0).norm(),
    )
    return cost, off[: 2 + (own is not None)], sizes


def agrees(kernel, states, table, own, target, *, smoothing: float = 0.0) -> None:
    cost, *grads = charged(kernel, states, table, own, target, smoothing=smoothing)
    right, exact, sizes = wanted(states, table, own, target, smoothing=smoothing)
    largest = float(states.norm(dim=1).max() * table.norm(dim=1).max())
    assert cost.item() == pytest.approx(right.item(), rel=1e-5, abs=1e-6 * len(states) * (1 + largest))
    for mine, theirs, size in zip(grads, exact, sizes):
        # Two roundings, each off by half a step at most; rounded shares of a row need not add up to one.
        assert (mine - theirs).norm() <= STEP * size + 1e-6


def test_it_is_asked(kernel, monkeypatch):
    asked = []
    plain = native.Kernel.softmax
    monkeypatch.setattr(native.Kernel, "softmax", lambda self, *a, **n: (asked.append(n["rounded"]), plain(self, *a, **n))[1])
    given = problem(9, 20, 16, bias=False)
    charged(kernel, *given)
    with native.by_kernel(kernel):
        FullSoftmax().charge(given[0], Output(given[1], None), given[3])
    charged(native.Kernel(kernel.path, kernel.library, kernel.lanes, kernel.rows, kernel.panel, rounds=False), *given)
    assert asked == [True, False]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 15, 16, 17, 33, 47, 48, 49, 145])
@pytest.mark.parametrize("items", [1, 2, 7, 8, 9, 47, 48, 49, 101])
def test_every_edge_of_blocks_and_panels(kernel, rows, items, bias):
    agrees(kernel, *problem(rows, items, 32, bias=bias))


@pytest.mark.parametrize("width", [1, 2, 8, 16, 48, 50, 64, 80, 128, 200])
def test_every_width(kernel, width):
    agrees(kernel, *problem(70, 131, width, bias=True), smoothing=0.1)


def test_many_items(kernel):
    for items in (3_072, 3_101, 6_500):
        agrees(kernel, *problem(50, items, 16, bias=True))


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 120), items=st.integers(1, 400), width=st.integers(1, 70), bias=st.booleans(),
    scale=st.sampled_from([0.0, 0.01, 1.0, 10.0, 100.0]), smoothing=st.sampled_from([0.0, 0.2]), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_problem(kernel, rows, items, width, bias, scale, smoothing, seed):
    agrees(kernel, *problem(rows, items, width, bias=bias, scale=scale, seed=seed), smoothing=smoothing)


@pytest.mark.parametrize("first", [40, 500, 3_600])
def test_a_level_that_rises_late(kernel, first):
    """What was summed and held before counts no more beside items whose scores are 60 above."""
    states, table, _, target = problem(50, 4_000, 16, bias=False)
    own = torch.where(torch.arange(4_000) < first, 0.0, 60.0)
    agrees(kernel, states, table, own, target % 40)


def test_a_level_that_rises_a_little(kernel):
    """What was held is scaled down, not forgotten: half of the mass is before the rise."""
    table = torch.zeros(2_000, 16)
    own = torch.cat([torch.full((1_999,), 24.0), torch.tensor([31.5])])
    agrees(kernel, torch.ones(5, 16), table, own - own.logsumexp(0), torch.zeros(5, dtype=torch.int64))
    low = own.clone()
    low[0] = -10.0  # the target's level: all others are above it by more than 30 in base 2
    agrees(kernel, torch.ones(5, 16), table, low, torch.zeros(5, dtype=torch.int64))


def test_no_further_from_fp64_than_torch_is(kernel):
    states, table, own, target = problem(200, 500, 64, bias=True)
    found, torchs = charged(kernel, states, table, own, target), charged(None, states, table, own, target)
    leaves = [each.double().requires_grad_() for each in (states, table, own)]
    cost = F.cross_entropy(leaves[0] @ leaves[1].T + leaves[2], target, reduction="sum")
    for mine, theirs, exact in zip(found, torchs, (cost.detach(), *torch.autograd.grad(cost, leaves)), strict=True):
        assert (mine - exact).norm() <= 1.5 * (theirs - exact).norm() + 1e-5 * exact.norm()


def test_threads_change_no_bit(kernel):
    given = problem(400, 700, 48, bias=True)
    found = []
    for threads in (1, 2, 5):
        with threads_restored():
            torch.set_num_threads(threads)
            found.append(charged(kernel, *given))
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))
