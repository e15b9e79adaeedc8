"""GRU4Rec: recurrent recommendation (Hidasi et al., ICLR 2016, arXiv 1511.06939; Hidasi & Karatzoglou, CIKM 2018)."""

from __future__ import annotations

from lmrs import losses, models, objectives, tasks, tuning, views
from lmrs.errors import ContractError, did_you_mean
from lmrs.negatives import ByPopularity
from lmrs.system import Budget, Paper, Stage, System

SPACE = {
    "dim": [32, 64, 128],
    "layers": [1, 2],
    "dropout": [0.0, 0.2, 0.5],
    "embedding_dropout": [0.0, 0.2, 0.5],
    "lr": [5e-4, 1e-3, 2e-3],
}
LOSSES = ("softmax", "sampled", "bpr-max")


def gru4rec(
    *,
    dim: int = 64,
    layers: int = 1,
    max_len: int = 50,
    dropout: float = 0.2,
    embedding_dropout: float = 0.2,
    tied: bool = True,
    loss: str = "softmax",
    negatives: int = 2048,
    alpha: float = 0.5,
    logq: bool = True,
    regularisation: float = 1.0,
    elu: float = 0.5,
    stride: int | None = None,
    jitter: bool = False,
    lr: float = 1e-3,
    epochs: int = 200,
    batch_size: int = 128,
    patience: int | None = 10,
    every: int = 1,
) -> System:
    """A gated recurrent unit over item ids that predicts the next item at every position.

    loss: "softmax" (exact, over the catalogue), "sampled" (cross-entropy against shared negatives) or "bpr-max" (2018).
    negatives, alpha: shared by a batch, drawn with probability ~ count^alpha, for "sampled" and "bpr-max".
    logq: correct "sampled" for the draw. regularisation, elu: of "bpr-max". tied: score with the input item table (2018:
    constrained embeddings), else with one of its own.
    stride, jitter: read a history longer than max_len as windows (views.ItemSequence) instead of its last max_len items alone.

    Departures: whole sequences from the zero state, back-propagated to their start (paper: parallel slots, one step back);
    the default loss is the full softmax (papers: TOP1, BPR-max, cross-entropy with negatives);
    the other targets of the batch are no extra negatives; negatives equal to the target are left out;
    AdamW (code: Adagrad with momentum).
    """
    sequence = views.ItemSequence(max_len=max_len, stride=stride, jitter=jitter)
    drawn = ByPopularity(negatives, alpha=alpha, shared=True)
    charge: losses.Charge
    match loss:
        case "softmax":
            charge = losses.FullSoftmax()
        case "sampled":
            charge = losses.SampledSoftmax(drawn, logq=logq)
        case "bpr-max":
            charge = losses.BPRMax(drawn, regularisation=regularisation, elu=elu)
        case _:
            raise ContractError(needed=f"a loss among {', '.join(LOSSES)}", came=repr(loss), remedy=did_you_mean(loss, LOSSES))
    return System(
        paper=Paper("Session-based Recommendations with Recurrent Neural Networks", "Hidasi et al.", 2016, "ICLR", "1511.06939"),
        model=models.Recurrent(
            dim=dim, layers=layers, max_len=max_len, dropout=dropout, embedding_dropout=embedding_dropout, tied=tied
        ),
        stages=(
            Stage(
                "train",
                sequence,
                objectives.NextItem(charge),
                tuning.Everything(),
                Budget(epochs=epochs, batch_size=batch_size, lr=lr, patience=patience, every=every, clip=5.0),
            ),
        ),
        task=tasks.Ranking(sequence),
    )
