"""PLM-Rec: recommendation and its explanation as a path over a knowledge graph, written by a language model
(Geng et al., WWW 2022, "Path Language Modeling over Knowledge Graphs for Explainable Recommendation")."""

from __future__ import annotations

from lmrs import models, objectives, tasks, tuning, views
from lmrs.graph import Knowledge
from lmrs.schedule import Linear
from lmrs.system import Budget, Paper, Stage, System

SPACE = {"dim": [32, 64, 100], "layers": [2, 6], "transe_epochs": [0, 20], "by_users": [0.2, 0.5], "hops": [3, 5]}


def plm_rec(
    *,
    dim: int = 100,
    layers: int = 6,
    heads: int = 10,
    hops: int = 3,
    decoding: str = "free",
    beams: int = 30,
    transe_epochs: int = 20,
    max_len: int = 50,
    dropout: float = 0.1,
    per_user: int = 50,
    by_users: float = 0.5,
    horizon: int | None = None,
    attributes: tuple[str, ...] | None = None,
    users: bool = True,
    least: int = 2,
    lr: float = 2e-4,
    epochs: int = 20,
    batch_size: int = 256,
    patience: int | None = 3,
    every: int = 1,
) -> System:
    """A causal transformer trained on random walks user -> item -> ... -> item that end in an item the user chose; what it
    writes for a user is at once the recommendation and the reason (sections 4.2 to 4.4).

    decoding: "free" (the paper: items that no walk reaches can be recommended, but a path may leave the graph) or "constrained"
    (PEARLM, Balloccu et al. 2023: every hop is an edge). hops: edges of a path. per_user, by_users, horizon: of the walks
    (views.Paths). attributes, users, least: of the graph (graph.Knowledge). transe_epochs: 0 starts from random vectors.

    Departures: the user is the weighted mean of the items before, not a token of its own, so that new users and histories
    are answered, and a walk ends in an item that comes after them; walks are drawn anew for every epoch (released successor:
    once) and are of `hops` hops exactly; tokens that are the same in every path are left out ([BOS], [EOS], the first
    relation); an item's score is the summed probability of its paths (released code: the best path's mean token probability);
    each softmax runs over the tokens of its own type; the default of 20 epochs is shortened by validation.
    """
    knowledge = Knowledge(attributes=attributes, users=users, least=least)
    return System(
        paper=Paper(
            "Path Language Modeling over Knowledge Graphs for Explainable Recommendation", "Geng et al.", 2022, "WWW",
            survey="pre-train only",
        ),
        model=models.PathLM(
            knowledge, hops=hops, decoding=decoding, beams=beams, transe_epochs=transe_epochs, dim=dim, layers=layers,
            heads=heads, max_len=max_len, dropout=dropout,
        ),
        stages=(
            Stage(
                "walk",
                views.Paths(
                    knowledge, hops=hops, max_len=max_len, per_user=per_user, by_users=by_users, horizon=horizon
                ),
                objectives.PathTokens(),
                tuning.Everything(),
                Budget(
                    epochs=epochs, batch_size=batch_size, lr=lr, patience=patience, every=every, weight_decay=0.01,
                    schedule=Linear(warmup=0.02),
                ),
            ),
        ),
        task=tasks.Ranking(views.ItemSequence(max_len=max_len)),
    )  # fmt: skip
