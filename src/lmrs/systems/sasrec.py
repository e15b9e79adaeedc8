"""SASRec: self-attentive sequential recommendation (Kang & McAuley, ICDM 2018, arXiv 1808.09781)."""

from __future__ import annotations

from lmrs import losses, models, objectives, tasks, tuning, views
from lmrs.errors import ContractError, did_you_mean
from lmrs.negatives import ByPopularity, Uniform
from lmrs.system import Budget, Paper, Stage, System

SPACE = {"dim": [32, 64, 128], "layers": [1, 2, 3], "dropout": [0.2, 0.5], "lr": [5e-4, 1e-3]}
LOSSES = ("softmax", "sampled", "bce", "gbce")


def sasrec(
    *,
    dim: int = 64,
    layers: int = 2,
    heads: int = 2,
    max_len: int = 50,
    dropout: float = 0.2,
    attention_dropout: float = 0.0,
    loss: str = "softmax",
    negatives: int = 256,
    alpha: float = 0.0,
    stride: int | None = None,
    jitter: bool = False,
    once: bool = False,
    average: float | None = None,
    lr: float = 1e-3,
    epochs: int = 200,
    batch_size: int = 128,
    patience: int | None = 10,
    every: int = 1,
) -> System:
    """A causal transformer over item ids that predicts the next item at every position.

    loss: "softmax" (exact, over the catalogue), "sampled" (shared negatives, log-Q correction), "bce" (the paper's: one negative
    unless `negatives` says more) or "gbce" (gSASRec). Papers that say "SASRec" mean any of the four; the choice decides the
    score.
    negatives: drawn for "sampled" and "gbce" (and for "bce" if not 256). alpha: popularity exponent of the draw (0 = uniform).
    stride, jitter, once: read a history longer than max_len as windows (views.ItemSequence) instead of its last max_len items
    alone. With once=True and a stride of a fifth of max_len, contexts are as long as those of later questions.
    average: decay of a moving average of the weights, which is what is judged and kept (system.Budget); None: the weights.

    Departures: attention weights are not dropped out by default (code: as much as the rest); weights start from a cut normal
    (.02); by default the loss is the full softmax (paper: bce with one negative); Adam's second moment decays with .999 (code:
    .98).
    """
    sequence = views.ItemSequence(max_len=max_len, stride=stride, jitter=jitter, once=once)
    return System(
        paper=Paper("Self-Attentive Sequential Recommendation", "Kang & McAuley", 2018, "ICDM", "1808.09781"),
        model=models.Transformer(
            dim=dim,
            layers=layers,
            heads=heads,
            max_len=max_len,
            dropout=dropout,
            attention_dropout=attention_dropout,
            block=models.QueryNorm(),
            scale=True,
        ),
        stages=(
            Stage(
                "train",
                sequence,
                objectives.NextItem(charge(loss, negatives, alpha)),
                tuning.Everything(),
                Budget(epochs=epochs, batch_size=batch_size, lr=lr, patience=patience, every=every, average=average),
            ),
        ),
        task=tasks.Ranking(sequence),
    )


def charge(loss: str, negatives: int, alpha: float) -> losses.Charge:
    """The loss of that name; alpha 0 draws negatives uniformly, else by popularity to that power."""

    def drawn(k: int, shared: bool) -> Uniform | ByPopularity:
        return ByPopularity(k, alpha=alpha, shared=shared) if alpha else Uniform(k, shared=shared)

    match loss:
        case "softmax":
            return losses.FullSoftmax()
        case "sampled":
            return losses.SampledSoftmax(drawn(negatives, True))
        case "bce":
            return losses.BCE(drawn(1 if negatives == 256 else negatives, False))
        case "gbce":
            return losses.GBCE(drawn(negatives, False))
    raise ContractError(needed=f"a loss among {', '.join(LOSSES)}", came=repr(loss), remedy=did_you_mean(loss, LOSSES))
