"""TIGER: recommender systems with generative retrieval (Rajput et al., NeurIPS 2023, arXiv 2305.05065)."""

from __future__ import annotations

from lmrs import indexing, models, objectives, tasks, views
from lmrs.errors import ContractError, did_you_mean
from lmrs.language import Backbone
from lmrs.schedule import Linear
from lmrs.system import Budget, Paper, Stage, System
from lmrs.texts import ItemText, TextEncoder

HISTORY = '{list history separator=""}'
INDEXES = ("rq-vae", "rq-kmeans", "random")
SPACE = {"index": ["rq-vae", "rq-kmeans"], "codes": [64, 256], "dim": [64, 128], "lr": [1e-3, 3e-3, 1e-2]}


def tiger(
    *,
    backbone: str = "minilm",
    texts: tuple[str, ...] = (),
    pooling: str = "mean",
    index: str = "rq-vae",
    levels: int = 3,
    codes: int = 256,
    steps: int = 3000,
    users: int = 2000,
    nobody: float = 0.1,
    reserve: float = 0.1,
    beams: int | None = 50,
    dim: int = 128,
    layers: int = 4,
    heads: int = 6,
    head_dim: int = 64,
    inner: int = 1024,
    dropout: float = 0.1,
    max_len: int = 20,
    stride: int | None = None,
    lr: float = 1e-2,
    epochs: int = 50,
    batch_size: int = 256,
    patience: int | None = 10,
    every: int = 1,
) -> System:
    """Items are paths through the codebooks of an autoencoder over their text vectors; a T5 trained from scratch reads a user's
    token and the paths of the history and writes the next path (section 3). New items have paths
    like all others.

    backbone, texts, pooling: what reads which item columns (() for all that are text); its vectors are needed to fit only.
    index: "rq-vae", "rq-kmeans" (codebooks by k-means, no training) or "random" (as many random tokens: the paper's control).
    levels, codes, steps: codebooks, words in each, updates of the autoencoder; one more token tells items of one path apart.
    users: tokens that users are hashed into, 0 for none. nobody: share of training rows without it, as new users are asked.
    reserve: share of every path for the new items on it (the paper gives them a share of the list instead; 0: no share, and as no
    training event has taught their last token they come last). beams: width of the search; None scores the whole catalogue.
    stride: as in p5.

    Departures: MiniLM reads the texts (paper: Sentence-T5); the autoencoder takes AdamW and few steps (paper: Adagrad, 20,000
    epochs); the search is held to the catalogue (paper: invalid paths are dropped); users are hashed by their number; some rows
    are read without their user; the rate falls linearly (paper: inverse square root).
    """
    if index not in INDEXES:
        raise ContractError(needed=f"an index among {', '.join(INDEXES)}", came=repr(index), remedy=did_you_mean(index, INDEXES))
    if not 0 < nobody < 1:
        raise ContractError(needed="nobody above 0 and below 1", came=f"nobody={nobody}")
    indexers: dict[str, indexing.Indexer] = {
        "rq-vae": indexing.LearnedQuantised(levels, codes, steps=steps),
        "rq-kmeans": indexing.Quantised(levels, codes),
        "random": indexing.Random(levels + 1, codes),
    }
    sequence = views.ItemSequence(max_len=max_len)
    mixed = (("user", 1 - nobody, (0,)), ("nobody", nobody, (1,))) if users else (("nobody", 1.0, (0,)),)
    return System(
        paper=Paper("TIGER: Recommender Systems with Generative Retrieval", "Rajput et al.", 2023, "NeurIPS", "2305.05065"),
        model=models.Generative(
            indexers[index], fresh=models.Scratch(dim, layers, heads, head_dim, inner, dropout),
            wordings=("{user}" + HISTORY, HISTORY) if users else (HISTORY,), users=users,
            encoder=None if index == "random" else TextEncoder(Backbone(backbone), pooling), text=ItemText(texts), beams=beams,
            reserve=0.0 if index == "random" else reserve, max_len=max_len,
        ),
        stages=(
            Stage(
                "train",
                views.ItemSequence(max_len=max_len, prefixes=stride is None, stride=stride),
                objectives.Instructed(mixed, places="last" if stride is None else "all"),
                budget=Budget(
                    epochs=epochs, batch_size=batch_size, lr=lr, schedule=Linear(warmup=0.05), patience=patience, every=every,
                    clip=1.0,
                ),
            ),
        ),
        task=tasks.Ranking(sequence),
    )  # fmt: skip
