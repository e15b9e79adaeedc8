"""PREC: boosting news clicks by what was pre-trained on texts and readers (Liu et al., COLING 2022)."""

from __future__ import annotations

from lmrs import models, objectives, tasks, tuning, views
from lmrs.language import Backbone
from lmrs.system import Budget, Paper, Stage, System
from lmrs.texts import ItemText, TextEncoder

SPACE = {"dim": [64, 128], "layers": [1, 2, 6], "pretrain": [True, False], "hidden": [64, 256], "lr": [3e-4, 1e-3]}
READER = ("narrow_text.*", "hidden_item", "positions.*", "embed_norm.*", "blocks.*")


def prec(
    *,
    backbone: str = "minilm",
    precision: str = "fp32",
    texts: tuple[str, ...] = (),
    max_tokens: int = 128,
    dim: int = 64,
    layers: int = 2,
    heads: int = 2,
    max_len: int = 50,
    hide: float = 0.15,
    pretrain: bool = True,
    pretrain_epochs: int = 10,
    pretrain_lr: float = 1e-3,
    cross: int = 2,
    hidden: int = 64,
    dropout: float = 0.1,
    unclicked: int = 4,
    lr: float = 1e-3,
    epochs: int = 10,
    batch_size: int = 64,
    patience: int | None = 3,
) -> System:
    """Frozen vectors of news texts; a reader who learns to guess hidden news among them; then both are frozen features of a click
    network, which alone is tuned on clicked and unclicked news (sections 3 and 4).

    texts: item columns and attributes; () for all that are text (the paper's views: title, abstract, category, subcategory).
    hide: share of the history that is hidden. pretrain: False leaves the reader as it is drawn (the paper's ablation).
    cross, hidden: of the click network (DCN). unclicked: for each click, of the same impression.

    Departures: the given backbone stands for the news pre-trainer (paper: a BERT of three layers with a mask and a vocabulary for
    each column, an optional category and an alignment task); the reader has 2 layers of width 64 over a learned map of the texts
    (paper: 6 of 768, no map); its answers are the mapped texts (paper: a class for each news), so new ones have one;
    the click network is DCN without other features (paper: also DIN, DeepFM, xDeepFM with ids).
    """
    read = views.Impressions(max_len=max_len, unclicked=unclicked)
    guess = Stage(
        "reader",
        views.ItemSequence(max_len=max_len),
        objectives.Cloze(hide=hide),
        tuning.Part(READER),
        Budget(epochs=pretrain_epochs, batch_size=batch_size, lr=pretrain_lr, patience=patience, measure="AUC"),
    )
    click = Stage(
        "click",
        read,
        objectives.Shown(by_item=True),
        tuning.Part(("click.*",)),
        Budget(epochs=epochs, batch_size=batch_size, lr=lr, patience=patience, measure="AUC"),
    )
    return System(
        paper=Paper(
            "Boosting Deep CTR Prediction with a Plug-and-Play Pre-trainer for News Recommendation", "Liu et al.", 2022, "COLING",
            survey="fine-tune extra part",
        ),
        model=models.TextClicks(
            TextEncoder(Backbone(backbone, precision), max_tokens=max_tokens), ItemText(texts), dim=dim, layers=layers,
            heads=heads, max_len=max_len, dropout=dropout, cross=cross, hidden=hidden,
        ),
        stages=(guess, click) if pretrain else (click,),
        task=tasks.Clicks(read),
    )  # fmt: skip
