"""The one training loop: a System's stages over a Split's training part, resumable bit for bit.

What is drawn at a step is a function of (seed, stage, epoch, step); what a checkpoint holds is everything else. A step is

    rows -> view.collate -> objective.corrupt (whole batch) -> shard, micro-batches -> charge -> backward -> one update

with the loss divided once by the counts of the whole batch, so that neither sharding nor accumulation can change it.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from lmrs import __version__, averaging, compiling, native, taxonomy, tuning
from lmrs.batch import Batch
from lmrs.distributed import Group
from lmrs.errors import ContractError, DataError, DivergedError
from lmrs.hardware import bf16_gain, cores, fewest_threads, said_threads, threads_restored, use_threads
from lmrs.interrupts import Interrupted, Stop
from lmrs.journal import Journal, Progress, assign, assign_optimizer
from lmrs.judge import judge, judge_among
from lmrs.kernels import gains
from lmrs.lock import RunLock
from lmrs.losses import FullSoftmax, rounded_products, rounding_gain, softmax_gain
from lmrs.measures import RankMeasure, Sampled, falls, parse
from lmrs.models.network import ControlScorer, Model, Network, Scorer
from lmrs.objectives import Objective
from lmrs.progress import Reporter
from lmrs.records import digest, texts_of
from lmrs.schedule import filled
from lmrs.seeding import generator, mix, numpy_generator
from lmrs.split import Split, sealed
from lmrs.system import Budget, Stage, System, learned, parts
from lmrs.tasks import RecordTask, Task
from lmrs.tasks.task import AnyMeasure
from lmrs.views import Examples
from lmrs.vocab import Vocab


@dataclass(frozen=True, eq=False)
class Fitted:
    """What `fit` leaves: the scorer, who asks it, and what it cost.

    vocab: with training counts. log: the lines of metrics.jsonl. moved: for each stage, what taxonomy.check counted.
    steps, targets: updates made and predictions charged. parameters: total number. trained: declared tuned in any stage.
    seconds, cpu_seconds: of this process, resumed parts included. seed: of everything that was drawn. precision, threads,
    kernels, compile: those it was computed with. probed: what was measured to choose them, as in cards.Cost.
    """

    system: System
    split: Split
    vocab: Vocab
    scorer: Scorer
    objective: Objective | None
    log: list[dict[str, Any]]
    moved: list[dict[str, int]]
    steps: int
    targets: int
    parameters: int
    trained: int
    seconds: float
    cpu_seconds: float
    seed: int = 0
    precision: str = "fp32"
    threads: int = field(default_factory=torch.get_num_threads)
    kernels: tuple[str, ...] = ()
    compile: str = "off"
    probed: dict[str, dict[str, float]] = field(default_factory=dict)


PRECISIONS = ("fp32", "bf16-loss", "bf16", "auto")
KERNELS = ("auto", "torch", "native")
COMPILES = ("auto", "on", "off")
LARGE = 4096  # items from which on the full softmax is most of a step


@dataclass(frozen=True)
class Execution:
    """How, not what: only `precision` changes the numbers by more than the order of additions (and of dropout's draws).

    device: "cpu", "cuda" or "auto". micro_batch: rows of a forward pass (None: the whole batch). checkpoint_every: updates.
    precision: of matrix products. "fp32"; "bf16-loss": those of the full softmax in bf16 (losses.rounded_products); "bf16":
    those of the network, too, by autocast; "auto": "bf16-loss" where a catalogue is large and a probe finds the processor at
    least 1.5 times as fast with it as without, else "fp32".
    kernels: what computes the full softmax, attention, and rankings for validation, on a processor. "torch"; "native": the
    kernels in C of lmrs.native; "auto": each where a compiler is there and a probe, made once for a machine, finds it a tenth
    faster. The two differ by rounding.
    threads: of the processor while it fits. None: as torch is set; "auto": what OMP_NUM_THREADS says, else as many as pay, by a
    probe with some examples of the first epoch (hardware.fewest_threads; about half a second, and nothing drawn depends on it).
    compile: whether the blocks of transformers go through torch.compile in training. "on" (from the first update), "off"; "auto":
    after the first update, where a probe of one block finds that the run gains more than starting takes. A short run does not
    try, and the probe's figure is kept for a machine and a kind of block (compiling.choose).
    A run that goes on keeps the precision, the kernels, the threads and the compiling it began with where they are "auto".
    """

    device: str = "auto"
    micro_batch: int | None = None
    checkpoint_every: int = 500
    precision: str = "fp32"
    threads: int | str | None = None
    kernels: str = "auto"
    compile: str = "auto"

    def resolved(self) -> torch.device:
        """The device. Raises ContractError for one that is unknown or not there, or for threads that are no number."""
        if not (self.threads in (None, "auto") or isinstance(self.threads, int)):
            raise ContractError(needed="a number of threads, 'auto' or None", came=repr(self.threads))
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        kind = self.device.partition(":")[0]
        if kind not in ("cpu", "cuda"):
            raise ContractError(needed="the device cpu, cuda or auto", came=repr(self.device))
        if kind == "cuda" and not torch.cuda.is_available():
            raise ContractError(needed="a CUDA device that torch can use", came="none", remedy="use the device cpu")
        return torch.device(self.device)


def fit(
    system: System,
    split: Split,
    *,
    out: Path | str | None = None,
    seed: int = 0,
    resume: bool = False,
    execution: Execution = Execution(),
    reporter: Reporter | None = None,
) -> Fitted:
    """Train every stage of a System on a Split's training part; the test part stays sealed.

    out: run folder for checkpoints and metrics.jsonl (None: in memory only). seed: of everything that is drawn, with the
    place in the run.
    resume: go on from the newest whole checkpoint in `out` (from the start if there is none). Under torchrun every process calls
    this with the same arguments; they must see the same `out`, and process 0 alone writes there.

    Raises DivergedError if the loss, a gradient norm or a weight becomes NaN or infinite, BusyError if another process owns
    `out`, CheckpointError if a checkpoint was made by something else, Interrupted after Ctrl-C or SIGTERM (state saved),
    StorageError if the disk refuses, DataError if nobody has two events, ContractError if parts do not fit the data.
    """
    folder = None if out is None else Path(out)
    group = Group.current(device=str(execution.resolved()))
    if reporter is None or not group.is_main:
        reporter = Reporter(quiet=True)
    owned = RunLock(folder) if folder is not None and group.is_main else nullcontext()
    with sealed(), owned, _denormals_flushed(), threads_restored():
        return _Run(system, split, folder, seed, execution, reporter, group).go(resume)


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Tiny numbers are 0 in this block: a saturated backward pass on denormals costs 12 times as much."""
    before = float(torch.tensor(2.0**-140) * 1.0) == 0  # torch cannot be asked
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


class _Run:
    """One call of `fit`."""

    def __init__(
        self, system: System, split: Split, folder: Path | None, seed: int, execution: Execution, reporter: Reporter, group: Group
    ) -> None:
        self.system, self.split, self.folder, self.seed = system, split, folder, seed
        self.execution, self.reporter, self.group = execution, reporter, group
        self.device = torch.device(group.device)
        self.vocab = replace(split.dataset.vocab, counts=split.train.counts(), catalogue=split.dataset.items)
        self.best: dict[str, Tensor] = {}
        self.average: dict[str, Tensor] = {}  # of the tuned parameters, by their names in the stage's modules
        self.probed: dict[str, dict[str, float]] = {}
        self.ways: list[tuple[compiling.Block, compiling.Way]] = []  # compiled, of the stage's blocks
        self.stop = Stop()
        if execution.threads is not None:
            use_threads(None if isinstance(execution.threads, str) else execution.threads)
        identity = {
            "system": repr(system),
            "data": split.dataset.fingerprint,
            "split": json.dumps(split.about, sort_keys=True),
            "seed": seed,
            "precision": self._precision(),
            "lmrs": __version__,
        }
        if isinstance(system.model, Model) and split.dataset.items is not None:
            identity["catalogue"] = digest(texts_of(split.dataset.items)).hex()  # the fingerprint is of events alone
        if isinstance(system.model, Model) and system.model.origin:
            identity["origin"] = system.model.origin
        if isinstance(system.model, Model) and (prepared := system.model.prepare(split.train, seed=seed)) is not None:
            self.vocab = replace(self.vocab, prepared=prepared)
            identity["prepared"] = prepared.fingerprint
            reporter.say(str(prepared))
        self.journal = Journal(folder, identity, group, reporter.say)

    @property
    def progress(self) -> Progress:
        return self.journal.progress

    # -- the plan ------------------------------------------------------------------------------------------------

    def go(self, resume: bool) -> Fitted:
        for stage in self.system.stages:
            if isinstance(stage, Stage):
                _watched(self.system.task, stage.budget)  # a misspelt one is told now, not after the first epoch
        saved = None
        if resume:
            saved = self.journal.restore(adopted=("precision",) if self.execution.precision == "auto" else ())
        else:
            self.journal.fresh()
        if saved is None:
            self.progress.probed = self.probed
        if self._finds_threads() and self.progress.threads:
            torch.set_num_threads(self.progress.threads)
        else:
            self.progress.threads = 0
            self.progress.probed.pop("threads", None)
        self.precision = self.journal.identity["precision"]
        if self.execution.precision == "auto" and self.precision != "fp32":
            self.reporter.say("products of the full softmax in bf16, which is faster here (--precision fp32 keeps them in fp32)")
        scorer = self._build(0)
        kernel, tasks = self._kernels(scorer)
        self._compile(scorer)
        if isinstance(scorer, ControlScorer):
            return self._estimate(scorer)
        assert isinstance(scorer, Network)
        network = scorer
        objective: Objective | None = None
        with self.stop, native.by_kernel(kernel, tasks):
            for number, stage in enumerate(self.system.stages):
                assert isinstance(stage, Stage)
                objective = stage.objective
                if number < self.progress.stage:
                    continue
                if stage.start == "new" and number > 0 and saved is None:
                    network = self._build(number)
                if self.progress.finished:
                    assign(self._learned(self._modules(network, stage, number)), saved or {}, "now.")
                    break
                self._train(stage, number, network, saved)
                saved = None
            if self._stopping():
                raise self._interrupted()
        self.journal.count_time()
        return Fitted(
            system=self.system,
            split=self.split,
            vocab=self.vocab,
            scorer=network,
            objective=objective,
            log=self.journal.log,
            moved=self.progress.moved,
            steps=self.progress.total_steps,
            targets=self.progress.targets,
            parameters=sum(p.numel() for p in network.parameters()),
            trained=self.progress.trained,
            seconds=self.progress.seconds,
            cpu_seconds=self.progress.cpu_seconds,
            seed=self.seed,
            precision=self.precision,
            threads=torch.get_num_threads(),
            kernels=tuple(self.progress.kernels or ()),
            compile=self.progress.compile,
            probed=self.progress.probed,
        )

    def _estimate(self, scorer: ControlScorer) -> Fitted:
        self.reporter.say(f"counting {self.split.train.n_events:,} events")
        scorer.estimate(self.split.train)
        self.journal.count_time()
        return Fitted(
            self.system, self.split, self.vocab, scorer, None, [], [], 0, self.split.train.n_events, 0, 0,
            self.progress.seconds, self.progress.cpu_seconds, self.seed,
        )  # fmt: skip

    def _precision(self) -> str:
        """That of this run; "auto" is settled by a probe of process 0."""
        asked = self.execution.precision
        if asked not in PRECISIONS:
            raise ContractError(needed=f"a precision among {', '.join(PRECISIONS)}", came=repr(asked))
        if asked != "auto":
            return asked
        worth = self.group.is_main and self.device.type == "cpu" and self.vocab.n_items >= LARGE and self._charges_all()
        kernel = native.load() if worth and self.execution.kernels != "torch" else ""
        gain, least = (bf16_gain(self.vocab.n_items) if worth else 0.0), 1.5
        if isinstance(kernel, native.Kernel) and kernel.rounds:
            gain = rounding_gain(kernel)
        elif isinstance(kernel, native.Kernel):  # rounding by torch must beat what there is without
            least *= max(1.0, softmax_gain(kernel))
        rounded = self.group.any(gain >= least)
        if worth:
            self.probed["precision"] = {"fp32": 1 / gain} if rounded else {"bf16-loss": gain}
        return "bf16-loss" if rounded else "fp32"

    def _charges_all(self) -> bool:
        """Whether some stage's loss is a full softmax."""
        return any(isinstance(part, FullSoftmax) for stage in self.system.stages for part in parts(stage))

    def _kernels(self, scorer: Any) -> tuple[native.Kernel | None, tuple[str, ...]]:
        """(the kernel or None, its tasks); a run that goes on keeps the tasks it began with, if the kernel is there."""
        asked, progress = self.execution.kernels, self.progress
        if asked not in KERNELS:
            raise ContractError(needed=f"kernels among {', '.join(KERNELS)}", came=repr(asked))
        kept = progress.kernels if asked == "auto" else None
        progress.kernels = []
        if asked == "torch" or kept == [] or self.device.type != "cpu" or not isinstance(scorer, Network):
            return None, ()
        kernel = native.load()
        if isinstance(kernel, str):
            if asked == "native":
                raise ContractError(needed="a C compiler for the kernels", came=kernel, remedy="install one, or use torch")
            if kept:
                self.reporter.say(f"{', '.join(kept)}: native before, goes on by torch: {kernel}")
            return None, ()
        rounded = self.precision == "bf16-loss"
        useful = {
            "softmax": self._charges_all() and (self.precision == "fp32" or (rounded and kernel.rounds)),
            "attention": bool(compiling.blocks(scorer)) and self.precision != "bf16",
            "ranking": True,
        }
        tasks = [task for task in native.TASKS if useful[task]]
        if kept is not None:
            tasks = [task for task in tasks if task in kept]
        elif asked == "auto":
            found = gains(kernel, tasks, rounded=rounded)
            tasks = [task for task in tasks if found[task] >= native.FAST]
            for task, gain in found.items():
                progress.probed[task] = {"torch": 1 / gain} if task in tasks else {"native": gain}
        progress.kernels = tasks
        return kernel, tuple(tasks)

    def _build(self, number: int) -> Any:
        """The scorer with its initial weights, a function of (seed, stage); torch's own generator is put back."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(self.seed, "weights", number))
            return self.system.model.build(self.vocab).to(self.device)

    def _modules(self, network: Network, stage: Stage, number: int) -> nn.ModuleDict:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(self.seed, "head", number))
            head = stage.objective.head(self.vocab, network.dim)
        return nn.ModuleDict({"network": network, **({"head": head.to(self.device)} if head is not None else {})})

    # -- one stage -----------------------------------------------------------------------------------------------

    def _train(self, stage: Stage, number: int, network: Network, saved: dict[str, Tensor] | None) -> None:
        budget, progress = stage.budget, self.progress
        modules = self._modules(network, stage, number)
        tuned, _ = tuning.apply(stage.tuning, modules)
        if not tuned:
            progress.before = taxonomy.fingerprints(modules)
            self._end_stage(number, modules, tuned)
            return
        optimizer = _optimizer(modules, budget)
        if saved is None:
            progress.before = taxonomy.fingerprints(modules)
            self.best = {}
        else:
            assign(self._learned(modules), saved, "now.")
            self.best = {k.removeprefix("best."): v for k, v in saved.items() if k.startswith("best.")}
            self.average = {
                k.removeprefix("average."): v.to(self.device, copy=True) for k, v in saved.items() if k.startswith("average.")
            }
            assign_optimizer(optimizer, modules, saved)
        for parameter in modules.parameters():
            self.group.broadcast_([parameter.data])
        first = self._rows(stage, number, 0)
        if not len(first):
            raise DataError(
                needed="users with at least two training events", came="none", remedy="use more data or another split"
            )
        if not progress.threads:
            self._choose_threads(stage, number, modules, first)
        per_epoch = math.ceil(len(first) / budget.batch_size)
        schedule = filled(budget.schedule, per_epoch * budget.epochs)
        asks = _can_ask(stage, self.vocab)
        self.ways = self._compiled(network) if progress.compile == "on" else []
        while progress.epoch < budget.epochs:
            rows = self._rows(stage, number, progress.epoch)
            order = torch.randperm(len(rows), generator=generator(self.seed, "order", number, progress.epoch)).numpy()
            steps = math.ceil(len(order) / budget.batch_size)
            self.reporter.begin(f"{stage.name} epoch {progress.epoch + 1}/{budget.epochs}", steps, progress.step)
            while progress.step < steps:
                which = order[progress.step * budget.batch_size : (progress.step + 1) * budget.batch_size]
                for param_group in optimizer.param_groups:
                    param_group["lr"] = budget.lr * schedule.factor(progress.stage_steps)
                if progress.compile:
                    self._step(stage, number, modules, optimizer, rows.take(which))
                else:
                    self._first_step(stage, number, modules, optimizer, rows.take(which), of=len(rows))
                if self._stopping():
                    self._save(modules, optimizer)
                    raise self._interrupted()
                if progress.total_steps % self.execution.checkpoint_every == 0:
                    self._save(modules, optimizer)
            stop = self._end_epoch(stage, number, modules, asks)
            if stop:
                break
            if self._stopping():
                self._save(modules, optimizer)
                raise self._interrupted()
        averaging.put(self.average, modules)
        self.average = {}
        if self.best:
            assign(self._learned(modules), self.best, "")
        self._end_stage(number, modules, tuned)

    def _finds_threads(self) -> bool:
        """Whether nobody said how many threads to use."""
        return self.execution.threads == "auto" and said_threads() is None

    def _choose_threads(self, stage: Stage, number: int, modules: nn.ModuleDict, rows: Examples) -> None:
        """Settle the number of threads; if nobody said it, by charging some examples with each, without an update.

        What that leaves in the modules is put back and generators are functions of the place, so the run is what it would be
        with that number given. Processes that work together share the cores as use_threads does.
        """
        chosen = torch.get_num_threads()
        if self._finds_threads() and self.device.type == "cpu" and self.group.size == 1:
            parameters = {name for name, _ in modules.named_parameters()}
            state = {name: kept for name, kept in modules.state_dict().items() if name not in parameters}
            before = {name: kept.clone() for name, kept in state.items()}

            def seconds(threads: int, some: int) -> float:
                torch.set_num_threads(threads)
                begin = time.perf_counter()
                self._gradients(stage, number, modules, rows.take(np.linspace(0, len(rows) - 1, some).astype(np.int64)))
                return time.perf_counter() - begin

            chosen, tried = fewest_threads(seconds, most=cores(), rows=min(len(rows), stage.budget.batch_size))
            torch.set_num_threads(chosen)
            modules.zero_grad(set_to_none=True)
            for name, kept in state.items():
                kept.copy_(before[name])
            if tried:
                self.progress.probed["threads"] = {str(each): rate for each, rate in tried.items()}
        self.progress.threads = chosen

    def _compile(self, scorer: Any) -> None:
        """Whether the blocks of the scorer are compiled, as far as that is known before the first update."""
        asked, progress = self.execution.compile, self.progress
        if asked not in COMPILES:
            raise ContractError(needed=f"compile among {', '.join(COMPILES)}", came=repr(asked))
        if asked != "auto":
            progress.compile = asked
            progress.probed.pop("compile", None)
        if not compiling.blocks(scorer):
            progress.compile = "off"
            if asked == "on":
                self.reporter.say("nothing is compiled: this system has no blocks of ours")

    def _compiled(self, network: Network) -> list[tuple[compiling.Block, compiling.Way]]:
        return [(each, compiling.compiled(each)) for each in compiling.blocks(network)]

    def _first_step(
        self, stage: Stage, number: int, modules: nn.ModuleDict, optimizer: torch.optim.Optimizer, rows: Examples, *, of: int
    ) -> None:
        """An update by which it is settled whether the blocks are compiled from the next one on. Process 0 decides for all.

        of: examples of an epoch.
        """
        network = _network(modules)
        with compiling.Watch(network) as watch:
            begin = time.perf_counter()
            self._step(stage, number, modules, optimizer, rows)
            took = time.perf_counter() - begin
        found, tried = "off", dict[str, float]()
        if self.group.is_main:
            with self._autocast():
                updates = self._least_updates(number, of)
                found, tried = compiling.choose(watch.seen, update=took, updates=updates, say=self.reporter.say)
        on = self.group.any(found == "on")
        self.progress.compile = "on" if on else found
        if tried:
            self.progress.probed["compile"] = tried
        if on:
            self.ways = self._compiled(network)

    def _least_updates(self, number: int, rows: int) -> int:
        """How many updates come at the least, from a stage on: each stops as early as it may, on as many rows as this one."""
        total = 0
        for stage in self.system.stages[number:]:
            assert isinstance(stage, Stage)
            if isinstance(stage.tuning, tuning.Nothing):
                continue
            budget = stage.budget
            epochs = budget.epochs if budget.patience is None else min(budget.epochs, budget.every * (budget.patience + 1))
            total += epochs * math.ceil(rows / budget.batch_size)
        return total

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def _end_stage(self, number: int, modules: nn.ModuleDict, tuned: list[str]) -> None:
        """Prove what moved; then on to the next stage, or the last checkpoint."""
        progress = self.progress
        progress.moved.append(taxonomy.check(progress.before, modules, tuned, updates=progress.stage_steps))
        progress.trained = max(progress.trained, sum(p.numel() for n, p in modules.named_parameters() if n in set(tuned)))
        if number == len(self.system.stages) - 1:
            progress.finished = True
            self._save(modules, None)
        else:
            progress.stage, progress.epoch, progress.step, progress.stage_steps = number + 1, 0, 0, 0
            progress.best, progress.best_epoch, progress.stale = None, -1, 0

    def _rows(self, stage: Stage, number: int, epoch: int) -> Examples:
        rng = numpy_generator(self.seed, "rows", number, epoch)
        return stage.view.rows(self.split.train, ahead=stage.objective.ahead, rng=rng)

    def _step(self, stage: Stage, number: int, modules: nn.ModuleDict, optimizer: torch.optim.Optimizer, rows: Examples) -> None:
        """One update. Every process prepares the whole batch (cheap) and charges its own rows of it."""
        progress = self.progress
        sums, counts = self._gradients(stage, number, modules, rows)
        sums = self._share(modules, sums)
        if not all(math.isfinite(value) for value in sums.values()):
            raise self._diverged(stage, rows, "a loss of " + ", ".join(f"{name}={value}" for name, value in sums.items()))
        if stage.budget.clip is not None:
            norm = float(nn.utils.clip_grad_norm_(modules.parameters(), stage.budget.clip))
            if not math.isfinite(norm):
                raise self._diverged(stage, rows, f"a gradient of norm {norm}")
        optimizer.step()
        for name, total in sums.items():
            progress.sums[name] = progress.sums.get(name, 0.0) + total
            progress.counts[name] = progress.counts.get(name, 0) + counts[name]
        progress.step += 1
        progress.stage_steps += 1
        if stage.budget.average is not None:
            averaging.follow(self.average, modules, stage.budget.average, progress.stage_steps)
        progress.total_steps += 1
        progress.targets += max(counts.values(), default=0)
        self.reporter.step(" ".join(f"{n} {progress.sums[n] / max(1, progress.counts[n]):.4f}" for n in sums))

    def _gradients(
        self, stage: Stage, number: int, modules: nn.ModuleDict, rows: Examples
    ) -> tuple[dict[str, float], dict[str, int]]:
        """The sums of this process's charges and the counts of the whole batch; gradients are left in the parameters."""
        objective, place = stage.objective, (number, self.progress.epoch, self.progress.step)
        whole = objective.corrupt(stage.view.collate(rows), self.vocab, generator(self.seed, "corrupt", *place))
        counts = objective.counts(whole)
        modules.zero_grad(set_to_none=True)  # frozen parameters too: what an earlier stage left must not count in `clip`
        sums = dict.fromkeys(counts, 0.0)
        for at, part in enumerate(self._pieces(whole)):
            rng = _on(self.device, self.seed, "dropout", *place, self.group.rank, at)
            with compiling.put_on(self.ways):
                with self._autocast(), rounded_products(self.precision != "fp32"):
                    charged = objective.charge(_network(modules), _head(modules), part.to(self.device), self.vocab, rng)
                shares = [(objective.weights[name] / max(1, counts[name])) * value for name, value in charged.items()]
                loss = torch.stack(shares).sum() if len(shares) > 1 else shares[0]
                if loss.requires_grad:
                    loss.backward()
            for name, value in charged.items():
                sums[name] += float(value.detach())
        return sums, counts

    def _pieces(self, whole: Batch) -> Iterator[Batch]:
        """This process's micro-batches: rows of the examples rank, rank + size, ..."""
        micro, size = self.execution.micro_batch, self.group.size
        if size == 1 and micro is None:
            yield whole
            return
        examples = torch.unique(whole.rows["example"])[self.group.rank :: size]
        for some in examples.split(micro or len(whole.rows["example"])) if len(examples) else ():
            yield whole.take(torch.isin(whole.rows["example"], some).nonzero()[:, 0])

    def _share(self, modules: nn.ModuleDict, sums: dict[str, float]) -> dict[str, float]:
        """Add gradients and losses over the processes. A parameter that no process used keeps no gradient, as in one process."""
        if self.group.size == 1:
            return sums
        tuned = [p for p in modules.parameters() if p.requires_grad]
        used = torch.tensor([p.grad is not None for p in tuned], device=self.device)
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in tuned]
        values = torch.tensor(list(sums.values()), dtype=torch.float64, device=self.device)
        self.group.sum_([*grads, used, values])
        for parameter, grad, some in zip(tuned, grads, used.tolist(), strict=True):
            parameter.grad = grad if some else None
        return dict(zip(sums, values.tolist(), strict=True))

    def _end_epoch(self, stage: Stage, number: int, modules: nn.ModuleDict, asks: bool) -> bool:
        """Validate, log, remember the best; True if the stage is over."""
        progress, budget = self.progress, stage.budget
        losses = {name: progress.sums[name] / max(1, progress.counts[name]) for name in progress.sums}
        line: dict[str, Any] = {"stage": stage.name, "epoch": progress.epoch + 1, "step": progress.total_steps, "loss": losses}
        done = progress.epoch + 1 >= budget.epochs
        stop = done
        if asks and len(self.split.valid) and (done or (progress.epoch + 1) % budget.every == 0):
            with averaging.standing_in(self.average, modules):
                value = self._validate(stage, _network(modules))
                line["valid"] = {budget.measure: value}
                sign = -1.0 if falls(_watched(self.system.task, budget)) else 1.0
                if progress.best is None or sign * value > sign * progress.best:
                    progress.best, progress.best_epoch, progress.stale = value, progress.epoch + 1, 0
                    self.best = {name: tensor.detach().cpu().clone() for name, tensor in self._learned(modules).items()}
                else:
                    progress.stale += 1
                    stop = stop or (budget.patience is not None and progress.stale >= budget.patience)
        self.journal.append(line)
        if "valid" in line or stop or not asks:
            shown = " ".join(f"{name} {value:.4f}" for name, value in losses.items())
            valid = (
                f"  {budget.measure} {line['valid'][budget.measure]:.4f} (best {progress.best:.4f} at {progress.best_epoch})"
                if "valid" in line
                else ""
            )
            self.reporter.say(f"{stage.name} epoch {progress.epoch + 1:>3}  loss {shown}{valid}")
        progress.epoch, progress.step, progress.sums, progress.counts = progress.epoch + 1, 0, {}, {}
        return stop

    def _validate(self, stage: Stage, network: Network) -> float:
        task, valid = self.system.task, self.split.valid
        measure = _watched(task, stage.budget)
        if isinstance(task, RecordTask):
            found = task.judge(
                network, stage.objective, task.rows(valid), self.vocab, measures=[measure], seed=self.seed, device=self.device
            )
            return float(np.mean(found.values[str(measure)]))
        if isinstance(measure, Sampled):
            ranks, _ = judge_among(
                network, stage.objective, task, valid, self.vocab,
                sampling=measure.sampling, seed=self.seed, device=self.device,
            )  # fmt: skip
            return float(np.mean(measure(ranks)))
        judged = judge(network, stage.objective, task, valid, self.vocab, k=1, seed=self.seed, device=self.device)
        assert isinstance(measure, RankMeasure)
        return float(np.mean(measure(judged.ranks)))

    def _save(self, modules: nn.ModuleDict, optimizer: torch.optim.Optimizer | None) -> None:
        weights = self._learned(modules)
        for name, tensor in weights.items():
            if not tensor.isfinite().all():  # so that every checkpoint is a good one
                raise self._diverged(None, None, f"NaN or infinity in {name}")
        self.journal.save(weights, self.best, self.average, modules, optimizer)

    def _learned(self, modules: nn.ModuleDict) -> dict[str, Tensor]:
        """The weights that are kept: a frozen backbone is known by its origin."""
        return {name: tensor for name, tensor in modules.state_dict().items() if learned(self.system, name)}

    # -- what goes wrong ---------------------------------------------------------------------------------------------

    def _diverged(self, stage: Stage | None, rows: Examples | None, what: str) -> DivergedError:
        """The error that says what happened where, and what is left. stage, rows: None where the step before is to blame."""
        where = f"after step {self.progress.total_steps}"
        if stage is not None and rows is not None:
            users = ", ".join(self.split.dataset.vocab.users.take(pa.array(rows.user[:3])).to_pylist())
            more = ", ..." if len(rows) > 3 else ""
            epoch, step = self.progress.epoch + 1, self.progress.total_steps + 1
            where = f"in stage {stage.name!r}, epoch {epoch}, step {step} (rows of users {users}{more})"
        return DivergedError(
            needed="finite numbers in training",
            came=f"{what} {where}",
            remedy=f"lower lr or set clip; the last good state is {self.journal.newest or 'not saved'}",
        )

    def _stopping(self) -> bool:
        """Whether any process was told to stop: all of them have to leave at the same step."""
        return self.group.any(self.stop.signal != 0)

    def _interrupted(self) -> Interrupted:
        kept, remedy = f"state saved in {self.folder}", "go on with --resume"
        if self.folder is None:
            kept, remedy = "nothing was kept (no run folder)", ""
        code = 128 + (self.stop.signal or signal.SIGTERM)
        return Interrupted(code, f"stopped at step {self.progress.total_steps}; {kept}", remedy)


def _watched(task: Task, budget: Budget) -> AnyMeasure:
    """The measure that validation watches. Of a ranking it has to read ranks."""
    if isinstance(task, RecordTask):
        return task.measure(budget.measure)
    measure = parse(budget.measure)
    if not isinstance(measure, RankMeasure | Sampled):
        raise ContractError(needed="a measure of ranks to watch, such as NDCG@10", came=budget.measure)
    return measure


def _network(modules: nn.ModuleDict) -> Network:
    network = modules["network"]
    assert isinstance(network, Network)
    return network


def _head(modules: nn.ModuleDict) -> nn.Module | None:
    return modules["head"] if "head" in modules else None  # noqa: SIM401 - ModuleDict has no get


def _can_ask(stage: Stage, vocab: Vocab) -> bool:
    """Whether the stage's objective can rank the catalogue, tried on a tiny batch."""
    probe = Batch(
        {"item": torch.zeros(1, dtype=torch.int64), "position": torch.zeros(1, dtype=torch.int64)},
        torch.tensor([0, 1]),
        {"example": torch.zeros(1, dtype=torch.int64)},
    )
    return stage.objective.ask(probe, vocab) is not None


def _on(device: torch.device, seed: int, *place: int | str) -> torch.Generator:
    return torch.Generator(device=device).manual_seed(mix(seed, *place))


def _optimizer(modules: nn.ModuleDict, budget: Budget) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay, on matrices only (norms and biases are left alone); fused: four times the speed."""
    tuned = [p for p in modules.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in tuned if p.ndim >= 2], "weight_decay": budget.weight_decay},
        {"params": [p for p in tuned if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=budget.lr, betas=budget.betas, fused=True)
