"""One run folder from start to end: what ran (`run.json`), the fit, the saved recommender, its evaluation."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmrs import __version__, settings, sources, split
from lmrs.cards import Cost, Spent, peak_memory_bytes
from lmrs.dataset import Dataset
from lmrs.distributed import Group
from lmrs.errors import CheckpointError, DataError, UserError, did_you_mean
from lmrs.evaluate import Evaluation, chosen_measures, cost_of, default_measures, evaluate, measured
from lmrs.files import write_atomic
from lmrs.fit import Execution, Fitted, fit
from lmrs.hardware import probes, threads_restored, use_threads
from lmrs.lock import RunLock
from lmrs.models import Model
from lmrs.progress import Reporter
from lmrs.recommender import Recommender
from lmrs.split import Split
from lmrs.system import System

RUN, COSTS, MODEL = "run.json", "costs.json", "model"
SPLITS = ("leave-one-out", "time", "user", "review")
ASKS = "asks"  # the option of systems that answer several questions with the same weights
FEW = 200  # so many queries a language model answers in minutes


@dataclass(frozen=True)
class Data:
    """Which events, and how they are divided. The defaults are those of the command line.

    source: a name or a path, as `sources.load` takes it. columns, lenient, drop_duplicates, time_unit: as there.
    core: keep users and items with at least so many events (0: all). split: "leave-one-out", "time", "user" or "review".
    valid_from, test_from: of all but the first, a share of the events (users) in (0, 1) or, by time, a date such
    as "2020-01-31". queries: ask at most so many of each part, evenly spaced (0: all).
    """

    source: str
    columns: dict[str, str] = field(default_factory=dict)
    lenient: bool = False
    drop_duplicates: bool = False
    time_unit: str | None = None
    core: int = 0
    split: str = "leave-one-out"
    valid_from: str = "0.8"
    test_from: str = "0.9"
    next_only: bool = False
    queries: int = 0

    def load(self) -> Dataset:
        """The events. Raises DataError as `sources.load` does."""
        found = sources.load(
            self.source,
            columns=self.columns,
            lenient=self.lenient,
            drop_duplicates=self.drop_duplicates,
            time_unit=self.time_unit,
        )
        return split.k_core(found, users=self.core, items=self.core) if self.core > 1 else found

    def divide(self, dataset: Dataset) -> Split:
        """The split. Raises UserError for an unknown one, DataError if the data is too small for it."""
        found = self._divided(dataset)
        return split.fewer(found, valid=self.queries, test=self.queries) if self.queries else found

    def _divided(self, dataset: Dataset) -> Split:
        match self.split:
            case "leave-one-out":
                return split.leave_one_out(dataset)
            case "time":
                moments = {"valid_from": _moment(self.valid_from), "test_from": _moment(self.test_from)}
                return split.by_time(dataset, **moments, next_only=self.next_only)
            case "user" | "review":
                valid, test = _share(self.valid_from), _share(self.test_from)
                divide = split.by_user if self.split == "user" else split.by_review
                return divide(dataset, valid=test - valid, test=1 - test)
        raise UserError(
            needed=f"a split among {', '.join(SPLITS)}", came=repr(self.split), remedy=did_you_mean(self.split, SPLITS)
        )


@dataclass(frozen=True)
class Record:
    """What ran: everything that is needed to do it again, as `run.json` holds it.

    system: a name of the catalogue or "/path/file.py:function". settings: all its keywords. data: which events, and how divided.
    data_hash: their fingerprint. seed: of everything drawn. execution: how it was computed. versions: of what computed it.
    """

    system: str
    settings: dict[str, Any]
    data: Data
    data_hash: str
    seed: int
    execution: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The system's short name."""
        return short_name(self.system)

    def make(self) -> System:
        """The System. Raises UserError if the catalogue or the file no longer has it."""
        function = settings.find(self.system)
        return settings.make(function, settings.from_record(function, self.settings))


def short_name(system: str) -> str:
    """A catalogue name as it is; of "file.py:function" the function."""
    return system.rpartition(":")[2] if ":" in system else system


IDENTITY = ("system", "settings", "data", "data_hash", "seed")


def write_record(folder: Path, record: Record) -> None:
    write_atomic(folder / RUN, json.dumps(asdict(record), indent=1, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")


def read_record(folder: Path) -> Record:
    """What `run.json` says. Raises CheckpointError, naming the file, if it is missing or damaged."""
    file = folder / RUN
    if not file.is_file():
        came = "no such folder" if not folder.is_dir() else f"a folder without {RUN}"
        raise CheckpointError(needed=f"a run in {folder}", came=came, remedy="give the folder that lmrs fit --out made")
    try:
        found = json.loads(file.read_bytes())
        return Record(**{**found, "data": Data(**found["data"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            needed=f"a run record of this version in {file}", came=str(error)[:120], remedy="fit again"
        ) from error


def train(
    system: str,
    given: dict[str, Any],
    data: Data,
    *,
    out: Path,
    seed: int = 0,
    resume: bool = False,
    execution: Execution = Execution(),  # noqa: B008 - a frozen value
    measures: Sequence[str] | None = None,
    loaded: tuple[Dataset, Split] | None = None,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Fit a system, save the recommender, evaluate it on the test part; everything goes into the folder `out`.

    system: a catalogue name or "file.py:function"; given: its keywords that are not defaults. loaded: the data, if it is there
    already. Raises UserError if `out` holds another run (naming what differs) or one that was not to be resumed, and whatever
    fit raises.
    """
    reporter = reporter or Reporter(quiet=True)
    device = str(execution.resolved())  # what can be known to be wrong is told before anything is loaded
    function = settings.find(system)
    made = settings.make(function, given)
    measures = default_measures(made) if measures is None else measures
    chosen_measures(measures, made.task)
    dataset, divided = loaded or _loaded(data, reporter)
    if isinstance(made.model, Model) and made.model.by_item and not data.queries and dataset.n_users > FEW:
        reporter.say(f"{short_name(system)} scores item by item: --queries {FEW} asks {FEW} users, not all {dataset.n_users:,}")
    record = Record(
        system=settings.canonical(system),
        settings=settings.complete(function, given),
        data=data,
        data_hash=dataset.fingerprint,
        seed=seed,
        execution={**asdict(execution), "threads": execution.threads or torch.get_num_threads()},
        versions={"lmrs": __version__, "torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()},
    )
    main = Group.current(device=device).is_main
    if main:
        with RunLock(out):
            _check_folder(out, record, resume)
            write_record(out, record)
    fitted = fit(made, divided, out=out, seed=seed, resume=resume, execution=execution, reporter=reporter)
    recommender = Recommender.of(fitted, name=record.name, settings=record.settings)
    with threads_restored():
        use_threads(fitted.threads)
        cost = _cost(fitted)
        if main:
            with RunLock(out):
                saved = recommender.save(out / MODEL)
                cost = replace(cost, bytes_on_disk=sum(file.stat().st_size for file in saved.iterdir()))
                write_atomic(out / COSTS, json.dumps(cost.to_dict(), indent=1).encode() + b"\n")
        found = evaluate(recommender, divided, measures=measures, seed=seed, cost=cost, reporter=reporter)
    if main:
        with RunLock(out):
            found.save(out)
    return found


def again(
    folder: Path,
    *,
    measures: Sequence[str] | None = None,
    data: Data | None = None,
    part: str = "test",
    ask: str | None = None,
    seed: int | None = None,
    device: str = "cpu",
    reporter: Reporter | None = None,
) -> Evaluation:
    """Evaluate a saved run: on its own data, or on other `data`.

    ask: put another question to it than it was fitted for, by the option `asks` of its system. part, seed, reporter: as in
    `evaluate`; seed None is that of the fit. On the run's own test part, the measures that its report
    already has are taken again, too: asking for one more loses none. Raises DataError if the run's own data has changed since
    the fit.
    """
    record = read_record(folder)
    recommender = Recommender.load(folder / MODEL, device=device)
    if ask is not None:
        function = settings.find(record.system)
        if ASKS not in settings.options(function):
            raise UserError(
                needed="a system that can be asked several questions, such as p5", came=record.name, remedy="leave --ask out"
            )
        recommender = recommender.asking(replace(record, settings={**record.settings, ASKS: ask}).make())
    measures = default_measures(recommender.system) if measures is None else measures
    chosen_measures(measures, recommender.system.task)  # a misspelt one is told before anything is loaded
    dataset, divided = _loaded(data or record.data, reporter)
    if data is None and dataset.fingerprint != record.data_hash:
        raise DataError(
            needed=f"the data that the run in {folder} was fitted on",
            came="a data set that has changed since",
            remedy=f"name it: lmrs evaluate {folder} --data {record.data.source}",
        )
    seed = record.seed if seed is None else seed
    if data is None and part == "test" and ask is None:
        measures = list(dict.fromkeys([*measured(folder), *measures]))
    return evaluate(recommender, divided, measures=measures, part=part, seed=seed, cost=read_cost(folder), reporter=reporter)


def read_cost(folder: Path) -> Cost | None:
    """The cost card of the fit, or None if the run has none."""
    file = folder / COSTS
    if not file.is_file():
        return None
    try:
        return Cost.from_dict(json.loads(file.read_bytes()))
    except ValueError as error:
        raise CheckpointError(needed=f"a cost card in {file}", came=str(error), remedy="delete the file") from error


def _loaded(data: Data, reporter: Reporter | None) -> tuple[Dataset, Split]:
    dataset = data.load()
    if reporter is not None:
        reporter.say(repr(dataset).strip("<>").removeprefix("Dataset "))
        columns, guessed = dataset.about.get("columns", {}), dataset.about.get("guessed", ())
        if guessed:
            reporter.say("  columns guessed: " + ", ".join(f"{role} = {columns[role]}" for role in guessed))
        for note in dataset.about.get("notes", ()):
            reporter.say(f"  {note}")
        if dataset.about.get("quarantined"):
            reporter.say(f"  {dataset.about['quarantined']:,} malformed rows set aside (lmrs data inspect tells which)")
    return dataset, data.divide(dataset)


def _cost(fitted: Fitted) -> Cost:
    on_gpu = cost_of(fitted).device == "cuda"
    return replace(
        cost_of(fitted),
        fit=Spent(fitted.seconds, fitted.cpu_seconds, peak_memory_bytes()),
        device=torch.cuda.get_device_name() if on_gpu else "cpu",
        device_memory_bytes=torch.cuda.max_memory_allocated() if on_gpu else None,
        probes=probes(),
    )


def _check_folder(out: Path, record: Record, resume: bool) -> None:
    """A folder holds one run: it may be gone on with, never be mixed up with another."""
    if not (out / RUN).is_file():
        return
    if not resume:
        if not (out / MODEL).is_dir() and not any((out / "checkpoints").glob("step-*")):
            return  # that run failed before it had anything to keep
        raise UserError(
            needed=f"an empty run folder: {out}", came="one with a run in it", remedy="add --resume, or choose another --out"
        )
    before = read_record(out)
    changed = [
        f"{name} was {_short(old)}, is {_short(new)}"
        for place in IDENTITY
        for name, old, new in _differences(place, getattr(before, place), getattr(record, place))
    ]
    if changed:
        raise CheckpointError(
            needed=f"the run that is in {out}", came="; ".join(changed), remedy="repeat it as it was, or choose another --out"
        )


def _differences(name: str, old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(old, Data) and isinstance(new, Data):
        old, new = asdict(old), asdict(new)
    if isinstance(old, dict) and isinstance(new, dict):
        new = json.loads(json.dumps(new))
        return [(key, old.get(key), new.get(key)) for key in {**old, **new} if old.get(key) != new.get(key)]
    return [] if old == new else [(name, old, new)]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _share(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 < found < 1:
        raise UserError(needed="a share in (0, 1) such as 0.8", came=repr(text))
    return found


def _moment(text: str) -> float:
    """A share of the events, or a date as microseconds since the epoch."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return float(np.datetime64(text, "us").astype(np.int64))
    except ValueError:
        raise UserError(needed="a share in (0, 1) or a date such as 2020-01-31", came=repr(text)) from None
