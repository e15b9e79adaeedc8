"""Transformers4Rec: one backbone, four objectives, side information (de Souza Pereira Moreira et al., RecSys 2021)."""

from __future__ import annotations

from lmrs import losses, models, objectives, tasks, tuning, views
from lmrs.errors import ContractError, did_you_mean
from lmrs.system import Budget, Paper, Stage, System

SPACE = {
    "objective": ["masked", "causal", "permuted", "replaced"],
    "dim": [32, 64, 128],
    "layers": [1, 2, 3],
    "hide": [0.3, 0.5],
    "smoothing": [0.0, 0.1, 0.2],
    "lr": [5e-4, 1e-3],
}
OBJECTIVES = ("masked", "causal", "permuted", "replaced")


def transformers4rec(
    *,
    objective: str = "masked",
    features: tuple[str, ...] = (),
    times: tuple[str, ...] = (),
    merge: str = "concat",
    clock: str = "soft",
    tied: bool = True,
    smoothing: float = 0.0,
    hide: float = 0.3,
    share: float = 1 / 6,
    span: int = 5,
    weight: float = 1.0,
    dim: int = 64,
    item_dim: int = 64,
    layers: int = 2,
    heads: int = 2,
    max_len: int = 50,
    dropout: float = 0.2,
    attention_dropout: float = 0.0,
    stride: int | None = None,
    jitter: bool = False,
    lr: float = 1e-3,
    epochs: int = 200,
    batch_size: int = 128,
    patience: int | None = 10,
    every: int = 1,
) -> System:
    """A transformer over events of items and side information, whose objective is a choice (sections 3 and 4).

    objective: "masked" (MLM, share `hide` of a row, never all of it), "causal" (CLM), "permuted" (PLM, spans of at most `span`,
    about `share` of a row), "replaced" (RTD: MLM plus `weight` times a discriminator at every position).
    features: item attributes of the data (e.g. "genres"). times: "hour", "weekday" of an event; clock: "cyclic" or "soft"
    one-hot.
    merge: "concat" or "elementwise". item_dim: width of item embeddings; the output is mapped to it. tied: score with the
    input embeddings (the paper: +6.7% NDCG@20 on e-commerce). smoothing: of the labels, in [0, 1).

    Departures: the backbone is this library's post-norm transformer with learned positions (paper: library transformers, XLNet
    with relative positions as the default); trained once over all training events (paper: day by day or hour by hour); "permuted"
    is asked with a mask that sees the whole history, as in its training (paper: falls back to causal); replacements are drawn
    through the inverse of the cumulated softmax (paper: Gumbel noise; the same law); numerical item features are not read.
    """
    sequence = views.ItemSequence(max_len=max_len, stride=stride, jitter=jitter)
    mixed = models.Features(names=features, times=times, merge=merge, clock=clock) if features or times else None
    return System(
        paper=Paper(
            "Transformers4Rec: Bridging the Gap between NLP and Sequential / Session-Based Recommendation",
            "de Souza Pereira Moreira et al.", 2021, "RecSys", survey="pre-train only",
        ),
        model=models.Transformer(
            dim=dim, layers=layers, heads=heads, max_len=max_len, dropout=dropout, attention_dropout=attention_dropout,
            block=models.PostNorm(), embed_norm=True, tied=tied, bias=True, features=mixed, item_dim=item_dim,
        ),
        stages=(
            Stage(
                "train",
                sequence,
                signal(objective, hide=hide, share=share, span=span, weight=weight, smoothing=smoothing),
                tuning.Everything(),
                Budget(epochs=epochs, batch_size=batch_size, lr=lr, patience=patience, every=every),
            ),
        ),
        task=tasks.Ranking(sequence),
    )  # fmt: skip


def signal(objective: str, *, hide: float, share: float, span: int, weight: float, smoothing: float) -> objectives.Objective:
    """The training signal of that name."""
    loss = losses.FullSoftmax(smoothing=smoothing)
    match objective:
        case "masked":
            return objectives.Cloze(hide=hide, keep_one=True, loss=loss)
        case "causal":
            return objectives.NextItem(loss)
        case "permuted":
            return objectives.Permuted(share=share, span=span, loss=loss)
        case "replaced":
            return objectives.Replaced(objectives.Cloze(hide=hide, keep_one=True, loss=loss), weight=weight)
    raise ContractError(
        needed=f"an objective among {', '.join(OBJECTIVES)}", came=repr(objective), remedy=did_you_mean(objective, OBJECTIVES)
    )
