"""PETER: personalised transformer for explainable recommendation (Li, Zhang & Chen, ACL 2021, arXiv 2105.11601)."""

from __future__ import annotations

from lmrs import models, objectives, tasks, tuning, views
from lmrs.system import Budget, Paper, Stage, System

SPACE = {"dim": [128, 512], "layers": [1, 2], "dropout": [0.2, 0.4], "lr": [3e-4, 1e-3], "context": [0.0, 1.0]}


def peter(
    *,
    feature: bool = False,
    context: float = 1.0,
    rating: float = 0.1,
    mask: str = "peter",
    says: str = "explanation",
    longest: int = 15,
    words: int = 20_000,
    dim: int = 512,
    layers: int = 2,
    heads: int = 2,
    dropout: float = 0.2,
    lr: float = 1e-3,
    epochs: int = 50,
    batch_size: int = 128,
    patience: int | None = 5,
    measure: str = "PPL",
) -> System:
    """A small transformer, trained from scratch, that writes why a user chose an item, and predicts the rating (section 3).

    feature: read the feature that the explanation is to speak of (PETER+). context, rating: weights of the words without order
    and of the rating; 0 leaves a part out. mask: "peter", or "causal", under which the user does not see the item.
    says: the text of a review that explains: "explanation", "title" or "text"; longest: words of it. words: of the vocabulary.

    Needs reviews (reviews:PATH) and is asked about users and items that it met in training: use --split review.

    Departures: AdamW at a constant rate (paper: SGD at 1.0, a quarter of it after each failure); GELU in the feed-forward parts
    (paper: ReLU); the best epoch is that of the lowest perplexity (paper: lowest sum of text and rating losses); the unknown
    word is never written; the words without order do not include the end of the text.
    """
    view = views.Reviews(says=says, longest=longest)
    return System(
        paper=Paper(
            "Personalized Transformer for Explainable Recommendation", "Li, Zhang & Chen", 2021, "ACL", "2105.11601",
        ),
        model=models.Peter(
            feature=feature, words=words, says=says, longest=longest, mask=mask, dim=dim, layers=layers, heads=heads,
            dropout=dropout,
        ),
        stages=(
            Stage(
                "train",
                view,
                objectives.Explanation(context=context, rating=rating),
                tuning.Everything(),
                Budget(epochs=epochs, batch_size=batch_size, lr=lr, patience=patience, measure=measure, clip=1.0),
            ),
        ),
        task=tasks.Explaining(view),
    )  # fmt: skip
