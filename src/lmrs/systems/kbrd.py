"""KBRD: what was named in a dialogue, seen in a knowledge graph (Chen et al., EMNLP 2019, arXiv 1908.05391)."""

from __future__ import annotations

from lmrs import models, objectives, tasks, views
from lmrs.graph import Knowledge
from lmrs.system import Budget, Paper, Stage, System

SPACE = {"dim": [32, 64, 128], "bases": [4, 8], "dropout": [0.0, 0.3], "lr": [1e-3, 3e-3], "weight_decay": [0.0, 0.01]}


def kbrd(
    *,
    dim: int = 128,
    bases: int = 8,
    least: int = 1,
    edges: bool = True,
    attributes: tuple[str, ...] | None = None,
    max_len: int = 33,
    dropout: float = 0.0,
    weight_decay: float = 0.0,
    lr: float = 3e-3,
    epochs: int = 30,
    batch_size: int = 256,
    patience: int | None = 5,
    every: int = 1,
) -> System:
    """The items named so far are entities of a graph; a relational graph convolution gives their vectors, self-attention pools
    them, and the item that the recommender names next is scored by a product and a bias (section 3.2).

    dim, bases: of the convolution. least: leave out relations with fewer edges at the items. edges, attributes: make the graph of
    the data's edges, and of item attributes (None: all). max_len: items of a dialogue that are read, and one.

    Departures: the dialogue model, whose words are biased by the same vector (section 3.3), is not here; only items are entities
    of a dialogue, words are not linked (paper: by an entity linker over DBpedia); the convolution has learned input vectors and
    matrices of one relation each by bases (paper's code: the vectors of a basis are its matrix); relations are kept from `least`
    edges at the items on (code: more than 1,000 in the graph); entities with one neighbour are left out.
    """
    turns = views.Turns(max_len=max_len)
    return System(
        paper=Paper("Towards Knowledge-Based Recommender Dialog System", "Chen et al.", 2019, "EMNLP-IJCNLP", "1908.05391"),
        model=models.NamedEntities(
            models.Relational(Knowledge(edges=edges, attributes=attributes, users=False), dim, bases, least),
            hidden=dim, max_len=max_len, dropout=dropout,
        ),
        stages=(
            Stage(
                "recommend",
                turns,
                objectives.NextItem(places="last"),
                budget=Budget(
                    epochs=epochs, batch_size=batch_size, lr=lr, patience=patience, every=every, measure="Recall@10",
                    weight_decay=weight_decay,
                ),
            ),
        ),
        task=tasks.Conversing(turns),
    )  # fmt: skip
