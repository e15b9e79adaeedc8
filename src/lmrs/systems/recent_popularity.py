"""Recent popularity: what is chosen now, the popularity control where time counts (Ji et al., SIGIR 2020, arXiv 2005.13829)."""

from __future__ import annotations

from lmrs import models, tasks, views
from lmrs.system import Estimate, Paper, System

SPACE = {"days": [1.0, 7.0, 30.0, 90.0], "share": [0.05, 0.1, 0.2]}


def recent_popularity(*, days: float = 30.0, share: float = 0.1) -> System:
    """Items by their number of events in the last `days` before the newest training event.

    share: where the data has no time, the newest share of every user's training events instead.
    Departure: one window that ends with the training data (paper: popularity is counted anew at every query).
    """
    return System(
        paper=Paper("A Re-visit of the Popularity Baseline in Recommender Systems", "Ji et al.", 2020, "SIGIR", "2005.13829"),
        model=models.RecentPopularity(days=days, share=share),
        stages=(Estimate(),),
        task=tasks.Ranking(views.ItemSequence(max_len=1)),
    )
