"""A System: a published recommender as a value. Paper, model, stages, task; checked when it is made."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING

from lmrs.errors import ContractError
from lmrs.models import Control, Model
from lmrs.objectives import Objective
from lmrs.schedule import Constant, Schedule
from lmrs.tuning import Everything, Tuning
from lmrs.views import View

if TYPE_CHECKING:
    from lmrs.tasks import Task


@dataclass(frozen=True)
class Paper:
    """Where a system comes from. survey: the training-strategy cell that the survey prints for it ("" if it does not name it)."""

    title: str
    authors: str
    year: int
    venue: str = ""
    arxiv: str = ""
    survey: str = ""


@dataclass(frozen=True)
class Budget:
    """How long and how hard a stage trains.

    epochs: largest number of passes, >= 1. batch_size: rows a step. lr: peak learning rate. schedule: its course over the steps.
    patience: validations without gain before stopping (None: never). every: epochs between validations.
    measure: what validation watches, higher is better. weight_decay: decoupled (AdamW), on matrices only. betas: of Adam.
    clip: largest gradient norm, or None.
    average: decay in [0, 1) of a moving average of the weights over the updates of the stage (averaging.py); validation judges
    it and the stage ends with it, while training goes on with the weights themselves. None: no average.
    """

    epochs: int = 100
    batch_size: int = 128
    lr: float = 1e-3
    schedule: Schedule = Constant()  # noqa: RUF009 - a frozen value
    patience: int | None = 10
    every: int = 1
    measure: str = "NDCG@10"
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float | None = None
    average: float | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "every"):
            if getattr(self, name) < 1:
                raise ContractError(needed=f"{name} of at least 1", came=f"{name}={getattr(self, name)}")
        if not 0 < self.lr < math.inf:
            raise ContractError(needed="lr above 0", came=f"lr={self.lr}")
        if self.patience is not None and self.patience < 1:
            raise ContractError(needed="patience of at least 1, or None for no early stop", came=f"patience={self.patience}")
        if not 0 <= self.weight_decay < math.inf:
            raise ContractError(needed="weight_decay of at least 0", came=f"weight_decay={self.weight_decay}")
        if self.clip is not None and not self.clip > 0:
            raise ContractError(needed="clip above 0, or None", came=f"clip={self.clip}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ContractError(needed="betas in [0, 1)", came=f"betas={self.betas}")
        if self.average is not None and not 0 <= self.average < 1:
            raise ContractError(
                needed="average in [0, 1), or None", came=f"average={self.average}", remedy="try .99: about the last 100 updates"
            )


@dataclass(frozen=True)
class Stage:
    """One round of training: the unit of the survey's taxonomy.

    start: "previous" goes on with the weights of the stage before; "new" starts from fresh ones.
    """

    name: str
    view: View
    objective: Objective
    tuning: Tuning = Everything()  # noqa: RUF009 - a frozen value
    budget: Budget = Budget()
    start: str = "previous"

    def __post_init__(self) -> None:
        missing = [need for need in self.objective.needs if need not in self.view.gives]
        if missing:
            raise ContractError(
                needed=f"{missing} for objective {type(self.objective).__name__} in stage {self.name!r}",
                came=f"view {type(self.view).__name__}, which gives {list(self.view.gives)}",
                remedy="use another view or objective",
            )
        if self.start not in ("previous", "new"):
            raise ContractError(needed="start 'previous' or 'new'", came=repr(self.start))


@dataclass(frozen=True)
class Estimate:
    """A stage of a control: closed form, counted from the training events in one pass."""

    name: str = "count"


@dataclass(frozen=True)
class System:
    """A recommender, completely described. Raises ContractError if its parts cannot work together."""

    paper: Paper
    model: Model | Control
    stages: tuple[Stage | Estimate, ...]
    task: Task
    departures: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        gradient = [s for s in self.stages if isinstance(s, Stage)]
        if not self.stages:
            raise ContractError(needed="at least one stage", came="none", remedy="add a Stage, or an Estimate for a control")
        if any(isinstance(stage, Stage) == isinstance(self.model, Control) for stage in self.stages):
            raise ContractError(
                needed="Estimate stages for a control and Stages for a network",
                came=f"{type(self.model).__name__} with {[type(s).__name__ for s in self.stages]}",
            )
        if isinstance(self.model, Control):
            return
        if self.task.view.max_len > self.model.max_len:
            raise ContractError(
                needed=f"histories of at most {self.model.max_len} positions for {type(self.model).__name__}",
                came=f"a task whose view has max_len={self.task.view.max_len}",
                remedy="make the two max_len agree",
            )
        for stage in gradient:
            longest = stage.view.max_len
            if longest > self.model.max_len:
                raise ContractError(
                    needed=f"rows of at most {self.model.max_len} positions for {type(self.model).__name__}",
                    came=f"stage {stage.name!r} with max_len={longest}",
                    remedy="make the two max_len agree",
                )
            if not self.model.allows(stage.objective.visible):
                raise ContractError(
                    needed=f"a model that can be run under {stage.objective.visible!r} for stage {stage.name!r}",
                    came=type(self.model).__name__,
                    remedy="use models.Transformer, or an objective that looks only back",
                )


def learned(system: System, name: str) -> bool:
    """Whether a tensor of the network (or, with "network." or "head." before it, of a stage's modules) has to be saved: all but
    those that the model is given from elsewhere and that no stage tunes. What is given is known by the model's `origin`."""
    inner = name.removeprefix("network.")
    if not isinstance(system.model, Model) or name.startswith("head.") or not system.model.given(inner):
        return True
    return any(isinstance(stage, Stage) and stage.tuning.chooses(f"network.{inner}") for stage in system.stages)


def parts(description: object) -> Iterator[object]:
    """A description and all that are in it, depth first."""
    yield description
    if is_dataclass(description):
        for each in fields(description):
            yield from parts(getattr(description, each.name))
    elif isinstance(description, tuple):
        for each in description:
            yield from parts(each)
