"""Markov chain: what came after the last item most often (Shani, Heckerman & Brafman, JMLR 2005)."""

from __future__ import annotations

from lmrs import models, tasks, views
from lmrs.system import Estimate, Paper, System

SPACE = {"smoothing": [1.0, 100.0, 1000.0, 10000.0]}


def markov(*, smoothing: float = 1.0) -> System:
    """P(next item | last item), counted, with `smoothing` pseudo-events of popularity.

    Departures: first order alone (paper: mixtures of several orders); smoothed with popularity (paper: skipping and clustering).
    """
    return System(
        paper=Paper("An MDP-Based Recommender System", "Shani, Heckerman & Brafman", 2005, "JMLR"),
        model=models.Markov(smoothing=smoothing),
        stages=(Estimate(),),
        task=tasks.Ranking(views.ItemSequence(max_len=1)),
    )
