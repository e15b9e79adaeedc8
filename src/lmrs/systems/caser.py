"""Caser: convolutional sequence embeddings (Tang & Wang, WSDM 2018, arXiv 1809.07426)."""

from __future__ import annotations

from lmrs import losses, models, objectives, tasks, tuning, views
from lmrs.negatives import Uniform
from lmrs.system import Budget, Paper, Stage, System

SPACE = {
    "dim": [32, 50, 100],
    "window": [3, 5, 9],
    "horizontal": [4, 16, 32],
    "targets": [1, 2, 3],
    "dropout": [0.2, 0.5],
    "lr": [5e-4, 1e-3],
}


def caser(
    *,
    dim: int = 50,
    window: int = 5,
    horizontal: int = 16,
    vertical: int = 4,
    targets: int = 3,
    negatives: int = 3,
    users: bool = False,
    max_len: int = 50,
    dropout: float = 0.5,
    stride: int | None = None,
    jitter: bool = False,
    lr: float = 1e-3,
    weight_decay: float = 1e-6,
    epochs: int = 200,
    batch_size: int = 32,
    patience: int | None = 10,
    every: int = 1,
) -> System:
    """Horizontal and vertical convolutions over the last `window` items; each state is charged for the next `targets` items.

    window: L. horizontal, vertical: filters (16 of each height, 4). targets: T. negatives: for each target, unseen by the user.
    users: True adds the paper's user vector; users who were not trained on are answered with the vector that all users share.
    stride, jitter: read a history longer than max_len as windows (views.ItemSequence) instead of its last max_len items alone.

    Departures: no user vector by default, so that strangers are answered like everybody (paper: one, next to z);
    the user vector is a shared one plus a deviation that starts at zero (code: random);
    positions with fewer than L items behind or T ahead are trained on too (paper: whole windows alone);
    a batch is `batch_size` rows with all their positions (code: 512 windows); decay is AdamW's, on matrices (code: L2 in Adam).
    """
    sequence = views.ItemSequence(max_len=max_len, stride=stride, jitter=jitter)
    return System(
        paper=Paper(
            "Personalized Top-N Sequential Recommendation via Convolutional Sequence Embedding",
            "Tang & Wang", 2018, "WSDM", "1809.07426",
        ),
        model=models.Caser(
            dim=dim, window=window, horizontal=horizontal, vertical=vertical, max_len=max_len, dropout=dropout, users=users
        ),
        stages=(
            Stage(
                "train",
                sequence,
                objectives.NextItems(targets, losses.BCE(Uniform(negatives))),
                tuning.Everything(),
                Budget(epochs=epochs, batch_size=batch_size, lr=lr, patience=patience, every=every, weight_decay=weight_decay),
            ),
        ),
        task=tasks.Ranking(sequence),
    )  # fmt: skip
