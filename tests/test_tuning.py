"""Which parameters learn, by name."""

from __future__ import annotations

import pytest
from torch import nn

from lmrs.errors import ContractError
from lmrs.testing import check_repr
from lmrs.tuning import Everything, Head, Nothing, Part, apply


def modules(*, head: bool = True) -> nn.ModuleDict:
    network = nn.ModuleDict({"table": nn.Embedding(3, 2), "blocks": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])})
    return nn.ModuleDict({"network": network, **({"head": nn.Linear(2, 1)} if head else {})})


NETWORK = ["table.weight", "blocks.0.weight", "blocks.0.bias", "blocks.1.weight", "blocks.1.bias"]
HEAD = ["head.weight", "head.bias"]


@pytest.mark.parametrize(
    ("tuning", "wanted"),
    [
        (Everything(), [f"network.{name}" for name in NETWORK] + HEAD),
        (Head(), HEAD),
        (Nothing(), []),
        (Part(("table.*",)), ["network.table.weight", *HEAD]),
        (Part(("blocks.1.*",)), ["network.blocks.1.weight", "network.blocks.1.bias", *HEAD]),
        (Part(("*.bias", "table.weight")), ["network.table.weight", "network.blocks.0.bias", "network.blocks.1.bias", *HEAD]),
    ],
)
def test_names_decide(tuning, wanted: list[str]) -> None:
    made = modules()
    tuned, frozen = apply(tuning, made)
    assert tuned == wanted
    assert sorted(tuned + frozen) == sorted(name for name, _ in made.named_parameters())
    assert {name for name, p in made.named_parameters() if p.requires_grad} == set(wanted)


def test_what_was_frozen_can_be_tuned_again() -> None:
    made = modules()
    apply(Nothing(), made)
    apply(Everything(), made)
    assert all(p.requires_grad for p in made.parameters())


def test_a_part_that_matches_nothing_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ContractError, match=r"parameters that match adapter\.\*, got a network of blocks, table; change Part"):
        apply(Part(("adapter.*",)), modules())


def test_case_matters() -> None:
    with pytest.raises(ContractError, match="Table"):
        apply(Part(("Table.*",)), modules())


def test_a_network_part_called_head_is_no_head() -> None:
    network = nn.ModuleDict({"head": nn.Linear(2, 2), "body": nn.Linear(2, 2)})
    made = nn.ModuleDict({"network": network})
    assert apply(Head(), made)[0] == []
    assert apply(Part(("head.*",)), made)[0] == ["network.head.weight", "network.head.bias"]


@pytest.mark.parametrize("tuning", [Everything(), Head(), Nothing(), Part(("blocks.*", "table.*"))])
def test_repr(tuning) -> None:
    check_repr(tuning)
