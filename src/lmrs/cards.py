"""The two cards beside every number: how it was measured (Protocol) and what it cost (Cost)."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from lmrs import __version__
from lmrs.dataset import TIE_RULE
from lmrs.errors import CheckpointError, did_you_mean

SCORE_TIES = "at random by hash of (seed, query, item)"


@dataclass(frozen=True)
class Protocol:
    """Everything a number depends on besides the system, and the system.

    data, data_hash: the Dataset's name and fingerprint. users, items, events: its size. filter: what was dropped before
    the split ("none", "5-core", ...). split: its name; parameters: its arguments (JSON values); part: "test" or "valid".
    time_ties: order of events with equal times. score_ties: order of candidates with equal scores.
    candidates: "all", or such as "99 uniform negatives". seen: what becomes of items the user already had.
    queries: how many were asked. k: length of the lists kept.
    system: its name; settings: its keywords (JSON values). objective, negatives: what it learned from.
    seeds: of the fit, one a run. version: of lmrs.
    """

    data: str
    data_hash: str
    users: int
    items: int
    events: int
    split: str
    queries: int
    system: str
    filter: str = "none"
    parameters: dict[str, Any] = field(default_factory=dict)
    part: str = "test"
    time_ties: str = TIE_RULE
    score_ties: str = SCORE_TIES
    candidates: str = "all"
    seen: str = "left out"
    k: int = 10
    settings: dict[str, Any] = field(default_factory=dict)
    objective: str = ""
    negatives: str = ""
    seeds: tuple[int, ...] = ()
    version: str = __version__

    def to_dict(self) -> dict[str, Any]:
        """JSON values, every field by its name."""
        return {**asdict(self), "seeds": list(self.seeds)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Protocol:
        """Inverse of `to_dict`. Raises CheckpointError for a missing or unknown field or one of another type."""
        known = _checked("protocol card", cls, values)
        return cls(**{**known, "seeds": tuple(known.get("seeds", ()))})


# Scores may be compared only where these agree. The system, its settings, loss, seeds and version may differ, and so may the
# data's name and the length of the lists; users, items and events follow from the data's hash.
BINDING = ("data_hash", "filter", "split", "parameters", "part", "time_ties", "score_ties", "candidates", "seen", "queries")


@dataclass(frozen=True)
class Difference:
    """A field that makes two numbers incomparable, with both values."""

    field: str
    a: object
    b: object

    def __str__(self) -> str:
        return f"{self.field}: {_short(self.a)} against {_short(self.b)}"


def differences(a: Protocol, b: Protocol) -> list[Difference]:
    """The fields for which numbers of `a` and of `b` must not be compared, in the order of BINDING; [] if they may be."""
    values = [(name, getattr(a, name), getattr(b, name)) for name in BINDING]
    return [Difference(*value) for value in values if value[1] != value[2]]


@dataclass(frozen=True)
class Spent:
    """What a piece of work took.

    wall_s, cpu_s: seconds; CPU time is that of all threads of this process. peak_memory_bytes: the largest resident size the
    process has had by the end of the work, in bytes - what came before counts too, so measure in a fresh process.
    """

    wall_s: float
    cpu_s: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class Cost:
    """What a result cost.

    fit, evaluate: what each took, or None if it was not done here. parameters_total, parameters_trained: numbers, not bytes.
    bytes_on_disk: of the saved recommender. targets: events (or tokens) the loss charged, counted again each epoch.
    threads: of computation. device: "cpu" or the accelerator's name. dtype: of the weights. precision: of the fit's products.
    kernels: what the kernels in C did of the fit and its validation, of "softmax", "attention" and "ranking"; the rest torch did.
    compile: whether the fit's blocks went through torch.compile, "on" or "off"; "untried" is off because the run was too short to
    try, "unable" because torch could not.
    probed: what was measured at the start to choose "threads", "precision", each task of the kernels and "compile": the rate of
    each way not taken, as a multiple of that of the way taken - of updates for threads ({"2": 0.86}), of products for the
    precision ({"bf16-loss": 1.2}), of the task for a kernel's ({"torch": 0.7}), of a block for compiling ({"on": 0.75}).
    device_memory_bytes: peak on the accelerator, None without one. probes: named measurements of this machine (JSON
    numbers) that let seconds from two machines be read side by side.
    """

    fit: Spent | None = None
    evaluate: Spent | None = None
    parameters_total: int = 0
    parameters_trained: int = 0
    bytes_on_disk: int = 0
    targets: int = 0
    threads: int = 1
    device: str = "cpu"
    dtype: str = "float32"
    precision: str = "fp32"
    kernels: list[str] = field(default_factory=list)
    compile: str = "off"
    probed: dict[str, dict[str, float]] = field(default_factory=dict)
    device_memory_bytes: int | None = None
    probes: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON values, every field by its name."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Cost:
        """Inverse of `to_dict`. Raises CheckpointError for a missing or unknown field or one of another type."""
        known = _checked("cost card", cls, values)
        for name in ("fit", "evaluate"):
            if known.get(name) is not None:
                known[name] = Spent(**_checked(f"cost card, {name},", Spent, known[name]))
        return cls(**known)


class Meter:
    """A running or stopped clock: `meter.spent` is what it shows."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        self._stopped: Spent | None = None

    @property
    def spent(self) -> Spent:
        """So far, or up to the end of the block."""
        return self._stopped or Spent(time.perf_counter() - self._wall, time.process_time() - self._cpu, peak_memory_bytes())

    def stop(self) -> None:
        self._stopped = self.spent


@contextmanager
def metered() -> Iterator[Meter]:
    """Measure a block; it counts also where the block raises.

    >>> with metered() as meter:
    ...     total = sum(range(1000))
    >>> meter.spent.wall_s > 0
    True
    """
    meter = Meter()
    try:
        yield meter
    finally:
        meter.stop()


def peak_memory_bytes() -> int:
    """The largest resident size this program has had, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux: getrusage would start from the peak of the process that started this one
        line = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM:")), "")
        if line:
            return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, the others KiB


_SORTS: dict[str, Any] = {"str": str, "int": int, "float": (int, float), "dict": Mapping, "tuple": (list, tuple)}


def _checked(what: str, kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The card's fields, checked by name and by the kind of value that is written for them."""
    if not isinstance(values, Mapping):
        raise CheckpointError(needed=f"a {what} with named fields", came=type(values).__name__)
    names = {each.name: each for each in fields(kind)}
    for name in values:
        if name not in names:
            raise CheckpointError(
                needed=f"a {what} of this version of lmrs", came=f"a field {name!r}", remedy=did_you_mean(name, names)
            )
    for name, each in names.items():
        if name not in values and each.default is MISSING and each.default_factory is MISSING:
            raise CheckpointError(needed=f"a {what} with the field {name!r}", came="none", remedy="run lmrs evaluate again")
        sort = str(each.type).split("[")[0]
        if name in values and not isinstance(values[name], _SORTS.get(sort, object)):
            raise CheckpointError(needed=f"a {what} whose {name} is a {sort}", came=repr(values[name])[:60])
    return dict(values)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
