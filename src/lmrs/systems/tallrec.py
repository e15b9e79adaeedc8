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
SPACE = {"rank": [4, 8, 16], "max_len": [5, 10], "lr": [1e-4, 3e-4, 1e-3]}


def tallrec(
    *,
    backbone: str = "smollm2",
    precision: str = "fp32",
    prompt: str = PROMPT,
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
    measure: str = "NDCG@10/99neg",
) -> System:
    """LoRA on a frozen language model; the answer is the first word after the instruction (sections 3.2 and 3.3).

    prompt: a template with {list history} and {candidate}. rank, alpha, lora_dropout, maps: of LoRA (the paper: 8, 16, .05, on
    the query and value maps). unlike: drawn items that are to be answered with No, for each one that is answered with Yes.

    Departures: No is taught on drawn items, as most logs have no dislikes (paper: items rated low, and a list of disliked ones in
    the prompt); the charge is on the two answers alone (paper: on the whole text); the general instruction tuning before it is
    the backbone's own.
    """
    sequence = views.ItemSequence(max_len=max_len)
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
                sequence,
                objectives.Verdict(negatives.Uniform(k=unlike)),
                tuning.Part(Lora().patterns),
                Budget(
                    epochs=epochs, batch_size=batch_size, lr=lr, patience=patience, measure=measure, schedule=Linear(warmup=0.05)
                ),
            ),
        ),
        task=tasks.Ranking(sequence),
    )  # fmt: skip
