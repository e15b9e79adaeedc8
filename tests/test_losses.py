"""Losses against their equations written out in float64, and negatives against the law they claim to be drawn from."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from lmrs import losses
from lmrs.batch import from_rows
from lmrs.errors import ContractError
from lmrs.losses import BCE, GBCE, BPRMax, FullSoftmax, Output, SampledSoftmax, rounded_products
from lmrs.negatives import ByPopularity, Drawn, Uniform, draw, probabilities
from lmrs.vocab import Vocab

M, E, V, K = 7, 5, 11, 4


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def vocab(n, counts=None):
    return Vocab(pa.array([f"i{i}" for i in range(n)], pa.large_string()), counts=counts)


def problem(*, bias, seed=0, dtype=torch.float64):
    """States [M, E], table [V, E], bias [V] or None, target [M]: leaves that ask for gradients."""
    rng = generator(seed)
    states, table, own = (torch.randn(*shape, generator=rng, dtype=dtype, requires_grad=True) for shape in ((M, E), (V, E), (V,)))
    target = torch.randint(V, (M,), generator=rng)
    return states, table, own if bias else None, target


def gradients(cost, *leaves):
    return torch.autograd.grad(cost, [leaf for leaf in leaves if leaf is not None])


def agree(found, wanted, *leaves):
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    for a, b in zip(gradients(found, *leaves), gradients(wanted, *leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def per_position(seed=3):
    return Drawn(torch.randint(V, (M, K), generator=generator(seed)), None, K, V)


# -- full softmax ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[2, 3, 4096])
def tiles(request, monkeypatch):
    """Items at a time: these catalogues in pieces, and whole."""
    monkeypatch.setattr(losses, "TILE", request.param)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("block", [1, 2, 3, 7, 100])
def test_full_softmax_is_the_equation_in_any_block_size(bias, smoothing, block):
    states, table, own, target = problem(bias=bias)
    found = FullSoftmax(smoothing=smoothing, block=block).charge(states, Output(table, own), target)
    scores = states @ table.T if own is None else states @ table.T + own
    wish = torch.full((M, V), smoothing / V, dtype=torch.float64)
    wish[torch.arange(M), target] += 1 - smoothing
    wanted = -(wish * (scores - scores.exp().sum(1, keepdim=True).log())).sum()
    agree(found, wanted, states, table, own)
    torch.testing.assert_close(found, F.cross_entropy(scores, target, reduction="sum", label_smoothing=smoothing))


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("bias", [False, True])
def test_full_softmax_gradient_by_finite_differences(bias):
    states, table, own, target = problem(bias=bias)
    loss = FullSoftmax(smoothing=0.1, block=3)
    if own is None:
        assert torch.autograd.gradcheck(lambda s, t: loss.charge(s, Output(t, None), target), (states, table))
    else:
        assert torch.autograd.gradcheck(lambda s, t, b: loss.charge(s, Output(t, b), target), (states, table, own))


@pytest.mark.usefixtures("tiles")
def test_full_softmax_is_stable_for_huge_scores():
    states = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    cost = FullSoftmax().charge(states, Output(torch.tensor([[1.0], [-1.0]]), None), torch.tensor([0, 0]))
    assert cost.item() == pytest.approx(2e4)
    assert torch.isfinite(torch.autograd.grad(cost, states)[0]).all()


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scale", [0.01, 1.0, 8.0, 300.0])
def test_full_softmax_is_the_same_with_and_without_a_maximum(bias, scale):
    """Small scores need none; those of 300 would overflow."""
    states, table, own, target = problem(bias=bias)
    states = (states * scale).detach().requires_grad_()
    found = FullSoftmax(smoothing=0.1, block=2).charge(states, Output(table, own), target)
    scores = states @ table.T if own is None else states @ table.T + own
    agree(found, F.cross_entropy(scores, target, reduction="sum", label_smoothing=0.1), states, table, own)


@pytest.mark.usefixtures("tiles")
def test_a_large_bias_alone_needs_the_maximum():
    states, table, _, target = problem(bias=False)
    own = torch.linspace(-900, 900, V, dtype=torch.float64, requires_grad=True)
    found = FullSoftmax().charge(states, Output(table, own), target)
    agree(found, F.cross_entropy(states @ table.T + own, target, reduction="sum"), states, table, own)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("tile", [400, 4096])
def test_rounded_products_are_close_and_unbiased_in_the_targets_score(bias, smoothing, tile, monkeypatch):
    monkeypatch.setattr(losses, "TILE", tile)
    rng = generator(5)
    states, table = (torch.randn(rows, 32, generator=rng).div(2).requires_grad_() for rows in (200, 900))
    own = torch.randn(900, generator=rng).requires_grad_() if bias else None
    target = torch.randint(900, (200,), generator=rng)
    loss = FullSoftmax(smoothing=smoothing)
    exact = loss.charge(states.double(), Output(table.double(), None if own is None else own.double()), target)
    with rounded_products(True):
        found = loss.charge(states, Output(table, own), target)
    assert found.dtype == torch.float32
    assert 0 < abs(found.item() / exact.item() - 1) < 1e-4
    for rounded, wanted in zip(gradients(found, states, table, own), gradients(exact, states, table, own), strict=True):
        assert 1e-6 < (rounded - wanted).norm() / wanted.norm() < 5e-3


def test_products_are_rounded_inside_the_block_alone():
    states, table, _, target = problem(bias=False, dtype=torch.float32)

    def charged():
        return FullSoftmax().charge(states, Output(table, None), target).item()

    outside = charged()
    with rounded_products(True):
        inside = charged()
        with rounded_products(False):
            assert charged() == outside
        assert charged() == inside != outside
    with pytest.raises(ZeroDivisionError), rounded_products(True):
        raise ZeroDivisionError
    assert charged() == outside


@pytest.mark.usefixtures("tiles")
def test_items_that_are_out_of_the_question_are_left_out():
    """A bias of minus infinity, for the items of whole tiles."""
    states, table, _, _ = problem(bias=False)
    own = torch.zeros(V, dtype=torch.float64)
    own[:6] = -torch.inf
    target = torch.arange(M) % (V - 6)
    found = FullSoftmax(block=3).charge(states, Output(table, own), target + 6)
    agree(found, F.cross_entropy(states @ table[6:].T, target, reduction="sum"), states, table, None)


@pytest.mark.usefixtures("tiles")
def test_full_softmax_gives_gradients_only_where_they_are_wanted():
    states, table, own, target = problem(bias=True)
    wanted = torch.autograd.grad(FullSoftmax().charge(states, Output(table, own), target), states)[0]
    found = torch.autograd.grad(FullSoftmax().charge(states, Output(table.detach(), own.detach()), target), states)[0]
    torch.testing.assert_close(found, wanted)
    only_bias = torch.autograd.grad(FullSoftmax().charge(states.detach(), Output(table.detach(), own), target), own)[0]
    torch.testing.assert_close(only_bias, (states @ table.T + own).softmax(1).sum(0) - F.one_hot(target, V).sum(0))


@pytest.mark.parametrize("told", [True, False])
def test_a_second_backward_pass_never_gives_another_gradient(told, monkeypatch):
    """The gradient is made once and scaled; asked twice, with a factor, it must be the same twice. Not every torch tells whether
    there will be a second time."""
    if not told:
        monkeypatch.setattr(losses, "_last", lambda: False)
    states, table, _, target = problem(bias=False)
    cost = 3 * FullSoftmax().charge(states, Output(table, None), target)
    first = torch.autograd.grad(cost, states, retain_graph=True)[0].clone()
    torch.testing.assert_close(torch.autograd.grad(cost, states)[0], first)


def test_full_softmax_of_no_positions_is_zero():
    states = torch.zeros(0, E, requires_grad=True)
    table = torch.zeros(V, E, requires_grad=True)
    cost = FullSoftmax().charge(states, Output(table, None), torch.zeros(0, dtype=torch.int64))
    assert cost.item() == 0
    assert not torch.autograd.grad(cost, table)[0].any()


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation returns, in numbers."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


def test_full_softmax_holds_only_a_block_of_logits():
    rows, items, block = 300, 400, 8
    states = torch.randn(rows, 4, generator=generator(), requires_grad=True)
    table = torch.randn(items, 4, generator=generator(1), requires_grad=True)
    target = torch.randint(items, (rows,), generator=generator(2))
    with Largest() as largest:
        FullSoftmax(block=block, smoothing=0.1).charge(states, Output(table, None), target).backward()
    assert largest.numel == block * items
    with Largest() as dense:
        F.cross_entropy(states @ table.T, target)
    assert dense.numel >= rows * items


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 2, 7])
def test_scores_in_pieces_are_those_of_one_product(bias, rows, monkeypatch):
    states, table, own, _ = problem(bias=bias)
    monkeypatch.setattr(losses, "_FEW", 2)
    monkeypatch.setattr(losses, "_SOME", 2)  # from two rows on: more than four pieces
    wanted = states[:rows] @ table.T + (0 if own is None else own)
    assert wanted.requires_grad
    torch.testing.assert_close(Output(table, own).scores(states[:rows]), wanted)
    with torch.no_grad():
        torch.testing.assert_close(Output(table, own).scores(states[:rows]), wanted.detach())
        torch.testing.assert_close(Output(table, own).scores(states[None, :rows]), wanted.detach()[None])


# -- losses with negatives ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
def test_bce_is_the_equation(bias):
    states, table, own, target = problem(bias=bias)
    drawn = per_position()
    scores = states @ table.T if own is None else states @ table.T + own
    wanted = -(
        scores.gather(1, target[:, None]).sigmoid().log().sum() + (1 - scores.gather(1, drawn.items).sigmoid()).log().sum()
    )
    agree(BCE().charge(states, Output(table, own), target, drawn), wanted, states, table, own)


def test_gbce_by_the_paper_on_paper():
    """One positive with score .5, two negatives with scores -1 and 2, V = 11, t = .75; the numbers follow from the definition.

    alpha = 2 / 10 = .2, beta = .2 (.75 (1 - 5) + 5) = .4.
    """
    states, target = torch.tensor([[1.0]], dtype=torch.float64), torch.tensor([0])
    table = torch.zeros(11, 1, dtype=torch.float64)
    table[:3, 0] = torch.tensor([0.5, -1.0, 2.0])
    drawn = Drawn(torch.tensor([[1, 2]]), None, 2, 11)

    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    wanted = -(math.log(sigmoid(0.5) ** 0.4) + math.log(1 - sigmoid(-1.0)) + math.log(1 - sigmoid(2.0)))
    found = GBCE(t=0.75).charge(states, Output(table, None), target, drawn)
    assert found.item() == pytest.approx(wanted, abs=1e-12)
    assert wanted == pytest.approx(2.6298205, abs=1e-6)  # .4 * .4740770 + .3132617 + 2.1269280


@pytest.mark.parametrize(("t", "beta"), [(0.0, 1.0), (1.0, K / (V - 1))])
def test_gbce_ends_at_bce_and_at_full_calibration(t, beta):
    states, table, own, target = problem(bias=True)
    drawn = per_position()
    scores = states @ table.T + own
    wanted = F.softplus(-scores.gather(1, target[:, None])).sum() * beta + F.softplus(scores.gather(1, drawn.items)).sum()
    agree(GBCE(t=t).charge(states, Output(table, own), target, drawn), wanted, states, table, own)


@pytest.fixture(params=[1, 3, 1024])
def blocks(request, monkeypatch):
    """Rows at a time where negatives are shared: these few rows in pieces, and whole."""
    monkeypatch.setattr(losses, "_BLOCK", request.param)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("popular", [False, True])
@pytest.mark.parametrize("logq", [False, True])
def test_sampled_softmax_is_the_equation(shared, bias, popular, logq):
    states, table, own, target = problem(bias=bias)
    items = torch.randint(V, (K,) if shared else (M, K), generator=generator(9))
    q = torch.rand(V, generator=generator(8), dtype=torch.float64) + 0.1 if popular else torch.ones(V, dtype=torch.float64)
    q = q / q.sum()
    drawn = Drawn(items, q.log() if popular else None, K, V)
    found = SampledSoftmax(logq=logq).charge(states, Output(table, own), target, drawn)
    scores = states @ table.T if own is None else states @ table.T + own
    wanted = torch.zeros((), dtype=torch.float64)
    for m in range(M):
        true = scores[m, target[m]]
        mass = true.exp()
        for j in (items if shared else items[m]).tolist():
            if j != target[m]:  # an accidental hit is no negative
                mass = mass + scores[m, j].exp() / (K * q[j] if logq else 1)
        wanted = wanted + mass.log() - true
    agree(found, wanted, states, table, own)


@pytest.mark.parametrize("negatives", [Uniform(k=3, shared=True), ByPopularity(k=3, alpha=0.5, shared=True)])
def test_logq_makes_the_denominator_unbiased(negatives):
    """exp(cost + s+) is the estimated denominator; its mean over many draws is the exact one, within five standard errors."""
    states, table, _, _ = problem(bias=False)
    states, table, target = states[:1].detach(), table.detach(), torch.tensor([4])
    words = vocab(V, counts=np.arange(1, V + 1) ** 2)
    batch = from_rows({"item": torch.tensor([0])}, torch.tensor([1]))
    loss, rng, output = SampledSoftmax(negatives), generator(5), Output(table, None)
    share = probabilities(negatives, words)
    log_q = None if share is None else share.log()
    scores = (states @ table.T)[0]

    def masses(loss, times):
        for _ in range(times):
            items = draw(negatives, batch, torch.tensor([0]), words, rng).items
            yield (loss.charge(states, output, target, Drawn(items, log_q, 3, V)) + scores[4]).exp().item()

    found, exact = list(masses(loss, 3000)), scores.exp().sum().item()
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found) - exact) < 5 * error
    assert np.mean(list(masses(SampledSoftmax(negatives, logq=False), 500))) < exact - 20 * error


def test_sampled_softmax_with_every_item_once_is_the_full_softmax():
    states, table, own, target = problem(bias=True)
    drawn = Drawn(torch.arange(V), None, V, V)
    wanted = FullSoftmax().charge(states, Output(table, own), target)
    agree(SampledSoftmax().charge(states, Output(table, own), target, drawn), wanted, states, table, own)


def test_sampled_softmax_of_accidental_hits_alone_costs_nothing():
    states, table, _, _ = problem(bias=False)
    target = torch.full((M,), 3)
    cost = SampledSoftmax().charge(states, Output(table, None), target, Drawn(torch.full((5,), 3), None, 5, V))
    assert cost.item() == 0
    assert torch.isfinite(torch.autograd.grad(cost, states)[0]).all()


@pytest.mark.parametrize("shared", [False, True])
def test_bpr_max_is_the_equation(shared):
    states, table, own, target = problem(bias=True)
    items = torch.randint(V, (K,) if shared else (M, K), generator=generator(9))
    found = BPRMax(regularisation=0.7, elu=None).charge(states, Output(table, own), target, Drawn(items, None, K, V))
    scores = states @ table.T + own
    wanted = torch.zeros((), dtype=torch.float64)
    for m in range(M):
        others = torch.stack([scores[m, j] for j in (items if shared else items[m]).tolist() if j != target[m]])
        weight = others.exp() / others.exp().sum()
        wanted = wanted - (weight * (scores[m, target[m]] - others).sigmoid()).sum().log() + 0.7 * (weight * others**2).sum()
    agree(found, wanted, states, table, own)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("bias", [False, True])
def test_shared_negatives_by_finite_differences(bias):
    """Some negatives are targets, and one is drawn twice."""
    states, table, own, target = problem(bias=bias)
    drawn = Drawn(torch.cat([target[:3], torch.tensor([0, 5, 5, 9])]), torch.linspace(-4, -1, V, dtype=torch.float64), 7, V)
    leaves = (states, table) if own is None else (states, table, own)
    assert torch.autograd.gradcheck(lambda s, t, *b: SampledSoftmax().charge(s, Output(t, *b or (None,)), target, drawn), leaves)


def test_shared_negatives_are_stable_for_huge_scores():
    states = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    drawn = Drawn(torch.tensor([1, 1, 1]), None, 3, 2)
    cost = SampledSoftmax().charge(states, Output(torch.tensor([[1.0], [-1.0]]), None), torch.tensor([0, 0]), drawn)
    assert cost.item() == pytest.approx(2e4 + math.log(2))  # each of three draws stands for 2 / 3 of an item
    assert torch.isfinite(torch.autograd.grad(cost, states)[0]).all()


def test_shared_negatives_give_gradients_only_where_they_are_wanted():
    states, table, own, target = problem(bias=True)
    drawn = Drawn(torch.tensor([0, 5, 9]), None, 3, V)

    def charged(states, table, own):
        return SampledSoftmax().charge(states, Output(table, own), target, drawn)

    wanted = gradients(charged(states, table, own), states, table, own)
    for at, leaf in enumerate((states, table, own)):
        given = [each if each is leaf else each.detach() for each in (states, table, own)]
        torch.testing.assert_close(gradients(charged(*given), leaf)[0], wanted[at])
    cost = 3 * charged(states, table, own)
    first = torch.autograd.grad(cost, states, retain_graph=True)[0].clone()
    torch.testing.assert_close(torch.autograd.grad(cost, states)[0], first)


@pytest.mark.parametrize("loss", [SampledSoftmax(), BCE(), GBCE()])
def test_losses_with_negatives_by_finite_differences(loss):
    states, table, own, target = problem(bias=True)
    drawn = per_position()
    assert torch.autograd.gradcheck(lambda s, t, b: loss.charge(s, Output(t, b), target, drawn), (states, table, own))


# -- negatives ---------------------------------------------------------------------------------------------------------


def rows_of(lengths, n_items, seed=0):
    total = int(sum(lengths))
    item = torch.randint(n_items, (total,), generator=generator(seed))
    return from_rows({"item": item}, torch.tensor(lengths))


@pytest.mark.parametrize("negatives", [Uniform(k=20), ByPopularity(k=20, alpha=0.75)])
def test_unseen_negatives_are_in_no_place_of_the_row_and_no_target(negatives):
    batch = rows_of([9, 9, 5, 2], 60)
    target = torch.randint(60, (batch.n_positions,), generator=generator(4))
    target[::3] = -1
    batch = batch.with_channels(target=target)
    at = torch.arange(1, batch.n_positions, 2)
    words = vocab(60, counts=np.arange(1, 61))
    drawn = draw(negatives, batch, at, words, generator(1)).items
    assert drawn.shape == (len(at), 20)
    for place, items in zip(at.tolist(), drawn.tolist(), strict=True):
        row = int(batch.row_of[place])
        seen = set(batch.channels["item"][batch.row_of == row].tolist()) | set(target[batch.row_of == row].tolist())
        assert not seen & set(items)
        assert all(0 <= i < 60 for i in items)


def test_seen_items_may_be_drawn_when_asked_for():
    batch = rows_of([30], 10)
    drawn = draw(Uniform(k=50, unseen=False), batch, torch.arange(30), vocab(10), generator()).items
    assert set(drawn.flatten().tolist()) == set(range(10))


def test_a_row_that_holds_the_whole_catalogue_does_not_hang():
    batch = from_rows({"item": torch.arange(6)}, torch.tensor([6]))
    assert draw(Uniform(k=3), batch, torch.arange(6), vocab(6), generator()).items.shape == (6, 3)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_popularity_draws_follow_the_counts(alpha):
    counts = np.array([0, 1, 4, 9, 16, 0, 25])
    words = vocab(7, counts=counts)
    share = probabilities(ByPopularity(alpha=alpha), words).numpy()
    wanted = np.where(counts > 0, counts.astype(float) ** alpha, 0)
    np.testing.assert_allclose(share, wanted / wanted.sum(), rtol=1e-12)
    batch = from_rows({"item": torch.tensor([0])}, torch.tensor([1]))
    drawn = draw(ByPopularity(k=40_000, alpha=alpha, shared=True), batch, torch.tensor([0]), words, generator(2))
    seen = np.bincount(drawn.items.numpy(), minlength=7) / 40_000
    assert not seen[[0, 5]].any()
    np.testing.assert_allclose(seen, share, atol=5 * 0.5 / 200)
    torch.testing.assert_close(
        drawn.log_expected(torch.tensor([2])), torch.tensor([math.log(40_000 * share[2])]), rtol=1e-5, atol=1e-5
    )


def test_uniform_draws_expect_k_over_v():
    batch = from_rows({"item": torch.tensor([0])}, torch.tensor([1]))
    drawn = draw(Uniform(k=8, shared=True), batch, torch.tensor([0]), vocab(32), generator())
    assert drawn.log_expected(drawn.items) == pytest.approx(math.log(8 / 32))
    assert drawn.each(5).shape == (5, 8)


@pytest.mark.parametrize(
    "negatives", [Uniform(k=3), Uniform(k=3, shared=True), ByPopularity(k=3), ByPopularity(k=3, shared=True)]
)
def test_draws_are_a_function_of_the_generator(negatives):
    batch = rows_of([6, 4, 3], 40)
    words = vocab(40, counts=np.arange(40))
    at = torch.arange(batch.n_positions)
    before = batch.channels["item"].clone()
    first, again, other = (draw(negatives, batch, at, words, generator(s)).items for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(batch.channels["item"], before)


def test_popularity_needs_counts():
    with pytest.raises(ContractError, match=r"needed training counts .* got a vocabulary without counts"):
        probabilities(ByPopularity(), vocab(5))
