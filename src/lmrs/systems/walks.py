"""Random walks over the knowledge graph and the training events, without learning (Lao & Cohen, Machine Learning 2010)."""

from __future__ import annotations

from lmrs import models, tasks, views
from lmrs.graph import Knowledge
from lmrs.system import Estimate, Paper, System

SPACE = {"hops": [3, 5], "by_users": [0.0, 0.2, 0.5, 0.8, 1.0], "max_len": [10, 50, 200]}


def walks(
    *,
    hops: int = 3,
    by_users: float = 0.5,
    attributes: tuple[str, ...] | None = None,
    users: bool = True,
    least: int = 2,
    max_len: int = 50,
) -> System:
    """How likely a random walk from the history ends in the item: the walks that plm-rec learns to tell good from bad ones of.

    hops: edges of a path, the first is from the user to an own item. by_users: share of steps from an item that go to another
    user. attributes, users, least: of the graph (graph.Knowledge). max_len: newest events of a history that are read.

    Departures: all relations of a node are alike (paper: walks constrained to relation paths with learned weights).
    """
    knowledge = Knowledge(attributes=attributes, users=users, least=least)
    return System(
        paper=Paper("Relational Retrieval Using a Combination of Path-Constrained Random Walks", "Lao & Cohen", 2010),
        model=models.Walks(knowledge, hops=hops, by_users=by_users),
        stages=(Estimate(),),
        task=tasks.Ranking(views.ItemSequence(max_len=max_len)),
    )
