"""LMRec: language models as recommender systems (Zhang et al., NeurIPS workshop 2021; code LMRecSys)."""

from __future__ import annotations

from lmrs import models, objectives, tasks, tuning, views
from lmrs.errors import UserError, did_you_mean
from lmrs.language import Backbone
from lmrs.objectives import Objective
from lmrs.prompts import MultiMask
from lmrs.system import Budget, Paper, Stage, System

PROMPT = 'A user watched {list history separator=", "}. Now the user may want to watch'
PRODUCTS = 'A user has bought {list history separator="; "}. Now the user wants to buy'
SCORERS = ("sentence", "masks", "one-mask")
LOSSES: dict[str, Objective] = {
    "none": objectives.Continuation(),
    "hinge": objectives.Margin(),
    "softmax": objectives.Continuation(),
}
SPACE = {"together": ["mean", "product"], "max_len": [5, 7, 11], "lr": [2e-5, 5e-5]}


def lmrec(
    *,
    backbone: str = "smollm2",
    precision: str = "fp32",
    scorer: str = "sentence",
    loss: str = "none",
    prompt: str = PROMPT,
    masks: int = 10,
    together: str = "mean",
    padding: str = "include",
    head: str = "trained",
    pmi: bool = False,
    max_len: int = 7,
    lr: float = 5e-5,
    epochs: int = 20,
    batch_size: int = 32,
    patience: int | None = 3,
    measure: str = "",
) -> System:
    """The next title as the blank of a sentence, as a language model is or after tuning all of it (section 3).

    scorer: "masks" reads the title's tokens at as many masks of an encoder, "one-mask" all of them at one; "sentence" fills each
    title in and takes the mean log-probability of a causal model's whole sentence. loss: "none" trains nothing; "hinge" (the
    paper's default) or "softmax" over the catalogue tunes every parameter; both need masks.
    prompt: the sentence up to the title, with {list history}; systems.lmrec.PRODUCTS is the paper's for shops.
    masks: tokens of a title that are read. together: "mean", "min", "max" or "product" over them. padding: "include" counts
    padding where a title is shorter (the released code), "exclude" does not. head: "new" for an encoder saved without a word
    head; it then has to be trained. pmi: take off the score without a history. measure: what validation watches, "" for Recall@20
    with masks (as the code) and for NDCG@10 among 99 drawn items with sentences.

    Departures: histories are the latest `max_len` items and one place of each is drawn an epoch (code: every session of 3 to
    12); no stage adapts the model to the domain's texts first; "min", "max" and "product" are taken of log-probabilities.
    """
    if scorer not in SCORERS:
        raise UserError(needed="a scorer " + ", ".join(SCORERS), came=repr(scorer), remedy=did_you_mean(scorer, SCORERS))
    if loss not in LOSSES:
        raise UserError(needed="a loss " + ", ".join(LOSSES), came=repr(loss), remedy=did_you_mean(loss, LOSSES))
    sentences = scorer == "sentence"
    if sentences and loss != "none":
        raise UserError(
            needed="scorer=masks to tune with a loss over the catalogue", came=f"scorer={scorer}", remedy="or loss=none"
        )
    if head == "new" and loss == "none":
        raise UserError(needed="a trained word head, or a loss that trains it", came="head=new and loss=none", remedy="set loss")
    read = MultiMask(masks, padding, together=together, one=scorer == "one-mask")
    sequence = views.ItemSequence(max_len=max_len)
    untuned = loss == "none"
    return System(
        paper=Paper(
            "Language Models as Recommender Systems: Evaluations and Limitations", "Zhang et al.", 2021, "NeurIPS workshop",
            survey="tuning-free prompting" if untuned else "fixed-prompt model tuning",
        ),
        model=models.Prompted(
            Backbone(backbone, precision),
            prompt if sentences else f"{prompt} [mask {read.masks}].",
            read="title" if sentences else "masks",
            score="pmi" if pmi else "sentence" if sentences else "sum",
            masks=read,
            head=head,
            max_len=max_len,
        ),
        stages=(
            Stage(
                "ask" if untuned else "tune",
                sequence,
                LOSSES[loss],
                tuning.Nothing() if untuned else tuning.Everything(),
                Budget(
                    epochs=epochs, batch_size=batch_size, lr=lr, patience=patience, clip=1.0,
                    measure=measure or ("NDCG@10/99neg" if sentences else "Recall@20"),
                ),
            ),
        ),
        task=tasks.Ranking(sequence),
    )  # fmt: skip
