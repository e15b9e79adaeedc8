"""S3-Rec: self-supervised pre-training with item attributes, then SASRec's task (Zhou et al., CIKM 2020, arXiv 2008.07873)."""

from __future__ import annotations

from lmrs import models, objectives, tasks, tuning, views
from lmrs.system import Budget, Paper, Stage, System
from lmrs.systems.sasrec import charge

SPACE = {"dim": [32, 64, 128], "dropout": [0.2, 0.5], "hide": [0.2, 0.4], "pretrain_epochs": [20, 50, 100], "lr": [5e-4, 1e-3]}


def s3rec(
    *,
    dim: int = 64,
    layers: int = 2,
    heads: int = 2,
    max_len: int = 50,
    dropout: float = 0.5,
    attention_dropout: float = 0.0,
    pretrain: bool = True,
    pretrain_epochs: int = 100,
    pretrain_batch_size: int = 256,
    pretrain_lr: float = 1e-3,
    attributes: str = "attributes",
    aap: float = 0.2,
    mip: float = 1.0,
    map: float = 1.0,
    sp: float = 0.5,
    hide: float = 0.2,
    mim_loss: str = "double_sigmoid",
    loss: str = "bce",
    negatives: int = 256,
    lr: float = 1e-3,
    epochs: int = 200,
    batch_size: int = 256,
    patience: int | None = 10,
    every: int = 1,
) -> System:
    """One transformer, twice: bidirectional under four mutual-information signals, then causal, predicting the next item (section
    4).

    pretrain: False leaves the first stage out (the ablation: the same encoder from scratch). attributes: the item attribute that
    the data must have (e.g. "genres" of MovieLens; not needed with aap=0 and map=0). aap, mip, map, sp: weights of the four
    signals; 0 leaves one out. hide: share of masked positions. mim_loss: "double_sigmoid" (released code) or "infonce" (paper).
    loss, negatives: of the second stage, as in `sasrec`; the paper's is "bce" with one negative.

    The survey lists the strategy as an extra part; in the released code, and here, the second stage goes on with all weights of
    the first.
    Departures: losses are summed and divided by the number of rows (code: not divided), which keeps the signals' proportions; aap
    starts from the contextual state, as in the code (paper: from the item embedding); the wrong segment is cut from the events of
    the batch (code: of all users); prefixes of one event are left out (their only event is the mask); attention dropout is off by
    default (.5).
    """
    sequence = views.ItemSequence(max_len=max_len)
    first = Stage(
        "pretrain",
        views.ItemSequence(max_len=max_len, prefixes=True),
        objectives.Mutual(hide=hide, aap=aap, mip=mip, map=map, sp=sp, attributes=attributes, mim_loss=mim_loss),
        tuning.Everything(),
        Budget(epochs=pretrain_epochs, batch_size=pretrain_batch_size, lr=pretrain_lr, patience=None),
    )
    second = Stage(
        "finetune",
        sequence,
        objectives.NextItem(charge(loss, negatives, 0.0)),
        tuning.Everything(),
        Budget(epochs=epochs, batch_size=batch_size, lr=lr, patience=patience, every=every),
    )
    return System(
        paper=Paper(
            "S3-Rec: Self-Supervised Learning for Sequential Recommendation with Mutual Information Maximization",
            "Zhou et al.", 2020, "CIKM", "2008.07873", survey="fine-tune extra part",
        ),
        model=models.Transformer(
            dim=dim, layers=layers, heads=heads, max_len=max_len, dropout=dropout, attention_dropout=attention_dropout,
            block=models.PostNorm(), embed_norm=True,
        ),
        stages=(first, second) if pretrain else (second,),
        task=tasks.Ranking(sequence),
    )  # fmt: skip
