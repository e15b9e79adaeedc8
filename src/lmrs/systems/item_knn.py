"""Item-kNN: neighbours of what was chosen before (Deshpande & Karypis, TOIS 2004)."""

from __future__ import annotations

from lmrs import models, tasks, views
from lmrs.system import Estimate, Paper, System

SPACE = {
    "weights": ["cosine", "bm25"],
    "k": [20, 50, 100, 200, 500],
    "shrink": [0.0, 1.0, 10.0, 100.0],
    "recency": [0.5, 0.7, 0.8, 0.9, 1.0],
}


def item_knn(
    *,
    weights: str = "bm25",
    k: int = 100,
    shrink: float = 0.0,
    recency: float = 1.0,
    k1: float = 1.2,
    b: float = 0.75,
    max_len: int = 10_000,
) -> System:
    """The sum of the similarities between a candidate and the items of the history.

    weights: "bm25" or "cosine". k: neighbours of each item. shrink: damp similarities that few users attest.
    recency: weight of an event against the one after it. k1, b: of "bm25". max_len: newest events of a history that are read.

    Departures: similarities are not scaled to a common sum for each item (paper: row normalisation).
    """
    return System(
        paper=Paper("Item-Based Top-N Recommendation Algorithms", "Deshpande & Karypis", 2004, "TOIS"),
        model=models.ItemKNN(weights=weights, k=k, shrink=shrink, recency=recency, k1=k1, b=b),
        stages=(Estimate(),),
        task=tasks.Ranking(views.ItemSequence(max_len=max_len)),
    )
