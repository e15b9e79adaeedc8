"""Systems as JSON: nothing is lost, nothing is run, and what does not fit is said."""

from __future__ import annotations

import inspect
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmrs import describe, losses, models, objectives, schedule, system, tasks, tuning, views
from lmrs.errors import CheckpointError, ContractError, UserError
from lmrs.systems import CATALOGUE, sasrec


def round_trip(value: object) -> Any:
    return describe.from_json(json.loads(json.dumps(describe.to_json(value), allow_nan=False)))


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_system_comes_back_equal(name: str) -> None:
    made = CATALOGUE[name]()
    back = round_trip(made)
    assert back == made
    assert repr(back) == repr(made)
    assert back.departures == made.departures  # not part of equality


def options() -> list[tuple[str, dict[str, Any]]]:
    """Every system with every option changed alone, where another value can be guessed from its kind."""
    out = []
    for name, function in CATALOGUE.items():
        for key, each in inspect.signature(function).parameters.items():
            value = each.default
            if isinstance(value, bool):
                out.append((name, {key: not value}))
            elif isinstance(value, int) and key not in ("heads", "max_len"):
                out.append((name, {key: 2 * value if key == "dim" else value + 2}))  # heads divide the width
            elif isinstance(value, float):
                out.append((name, {key: value / 2}))
    return out


@pytest.mark.parametrize(("name", "given_"), options(), ids=lambda x: x if isinstance(x, str) else next(iter(x)))
def test_every_option_survives(name: str, given_: dict[str, Any]) -> None:
    if given_.keys() & {"jitter", "once"}:
        given_ = {**given_, "stride": 10}
    made = CATALOGUE[name](**given_)
    assert round_trip(made) == made


def test_a_repr_evaluates_back() -> None:
    """No two parts share a name, so the text of a description says which are meant."""
    known = {part.__name__: part for part in describe.register().values()}
    assert len(known) == len(describe.register())
    for function in CATALOGUE.values():
        made = function()
        assert eval(repr(made), {"__builtins__": {}}, known) == made


NUMBERS = st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.floats(), st.text())


@settings(max_examples=150, deadline=None)
@given(st.recursive(NUMBERS, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=8))
def test_plain_values_survive(value: object) -> None:
    back = round_trip(value)
    assert back == value or repr(back) == repr(value)  # nan is not equal to itself
    assert type(back) is type(value)


def test_numbers_keep_their_kind() -> None:
    assert repr(round_trip(1.0)) == "1.0"
    assert repr(round_trip(1)) == "1"
    assert round_trip(math.inf) == math.inf


@pytest.mark.parametrize("value", [[1], {"a": 1}, {1}, object(), b"x", describe, sasrec])
def test_what_is_no_description_is_refused(value: object) -> None:
    with pytest.raises(ContractError, match="needed descriptions made of frozen dataclasses"):
        describe.to_json(value)


def test_unknown_kinds_and_fields_are_named_with_the_nearest() -> None:
    good = describe.to_json(sasrec())
    with pytest.raises(CheckpointError, match=r"got 'models.Transfomer'; did you mean models.Transformer"):
        describe.from_json({**good, "model": {**good["model"], "kind": "models.Transfomer"}})
    with pytest.raises(CheckpointError, match=r"needed fields of models.Transformer, got 'dims'; did you mean dim"):
        describe.from_json({**good, "model": {**good["model"], "dims": 3}})
    with pytest.raises(CheckpointError, match=r"needed the field 'view' of tasks.Ranking, got none"):
        describe.from_json({"kind": "tasks.Ranking"})
    with pytest.raises(CheckpointError, match="needed the description of a System, got BCE"):
        describe.system_from_json(describe.to_json(losses.BCE()))
    with pytest.raises(CheckpointError, match="a kind of part"):
        describe.from_json({"no": "kind"})


def test_values_of_another_type_are_no_traceback() -> None:
    good = describe.to_json(models.Transformer())
    with pytest.raises(CheckpointError, match=r"values that make a models.Transformer"):
        describe.from_json({**good, "dim": "wide"})
    with pytest.raises(ContractError, match="heads that divide dim"):
        describe.from_json({**good, "dim": 63})


OWN = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Chain:
    order: int = 1

@dataclass
class Loose:
    order: int = 1

class Plain:
    pass
"""


def test_a_class_of_ones_own_is_found_in_its_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(OWN)
    chain = describe.load_file(file).Chain(order=3)
    described = describe.to_json(chain)
    assert described == {"kind": "Chain", "file": str(file), "order": 3}
    assert describe.from_json(described) == chain
    assert describe.files([described, described]) == [file]
    with pytest.raises(
        CheckpointError, match=r"needed the dataclass Chian in .*mine.py, got none of that name; did you mean Chain"
    ):
        describe.from_json({**described, "kind": "Chian"})
    with pytest.raises(CheckpointError, match="needed the dataclass Plain"):
        describe.from_json({**described, "kind": "Plain"})
    with pytest.raises(ContractError, match="frozen dataclass"):
        describe.to_json(describe.load_file(file).Loose())
    with pytest.raises(UserError, match=r"gone.py, got no such file"):
        describe.from_json({**described, "file": str(tmp_path / "gone.py")})


def test_code_in_the_folder_that_is_loaded_is_never_run(tmp_path: Path) -> None:
    canary = tmp_path / "ran"
    bad = tmp_path / "model" / "bad.py"
    bad.parent.mkdir()
    bad.write_text(f"open({str(canary)!r}, 'w')\n{OWN}")
    for file in (str(bad), str(tmp_path / "model" / ".." / "model" / "bad.py")):
        with pytest.raises(CheckpointError, match="code outside the folder"):
            describe.from_json({"kind": "Chain", "file": file, "order": 1}, forbidden=bad.parent)
    assert not canary.exists()


def test_a_file_that_does_not_run_is_told_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("x = 1\ny = undefined_name\n")
    with pytest.raises(UserError, match=r"NameError: name 'undefined_name' is not defined \(line 2\)"):
        describe.load_file(file)
    file.write_text("def f(:\n")
    with pytest.raises(UserError, match=r"SyntaxError: .*\(line 1\)"):
        describe.load_file(file)


@dataclass(frozen=True)
class Here:
    """A class at the top of a file, imported in the ordinary way."""

    x: tuple[int, ...] = (1, 2)


def test_an_imported_class_is_found_again_without_running_its_file_twice() -> None:
    assert round_trip(Here((3,))) == Here((3,))

    @dataclass(frozen=True)
    class Local:
        x: int = 1

    with pytest.raises(ContractError, match="classes at the top of a file"):
        describe.to_json(Local())


@dataclass(frozen=True)
class Clash:
    kind: str = "x"


def test_a_part_is_found_without_the_others() -> None:
    for kind, part in describe.register().items():
        assert describe.part_of(kind) is part
        assert describe._kind(part) == {"kind": kind}
    for kind in ("models.Transformr", "models.Network", "texts.Policy", "models", "testing.tiny", "float", ".", ""):
        assert describe.part_of(kind) is None


def test_a_field_named_kind_would_be_lost() -> None:
    with pytest.raises(ContractError, match="without fields named kind or file"):
        describe.to_json(Clash())


def test_the_register_holds_every_kind_of_part() -> None:
    kinds = set(describe.register())
    assert {"models.Transformer", "objectives.Cloze", "tasks.Ranking", "system.System", "tuning.Part"} <= kinds
    for area, module in {"models": models, "objectives": objectives, "views": views, "tasks": tasks}.items():
        assert module.__all__
        assert any(kind.startswith(area) for kind in kinds)
    for value in (tuning.Part(("a.*",)), schedule.Linear(warmup=0.1), system.Budget(clip=None), losses.GBCE(t=0.5)):
        assert round_trip(value) == value
