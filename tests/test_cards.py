"""Protocol and cost cards: JSON there and back, what makes numbers incomparable, what a block of work took."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import fields, replace

import pytest

from lmrs.cards import BINDING, Cost, Meter, Protocol, Spent, differences, metered
from lmrs.errors import CheckpointError

CARD = Protocol(
    data="ml-100k", data_hash="ab12", users=943, items=1682, events=100_000, split="leave-one-out", queries=943, system="sasrec",
    parameters={"max_valid": None}, settings={"dim": 64}, objective="softmax", seeds=(0, 1),
)  # fmt: skip
COST = Cost(
    fit=Spent(12.5, 20, 10**9), parameters_total=100, parameters_trained=90, targets=5, probes={"gemm_gflops": 50.0},
    probed={"threads": {"2": 0.86}},
)  # fmt: skip


def test_cards_come_back_from_json_as_they_were():
    assert Protocol.from_dict(json.loads(json.dumps(CARD.to_dict()))) == CARD
    assert Cost.from_dict(json.loads(json.dumps(COST.to_dict()))) == COST
    assert Cost.from_dict(json.loads(json.dumps(Cost().to_dict()))) == Cost()


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (Protocol, {"splt": "x"}, "needed a protocol card of this version of lmrs, got a field 'splt'; did you mean split"),
        (Protocol, {"queries": "many"}, "a protocol card whose queries is a int, got 'many'"),
        (Protocol, {"split": None}, "a protocol card whose split is a str, got None"),
        (Cost, {"fit": {"wall_s": 1.0}}, "a cost card, fit, with the field 'cpu_s'"),
        (Cost, {"fit": 3}, "a cost card, fit, with named fields, got int"),
    ],
)
def test_cards_that_were_changed_are_refused(kind, change, message):
    whole = (CARD if kind is Protocol else COST).to_dict()
    with pytest.raises(CheckpointError, match=message):
        kind.from_dict({**whole, **change})


def test_a_card_without_a_needed_field_is_refused():
    values = CARD.to_dict()
    del values["data_hash"]
    with pytest.raises(CheckpointError, match="needed a protocol card with the field 'data_hash'"):
        Protocol.from_dict(values)


def test_every_field_either_binds_or_may_differ():
    free = {"data", "users", "items", "events", "system", "settings", "objective", "negatives", "seeds", "version", "k"}
    assert {each.name for each in fields(Protocol)} == free | set(BINDING)
    for name in free:
        other = {"settings": {"dim": 1}, "seeds": (7,)}.get(name, 99 if isinstance(getattr(CARD, name), int) else "other")
        assert differences(CARD, replace(CARD, **{name: other})) == []


@pytest.mark.parametrize("name", BINDING)
def test_what_makes_numbers_incomparable_is_named_with_both_values(name):
    other = {"parameters": {"max_valid": 5}, "queries": 7}.get(name, "other")
    found = differences(CARD, replace(CARD, **{name: other}))
    assert [each.field for each in found] == [name]
    assert str(found[0]) == f"{name}: {getattr(CARD, name)} against {other}"
    assert (found[0].a, found[0].b) == (getattr(CARD, name), other)


def test_sampled_and_exact_numbers_are_not_comparable():
    found = differences(CARD, replace(CARD, candidates="99 uniform negatives", seen="ranked too"))
    assert [str(each) for each in found] == ["candidates: all against 99 uniform negatives", "seen: left out against ranked too"]


def test_a_metered_block_shows_wall_and_cpu_apart():
    with metered() as meter:
        time.sleep(0.05)
    asleep = meter.spent
    assert asleep.wall_s >= 0.05
    assert asleep.cpu_s < asleep.wall_s
    assert meter.spent is asleep  # stopped
    with metered() as meter:
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass
    assert meter.spent.cpu_s >= 0.05


def test_a_metered_block_counts_where_it_fails():
    meters: list[Meter] = []

    def work():
        with metered() as meter:
            meters.append(meter)
            raise KeyError("nothing")

    with pytest.raises(KeyError):
        work()
    assert meters[0].spent is meters[0].spent


def test_a_metered_block_sees_memory_in_bytes():
    # In a process of its own: the peak is that of the whole process so far.
    code = """
from lmrs.cards import metered, peak_memory_bytes
before = peak_memory_bytes()
with metered() as meter:
    block = bytearray(256 * 2**20)
    block[:] = bytes(len(block) // 2) * 2
print(before, meter.spent.peak_memory_bytes)
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    before, after = map(int, shown.split())
    assert 2**24 < before < 2**30
    assert before + 200 * 2**20 < after < before + 1024 * 2**20
