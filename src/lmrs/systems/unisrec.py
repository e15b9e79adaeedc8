"""UniSRec: universal sequence representations from item texts (Hou et al., KDD 2022, arXiv 2206.05941)."""

from __future__ import annotations

from lmrs import models, objectives, tasks, views
from lmrs.errors import UserError, did_you_mean
from lmrs.language import Backbone
from lmrs.system import Budget, Paper, Stage, System
from lmrs.texts import ItemText, TextEncoder
from lmrs.tuning import Everything, Nothing, Part, Tuning

TUNINGS = ("part", "whole", "none")
SPACE = {"dim": [64, 300], "experts": [1, 8], "dropout": [0.2, 0.5], "ids": [False, True], "lr": [3e-4, 1e-3]}
BODY = ("positions.*", "embed_norm.*", "blocks.*")
ADAPTOR = ("adaptor.*",)


def unisrec(
    *,
    backbone: str = "minilm",
    precision: str = "fp32",
    texts: tuple[str, ...] = (),
    pooling: str = "mean",
    max_tokens: int = 128,
    ids: bool = False,
    experts: int = 8,
    dim: int = 300,
    layers: int = 2,
    heads: int = 2,
    max_len: int = 50,
    dropout: float = 0.5,
    temperature: float = 0.07,
    pretrain: bool = True,
    start: str = "",
    tuning: str = "part",
    pretrain_epochs: int = 100,
    pretrain_batch_size: int = 2048,
    weight: float = 1e-3,
    duplicates: str = "zero_logit",
    lr: float = 1e-3,
    epochs: int = 200,
    batch_size: int = 256,
    patience: int | None = 10,
    every: int = 1,
) -> System:
    """Items are their texts, read by a frozen language model; an adaptor and a transformer are pre-trained by contrast, then the
    adaptor alone is tuned (section 2). Items never seen in training are recommended like others.

    backbone, precision, pooling, max_tokens: what reads the texts ("bf16" takes half the time on some processors; "mean", "cls").
    texts: item columns and attributes; () for all that are text. ids: add id embeddings in the second stage (transductive;
    False: inductive). experts: of the adaptor; 1 is one whitening. weight: of the sequence-sequence part, 0 leaves it out.
    duplicates: "zero_logit" (released code) or "exclude".
    pretrain: False leaves the first stage out; the second then trains everything. start: the folder of another run with the same
    sizes and backbone, such as one on `sources.union` of several domains: its first stage counts as this one's.
    tuning: what the second stage tunes of a pre-trained model: "part", the adaptor (and the ids), as the paper; "whole", all but
    the language model; "none", what was pre-trained answers as it is.

    Departures: without `start` pre-trained on the given data (paper: five other domains); the default backbone is a small
    sentence encoder with mean pooling (paper: BERT-base, "cls"); feed-forward width is dim (paper: 256 at dim 300); attention
    weights are not dropped out; the gate's noise and the adaptor's dropout act on histories, not on the scored items;
    pre-training takes the best epoch by validation (paper: the last of 300).
    """
    if tuning not in TUNINGS:
        raise UserError(needed=f"tuning={', '.join(TUNINGS)}", came=repr(tuning), remedy=did_you_mean(tuning, TUNINGS))
    if tuning == "none" and not (pretrain or start):
        raise UserError(needed="a pre-trained model for tuning=none", came="pretrain=false and no start", remedy="set one")
    ways: dict[str, Tuning] = {
        "part": Part((*ADAPTOR, *(("ids.*",) if ids else ()))), "whole": Everything(), "none": Nothing(),
    }  # fmt: skip
    sequence = views.ItemSequence(max_len=max_len)
    first = Stage(
        "pretrain",
        views.ItemSequence(max_len=max_len, prefixes=True),
        objectives.Contrastive(temperature=temperature, weight=weight, duplicates=duplicates),
        Part((*ADAPTOR, *BODY)),
        Budget(epochs=pretrain_epochs, batch_size=pretrain_batch_size, patience=None, every=every),
    )
    second = Stage(
        "finetune",
        sequence,
        objectives.NextItem(),
        ways[tuning] if pretrain or start else Everything(),
        Budget(epochs=epochs if tuning != "none" else 1, batch_size=batch_size, lr=lr, patience=patience, every=every),
    )
    return System(
        paper=Paper(
            "UniSRec: Towards Universal Sequence Representation Learning for Recommender Systems", "Hou et al.", 2022, "KDD",
            "2206.05941", survey="fine-tune part",
        ),
        model=models.TextItems(
            TextEncoder(Backbone(backbone, precision), pooling, max_tokens=max_tokens), ItemText(texts), models.Adaptor(experts),
            ids=ids, temperature=temperature, dim=dim, layers=layers, heads=heads, max_len=max_len, dropout=dropout,
            start=start,
        ),
        stages=(first, second) if pretrain and not start else (second,),
        task=tasks.Ranking(sequence),
    )  # fmt: skip
