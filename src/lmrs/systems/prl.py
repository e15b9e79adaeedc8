"""PRL: reinforcement learning from logs as prompts, a return to aim at (Xin et al., SIGIR 2022, arXiv 2206.07353)."""

from __future__ import annotations

from lmrs import models, objectives, tasks, tuning, views
from lmrs.errors import ContractError, did_you_mean
from lmrs.system import Budget, Paper, Stage, System

SPACE = {"encoder": ["sasrec", "gru"], "aim": [0.0, 1.0, 2.0, 4.0], "dropout": [0.2, 0.5], "lr": [1e-3, 5e-3]}
ENCODERS = ("sasrec", "gru", "caser")


def prl(
    *,
    encoder: str = "sasrec",
    purchase: str = "purchase",
    rating: float | None = None,
    low: float = 0.2,
    high: float = 1.0,
    aim: float = 2.0,
    fusion: str = "attention",
    weigh: bool = True,
    dim: int = 64,
    layers: int = 1,
    heads: int = 1,
    max_len: int = 50,
    stride: int | None = None,
    dropout: float = 0.3,
    lr: float = 5e-3,
    epochs: int = 30,
    batch_size: int = 256,
    patience: int | None = 10,
    every: int = 1,
) -> System:
    """The next item given the history, the step, and the return that is wished for; at test a multiple of the mean one.

    encoder: "sasrec", "gru" or "caser" (the paper has NextItNet, too). purchase: the event type that pays `high`, all others pay
    `low`. rating: for data with ratings in place of types, the lowest that pays `high`.
    aim: c, the wished return as a multiple of the mean return at that step. fusion: "attention", "mean" or "mlp". weigh: charge
    each event by its reward. stride: read a long history as windows. layers, heads: of "sasrec".

    Departures: long histories are cut to max_len (paper: sessions above 50 steps are dropped), and returns are those of the row;
    no noise on c; the three vectors are not normalised before the attention, as their lengths carry the return. All is trained
    from scratch: the survey calls it prompt + model tuning by analogy.
    """
    if encoder not in ENCODERS:
        raise ContractError(
            needed=f"an encoder among {', '.join(ENCODERS)}", came=repr(encoder), remedy=did_you_mean(encoder, ENCODERS)
        )
    view = views.Rewarded(views.ItemSequence(max_len=max_len, stride=stride), purchase, rating, low, high)
    reader: models.Transformer | models.Recurrent | models.Caser
    if encoder == "sasrec":
        reader = models.Transformer(
            dim=dim, layers=layers, heads=heads, max_len=max_len, dropout=dropout, block=models.QueryNorm(), scale=True,
            tied=False, bias=True,
        )  # fmt: skip
    elif encoder == "gru":
        reader = models.Recurrent(dim=dim, max_len=max_len, dropout=dropout, tied=False)
    else:
        reader = models.Caser(dim=dim, max_len=max_len, dropout=dropout)
    return System(
        paper=Paper(
            "Rethinking Reinforcement Learning for Recommendation: A Prompt Perspective", "Xin et al.", 2022, "SIGIR",
            "2206.07353", survey="prompt + model tuning",
        ),
        model=models.RewardPrompt(reader, view, aim, fusion, dropout),
        stages=(
            Stage(
                "train", view, objectives.RewardedNext(weigh=weigh), tuning.Everything(),
                Budget(epochs=epochs, batch_size=batch_size, lr=lr, patience=patience, every=every),
            ),
        ),
        task=tasks.Ranking(view),
    )  # fmt: skip
