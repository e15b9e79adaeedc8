"""BERT4Rec: the cloze task over item ids (Sun et al., CIKM 2019, arXiv 1904.06690)."""

from __future__ import annotations

from lmrs import models, objectives, tasks, tuning, views
from lmrs.schedule import Constant, Linear
from lmrs.system import Budget, Paper, Stage, System

SPACE = {"dim": [32, 64, 128], "layers": [1, 2, 3], "hide": [0.2, 0.4, 0.6], "lr": [5e-4, 1e-3]}


def bert4rec(
    *,
    dim: int = 64,
    layers: int = 2,
    heads: int = 2,
    max_len: int = 50,
    dropout: float = 0.2,
    attention_dropout: float = 0.0,
    hide: float = 0.2,
    last: float = 1 / 11,
    most: int | None = None,
    stride: int | None = None,
    jitter: bool = False,
    positions: bool = True,
    average: float | None = None,
    lr: float = 1e-3,
    epochs: int = 400,
    batch_size: int = 128,
    patience: int | None = 20,
    every: int = 1,
    decay: bool = False,
) -> System:
    """A bidirectional transformer that fills in hidden items; asked with a mask after the history (sections 3.3-3.7).

    hide: share of hidden positions (the paper: .6 Beauty, .2 MovieLens). last: share of rows that hide their last item alone,
    as the released code's extra copy does (one copy in eleven). most: largest number hidden in a row.
    stride, jitter: windows over long histories.
    decay: warm up and decay the learning rate linearly over all epochs with weight decay .01, as the released code does.
    positions: False leaves the position embedding out (the paper's ablation).
    average: decay of a moving average of the weights, which is what is judged and kept (system.Budget); None: the weights.

    Replicability (Petrov & Macdonald, RecSys 2022): the released code stops about thirty times too early; here training goes on
    until validation stops rising.

    Departures: masks are drawn anew for each batch (code: ten fixed copies); validation items are not trained on (code: they
    are); attention dropout is off by default (code: .2); lr 1e-3 without decay by default (code: 1e-4, decayed).
    """
    sequence = views.ItemSequence(max_len=max_len, stride=stride, jitter=jitter)
    return System(
        paper=Paper(
            "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from Transformer",
            "Sun et al.", 2019, "CIKM", "1904.06690", survey="pre-train only",
        ),
        model=models.Transformer(
            dim=dim, layers=layers, heads=heads, max_len=max_len, dropout=dropout, attention_dropout=attention_dropout,
            block=models.PostNorm(), embed_norm=True, transform=True, bias=True, positions=positions,
        ),
        stages=(
            Stage(
                "train",
                sequence,
                objectives.Cloze(hide=hide, last=last, most=most),
                tuning.Everything(),
                Budget(
                    epochs=epochs, batch_size=batch_size, lr=lr, patience=patience, every=every, clip=5.0, average=average,
                    schedule=Linear(warmup=100) if decay else Constant(), weight_decay=0.01 if decay else 0.0,
                ),
            ),
        ),
        task=tasks.Ranking(sequence),
    )  # fmt: skip
