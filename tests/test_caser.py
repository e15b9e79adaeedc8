"""Caser against a loop over its equations, and the objective that looks several items ahead."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from lmrs.batch import Batch, from_rows
from lmrs.errors import ContractError
from lmrs.losses import BCE, FullSoftmax, SampledSoftmax
from lmrs.models import Caser
from lmrs.negatives import ByPopularity, Uniform
from lmrs.objectives import NextItem, NextItems
from lmrs.visibility import Causal, Full
from lmrs.vocab import Vocab

V, U = 11, 4
VOCAB = Vocab(pa.array([str(i) for i in range(V)], pa.large_string()), pa.array([f"u{i}" for i in range(U)], pa.large_string()))
ROWS = [[3, 1, 4, 1, 5, 9, 2, 6], [5, 3], [5, 8, 9, 7], [1], [3, 2, 3, 8], [4, 6, 2], []]
SMALL = {"dim": 5, "window": 4, "horizontal": 3, "vertical": 2}


def batch_of(rows: list[list[int]], users: list[int] | None = None) -> Batch:
    items = torch.tensor([item for row in rows for item in row], dtype=torch.int64)
    extra = {} if users is None else {"user": torch.tensor(users)}
    return from_rows({"item": items}, torch.tensor([len(row) for row in rows]), extra)


def network_of(**options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        network = Caser(**{**SMALL, **options}).build(VOCAB).double()
        for parameter in network.parameters():
            parameter.data += 0.5 * torch.randn_like(parameter)
    return network


def by_row(batch: Batch, states: torch.Tensor) -> dict[int, torch.Tensor]:
    offsets = batch.offsets.tolist()
    return {int(e): states[offsets[at] : offsets[at + 1]] for at, e in enumerate(batch.rows["example"])}


def naive(network, history: list[int]) -> torch.Tensor:
    """z of one history: the image, every filter at every place, in loops."""
    window, dim = network.model.window, network.model.dim
    image = torch.zeros(window, dim, dtype=torch.float64)
    recent = history[-window:]
    for at, item in enumerate(recent):
        image[window - len(recent) + at] = network.items.weight[item]
    parts = []
    for height, layer in enumerate(network.heights, 1):
        for weight, bias in zip(layer.weight, layer.bias, strict=True):
            kernel = weight.view(height, dim)
            places = [((image[at : at + height] * kernel).sum() + bias).relu() for at in range(window - height + 1)]
            parts.append(torch.stack(places).max())
    for weight, bias in zip(network.vertical.weight, network.vertical.bias, strict=True):
        parts.extend((weight * image[:, d]).sum() + bias for d in range(dim))
    return torch.relu(network.mix.weight @ torch.stack(parts) + network.mix.bias)


def test_states_are_those_of_the_loop():
    network = network_of()
    batch = batch_of(ROWS)
    found = by_row(batch, network(batch, Causal()))
    for at, row in enumerate(ROWS):
        assert found[at].shape == (len(row), 5)
        for place in range(len(row)):
            assert torch.allclose(found[at][place], naive(network, row[: place + 1]), rtol=0, atol=1e-10)
    assert (found[0] > 0).any()


def test_a_window_of_one_item():
    network = network_of(window=1)
    found = network(batch_of([[3, 7]]), Causal())
    assert torch.allclose(found[1], naive(network, [7]), rtol=0, atol=1e-10)


def test_rows_do_not_touch_each_other():
    network = network_of(users=True)
    batch = batch_of(ROWS, users=[0, 1, 2, 3, 0, 1, 2])
    found = by_row(batch, network(batch, Causal()))
    for at, row in enumerate(ROWS):
        alone = network(batch_of([row], users=[[0, 1, 2, 3, 0, 1, 2][at]]), Causal())
        assert torch.allclose(found[at], alone, rtol=0, atol=1e-10)


def test_a_state_sees_its_window_and_nothing_else():
    network = network_of()
    before = network(batch_of([ROWS[0]]), Causal())
    for place in range(8):
        changed = list(ROWS[0])
        changed[place] = (changed[place] + 1) % V
        moved = (network(batch_of([changed]), Causal()) != before).any(1).nonzero()[:, 0].tolist()
        assert set(moved) <= set(range(place, place + 4))
        assert place in moved


def test_user_vectors_are_appended_and_strangers_get_the_shared_one():
    network = network_of(users=True)
    assert network.dim == network.output().table.shape[1] == 10
    known = network(batch_of([[3, 1]], users=[2]), Causal())
    assert torch.allclose(known[:, 5:], network.user_base + network.user_own.weight[2], rtol=0, atol=1e-12)
    assert torch.allclose(known[:, :5], torch.stack([naive(network, [3]), naive(network, [3, 1])]), rtol=0, atol=1e-10)
    for stranger in (batch_of([[3, 1]]), batch_of([[3, 1]], users=[-1]), batch_of([[3, 1]], users=[U])):
        assert torch.equal(network(stranger, Causal())[:, 5:], network.user_base.expand(2, -1))


def test_users_nobody_trained_start_as_strangers():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        network = Caser(**SMALL, users=True).build(VOCAB)
    assert not network.user_own.weight.any()
    assert network.user_base.any()


def test_dropout_needs_the_generator():
    network, batch = network_of(dropout=0.5), batch_of(ROWS)
    assert torch.equal(network(batch, Causal()), network_of(dropout=0.0)(batch, Causal()))
    one, two = (network(batch, Causal(), torch.Generator().manual_seed(seed)) for seed in (1, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, network(batch, Causal()))


def test_caser_refuses():
    with pytest.raises(ContractError, match="window of at least 1, got window=0"):
        Caser(window=0)
    with pytest.raises(ContractError, match=r"dropout in \[0, 1\), got dropout=1"):
        Caser(dropout=1)
    with pytest.raises(ContractError, match=r"Causal\(\) visibility for Caser, got Full\(\)"):
        network_of()(batch_of(ROWS), Full())


# -- several targets ahead -----------------------------------------------------------------------------------------------


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_targets_are_the_next_events_as_far_as_the_row_goes():
    prepared = NextItems(targets=3, loss=FullSoftmax()).corrupt(batch_of([[3, 1, 4, 7, 5], [8, 9], [2]]), VOCAB, generator())
    assert prepared.lengths.tolist() == [4, 1, 0]
    assert prepared.channels["item"].tolist() == [3, 1, 4, 7, 8]
    assert prepared.channels["targets"].tolist() == [[1, 4, 7], [4, 7, 5], [7, 5, -1], [5, -1, -1], [9, -1, -1]]
    assert NextItems(targets=3, loss=FullSoftmax()).counts(prepared) == {"next": 10}


@pytest.mark.parametrize("loss", [FullSoftmax(), BCE(Uniform(k=2)), SampledSoftmax(ByPopularity(k=5, shared=True))])
def test_one_target_is_next_item(loss):
    network = network_of()
    vocab = replace(VOCAB, counts=np.arange(V))
    batch = batch_of([row for row in ROWS if len(row) > 1])
    costs = []
    for objective in (NextItem(loss), NextItems(targets=1, loss=loss)):
        prepared = objective.corrupt(batch, vocab, generator())
        costs.append((objective.counts(prepared), objective.charge(network, None, prepared, vocab, None)["next"]))
    assert costs[0][0] == costs[1][0]
    assert torch.allclose(costs[0][1], costs[1][1], rtol=1e-12)


def test_the_charge_is_the_sum_over_all_pairs():
    """Every (state, later item) pair by hand, with the negatives that were drawn for it."""
    network = network_of()
    objective = NextItems(targets=3, loss=BCE(Uniform(k=2)))
    prepared = objective.corrupt(batch_of([ROWS[0], ROWS[2]]), VOCAB, generator())
    states = network(prepared, Causal())
    table, bias = network.output()
    wanted = torch.zeros((), dtype=torch.float64)
    for n, line in enumerate(prepared.channels["targets"].tolist()):
        for t, target in enumerate(line):
            if target < 0:
                continue
            wanted = wanted - torch.sigmoid(states[n] @ table[target] + bias[target]).log()
            for item in prepared.channels["negative"][n, t].tolist():
                wanted = wanted - (1 - torch.sigmoid(states[n] @ table[item] + bias[item])).log()
    found = objective.charge(network, None, prepared, VOCAB, None)["next"]
    assert torch.allclose(found, wanted, rtol=1e-10)


def test_negatives_avoid_the_whole_row_its_last_event_included():
    rows = [[0, 1, 2, 3, 4, 5, 6], [7, 8, 9]]
    many = Vocab(
        pa.array([str(i) for i in range(100)], pa.large_string())
    )  # .07^8: a draw that clashes eight times again does not occur
    prepared = NextItems(targets=2, loss=BCE(Uniform(k=60))).corrupt(batch_of(rows), many, generator())
    charged = prepared.channels["targets"] >= 0
    for row in (0, 1):
        drawn = set(prepared.channels["negative"][charged & (prepared.row_of == row)[:, None]].flatten().tolist())
        assert drawn
        assert not drawn & set(rows[row])


def test_next_items_refuses():
    with pytest.raises(ContractError, match="targets of at least 1, got targets=0"):
        NextItems(targets=0)
