"""One language model, eight training strategies: the survey's cells as a switch (Liu, Zhang & Gulla, section 3 and Table 1)."""

from __future__ import annotations

from lmrs import models, objectives, tasks, tuning, views
from lmrs.errors import UserError, did_you_mean
from lmrs.language import Backbone
from lmrs.language.adapters import Lora
from lmrs.models.prompted import PLAIN
from lmrs.system import Budget, Paper, Stage, System

PROMPT = "Films like: {list history}. Another one is"
SOFT = "[soft task 8] {list history}. [soft next 4]"
SPACE = {"strategy": list(tuning.STRATEGIES), "max_len": [5, 10, 20], "lr": [1e-5, 1e-4, 1e-3]}


def language(
    *,
    strategy: str = tuning.TUNING_FREE,
    backbone: str = "smollm2",
    precision: str = "fp32",
    prompt: str = PROMPT,
    soft: str = SOFT,
    rank: int = 8,
    score: str = "sum",
    max_len: int = 10,
    lr: float | None = None,
    epochs: int = 5,
    batch_size: int = 16,
    patience: int | None = 3,
    measure: str = "NDCG@10/99neg",
) -> System:
    """The same backbone and the same histories under each strategy of the survey.

    strategy: "pre-train only" (the architecture without its weights, taught titles of histories), "fine-tune whole", "fine-tune
    part" (LoRA), "fine-tune extra part" (a table of items on the frozen model's states), "fixed-model prompt tuning" (learned
    vectors alone), "fixed-prompt model tuning", "tuning-free prompting", "prompt + model tuning".
    The first four read histories as plain lists of titles; the fine-tuned ones score items by a learned table. The last four ask
    with `prompt` (words) or `soft` (with learned vectors) and score titles by their likelihood, which works for new items.
    rank: of LoRA. score: "sum", "mean" or "pmi" of the title's log-probabilities. lr: None for 1e-3 where the backbone is frozen
    and 1e-4 where it learns. measure: what validation watches; scoring every title of the catalogue takes long.
    """
    if strategy not in tuning.STRATEGIES:
        raise UserError(needed="a strategy of the survey", came=repr(strategy), remedy=did_you_mean(strategy, tuning.STRATEGIES))
    wanted: dict[str, tuple[str, str, tuning.Tuning]] = {
        tuning.PRETRAIN: (PLAIN, "title", tuning.Everything()),
        tuning.WHOLE: (PLAIN, "state", tuning.Everything()),
        tuning.PART: (PLAIN, "state", tuning.Part((*Lora().patterns, "items.*", "item_bias"))),
        tuning.EXTRA: (PLAIN, "state", tuning.Part(("items.*", "item_bias"))),
        tuning.FIXED_MODEL: (soft, "title", tuning.Part(("prompt.*",))),
        tuning.FIXED_PROMPT: (prompt, "title", tuning.Everything()),
        tuning.TUNING_FREE: (prompt, "title", tuning.Nothing()),
        tuning.BOTH: (soft, "title", tuning.Everything()),
    }
    template, read, tuned = wanted[strategy]
    frozen = strategy in (tuning.EXTRA, tuning.FIXED_MODEL, tuning.PART, tuning.TUNING_FREE)
    sequence = views.ItemSequence(max_len=max_len)
    titles = read == "title"
    return System(
        paper=Paper("Pre-train, Prompt and Recommendation", "Liu, Zhang & Gulla", 2023, "TACL", "2302.03735"),
        model=models.Prompted(
            Backbone(backbone, precision), template, read=read, score=score, max_len=max_len,
            adapter=Lora(rank=rank) if strategy == tuning.PART else None, fresh=strategy == tuning.PRETRAIN,
        ),
        stages=(
            Stage(
                "ask" if strategy == tuning.TUNING_FREE else "tune",
                sequence,
                objectives.Continuation() if titles else objectives.NextItem(places="random"),
                tuned,
                Budget(
                    epochs=epochs, batch_size=batch_size, lr=lr or (1e-3 if frozen else 1e-4), patience=patience, clip=1.0,
                    measure=measure if titles else "NDCG@10",
                ),
            ),
        ),
        task=tasks.Ranking(sequence),
    )  # fmt: skip
