"""TALLRec: a language model tuned to answer whether a user will like an item (Bao et al., RecSys 2023, arXiv 2305.00447)."""

from __future__ import annotations

from lmrs import models, negatives, objectives, tasks, tuning, views
from lmrs.language import Backbone
from lmrs.language.adapters import Lora
from lmrs.prompts import YesNo
from lmrs.schedule import Linear
from lmrs.system import Budget, Paper, Stage, System

PROMPT = (
    "Given the user's preference, identify whether the user will like the target item by answering Yes or No.\n"
    "User preference: {list history}\nWhether the user will like the target item {candidate}?\nAnswer:"
)
RATED = (
    "Given the user's preference and unpreference, identify whether the user will like the target item by answering Yes or No.\n"
    "User preference: {list liked}\nUser unpreference: {list disliked}\n"
    "Whether the user will like the target item {candidate}?\nAnswer:"
)
SPACE = {"rank": [4, 8, 16], "max_len": [5, 10], "lr": [1e-4, 3e-4, 1e-3]}


def tallrec(
    *,
    backbone: str = "smollm2",
    precision: str = "fp32",
    prompt: str = "",
    rating: float | None = None,
    rank: int = 8,
    alpha: float = 16.0,
    lora_dropout: float = 0.05,
    maps: tuple[str, ...] = ("q_proj", "v_proj"),
    unlike: int = 1,
    max_len: int = 10,
    lr: float = 1e-4,
    epochs: int = 5,
    batch_size: int = 16,
    patience: int | None = 3,
    every: int = 1,
    measure: str = "",
) -> System:
    """LoRA on a frozen language model; the answer is the first word after the instruction (sections 3.2 and 3.3).

    rating: what was rated higher is liked (paper: 3): liked and disliked titles stand in the prompt, the next event is answered
    by its rating, and the task is to tell likes from dislikes (AUC). None: for data without ratings; what is answered with No is
    drawn, and items are ranked. unlike: drawn items that are to be answered with No, for each one that is answered with Yes.
    prompt: a template with {candidate} and {list history}, or with {list liked} and {list disliked} where there are ratings; ""
    for the one of the paper. rank, alpha, lora_dropout, maps: of LoRA (the paper: 8, 16, .05, on the query and value maps).
    measure: what validation watches; "" for AUC with ratings and for NDCG@10 among 99 drawn items without.

    Departures: the charge is on the two answers alone (paper: on the whole text); the general instruction tuning before it is the
    backbone's own; without `rating` no disliked items are told, as most logs have none.
    """
    rated = rating is not None
    prompt = prompt or (RATED if rated else PROMPT)
    measure = measure or ("AUC" if rated else "NDCG@10/99neg")
    sequence = views.ItemSequence(max_len=max_len)
    view = sequence if rating is None else views.Rated(sequence, rating)
    return System(
        paper=Paper(
            "TALLRec: An Effective and Efficient Tuning Framework to Align Large Language Model with Recommendation",
            "Bao et al.", 2023, "RecSys", "2305.00447",
        ),
        model=models.Prompted(
            Backbone(backbone, precision), prompt, read="words", words=YesNo(yes=("Yes",), no=("No",)), max_len=max_len,
            adapter=Lora(rank=rank, alpha=alpha, targets=maps, dropout=lora_dropout),
        ),
        stages=(
            Stage(
                "instruct",
                view,
                objectives.Liking() if rated else objectives.Verdict(negatives.Uniform(k=unlike)),
                tuning.Part(Lora().patterns),
                Budget(
                    epochs=epochs, batch_size=batch_size, lr=lr, patience=patience, every=every, measure=measure,
                    schedule=Linear(warmup=0.05),
                ),
            ),
        ),
        task=tasks.Liked(view) if isinstance(view, views.Rated) else tasks.Ranking(sequence),
    )  # fmt: skip
