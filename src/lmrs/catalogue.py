"""What the systems of the catalogue are, read off the systems themselves: paper, strategy, data, objectives, task, options."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from lmrs import models, settings, tasks, views
from lmrs.objectives import Total
from lmrs.system import Estimate, Paper, Stage, System
from lmrs.systems import CATALOGUE
from lmrs.taxonomy import cell

# What the views and models read, and what the tasks ask, in words; a part of one's own is named by its class.
VIEWS: dict[type, tuple[str, ...]] = {
    views.ItemSequence: ("item sequences",),
    views.Profiled: ("item sequences", "user profiles"),
    views.Rewarded: ("item sequences", "event types or ratings"),
    views.Rated: ("item sequences", "ratings"),
    views.Paths: ("item sequences", "knowledge graph"),
    views.Documents: ("documents with tags",),
    views.Impressions: ("impressions",),
    views.Reviews: ("reviews",),
    views.Events: ("item sequences", "ratings and reviews (optional)"),
    views.Turns: ("dialogues",),
    views.Replies: ("dialogues",),
}
TEXTS = (models.Prompted, models.TextItems, models.News, models.TextClicks)
TASKS: dict[type, str] = {
    tasks.Ranking: "next item",
    tasks.Clicks: "clicks on what is shown",
    tasks.Explaining: "explanation",
    tasks.Rating: "rating",
    tasks.Conversing: "item in a dialogue",
    tasks.Responding: "response in a dialogue",
    tasks.Talking: "item and response in a dialogue",
    tasks.Liked: "liked or not",
}
# What an option of that name makes a system read besides.
READS = {
    "attributes": "item attributes",
    "features": "item attributes (optional)",
    "times": "times (optional)",
    "days": "times (optional)",
    "texts": "item texts",
    "users": "user ids (optional)",
}


@dataclass(frozen=True)
class Entry:
    """One system.

    name: what to type. about: its first sentence. cell: the survey's training-strategy cell, computed from the stages; survey:
    the one the survey prints ("" if it does not name the system). data: what it reads. objectives: of each stage. task: what it
    answers. options: keywords and their defaults. departures: what differs from the paper, in words.
    """

    name: str
    about: str
    paper: Paper
    cell: str
    survey: str
    data: tuple[str, ...]
    objectives: tuple[str, ...]
    task: str
    options: dict[str, Any]
    departures: str

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def entries() -> list[Entry]:
    """All systems, in the catalogue's order, with their default options."""
    return [entry(name, function) for name, function in CATALOGUE.items()]


def entry(name: str, function: Callable[..., System]) -> Entry:
    system = settings.make(function, {})
    lines = " ".join((function.__doc__ or "").split())
    about, _, rest = lines.partition(". ")
    return Entry(
        name=name,
        about=about.rstrip(".") + ".",
        paper=system.paper,
        cell=cell(system),
        survey=system.paper.survey,
        data=tuple(dict.fromkeys([*_read(system), *(READS[key] for key in settings.options(function) if key in READS)])),
        objectives=_signals(name, function),
        task=TASKS.get(type(system.task), type(system.task).__name__),
        options={key: default for key, (_, default) in settings.options(function).items()},
        departures=rest.partition("Departures: ")[2],
    )


def _read(system: System) -> list[str]:
    """What the task and the stages read: of a task that asks a bare history item sequences, too."""
    found = [system.task.view, *(stage.view for stage in system.stages if isinstance(stage, Stage))]
    words = [word for view in found for word in VIEWS.get(type(view), (type(view).__name__,))]
    return words + (["item texts"] if isinstance(system.model, TEXTS) else [])


def _signals(name: str, function: Callable[..., System]) -> tuple[str, ...]:
    """The objectives of each stage; of every choice where the objective is an option."""
    choices = sys.modules[function.__module__].SPACE.get("objective", [None]) if name in CATALOGUE else [None]
    made = [settings.make(function, {} if choice is None else {"objective": choice}) for choice in choices]
    return tuple(dict.fromkeys(_signal(stage) for system in made for stage in system.stages))


def _signal(stage: Stage | Estimate) -> str:
    if isinstance(stage, Estimate):
        return "counting"
    parts = [each for _, _, each in stage.objective.signals] if isinstance(stage.objective, Total) else [stage.objective]
    return " + ".join(type(each).__name__ for each in parts)
