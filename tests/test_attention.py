"""Attention over jagged rows against a dense float64 reference that is written a row at a time from the definitions."""

import itertools
import math

import pytest
import torch

from lmrs.batch import from_rows
from lmrs.models import Gated, PostNorm, PreNorm, QueryNorm
from lmrs.models.attention import attend
from lmrs.models.dropout import dropout
from lmrs.visibility import Bus, Causal, Custom, Full, Permutation, Prefix, Segments, channels, mask

LENGTHS = [11, 9, 9, 5, 4, 1, 7, 2]
WIDTH, HEADS = 6, 2
VISIBLE = [Causal(), Full(), Prefix(0), Prefix(3), Prefix(20), Segments(), Permutation(), Bus(), Custom()]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def whole(seed=0):
    """A batch of rows of many lengths with every channel that a Visibility reads."""
    rng, total = generator(seed), sum(LENGTHS)

    def numbers(high):
        return torch.randint(high, (total,), generator=rng)

    segment = torch.cat([torch.sort(part).values for part in numbers(3).split(LENGTHS)])
    data = {
        "item": numbers(50),
        "segment": segment,
        "rank": numbers(6) - 2,
        "query": numbers(2),
        "sees": numbers(5),
        "level": numbers(5),
    }
    data["rank"] = data["rank"].clamp_min(-1)
    return from_rows(data, torch.tensor(LENGTHS))


def halves(mixed):
    """Queries, and keys beside values."""
    return mixed[:, :WIDTH], mixed[:, WIDTH:]


def may_see(visible, row, i, j):
    """The definitions, one pair of positions at a time."""
    match visible:
        case Causal():
            return j <= i
        case Full():
            return True
        case Prefix(n):
            return j < n or j <= i
        case Segments(by):
            return row[by][i] == row[by][j]
        case Bus(by):
            return row[by][i] == row[by][j] or j == 0 or row[by][j - 1] != row[by][j]
        case Permutation(rank, query):
            return i == j or (row[query][j] == 0 and (row[rank][j] == -1 or row[rank][j] < row[rank][i]))
        case Custom(sees, level):
            return bool(row[sees][i] >= row[level][j])


def reference(mixed, batch, visible):
    """softmax(q k / sqrt(d)) v for each row and head, over the positions that may be seen (itself if there is none)."""
    out = []
    for a, b in itertools.pairwise(batch.offsets.tolist()):
        row = {name: batch.channels[name][a:b].tolist() for name in channels(visible)}
        seen = torch.tensor([[may_see(visible, row, i, j) for j in range(b - a)] for i in range(b - a)])
        seen[~seen.any(1)] = torch.eye(b - a, dtype=torch.bool)[~seen.any(1)]
        heads = []
        for part in mixed[a:b].view(b - a, 3, HEADS, WIDTH // HEADS).unbind(2):
            query, key, value = part.unbind(1)
            weight = (query @ key.T / math.sqrt(WIDTH // HEADS)).exp() * seen
            heads.append(weight / weight.sum(1, keepdim=True) @ value)
        out.append(torch.cat(heads, 1))
    return torch.cat(out)


@pytest.mark.parametrize("visible", VISIBLE, ids=repr)
def test_every_visibility_is_its_definition_and_so_is_its_gradient(visible):
    batch = whole()
    mixed = torch.randn(batch.n_positions, 3 * WIDTH, generator=generator(1), dtype=torch.float64, requires_grad=True)
    pull = torch.randn(batch.n_positions, WIDTH, generator=generator(2), dtype=torch.float64)
    found, wanted = attend(*halves(mixed), batch, visible, heads=HEADS, p=0.0, rng=None), reference(mixed, batch, visible)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    a, b = (torch.autograd.grad((out * pull).sum(), mixed)[0] for out in (found, wanted))
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("visible", VISIBLE, ids=repr)
def test_the_written_out_kernel_for_dropout_agrees_with_the_fast_one(visible):
    batch = whole(3)
    mixed = torch.randn(batch.n_positions, 3 * WIDTH, generator=generator(1), dtype=torch.float64)
    fast = attend(*halves(mixed), batch, visible, heads=HEADS, p=0.0, rng=None)
    torch.testing.assert_close(
        attend(*halves(mixed), batch, visible, heads=HEADS, p=1e-12, rng=generator()), fast, rtol=1e-8, atol=1e-10
    )


@pytest.mark.parametrize("visible", VISIBLE, ids=repr)
def test_a_row_is_the_same_in_any_company(visible):
    """Padding is a matter of the other rows; it must not be felt."""
    batch = whole()
    mixed = torch.randn(batch.n_positions, 3 * WIDTH, generator=generator(1), dtype=torch.float64)
    together = attend(*halves(mixed), batch, visible, heads=HEADS, p=0.0, rng=None)
    assert any(bucket.cells is not None for bucket in batch.buckets)
    for row in range(batch.n_rows):
        mine = batch.row_of == row
        alone = attend(*halves(mixed[mine]), batch.take(torch.tensor([row])), visible, heads=HEADS, p=0.0, rng=None)
        torch.testing.assert_close(alone, together[mine], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("visible", VISIBLE, ids=repr)
def test_mask_states_the_definition(visible):
    batch = whole(5)
    at = slice(0, 11)
    cells = {name: batch.channels[name][at][None] for name in channels(visible)}
    row = {name: batch.channels[name][at].tolist() for name in channels(visible)}
    wanted = [[may_see(visible, row, i, j) for j in range(11)] for i in range(11)]
    assert mask(visible, cells, 11)[0].tolist() == wanted


def test_mask_refuses_what_is_no_visibility():
    with pytest.raises(TypeError, match="not a Visibility: 'causal'"):
        mask("causal", {}, 3)


@pytest.mark.parametrize("p", [0.0, 0.5])
@pytest.mark.parametrize("block", [PostNorm(), PreNorm(), QueryNorm(), Gated()], ids=repr)
def test_no_block_looks_ahead_or_into_other_rows(block, p):
    """The gradient of a state with respect to an input is zero unless the input is of the same row and not later."""
    batch = from_rows({"item": torch.zeros(5, dtype=torch.int64)}, torch.tensor([3, 2]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = block.build(WIDTH, HEADS, p, p).double()
    x = torch.randn(5, WIDTH, generator=generator(), dtype=torch.float64, requires_grad=True)
    states = module(x, batch, Causal(), generator(1))
    for i in range(5):
        felt = torch.autograd.grad(states[i].square().sum(), x, retain_graph=True)[0].abs().sum(1) > 0
        allowed = (batch.row_of == batch.row_of[i]) & (torch.arange(5) <= i)
        assert not (felt & ~allowed).any()
        if p == 0:
            assert torch.equal(felt, allowed)


def test_attention_of_no_positions():
    batch = from_rows({"item": torch.zeros(0, dtype=torch.int64)}, torch.tensor([0, 0]))
    assert attend(*halves(torch.zeros(0, 3 * WIDTH)), batch, Causal(), heads=HEADS, p=0.0, rng=None).shape == (0, WIDTH)


def test_dropout_keeps_the_mean_and_the_share():
    values = torch.ones(200_000)
    kept = dropout(values, 0.3, generator())
    share = round(0.3 * 2**16) / 2**16
    assert kept.unique().tolist() == pytest.approx([0, 1 / (1 - share)])
    assert (kept == 0).double().mean().item() == pytest.approx(0.3, abs=0.006)
    assert torch.equal(kept, dropout(values, 0.3, generator()))
    assert dropout(values, 0.3, None) is values
    assert dropout(values, 0.0, generator()) is values
    assert (values == 1).all()
