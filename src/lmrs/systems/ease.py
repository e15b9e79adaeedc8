"""EASE: embarrassingly shallow autoencoders (Steck, WWW 2019, arXiv 1905.03375)."""

from __future__ import annotations

from lmrs import models, tasks, views
from lmrs.system import Estimate, Paper, System

SPACE = {"regularisation": [20.0, 50.0, 100.0, 200.0, 500.0, 1000.0]}


def ease(*, regularisation: float = 200.0, memory_gib: float = 8.0, max_len: int = 10_000) -> System:
    """A linear model from the items of a history to all items, in closed form.

    regularisation: the paper's lambda. memory_gib: refuse catalogues whose matrices take more. max_len: newest events of a
    history that are read.

    Departures: none.
    """
    return System(
        paper=Paper("Embarrassingly Shallow Autoencoders for Sparse Data", "Steck", 2019, "WWW", "1905.03375"),
        model=models.EASE(regularisation=regularisation, memory_gib=memory_gib),
        stages=(Estimate(),),
        task=tasks.Ranking(views.ItemSequence(max_len=max_len)),
    )
