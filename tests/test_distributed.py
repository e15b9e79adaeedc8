"""Groups of processes: the arithmetic alone, and two real gloo processes under torchrun."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmrs.distributed import Group
from lmrs.errors import UserError


@given(rows=st.integers(0, 50), size=st.integers(1, 9))
def test_shards_are_an_even_partition(rows, size):
    shards = [list(range(rows))[Group(rank, size).shard(rows)] for rank in range(size)]
    assert sorted(row for shard in shards for row in shard) == list(range(rows))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    group = Group.current()
    assert (group.rank, group.size, group.is_main, group.device) == (0, 1, True, "cpu")
    values = torch.arange(3.0)
    group.sum_([values])
    group.broadcast_([values])
    group.barrier()
    group.close()
    assert values.tolist() == [0, 1, 2]
    assert [group.any(False), group.any(True)] == [False, True]
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    assert Group.current() == group
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("rank", "size", "message"),
    [
        ("2", "2", "RANK below WORLD_SIZE, got RANK=2, WORLD_SIZE=2"),
        ("-1", "2", "RANK=-1"),
        (None, "2", "a whole number in RANK, got ''; start with torchrun"),
        ("0", "two", "a whole number in WORLD_SIZE, got 'two'"),
    ],
)
def test_an_environment_that_makes_no_sense(monkeypatch, rank, size, message):
    monkeypatch.setenv("WORLD_SIZE", size)
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    with pytest.raises(UserError, match=message):
        Group.current()


def torchrun(program: str, folder, processes: int) -> subprocess.CompletedProcess:
    (folder / "program.py").write_text(program)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.run([*command, str(folder / "program.py"), str(folder)], capture_output=True, text=True, timeout=100)


TOGETHER = """
import sys
from pathlib import Path
import torch
import lmrs.distributed as distributed
from lmrs.distributed import Group

distributed.BUCKET = 10  # so that one list needs several buckets
group = Group.current()
assert Group.current() == group
assert group.size == 2 and group.is_main == (group.rank == 0)
mine = 1 + group.rank

# Sums: mixed types and shapes, strided and empty tensors and a parameter, in place.
base = torch.arange(12.0).reshape(3, 4) * mine
turned = base.t()
weight = torch.nn.Parameter(torch.full((3,), float(mine)))
whole = [torch.tensor(mine), torch.tensor([True, group.rank == 1]), torch.tensor([2**53 + mine])]
halves = torch.tensor([1.0, 2.0]).bfloat16() * mine
empty = torch.zeros(0, 3)
wide = torch.full((25,), 0.5, dtype=torch.float64)
group.sum_([turned, weight, *whole, halves, empty, wide])
assert torch.equal(base, torch.arange(12.0).reshape(3, 4) * 3)
assert weight.tolist() == [3.0] * 3
assert [t.tolist() for t in whole] == [3, [True, True], [2**54 + 3]]
assert halves.tolist() == [3.0, 6.0] and halves.dtype == torch.bfloat16
assert wide.tolist() == [1.0] * 25

# Copies are bit for bit, NaN payloads included.
bits = torch.tensor([0x7FC01234, 0x80000001 - 2**32, 0], dtype=torch.int32) * (group.rank == 0)
floats, flags, turned = bits.view(torch.float32), torch.tensor([group.rank == 0]), torch.full((2, 3), group.rank).t()
group.broadcast_([floats, flags, turned])
assert bits.tolist() == [0x7FC01234, 0x80000001 - 2**32, 0]
assert flags.tolist() == [True] and turned.eq(0).all()

assert not group.any(False) and group.any(group.rank == 1) and group.any(True)

# A batch of 5 rows: shards of 3 and 2; sum and count over the shards equal those of the batch.
rows = torch.arange(5.0) ** 3
part = rows[group.shard(5)]
assert len(part) == 3 - group.rank
totals = [part.sum(), torch.tensor(len(part))]
group.sum_(totals)
assert [t.item() for t in totals] == [rows.sum().item(), 5]

group.barrier()
Path(sys.argv[1], f"done-{group.rank}").touch()
group.close()
"""


def test_two_processes(tmp_path):
    done = torchrun(TOGETHER, tmp_path, 2)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.glob("done-*")} == {"done-0", "done-1"}


DESERTED = """
import os, sys
from pathlib import Path
from lmrs.distributed import Group
from lmrs.errors import UserError

group = Group.current()
group.barrier()
if group.rank == 1:
    os._exit(0)
try:
    group.barrier()
except UserError as error:
    Path(sys.argv[1], "said").write_text(str(error))
os._exit(0)
"""


def test_a_process_that_disappears(tmp_path):
    done = torchrun(DESERTED, tmp_path, 2)
    assert done.returncode == 0, done.stderr
    said = (tmp_path / "said").read_text()
    assert said.startswith("needed all 2 processes, got a broken connection (")
    assert said.endswith("; look for the first process that failed, then start again with --resume")
