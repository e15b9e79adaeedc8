"""Attention in C: what torch makes in fp64, with its gradients, at every edge of blocks; what is not served goes by torch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmrs import native
from lmrs.batch import Batch, from_rows
from lmrs.hardware import threads_restored
from lmrs.models import Gated, PostNorm, PreNorm, QueryNorm, attention
from lmrs.models.attention import attend, attention_gain
from lmrs.models.transformer import Transformer
from lmrs.visibility import Causal, Full, Prefix
from lmrs.vocab import Vocab

pytestmark = pytest.mark.skipif(native.compiler_found() is None, reason="no C compiler here")


@pytest.fixture(scope="module")
def kernel() -> native.Kernel:
    found = native.load()
    assert isinstance(found, native.Kernel), found
    return found


def rows(*lengths: int) -> Batch:
    return from_rows({"item": torch.zeros(sum(lengths), dtype=torch.int64)}, torch.tensor(lengths))


def problem(batch: Batch, dim: int, *, scale: float = 1.0, seed: int = 0):
    """float32 queries, keys and values of one map [N, 3 D], and what is asked of each number of the result [N, D]."""
    rng = torch.Generator().manual_seed(seed)
    return scale * torch.randn(batch.n_positions, 3 * dim, generator=rng), torch.randn(batch.n_positions, dim, generator=rng)


def attended(mixed, wish, batch, visible, heads, kernel):
    """(result, its gradient by `mixed`)."""
    mixed = mixed.clone().requires_grad_()
    dim = wish.shape[1]
    with native.by_kernel(kernel):
        seen = attend(*mixed.split((dim, 2 * dim), 1), batch, visible, heads=heads, p=0.0, rng=None)
    return seen.detach(), torch.autograd.grad(seen, mixed, wish)[0]


def agrees(kernel, batch, visible, *, dim=32, heads=2, scale=1.0, seed=0) -> None:
    mixed, wish = problem(batch, dim, scale=scale, seed=seed)
    found, torchs = (attended(mixed, wish, batch, visible, heads, way) for way in (kernel, None))
    exact = attended(mixed.double(), wish.double(), batch, visible, heads, None)
    for mine, theirs, right in zip(found, torchs, exact, strict=True):
        off, usual = ((each - right).norm() for each in (mine, theirs))
        assert off <= 5 * usual + 1e-6 * (right.norm() + 1)


def calls(monkeypatch) -> list[int]:
    """Grows whenever the kernel attends."""
    asked: list[int] = []
    plain = native.Kernel.attend
    monkeypatch.setattr(native.Kernel, "attend", lambda self, *a, **n: (asked.append(1), plain(self, *a, **n))[1])
    return asked


@pytest.mark.parametrize("visible", [Causal(), Full()])
@pytest.mark.parametrize("length", [1, 2, 3, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 95, 96, 97, 200])
def test_every_length(kernel, length, visible, monkeypatch):
    asked = calls(monkeypatch)
    agrees(kernel, rows(length, max(1, length - 1), 1), visible)
    assert len(asked) == 1


@pytest.mark.parametrize("visible", [Causal(), Full()])
@pytest.mark.parametrize(("dim", "heads"), [(16, 1), (48, 1), (48, 3), (64, 1), (64, 2), (64, 4), (80, 1), (96, 2), (160, 2)])
def test_every_width(kernel, dim, heads, visible, monkeypatch):
    asked = calls(monkeypatch)
    agrees(kernel, rows(70, 30, 5), visible, dim=dim, heads=heads)
    assert len(asked) == 1


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 130), min_size=1, max_size=8), full=st.booleans(), heads=st.sampled_from([1, 2, 4]),
    scale=st.sampled_from([0.0, 0.1, 1.0, 3.0]), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_rows(kernel, lengths, full, heads, scale, seed):
    agrees(kernel, rows(*lengths), Full() if full else Causal(), dim=64, heads=heads, scale=scale, seed=seed)


@pytest.mark.parametrize("visible", [Causal(), Full()])
def test_scores_far_apart(kernel, visible):
    """Scores of thousands: weights are 0 or 1, and a hidden key may have the largest."""
    batch = rows(100, 60, 17)
    mixed, wish = problem(batch, 32, scale=40)
    found, _ = attended(mixed, wish, batch, visible, 2, kernel)
    exact, _ = attended(mixed.double(), wish.double(), batch, visible, 2, None)
    torch.testing.assert_close(found.double(), exact, rtol=1e-3, atol=1e-2)


def test_a_gradient_that_is_laid_out_otherwise(kernel):
    batch = rows(30, 9)
    mixed, wish = problem(batch, 32)
    turned = wish.T.contiguous().T
    one, two = (attended(mixed, each, batch, Causal(), 2, kernel)[1] for each in (wish, turned))
    assert torch.equal(one, two)


def test_what_is_hidden_has_no_influence(kernel):
    """Not on a bit: neither forward nor backward."""
    batch = rows(70)
    mixed, wish = problem(batch, 32)
    other = mixed.clone()
    other[50:] *= -1e3
    wish[50:] = 0
    (one, d_one), (two, d_two) = (attended(each, wish, batch, Causal(), 2, kernel) for each in (mixed, other))
    assert torch.equal(one[:50], two[:50])
    assert torch.equal(d_one[:50], d_two[:50])
    assert not d_one[50:].any()


def test_rows_do_not_depend_on_threads_or_company(kernel):
    batch = rows(*range(130, 0, -3))
    mixed, wish = problem(batch, 32)
    whole = attended(mixed, wish, batch, Causal(), 2, kernel)
    with threads_restored():
        for threads in (2, 3, 8):
            torch.set_num_threads(threads)
            for one, two in zip(attended(mixed, wish, batch, Causal(), 2, kernel), whole, strict=True):
                assert torch.equal(one, two)
    begin, end = batch.offsets[7:9].tolist()
    alone = attended(mixed[begin:end], wish[begin:end], rows(end - begin), Causal(), 2, kernel)
    for one, two in zip(alone, whole, strict=True):
        assert torch.equal(one, two[begin:end])


def test_what_it_does_not_serve(kernel, monkeypatch):
    """Other visibilities, dropout on the weights, heads that are no whole registers, fp64, no position at all."""
    asked, batch = calls(monkeypatch), rows(9, 4)
    mixed, wish = problem(batch, 32)
    attended(mixed, wish, batch, Prefix(2), 2, kernel)
    attended(mixed.double(), wish.double(), batch, Causal(), 2, kernel)
    attended(mixed, wish, batch, Causal(), 32, kernel)
    attended(mixed[:0], wish[:0], batch.take(torch.arange(0)), Causal(), 2, kernel)
    with native.by_kernel(kernel):
        query, pairs = mixed.split((32, 64), 1)
        attend(query, pairs, batch, Causal(), heads=2, p=0.5, rng=torch.Generator().manual_seed(0))
        attend(query.T.contiguous().T, pairs, batch, Causal(), heads=2, p=0.0, rng=None)
    with native.by_kernel(kernel, ("softmax", "ranking")):
        attend(query, pairs, batch, Causal(), heads=2, p=0.0, rng=None)
    assert not asked
    with native.by_kernel(kernel):
        attend(query, pairs, batch, Causal(), heads=2, p=0.5, rng=None)
    assert asked


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize("column", [0, 40, 70])
def test_what_is_not_finite_is_seen(kernel, value, column):
    """One number of a query, a key or a value: who would have no sound result by torch has none here. Other rows do."""
    batch = rows(60, 9)
    mixed, wish = problem(batch, 32)
    mixed[20, column] = value
    (found, d_found), (torchs, d_torch) = (attended(mixed, wish, batch, Causal(), 2, way) for way in (kernel, None))
    assert bool(found[20:60].isfinite().all()) == bool(torchs[20:60].isfinite().all())
    assert bool(d_found.isfinite().all()) == bool(d_torch.isfinite().all())
    assert found[60:].isfinite().all()


def test_a_gradient_that_is_not_finite_stays_so(kernel):
    batch = rows(60, 9)
    mixed, wish = problem(batch, 32)
    wish[30, 5] = math.nan
    _, found = attended(mixed, wish, batch, Causal(), 2, kernel)
    assert found[30].isnan().any()
    assert found[2].isnan().any()  # a key that the position has seen
    assert found[60:].isfinite().all()


@pytest.mark.parametrize("visible", [Causal(), Full()])
@pytest.mark.parametrize("block", [QueryNorm(), PreNorm(), PostNorm(), Gated()], ids=str)
def test_a_network_learns_the_same(kernel, block, visible):
    import pyarrow as pa

    torch.manual_seed(0)
    net = Transformer(dim=32, heads=2, max_len=60, block=block).build(Vocab(pa.array(map(str, range(50)), pa.large_string())))
    lengths = torch.tensor([60, 30, 30, 1])
    batch = from_rows({"item": torch.arange(121) % 50}, lengths)
    grads = []
    for way in (kernel, None):
        net.zero_grad()
        with native.by_kernel(way):
            net(batch, visible).square().sum().backward()
        grads.append([each.grad.clone() for each in net.parameters() if each.grad is not None])
    largest = max(float(each.abs().max()) for each in grads[1])
    for one, two in zip(*grads, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5 * largest)


def test_its_gain_is_measured_once(kernel, monkeypatch):
    gain = attention_gain(kernel)
    assert gain > 0
    monkeypatch.setattr(attention, "_measured", None)
    assert attention_gain(kernel) == gain
