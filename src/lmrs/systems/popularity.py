"""Popularity: the control that answers everybody alike (TopPop of Cremonesi, Koren & Turrin, RecSys 2010)."""

from __future__ import annotations

from lmrs import models, tasks, views
from lmrs.system import Estimate, Paper, System

SPACE: dict[str, list[float]] = {}


def popularity() -> System:
    """Items by their number of training events; items of the history are left out by the task."""
    return System(
        paper=Paper(
            "Performance of Recommender Algorithms on Top-N Recommendation Tasks", "Cremonesi, Koren & Turrin", 2010, "RecSys"
        ),
        model=models.Popularity(),
        stages=(Estimate(),),
        task=tasks.Ranking(views.ItemSequence(max_len=1)),  # the history is read for what to leave out, not for the scores
    )
