"""Checkpoints: bit-exact round trips, and every byte and every file operation attacked."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from lmrs.checkpoint import latest, load, recover, save, step_name, steps, verify
from lmrs.errors import CheckpointError, StorageError

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
]


def example(step: int) -> tuple[dict[str, torch.Tensor], dict]:
    """Tensors and state that depend on the step."""
    rng = torch.Generator().manual_seed(step)
    tensors = {
        "weight": torch.randn(7, 5, generator=rng),
        "half": torch.randn(3, generator=rng).bfloat16(),
        "count": torch.tensor(step),
        "empty": torch.zeros(0, 4),
        "flags": torch.rand(9, generator=rng) < 0.5,
    }
    return tensors, {"step": step, "loss": 1 / (step + 3), "name": "é", "best": None, "log": [1, [2.5, "x"]]}


def bits(tensor: torch.Tensor) -> tuple:
    return tensor.dtype, tuple(tensor.shape), tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


def assert_holds(path, step: int) -> None:
    tensors, state = load(path)
    expected_tensors, expected_state = example(step)
    assert {k: bits(v) for k, v in tensors.items()} == {k: bits(v) for k, v in expected_tensors.items()}
    assert state == expected_state


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def nobody(text: str) -> None:
    raise AssertionError(f"nothing to report, yet: {text}")


# Round trips


def test_round_trip(tmp_path):
    path = save(tmp_path / "new" / "checkpoints", step_name(3), *example(3))
    assert path == tmp_path / "new" / "checkpoints" / "step-00000003"
    assert names(path) == ["manifest.json", "state.json", "tensors.safetensors"]
    assert_holds(path, 3)


@given(data=st.data())
def test_any_bits_round_trip(data, tmp_path_factory):
    """Random bytes as any type (NaN payloads and denormals included) and any shape (0-dim included) come back as they were."""
    folder, tensors = tmp_path_factory.mktemp("c"), {}
    for name in data.draw(st.lists(st.text(min_size=1, max_size=4), max_size=4, unique=True)):
        dtype = data.draw(st.sampled_from(DTYPES))
        shape = data.draw(st.lists(st.integers(0, 3), max_size=3))
        size = torch.empty(shape).numel() * dtype.itemsize
        raw = data.draw(st.binary(min_size=size, max_size=size))
        tensors[name] = torch.frombuffer(bytearray(raw), dtype=dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype)
    back, _ = load(save(folder, step_name(1), tensors, {}))
    assert {k: bits(v) for k, v in back.items()} == {k: bits(v) for k, v in tensors.items()}


def test_the_library_reads_the_tensors_file(tmp_path):
    tensors, state = example(1)
    direct = load_file(save(tmp_path, step_name(1), tensors, state) / "tensors.safetensors")
    assert {k: bits(v) for k, v in direct.items()} == {k: bits(v) for k, v in tensors.items()}


def test_tied_tensors_stay_tied(tmp_path):
    table = torch.randn(4, 3)
    parameter = torch.nn.Parameter(table)
    tensors = {"in": table, "out": parameter, "turned": table.T, "row": table[0], "equal": table.clone()}
    path = save(tmp_path, step_name(1), tensors, {"tied": "mine"})
    assert set(load_file(path / "tensors.safetensors")) == {"in", "turned", "row", "equal"}
    back, state = load(path)
    assert {k: bits(v) for k, v in back.items()} == {k: bits(v.detach()) for k, v in tensors.items()}
    assert back["out"] is back["in"]
    assert back["equal"].data_ptr() != back["in"].data_ptr()
    assert state == {"tied": "mine"}


@pytest.mark.parametrize(
    "state", [{"a": (1, 2)}, {1: "a"}, {"a": float("nan")}, {"a": float("inf")}, {"a": torch.tensor(1)}, {"a": b"x"}]
)
def test_state_that_json_would_change(tmp_path, state):
    with pytest.raises((TypeError, ValueError), match=r"JSON|serializable"):
        save(tmp_path, step_name(1), {}, state)
    assert names(tmp_path) == []


def test_refused_arguments(tmp_path):
    with pytest.raises(ValueError, match=r"such as step-00000120, not '../x-1'"):
        save(tmp_path, "../x-1", {}, {})
    with pytest.raises(ValueError, match="keep=0"):
        save(tmp_path, step_name(1), {}, {}, keep=0)
    with pytest.raises(TypeError, match=r"tensor 'c': torch.complex64 has no place"):
        save(tmp_path, step_name(1), {"c": torch.zeros(1, dtype=torch.complex64)}, {})
    assert names(tmp_path) == []


# Which ones are kept, which one is taken


def test_older_ones_beyond_keep_are_deleted(tmp_path):
    assert latest(tmp_path / "none", report=nobody) is None
    assert latest(tmp_path, report=nobody) is None
    for step in (1, 9, 10, 100_000_000, 1_000_000_000):  # the last two outgrow the eight digits: numbers order, not text
        save(tmp_path, step_name(step), *example(step))
        assert_holds(latest(tmp_path, report=nobody), step)
    assert [path.name for path in steps(tmp_path)] == ["step-100000000", "step-1000000000"]
    save(tmp_path, "step-1000000001", *example(2), keep=1)
    assert names(tmp_path) == ["step-1000000001"]


def test_going_back_never_deletes_what_was_just_saved(tmp_path):
    for step in (10, 20, 30):
        save(tmp_path, step_name(step), *example(step), keep=3)
    save(tmp_path, step_name(15), *example(15), keep=1)
    assert names(tmp_path) == [step_name(15), step_name(20), step_name(30)]


def test_replacing_one(tmp_path):
    save(tmp_path, step_name(5), *example(1))
    save(tmp_path, step_name(5), *example(2))
    assert names(tmp_path) == [step_name(5)]
    assert_holds(tmp_path / step_name(5), 2)


def damage(path):
    file = path / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def test_a_damaged_newest_one_is_passed_over_aloud(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step_name(step), *example(step), keep=3)
    damage(tmp_path / step_name(3))
    said = []
    assert latest(tmp_path, report=said.append) == tmp_path / step_name(2)
    [line] = said
    assert line.startswith("step-00000003 is damaged (needed ")
    assert "step-00000003/tensors.safetensors" in line
    with pytest.raises(CheckpointError, match=r"step-00000003/tensors.safetensors"):
        latest(tmp_path, report=nobody, strict=True)
    damage(tmp_path / step_name(2))
    damage(tmp_path / step_name(1))
    with pytest.raises(CheckpointError, match=r"step-00000001/tensors.safetensors"):  # never silently from the beginning
        latest(tmp_path, report=said.append)


def test_other_things_in_the_folder_are_left_alone(tmp_path):
    (tmp_path / "notes-1.txt").write_text("mine")
    (tmp_path / "step-7").write_text("a file")
    (tmp_path / ".hidden-folder").mkdir()
    for step in (1, 2, 3):
        save(tmp_path, step_name(step), *example(step), keep=1)
    assert names(tmp_path) == [".hidden-folder", "notes-1.txt", "step-00000003", "step-7"]
    assert steps(tmp_path) == [tmp_path / step_name(3)]


# Damage


def test_every_flipped_byte_is_noticed(tmp_path):
    path = save(tmp_path, step_name(1), *example(1))
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        for at in range(len(whole)):
            changed = bytearray(whole)
            changed[at] ^= 1 << at % 8
            file.write_bytes(changed)
            with pytest.raises(CheckpointError, match=rf"{file}|{path}/(state.json|tensors.safetensors)"):
                load(path)
        file.write_bytes(whole)
    assert_holds(path, 1)


def test_every_cut_is_noticed(tmp_path):
    path = save(tmp_path, step_name(1), *example(1))
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        for length in [*range(0, len(whole), 3), len(whole) - 1, len(whole) + 1]:
            file.write_bytes((whole + b"\n")[:length])
            with pytest.raises(CheckpointError, match=str(file)):
                load(path)
        file.unlink()
        with pytest.raises(CheckpointError, match=rf"{file}, got No such file or directory"):
            load(path)
        file.write_bytes(whole)
    assert_holds(path, 1)


@pytest.mark.parametrize(
    "text", ["[]", "{}", "1", "null", '{"format": 2, "files": []}', '{"format": 2, "files": {"state.json": 3}}', "[" * 9999]
)
def test_manifests_of_other_shapes(tmp_path, text):
    path = save(tmp_path, step_name(1), *example(1))
    (path / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"manifest.json, got a damaged one"):
        verify(path)


def test_a_format_of_another_time(tmp_path):
    path = save(tmp_path, step_name(1), *example(1))
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "format": 3}, indent=1) + "\n")
    with pytest.raises(CheckpointError, match=r"needed a checkpoint of format 2 in .*manifest.json, got format 3"):
        load(path)


# Every file operation made to fail. `os` is wrapped, so the k-th call of any kind can be the one that goes wrong.

OPERATIONS = ("mkdir", "open", "write", "fsync", "rename", "unlink", "rmdir")


class Faults:
    """Counts calls of the file layer and fails number `at`, or all from `at` on (a disk that is full stays full)."""

    def __init__(self, monkeypatch, *, at: int = -1, code: int = errno.ENOSPC, stays: bool = False) -> None:
        self.calls: list[tuple] = []
        for name in OPERATIONS:
            monkeypatch.setattr(os, name, self.wrapped(name, getattr(os, name), at, code, stays))

    def wrapped(self, name, call, at, code, stays):
        def inner(*args, **kwargs):
            number = len(self.calls)
            self.calls.append((name, *args))
            if number == at or (stays and number > at >= 0 and name in ("mkdir", "open", "write", "fsync")):
                raise OSError(code, os.strerror(code))
            return call(*args, **kwargs)

        return inner


def prepared(folder, *, replacing: bool) -> None:
    """Two checkpoints and the leftovers of two killed saves; step 3 is there too if it is to be replaced."""
    for step in (1, 2, 3) if replacing else (1, 2):
        save(folder, step_name(step), *example(step if step < 3 else 30), keep=3)
    (folder / ".saving-step-00000009").mkdir()
    (folder / ".saving-step-00000009" / "tensors.safetensors").write_bytes(b"half")
    (folder / ".dropped-step-00000000").mkdir()


@pytest.mark.parametrize("replacing", [False, True])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("stays", [False, True])
def test_a_disk_that_refuses_any_one_operation(tmp_path, replacing, code, stays):
    at = saved = 0
    while True:
        folder = tmp_path / str(at)
        prepared(folder, replacing=replacing)
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, at=at, code=code, stays=stays)
            try:
                save(folder, step_name(3), *example(3))
                failed = None
            except StorageError as error:
                failed = str(error)
        if len(faults.calls) <= at:
            assert failed is None
            break
        assert failed is not None, f"operation {at} {faults.calls[at]} failed unnoticed"
        assert str(folder) in failed
        assert os.strerror(code) in failed
        if faults.calls[at][0] == "write":
            assert "bytes in " in failed
        # What was there still stands, before and after the folder is put in order.
        recover(folder)
        whole = latest(folder, report=nobody)
        if replacing:
            state = load(whole)[1]
            assert state["step"] in (30, 3)
            saved += state["step"] == 3
        else:
            assert whole.name in (step_name(2), step_name(3))
            assert_holds(whole, int(whole.name[-1]))
            saved += whole.name == step_name(3)
        save(folder, step_name(4), *example(4))
        assert_holds(latest(folder, report=nobody), 4)
        assert len(names(folder)) == 2
        at += 1
    assert at > 25
    assert 0 < saved < at  # faults on both sides of the rename were tried


def test_a_disk_that_writes_less_than_asked(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[: max(1, len(data) // 3)]))
    path = save(tmp_path, step_name(1), *example(1))
    monkeypatch.undo()
    assert_holds(path, 1)


def test_everything_is_durable_before_it_counts_and_before_anything_is_deleted(tmp_path, monkeypatch):
    for step in (1, 2):
        save(tmp_path, step_name(step), *example(step))
    faults = Faults(monkeypatch)
    save(tmp_path, step_name(3), *example(3))
    monkeypatch.undo()
    saving, final = tmp_path / ".saving-step-00000003", tmp_path / step_name(3)
    kinds = [(call[0], call[1] if call[0] == "open" else None) for call in faults.calls]
    for name in ("tensors.safetensors", "state.json", "manifest.json"):
        opened = kinds.index(("open", saving / name))
        following = [kind for kind, _ in kinds[opened + 1 :]]
        until_next = following[: following.index("open")]
        assert until_next == ["write"] * (len(until_next) - 1) + ["fsync"]
        assert len(until_next) > 1
    rename = kinds.index(("rename", None))
    assert faults.calls[rename] == ("rename", saving, final)
    assert kinds[rename - 2 : rename] == [("open", saving), ("fsync", None)]
    assert kinds[rename + 1 : rename + 3] == [("open", tmp_path), ("fsync", None)]
    assert not {"unlink", "rmdir"} & {kind for kind, _ in kinds[:rename]}


# kill -9 between any two file operations, in real processes

KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_checkpoint import OPERATIONS, example, prepared
from lmrs.checkpoint import save, step_name

def die_at(at):
    made = 0
    def wrapped(call):
        def inner(*args, **kwargs):
            nonlocal made
            if made == at:
                os.kill(os.getpid(), signal.SIGKILL)
            made += 1
            return call(*args, **kwargs)
        return inner
    for name in OPERATIONS:
        setattr(os, name, wrapped(getattr(os, name)))

for replacing in (False, True):
    at = 0
    while True:
        folder = Path(sys.argv[1], f"{replacing}-{at}")
        prepared(folder, replacing=replacing)
        child = os.fork()
        if not child:
            die_at(at)
            save(folder, step_name(3), *example(3))
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        at += 1
"""


def test_kill_9_between_any_two_file_operations(tmp_path):
    here = os.path.dirname(__file__)
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), here], check=True, timeout=100)
    kills = {False: 0, True: 0}
    found = set()
    for folder in sorted(tmp_path.iterdir()):
        replacing = folder.name.startswith("True")
        kills[replacing] += 1
        recover(folder)
        whole = latest(folder, report=nobody)
        state = load(whole)[1]
        assert state["step"] in ((30, 3) if replacing else (2, 3))
        found.add((replacing, state["step"]))
        save(folder, step_name(3), *example(3))
        assert names(folder) == [step_name(2), step_name(3)]
        assert_holds(folder / step_name(3), 3)
    assert min(kills.values()) > 25
    assert found == {(False, 2), (False, 3), (True, 30), (True, 3)}
