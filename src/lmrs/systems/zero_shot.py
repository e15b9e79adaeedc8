"""Zero-shot recommendation as language modelling (Sileo, Vossen & Raymaekers, ECIR 2022, arXiv 2112.04184)."""

from __future__ import annotations

from lmrs import models, objectives, tasks, tuning, views
from lmrs.errors import UserError
from lmrs.language import Backbone
from lmrs.system import Budget, Paper, Stage, System

LIKED = '{list history separator=", "}'
PROMPTS = {
    "0": f"{LIKED},",
    "1": f"Movies like {LIKED},",
    "2": f"Movies similar to {LIKED},",
    "3": f"Movies like: {LIKED},",
    "4": f"Movies similar to: {LIKED},",
    "5": f"If you liked {LIKED}, you will also like",
}
SPACE = {"prompt": list(PROMPTS), "score": ["sum", "mean", "pmi"], "max_len": [3, 5, 10]}


def zero_shot(
    *,
    backbone: str = "smollm2",
    precision: str = "fp32",
    prompt: str = "3",
    score: str = "sum",
    max_len: int = 5,
) -> System:
    """Items ranked by the likelihood of their titles after a prompt of liked titles; nothing is trained (section 3).

    prompt: one of the paper's, "0" to "5", or a template of your own with {list history}, such as
    "Shoppers who bought {list history} also bought". score: "sum" of log-probabilities (the paper), their "mean", or "pmi".
    max_len: how many of the latest items are named.

    Departures: the history is the user's latest items, not liked ones drawn at random (ratings are not needed); titles are taken
    as the catalogue has them, so clean them there; a full stop closes a title, so that one title cannot be half of another.
    """
    if prompt not in PROMPTS and "{" not in prompt:
        raise UserError(needed="a prompt '0' to '5', or a template with {list history}", came=repr(prompt))
    sequence = views.ItemSequence(max_len=max_len)
    return System(
        paper=Paper(
            "Zero-Shot Recommendation as Language Modeling", "Sileo et al.", 2022, "ECIR", "2112.04184",
            survey="tuning-free prompting",
        ),
        model=models.Prompted(Backbone(backbone, precision), PROMPTS.get(prompt, prompt), score=score, max_len=max_len),
        stages=(Stage("ask", sequence, objectives.Continuation(), tuning.Nothing(), Budget(epochs=1, measure="NDCG@10/99neg")),),
        task=tasks.Ranking(sequence),
    )  # fmt: skip
