"""eSASRec: SASRec's task with gated blocks and a sampled softmax (Tikhonovich et al., RecSys 2025, arXiv 2508.06450)."""

from __future__ import annotations

from lmrs import models, objectives, tasks, tuning, views
from lmrs.losses import SampledSoftmax
from lmrs.negatives import Uniform
from lmrs.system import Budget, Paper, Stage, System

SPACE = {"dim": [64, 128, 256], "layers": [2, 4], "dropout": [0.1, 0.2], "negatives": [128, 256, 512], "lr": [5e-4, 1e-3]}


def esasrec(
    *,
    dim: int = 64,
    layers: int = 2,
    heads: int = 2,
    max_len: int = 50,
    dropout: float = 0.2,
    expand: int = 4,
    negatives: int = 256,
    stride: int | None = None,
    jitter: bool = False,
    lr: float = 1e-3,
    epochs: int = 200,
    batch_size: int = 128,
    patience: int | None = 10,
    every: int = 1,
) -> System:
    """A causal transformer of LiGR blocks (pre-norm, gated branches, SwiGLU) that predicts the next item at every position.

    expand: width of the feed-forward part, in multiples of dim. negatives: items drawn uniformly for the sampled softmax.
    stride, jitter: read a history longer than max_len as windows (views.ItemSequence) instead of its last max_len items alone.

    Departures: negatives are shared by the batch and corrected for how likely they were drawn (paper: drawn for each position, no
    correction); weights start from a cut normal (.02); the sizes are this catalogue's, so that systems can be compared (paper:
    tuned).
    """
    sequence = views.ItemSequence(max_len=max_len, stride=stride, jitter=jitter)
    return System(
        paper=Paper(
            "eSASRec: Enhancing Transformer-based Recommendations in a Modular Fashion",
            "Tikhonovich et al.",
            2025,
            "RecSys",
            "2508.06450",
        ),
        model=models.Transformer(
            dim=dim, layers=layers, heads=heads, max_len=max_len, dropout=dropout, block=models.Gated(expand=expand)
        ),
        stages=(
            Stage(
                "train",
                sequence,
                objectives.NextItem(SampledSoftmax(Uniform(negatives, shared=True))),
                tuning.Everything(),
                Budget(epochs=epochs, batch_size=batch_size, lr=lr, patience=patience, every=every),
            ),
        ),
        task=tasks.Ranking(sequence),
    )
