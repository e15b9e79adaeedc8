"""States of last positions in C: those of torch in fp64, for every kind of block, at every edge; what is not served, by torch."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest
import torch
from fit_runs import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lmrs import native
from lmrs.batch import Batch, from_rows
from lmrs.fit import Execution, fit
from lmrs.hardware import threads_restored
from lmrs.judge import judge
from lmrs.models import Gated, PostNorm, PreNorm, QueryNorm
from lmrs.models.last_states import last_states, states_gain
from lmrs.models.transformer import Transformer, TransformerNetwork
from lmrs.systems import bert4rec, sasrec
from lmrs.visibility import Causal, Full, Prefix
from lmrs.vocab import Vocab

ITEMS = 90
BLOCKS = (QueryNorm(), PreNorm(), PreNorm(expand=1), PostNorm(), Gated(), Gated(expand=1))
pytestmark = pytest.mark.skipif(native.compiler_found() is None, reason="no C compiler here")


@pytest.fixture(scope="module")
def kernel() -> native.Kernel:
    found = native.load()
    assert isinstance(found, native.Kernel), found
    return found


def network(*, spread: float = 0.15, seed: int = 0, **fields) -> TransformerNetwork:
    """A network none of whose parameters is what it was at the start, biases and norms included."""
    model = Transformer(**{"dim": 32, "layers": 2, "heads": 2, "max_len": 450, **fields})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = model.build(Vocab(pa.array(map(str, range(ITEMS)), pa.large_string())))
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for each in found.parameters():
            each.add_(torch.randn(each.shape, generator=rng), alpha=spread)
    return found


def rows(*lengths: int, seed: int = 0) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    return from_rows({"item": torch.randint(ITEMS + 1, (sum(lengths),), generator=rng)}, torch.tensor(lengths))


@torch.no_grad()
def agrees(kernel: native.Kernel, net: TransformerNetwork, batch: Batch, visible) -> None:
    """As near to fp64 as torch's fp32 is, up to a factor for another order of additions."""
    found, torchs = last_states(kernel, net, batch, visible, batch.last), net(batch, visible, at=batch.last)
    exact = net.double()(batch, visible, at=batch.last)
    net.float()
    assert found is not None
    assert found.dtype == torch.float32
    size = exact.norm(dim=1)
    off, usual = ((each - exact).norm(dim=1) / size for each in (found, torchs))
    assert off.max() <= 5 * usual.max() + 1e-6


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("visible", [Causal(), Full()])
@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block(kernel, block, visible, layers):
    net = network(block=block, layers=layers)
    agrees(kernel, net, rows(60, 3, 50, 48, 49, 1, 17, 16, 15), visible)


@pytest.mark.parametrize("visible", [Causal(), Full()])
@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 31, 33, 47, 48, 49, 95, 97, 191, 192, 193, 400])
def test_every_length(kernel, length, visible):
    agrees(kernel, network(), rows(length), visible)


@pytest.mark.parametrize("lengths", [(96, 96), (97, 96), (97, 95, 1), (193, 1), (64, 64, 64, 1)])
def test_every_number_of_positions_at_a_time(kernel, lengths):
    agrees(kernel, network(), rows(*lengths), Causal())


@pytest.mark.parametrize(("dim", "heads"), [(16, 1), (48, 1), (48, 3), (64, 1), (64, 2), (80, 1), (96, 2), (160, 2)])
@pytest.mark.parametrize("block", [QueryNorm(), Gated(expand=3)], ids=str)
def test_every_width(kernel, dim, heads, block):
    agrees(kernel, network(dim=dim, heads=heads, block=block), rows(70, 30, 5), Causal())


@pytest.mark.parametrize("align", ["left", "right"])
@pytest.mark.parametrize(
    "fields",
    [{}, {"scale": True}, {"embed_norm": True}, {"positions": False}, {"item_dim": 10}, {"transform": True, "tied": False}],
)
def test_how_positions_begin(kernel, fields, align):
    net = network(align=align, **fields)
    agrees(kernel, net, rows(40, 7, 7, 1), Causal())
    batch = rows(9, 4)
    agrees(kernel, net, batch.with_channels(position=batch.channels["position"] + 5), Causal())  # a row that begins later


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 120), min_size=1, max_size=12), block=st.sampled_from(BLOCKS), full=st.booleans(),
    layers=st.integers(1, 3), spread=st.sampled_from([0.0, 0.01, 0.1, 0.3]), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_rows(kernel, lengths, block, full, layers, spread, seed):
    net = network(block=block, layers=layers, spread=spread, seed=seed, embed_norm=seed % 2 == 1)
    agrees(kernel, net, rows(*lengths, seed=seed), Full() if full else Causal())


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("visible", [Causal(), Full()])
def test_scores_far_apart(kernel, visible, layer):
    """Keys that are hidden score higher by thousands; a weight of 2^-126 and less is none."""
    net = network(layers=2, block=PreNorm())
    with torch.no_grad():
        net.blocks[layer].mix.weight[:64] *= 40
        batch = rows(100, 100, 40)
        states = last_states(kernel, net, batch, visible, batch.last)
        torch.testing.assert_close(states, net(batch, visible, at=batch.last), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_row_does_not_depend_on_threads_or_company(kernel):
    net, batch = network(block=PostNorm()), rows(*range(130, 0, -3))
    whole = last_states(kernel, net, batch, Causal(), batch.last)
    with threads_restored():
        for threads in (2, 3, 8):
            torch.set_num_threads(threads)
            assert torch.equal(last_states(kernel, net, batch, Causal(), batch.last), whole)
    for row in (0, 7, 43):
        alone = batch.take(torch.tensor([row]))
        assert torch.equal(last_states(kernel, net, alone, Causal(), alone.last)[0], whole[row])


@torch.no_grad()
def test_what_it_does_not_serve(kernel):
    net, batch = network(), rows(9, 4, 2)
    assert last_states(kernel, net, batch, Causal(), batch.last) is not None
    assert last_states(kernel, net, batch, Prefix(2), batch.last) is None
    assert last_states(kernel, net, batch, Causal(), batch.last - 1) is None
    assert last_states(kernel, net, batch, Causal(), batch.last[:2]) is None
    empty = Batch({name: values[:13] for name, values in batch.channels.items()}, torch.tensor([0, 9, 13, 13]))
    assert last_states(kernel, net, empty, Causal(), torch.tensor([8, 12])) is None
    assert last_states(kernel, network(dim=34), batch, Causal(), batch.last) is None
    assert last_states(kernel, network(dim=48, heads=24), batch, Causal(), batch.last) is None
    assert last_states(kernel, network().double(), batch, Causal(), batch.last) is None
    other = network()
    other.blocks[1].mix = nn.Sequential(other.blocks[1].mix)
    assert last_states(kernel, other, batch, Causal(), batch.last) is None
    for symbols in (batch.channels["item"] + ITEMS, batch.channels["item"] - ITEMS - 1):
        assert last_states(kernel, net, batch.with_channels(item=symbols), Causal(), batch.last) is None
    assert last_states(kernel, net, batch.with_channels(position=batch.channels["position"] + 445), Causal(), batch.last) is None


@pytest.mark.parametrize("block", BLOCKS, ids=str)
@torch.no_grad()
def test_what_is_not_finite_is_left_to_torch(kernel, block):
    """Or is seen in the states: never a state that looks sound where torch has none."""
    batch = rows(20, 12)
    for name, _ in network(block=block).named_parameters():
        for value in (math.nan, math.inf):
            net = network(block=block)
            net.get_parameter(name)[:] = value
            found = last_states(kernel, net, batch, Causal(), batch.last)
            assert found is None or not (name.startswith("blocks") or found.isfinite().any()), name
            net = network(block=block)
            net.get_parameter(name).view(-1)[-1] = value
            assert not name.startswith("blocks") or last_states(kernel, net, batch, Causal(), batch.last) is None, name


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("visible", [Causal(), Full()])
@pytest.mark.parametrize("block", BLOCKS, ids=str)
@torch.no_grad()
def test_what_overflows_on_the_way_is_left_to_torch(kernel, block, visible, layer):
    """In one head of many, and of the keys of one item alone."""
    net, batch = network(block=block, heads=2), rows(60, 12)
    net.blocks[layer].mix.weight[48:64] = 1e30
    net.blocks[layer].mix.weight[16:32] = 1e30
    assert not net(batch, visible, at=batch.last).isfinite().all()
    assert last_states(kernel, net, batch, visible, batch.last) is None


@torch.no_grad()
def test_an_overflow_beside_the_attention_is_seen_in_the_states(kernel):
    for block in BLOCKS:
        net, batch = network(block=block), rows(20, 12)
        net.blocks[1].up.weight[::2], net.blocks[1].up.weight[1::2] = 1e25, -1e25
        net.blocks[1].down.weight[:] = 1e25
        assert not net(batch, Causal(), at=batch.last).isfinite().all()
        assert not last_states(kernel, net, batch, Causal(), batch.last).isfinite().all(), block


# -- where it is used --------------------------------------------------------------------------------------------------

SPLIT = tiny()
SMALL = {"dim": 32, "heads": 2, "epochs": 2, "batch_size": 16, "every": 1}


@pytest.mark.parametrize("made", [sasrec, bert4rec], ids=lambda made: made.__name__)
def test_judging_by_it(kernel, made, monkeypatch):
    """The same ranks, and torch's forward is asked only where the task is not the kernel's."""
    fitted = fit(made(**SMALL, max_len=20), SPLIT, seed=3, execution=Execution(device="cpu", kernels="torch"))
    asked: list[int] = []
    plain = TransformerNetwork.forward

    def counted(self, *given, **named):
        asked.append(1)
        return plain(self, *given, **named)

    def judged():
        asked.clear()
        return judge(fitted.scorer, fitted.objective, fitted.system.task, SPLIT.test, fitted.vocab, k=5, seed=1)

    monkeypatch.setattr(TransformerNetwork, "forward", counted)
    wanted = judged()
    assert asked
    with native.by_kernel(kernel, ("softmax", "attention")):
        judged()
        assert asked
    with native.by_kernel(kernel):
        found = judged()
    assert not asked
    assert found.ranks.rank.tolist() == wanted.ranks.rank.tolist()
    assert found.items.tolist() == wanted.items.tolist()
    torch.testing.assert_close(torch.from_numpy(found.scores), torch.from_numpy(wanted.scores), rtol=1e-4, atol=1e-5)


def test_gradients_go_by_torch(kernel):
    net, batch = network(), rows(9, 4)
    asked = torch.zeros(13, dtype=torch.bool)
    asked[batch.last] = True
    batch = batch.with_channels(asked=asked)
    with native.by_kernel(kernel):
        assert net.asked_states(batch, Causal()).requires_grad
        with torch.no_grad():
            assert not net.asked_states(batch, Causal()).requires_grad
            wanted = net(batch, Causal(), at=batch.last)
            torch.testing.assert_close(net.asked_states(batch, Causal()), wanted, rtol=1e-4, atol=1e-4)


def test_a_forward_of_its_own_is_asked(kernel):
    class Upside(TransformerNetwork):
        def forward(self, *given, **named):
            return -super().forward(*given, **named)

    net, batch = network(), rows(9, 4)
    batch = batch.with_channels(asked=torch.isin(torch.arange(13), batch.last))
    with native.by_kernel(kernel), torch.no_grad():
        states = net.asked_states(batch, Causal())
        net.__class__ = Upside
        torch.testing.assert_close(net.asked_states(batch, Causal()), -states, rtol=1e-4, atol=1e-4)


def test_its_gain_is_measured_once(kernel):
    gain = states_gain(kernel)
    assert gain > 0
    assert states_gain(kernel) == gain
