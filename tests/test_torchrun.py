"""Two real processes under torchrun train what one process trains: same batches, same numbers, same way of stopping."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from fit_runs import tiny

from lmrs import checkpoint
from lmrs.fit import Execution, fit
from lmrs.split import Split
from lmrs.system import System
from lmrs.systems import bert4rec, sasrec

EPOCHS, BATCHES = 17, [9, 9, 1]  # rows of each batch of an epoch: shards of 5 and 4, and one that is empty


def system(name: str) -> System:
    small = {"dim": 8, "layers": 1, "heads": 2, "max_len": 8, "dropout": 0.0, "patience": None}
    small |= {"batch_size": BATCHES[0], "epochs": EPOCHS}
    match name:
        case "softmax":
            return sasrec(**small)
        case "gbce":
            return sasrec(**small, loss="gbce", negatives=4)
        case "bert4rec":
            return bert4rec(**small, hide=0.5)
    raise ValueError(name)


PROGRAM = """
import json, os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, {here!r})
from fit_runs import tiny, two_stages
from test_torchrun import system
from lmrs.distributed import Group
from lmrs.fit import Execution, Interrupted, fit

out, rank = Path({out!r}), int(os.environ["RANK"])
split = tiny()
update = torch.optim.AdamW.step

def at_update(number, act):
    made = []
    def step(self):
        made.append(1)
        if len(made) == number:
            act()
        update(self)
    torch.optim.AdamW.step = step

{body}
Group.current().close()
"""


def torchrun(folder, body: str) -> subprocess.CompletedProcess:
    (folder / "program.py").write_text(PROGRAM.format(here=os.path.dirname(__file__), out=str(folder), body=body))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(folder / "program.py")]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.run(command, capture_output=True, text=True, timeout=500, env=env)


@pytest.fixture(scope="module")
def split() -> Split:
    return tiny()


def weights(folder) -> dict[str, torch.Tensor]:
    tensors, _ = checkpoint.load(checkpoint.latest(folder / "checkpoints", report=pytest.fail))
    return {name: tensor for name, tensor in tensors.items() if name.startswith("now.")}


def assert_close(got, expected, tolerance: float) -> None:
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(got[name], tensor, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


KILLED = """
if rank == 0:
    at_update(8, lambda: os.kill(os.getpid(), signal.SIGKILL))
fit(two_stages(), split, out=out / "killed", seed=3, execution=Execution(device="cpu", checkpoint_every=3))
"""

TRAIN = """
for name in ("softmax", "gbce", "bert4rec"):
    fit(system(name), split, out=out / name, seed=3, execution=Execution(device="cpu"))

# With dropout the pair that goes on has to be as bit-exact as one process is.
fit(two_stages(), split, out=out / "killed", seed=3, resume=True, execution=Execution(device="cpu", checkpoint_every=3))
fit(two_stages(), split, out=out / "whole", seed=3, execution=Execution(device="cpu", checkpoint_every=3))

# Only process 1 is told to stop; both stop at the same step.
if rank == 1:
    at_update(20, lambda: os.kill(os.getpid(), signal.SIGTERM))
try:
    fit(system("softmax"), split, out=out / "stopped", seed=3, execution=Execution(device="cpu"))
except Interrupted as error:
    (out / f"said-{rank}").write_text(f"{error.code} {error}")
"""


def test_two_processes_train_what_one_trains(split, tmp_path):
    rows = system("softmax").stages[0].view.rows(split.train, ahead=1, rng=np.random.default_rng(0))
    assert len(rows) == sum(BATCHES)

    killed = torchrun(tmp_path, KILLED)
    assert killed.returncode != 0
    assert checkpoint.steps(tmp_path / "killed" / "checkpoints")[-1].name == "step-00000006"

    done = torchrun(tmp_path, TRAIN)
    assert done.returncode == 0, done.stderr
    for name in ("softmax", "gbce", "bert4rec"):
        alone = fit(system(name), split, out=tmp_path / "alone" / name, seed=3, execution=Execution(device="cpu"))
        assert alone.steps == EPOCHS * len(BATCHES) >= 50
        assert_close(weights(tmp_path / name), weights(tmp_path / "alone" / name), 1e-6)
        assert len((tmp_path / name / "metrics.jsonl").read_text().splitlines()) == EPOCHS  # one writer

    assert_close(weights(tmp_path / "killed"), weights(tmp_path / "whole"), 0.0)
    assert (tmp_path / "killed" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()

    for rank in (0, 1):
        assert (tmp_path / f"said-{rank}").read_text().startswith("143 stopped at step 20; state saved in ")
    # What two processes began, one ends.
    fit(system("softmax"), split, out=tmp_path / "stopped", seed=3, resume=True, execution=Execution(device="cpu"))
    assert_close(weights(tmp_path / "stopped"), weights(tmp_path / "alone" / "softmax"), 1e-6)
