"""What a run keeps so that it can be stopped anywhere and go on: where it stands, its log, its checkpoints.

    run/ metrics.jsonl    one line an epoch, without a clock in it
         checkpoints/     step-00000120/ ...; a checkpoint says how long the log was, and what made it

Under torchrun every process reads; process 0 alone writes.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmrs import checkpoint
from lmrs.distributed import Group
from lmrs.errors import CheckpointError
from lmrs.files import storage, write_atomic

CHECKPOINTS, METRICS = "checkpoints", "metrics.jsonl"


@dataclass
class Progress:
    """Where a run stands; JSON in a checkpoint. sums, counts: the epoch's loss so far. log_bytes: length of metrics.jsonl.
    threads, kernels, compile: chosen at the start; 0, None, "" before that. probed: what choices rest on, as in cards.Cost."""

    stage: int = 0
    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    stage_steps: int = 0
    targets: int = 0
    best: float | None = None
    best_epoch: int = -1
    stale: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    log_bytes: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    trained: int = 0
    moved: list[dict[str, int]] = field(default_factory=list)
    before: dict[str, str] = field(default_factory=dict)
    finished: bool = False
    threads: int = 0
    kernels: list[str] | None = None
    compile: str = ""
    probed: dict[str, dict[str, float]] = field(default_factory=dict)


class Journal:
    """The kept state of one run.

    folder: the run folder, or None to keep nothing. identity: what made the run, by name; another one is not gone on with.
    say: told, in one line each, what a person should know. progress, log: as of now.
    """

    def __init__(self, folder: Path | None, identity: dict[str, Any], group: Group, say: Callable[[str], object]) -> None:
        self.folder, self.identity, self.group, self.say = folder, identity, group, say
        self.progress = Progress()
        self.log: list[dict[str, Any]] = []
        self.clock, self.cpu_clock = time.perf_counter(), time.process_time()

    @property
    def newest(self) -> Path | None:
        """The last checkpoint, if there is one."""
        found = checkpoint.steps(self.folder / CHECKPOINTS) if self.folder is not None else []
        return found[-1] if found else None

    def append(self, line: dict[str, Any]) -> None:
        """One more line of the log, durably."""
        self.log.append(line)
        if self.folder is not None and self.group.is_main:
            text = (json.dumps(line) + "\n").encode()
            path = self.folder / METRICS
            with storage(path, size=len(text)), open(path, "ab") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            self.progress.log_bytes += len(text)

    def count_time(self) -> None:
        """Adds what has passed since the last call to `progress`."""
        now, cpu = time.perf_counter(), time.process_time()
        self.progress.seconds += now - self.clock
        self.progress.cpu_seconds += cpu - self.cpu_clock
        self.clock, self.cpu_clock = now, cpu

    def save(
        self,
        weights: dict[str, Tensor],
        best: dict[str, Tensor],
        average: dict[str, Tensor],
        modules: nn.ModuleDict,
        optimizer: torch.optim.Optimizer | None,
    ) -> None:
        """Writes a checkpoint of the weights now, the best ones so far, their average and the optimiser's moments of `modules`,
        durably."""
        if self.folder is None or not self.group.is_main:
            return
        self.count_time()
        tensors = {f"now.{name}": tensor for name, tensor in weights.items()}
        tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
        tensors |= {f"average.{name}": tensor for name, tensor in average.items()}
        if optimizer is not None:
            for name, parameter in modules.named_parameters():
                tensors |= {f"optimizer.{name}|{slot}": value for slot, value in optimizer.state.get(parameter, {}).items()}
        state = {"identity": self.identity, "torch": torch.__version__, "progress": json.loads(json.dumps(asdict(self.progress)))}
        checkpoint.save(self.folder / CHECKPOINTS, checkpoint.step_name(self.progress.total_steps), tensors, state)

    def fresh(self) -> None:
        """A run from the beginning. Raises CheckpointError if the folder has checkpoints already."""
        if self.folder is not None and self.group.is_main:
            if checkpoint.steps(self.folder / CHECKPOINTS):
                raise CheckpointError(
                    needed=f"an empty run folder: {self.folder}",
                    came="one with checkpoints",
                    remedy="add --resume, or choose another --out",
                )
            write_atomic(self.folder / METRICS, b"")
        self.group.barrier()

    def restore(self, *, adopted: tuple[str, ...] = ()) -> dict[str, Tensor] | None:
        """The tensors of the newest whole checkpoint, with `progress` and `log` set; None if there is none.

        adopted: names of the identity that are taken from the checkpoint.

        Raises CheckpointError if it was made by something else (naming what differs) or the log is shorter than it was.
        """
        if self.folder is None:
            raise CheckpointError(needed="a run folder to resume from", came="none", remedy="pass out=")
        folder = self.folder / CHECKPOINTS
        if self.group.is_main:
            with storage(folder):
                checkpoint.recover(folder)
        self.group.barrier()
        found = checkpoint.latest(folder, report=self.say)
        log = self.folder / METRICS
        if found is None:
            self.say("no checkpoint yet: starting from the beginning")
            if self.group.is_main:
                write_atomic(log, b"")
            return None
        tensors, state = checkpoint.load(found)
        made = state.get("identity", {})
        self.identity |= {key: made[key] for key in adopted if key in made}
        changed = [_difference(key, made.get(key), value) for key, value in self.identity.items() if made.get(key) != value]
        if changed:
            raise CheckpointError(
                needed=f"the run that made {found}",
                came="; ".join(changed),
                remedy="use the same system, options, data and seed, or a new --out",
            )
        self.progress = Progress(**state["progress"])
        kept = log.read_bytes()[: self.progress.log_bytes] if log.exists() else b""
        if len(kept) < self.progress.log_bytes:
            raise CheckpointError(
                needed=f"{self.progress.log_bytes} bytes of {log}", came=f"{len(kept)}", remedy="restore the file or start anew"
            )
        try:
            self.log = [json.loads(line) for line in kept.splitlines()]
        except ValueError as error:
            raise CheckpointError(
                needed=f"lines of JSON in {log}", came=str(error), remedy="restore the file or start anew"
            ) from error
        if self.group.is_main:
            write_atomic(log, kept)
        self.say(f"resuming from {found.name}")
        if state["torch"] != torch.__version__:
            self.say(f"it was made with torch {state['torch']}, this is {torch.__version__}: the last bits may differ")
        return tensors


def assign(weights: dict[str, Tensor], tensors: dict[str, Tensor], prefix: str) -> None:
    """Copies saved tensors into the weights by name; raises CheckpointError where one is missing or has another shape."""
    for name, value in weights.items():
        key = prefix + name
        if key not in tensors or tensors[key].shape != value.shape:
            came = "nothing" if key not in tensors else f"shape {list(tensors[key].shape)}"
            raise CheckpointError(
                needed=f"a tensor {name!r} of shape {list(value.shape)}",
                came=came,
                remedy="use the code and options that made it",
            )
        value.copy_(tensors[key])


def assign_optimizer(optimizer: torch.optim.Optimizer, modules: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Gives the optimiser the moments of a checkpoint."""
    parameters = dict(modules.named_parameters())
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            name, slot = key.removeprefix("optimizer.").split("|")
            parameter = parameters[name]
            # Adam's step counter stays where the optimiser made it; moments live with the parameter.
            optimizer.state[parameter][slot] = (
                value.clone() if slot == "step" and parameter.device.type == "cpu" else value.to(parameter.device, copy=True)
            )


def _difference(key: str, was: object, now: object) -> str:
    """What differs between two values of a run's identity: of descriptions, only the pieces that do."""
    before, after = (re.split(r"(?<=[,(])\s*", str(value)) for value in (was, now))
    if len(before) == len(after) > 1:
        pairs = [(a.rstrip(",()"), b.rstrip(",()")) for a, b in zip(before, after, strict=True) if a != b]
        return f"{key} with " + ", ".join(f"{b} (was {a})" for a, b in pairs[:5])
    return f"{key} {_short(now)} (was {_short(was)})"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 120 else text[:117] + "..."
