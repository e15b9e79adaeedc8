"""The recurrent network against nn.GRU and against its equation, row by row."""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch
from torch import nn

from lmrs.batch import Batch, from_rows
from lmrs.errors import ContractError
from lmrs.models import Recurrent
from lmrs.visibility import Causal, Full
from lmrs.vocab import Vocab

V = 11
VOCAB = Vocab(pa.array([str(i) for i in range(V)], pa.large_string()))
ROWS = [[3, 1, 4, 1, 5, 9, 2, 6], [5, 3], [5, 8, 9, 7], [1], [3, 2, 3, 8], [4, 6, 2], []]


def batch_of(rows: list[list[int]]) -> Batch:
    items = torch.tensor([item for row in rows for item in row], dtype=torch.int64)
    return from_rows({"item": items}, torch.tensor([len(row) for row in rows]))


def network_of(model: Recurrent):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        network = model.build(VOCAB).double()
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)  # biases start from zero, which would hide them
    return network


def by_row(batch: Batch, states: torch.Tensor) -> dict[int, torch.Tensor]:
    """States of each example, by its number in ROWS."""
    offsets = batch.offsets.tolist()
    return {int(e): states[offsets[at] : offsets[at + 1]] for at, e in enumerate(batch.rows["example"])}


@pytest.mark.parametrize("layers", [1, 2])
def test_states_are_those_of_a_gru_run_row_by_row(layers):
    network = network_of(Recurrent(dim=6, layers=layers))
    batch = batch_of(ROWS)
    found = by_row(batch, network(batch, Causal()))
    plain = nn.GRU(6, 6, num_layers=layers, batch_first=True).double()
    for at, layer in enumerate(network.layers):
        for name, parameter in layer.named_parameters():
            plain.get_parameter(name.replace("_l0", f"_l{at}")).data.copy_(parameter)
    for at, row in enumerate(ROWS):
        if row:
            wanted = plain(network.items(torch.tensor([row])))[0][0]
            assert torch.allclose(found[at], wanted, rtol=0, atol=1e-10)
    assert found[6].shape == (0, 6)


def test_states_follow_the_equation():
    network = network_of(Recurrent(dim=5))
    batch = batch_of(ROWS[:1])
    w, u, b, c = (
        getattr(network.layers[0], name).chunk(3) for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    )
    h = torch.zeros(5, dtype=torch.float64)
    for item, found in zip(ROWS[0], network(batch, Causal()), strict=True):
        x = network.items.weight[item]
        reset, keep = (torch.sigmoid(w[g] @ x + b[g] + u[g] @ h + c[g]) for g in (0, 1))
        new = torch.tanh(w[2] @ x + b[2] + reset * (u[2] @ h + c[2]))
        h = (1 - keep) * new + keep * h
        assert torch.allclose(found, h, rtol=0, atol=1e-10)


def test_rows_do_not_touch_each_other():
    network = network_of(Recurrent(dim=6, layers=2))
    batch = batch_of(ROWS)
    found = by_row(batch, network(batch, Causal()))
    for at, row in enumerate(ROWS):
        assert torch.allclose(found[at], network(batch_of([row]), Causal()), rtol=0, atol=1e-10)


def test_the_future_is_not_seen():
    network = network_of(Recurrent(dim=6, layers=2))
    before = network(batch_of([ROWS[0]]), Causal())
    for place in range(8):
        changed = list(ROWS[0])
        changed[place] = (changed[place] + 1) % V
        after = network(batch_of([changed]), Causal())
        assert torch.equal(after[:place], before[:place])
        assert not torch.allclose(after[place:], before[place:])


def test_gradients_are_those_of_the_rows_one_by_one():
    network = network_of(Recurrent(dim=4))
    batch = batch_of(ROWS)
    network(batch, Causal()).square().sum().backward()
    whole = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    network.zero_grad()
    for row in ROWS:
        network(batch_of([row]), Causal()).square().sum().backward()
    alone = [p.grad for p in network.parameters() if p.grad is not None]
    assert len(whole) == 5  # the item table and four tensors of the GRU
    assert all(torch.allclose(a, b, rtol=0, atol=1e-10) for a, b in zip(whole, alone, strict=True))


@pytest.mark.parametrize("option", ["dropout", "embedding_dropout"])
def test_dropout_needs_the_generator_and_obeys_it(option):
    network = network_of(Recurrent(dim=64, **{option: 0.5}))
    batch = batch_of(ROWS)
    plain = network_of(Recurrent(dim=64))(batch, Causal())
    assert torch.equal(network(batch, Causal()), plain)
    drawn = network(batch, Causal(), torch.Generator().manual_seed(5))
    assert not torch.allclose(drawn, plain)
    share = (drawn == 0).double().mean()
    assert (0.4 < share < 0.6) if option == "dropout" else share == 0  # on the states, or before the GRU


def test_tied_and_separate_tables():
    tied, separate = network_of(Recurrent(dim=6)), network_of(Recurrent(dim=6, tied=False, bias=False))
    assert tied.output().table is tied.items.weight
    assert tied.output().bias is not None
    assert separate.output().table is not separate.items.weight
    assert separate.output().table.shape == (V, 6)
    assert separate.output().bias is None


def test_initial_weights_have_the_stated_bounds():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Recurrent(dim=40).build(VOCAB)
    gru = network.layers[0]
    for gate in (*gru.weight_ih_l0.chunk(3), *gru.weight_hh_l0.chunk(3)):
        assert 0.95 < gate.abs().max() / (6 / 80) ** 0.5 <= 1
    assert not gru.bias_ih_l0.any()
    assert 0.95 < network.items.weight.abs().max() / (6 / (V + 40)) ** 0.5 <= 1


def test_recurrent_refuses():
    with pytest.raises(ContractError, match="layers of at least 1, got layers=0"):
        Recurrent(layers=0)
    with pytest.raises(ContractError, match=r"dropout in \[0, 1\), got dropout=1"):
        Recurrent(dropout=1)
    with pytest.raises(ContractError, match=r"Causal\(\) visibility for a recurrent network, got Full\(\)"):
        network_of(Recurrent(dim=4))(batch_of(ROWS), Full())
