"""Tiny problems for `fit`, and a program that runs them in processes that may be killed anywhere.

`python fit_runs.py` reads jobs from standard input, one line of JSON each, runs each in a forked process of its own and
answers each with one line of JSON. `Runner` talks to it.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from lmrs import losses, models, objectives, tasks, tuning, views
from lmrs.dataset import Dataset
from lmrs.fit import Execution, Fitted, fit
from lmrs.negatives import Uniform
from lmrs.schedule import Linear
from lmrs.split import Split, leave_one_out
from lmrs.system import Budget, Paper, Stage, System
from lmrs.systems import bert4rec, sasrec
from lmrs.vocab import Vocab

fitting = sys.modules["lmrs.fit"]  # the module: `lmrs.fit` is the function
FILE_OPERATIONS = ("mkdir", "open", "write", "fsync", "rename", "replace", "unlink", "rmdir")


def tiny(*, users: int = 25, items: int = 17, seed: int = 5) -> Split:
    """Random walks of 2 to 11 events (one user has one event) over a ring of items."""
    rng = np.random.default_rng(seed)
    lengths = np.concatenate([[1, 2], rng.integers(3, 12, users - 2)])
    item = np.concatenate([(rng.integers(items) + rng.integers(1, 3, n).cumsum()) % items for n in lengths])
    vocab = Vocab(
        pa.array([f"i{k}" for k in range(items)], pa.large_string()), pa.array([f"u{k}" for k in range(users)], pa.large_string())
    )
    return leave_one_out(Dataset("tiny", vocab, item.astype(np.int32), np.concatenate([[0], lengths.cumsum()])))


def two_stages(*, between: tuple[Stage, ...] = (), epochs: int = 2) -> System:
    """Cloze first, then next item with a part of the weights frozen and a schedule: two optimisers, losses and averages."""
    sequence = views.ItemSequence(max_len=8)
    budget = Budget(epochs=epochs, batch_size=8, patience=None, lr=0.01, average=0.8)
    fine = replace(budget, schedule=Linear(warmup=0.3), weight_decay=0.01, clip=1.0, average=0.9)
    loss = losses.SampledSoftmax(Uniform(k=5, shared=True))
    return System(
        Paper("Two stages", "nobody", 2020),
        models.Transformer(dim=8, layers=1, heads=2, max_len=8, dropout=0.2, attention_dropout=0.1),
        (
            Stage("first", sequence, objectives.Cloze(hide=0.4), tuning.Everything(), budget),
            *between,
            Stage("second", sequence, objectives.NextItem(loss), tuning.Part(("blocks.*", "items.*")), fine),
        ),
        tasks.Ranking(sequence),
    )


def system(name: str) -> System:
    small = {"dim": 8, "layers": 1, "heads": 2, "max_len": 8, "epochs": 4, "batch_size": 8, "lr": 0.01}
    match name:
        case "sasrec":
            return sasrec(**small, dropout=0.3, stride=3, jitter=True)
        case "sasrec-gbce":
            return sasrec(**small, dropout=0.3, loss="gbce", negatives=4)
        case "bert4rec":
            return bert4rec(**small, dropout=0.2, attention_dropout=0.1, hide=0.5, decay=False)
        case "two-stages":
            return two_stages()
        case "three-stages":
            sequence = views.ItemSequence(max_len=8)
            return two_stages(between=(Stage("idle", sequence, objectives.NextItem(), tuning.Nothing()),), epochs=1)
    raise ValueError(name)


def digest(fitted: Fitted) -> dict:
    """What has to be equal, bit for bit: the weights, the log and the counts."""
    weights = hashlib.sha256()
    for name, tensor in sorted(fitted.scorer.state_dict().items()):
        weights.update(name.encode() + tensor.numpy().tobytes())
    return {
        "weights": weights.hexdigest(),
        "log": fitted.log,
        "steps": fitted.steps,
        "targets": fitted.targets,
        "moved": fitted.moved,
    }


def watch(event: Callable[[str], None]) -> None:
    """Calls `event(kind)` before every file operation, backward pass and update, and around every evaluation."""

    def before(kind: str, call: Callable) -> Callable:
        def inner(*args, **kwargs):
            event(kind)
            return call(*args, **kwargs)

        return inner

    for name in FILE_OPERATIONS:
        setattr(os, name, before(name, getattr(os, name)))
    torch.Tensor.backward = before("backward", torch.Tensor.backward)
    torch.optim.AdamW.step = before("update", torch.optim.AdamW.step)
    judge = fitting.judge

    def judged(*args, **kwargs):
        event("judge")
        found = judge(*args, **kwargs)
        event("judged")
        return found

    fitting.judge = judged


def run(job: dict, split: Split) -> dict:
    """One fit of the system called job["system"] in the folder job["out"].

    kill_at: the number of the event before which the process kills itself. signals: [number of the event, signal] pairs.
    resume, checkpoint_every (3): passed on. Returns what `digest` says, the events and metrics.jsonl.
    """
    events: list[str] = []

    def event(kind: str) -> None:
        events.append(kind)
        if len(events) - 1 == job.get("kill_at"):
            os.kill(os.getpid(), signal.SIGKILL)
        for at, number in job.get("signals", []):
            if len(events) - 1 == at:
                os.kill(os.getpid(), number)

    watch(event)
    execution = Execution(device="cpu", checkpoint_every=job.get("checkpoint_every", 3))
    fitted = fit(system(job["system"]), split, out=job["out"], seed=3, resume=job.get("resume", False), execution=execution)
    return {**digest(fitted), "events": events, "metrics": Path(job["out"], "metrics.jsonl").read_text()}


def forked(job: dict, split: Split) -> dict:
    """`run` in a process of its own; {"killed": signal} if it did not live to tell."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        try:
            told = run(job, split)
        except fitting.Interrupted as error:
            told = {"interrupted": error.code, "message": str(error)}
        except BaseException as error:
            told = {"failed": f"{type(error).__name__}: {error}"}
        with os.fdopen(writing, "w") as pipe:
            json.dump(told, pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    status = os.waitpid(child, 0)[1]
    return json.loads(text) if status == 0 else {"killed": os.WTERMSIG(status)}


def warm() -> None:
    """Loads what the first update of a process loads, once for all forks (no backward pass: autograd's threads do not fork)."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    torch.optim.AdamW([parameter], fused=True).step()


class Runner:
    """The program, running; a context manager. Call it with a job (see `run`) to get its answer."""

    def __enter__(self) -> Runner:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        return self

    def __call__(self, **job: object) -> dict:
        self.process.stdin.write(json.dumps(job, default=str) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def __exit__(self, *error: object) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.kill()  # nothing is left to tidy, and a Python with torch takes seconds to leave
        self.process.wait()


if __name__ == "__main__":
    problem = tiny()
    warm()
    with tempfile.TemporaryDirectory() as folder:  # the first fit makes and measures the kernel, for all
        forked({"system": "sasrec", "out": folder}, problem)
    for line in sys.stdin:
        print(json.dumps(forked(json.loads(line), problem)), flush=True)
