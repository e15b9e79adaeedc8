"""PEPLER: personalised prompts for explainable recommendation (Li, Zhang & Chen, TOIS 2023, arXiv 2202.07371)."""

from __future__ import annotations

from lmrs import models, objectives, tasks, tuning, views
from lmrs.errors import ContractError, did_you_mean
from lmrs.language import Backbone
from lmrs.models.pepler import CONTINUOUS, DISCRETE
from lmrs.system import Budget, Paper, Stage, System

SPACE = {"tuned": ["sequential", "prompt", "both"], "lr": [1e-4, 3e-4, 1e-3], "longest": [15, 20]}
TUNED = ("sequential", "prompt", "both")
WEIGHT = {"": 0.0, "mf": 0.01, "mlp": 1.0}  # of the rating, as in the released code


def pepler(
    *,
    backbone: str = "smollm2",
    precision: str = "fp32",
    discrete: bool = False,
    tuned: str = "sequential",
    rating: str = "",
    weight: float | None = None,
    says: str = "explanation",
    longest: int = 20,
    room: int = 20,
    lr: float = 1e-3,
    epochs: int = 20,
    batch_size: int = 128,
    patience: int | None = 5,
    measure: str = "PPL",
) -> System:
    """A causal language model writes why a user chose an item, after a prompt of two learned vectors (section 4.2).

    tuned: "sequential": first the vectors before the frozen model, then everything (section 4.3); "prompt": the first of these
    alone; "both": everything at once. rating: "mf" or "mlp" predicts the rating from the vectors beside, which regularises them
    (section 4.4; all is then tuned at once). weight: of the rating, None: .01 for "mf", 1 for "mlp".
    discrete: a prompt of the features that user and item were spoken of with in training, and no vectors (PEPLER-D): the model is
    tuned. says, longest: as in views.Reviews. room: tokens of the prompt.

    Needs reviews (reviews:PATH) and is asked about users and items that it met in training: use --split review.

    Departures: the backbone is small and its own tokens begin and end a text (paper: GPT-2 with new ones); vectors start at
    scale .02 (paper: drawn from [-.1, .1]); texts are cut after `longest` words (paper: tokens); stopping is by the lowest
    perplexity, `patience` epochs in a row (paper: five in total); shared features are listed once.
    """
    if tuned not in TUNED:
        raise ContractError(needed=f"tuned {' or '.join(map(repr, TUNED))}", came=repr(tuned), remedy=did_you_mean(tuned, TUNED))
    view = views.Reviews(says=says, longest=longest)
    objective = objectives.Explanation(rating=WEIGHT.get(rating, 1.0) if weight is None else weight)
    budget = Budget(epochs=epochs, batch_size=batch_size, lr=lr, patience=patience, measure=measure)
    prompt = Stage("prompt", view, objective, tuning.Part(("prompt.*",)), budget)
    everything = Stage("model", view, objective, tuning.Everything(), budget)
    chosen = (everything,) if discrete or rating or tuned == "both" else (prompt, everything)[: 1 if tuned == "prompt" else 2]
    return System(
        paper=Paper(
            "Personalized Prompt Learning for Explainable Recommendation", "Li, Zhang & Chen", 2023, "TOIS", "2202.07371",
            survey="fixed-prompt model tuning" if discrete else "prompt + model tuning",
        ),
        model=models.Pepler(
            Backbone(backbone, precision), DISCRETE if discrete else CONTINUOUS, rating=rating, says=says, longest=longest,
            room=room,
        ),
        stages=chosen,
        task=tasks.Explaining(view),
    )  # fmt: skip
