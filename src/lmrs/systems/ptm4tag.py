"""PTM4Tag: tags for a post by pre-trained language models, one for each of its parts (He et al., ICPC 2022, arXiv 2203.10965)."""

from __future__ import annotations

from lmrs import models, objectives, tasks, tuning, views
from lmrs.language import Backbone
from lmrs.schedule import Linear
from lmrs.system import Budget, Paper, Stage, System
from lmrs.texts import TextEncoder

SPACE = {"lr": [1e-5, 7e-5, 1e-3], "towers": ["own", "shared"], "max_tokens": [64, 128, 256]}


def ptm4tag(
    *,
    backbone: str = "minilm",
    precision: str = "fp32",
    parts: tuple[str, ...] = ("title", "text", "code"),
    towers: str = "own",
    tuned: bool = True,
    layers: int | None = None,
    max_tokens: int = 128,
    hidden: int | None = None,
    dropout: float = 0.1,
    lr: float = 7e-5,
    epochs: int = 3,
    batch_size: int = 8,
    patience: int | None = None,
    measure: str = "TagRecall@5",
) -> System:
    """Mean-pooled vectors of title, description and code, side by side, a tanh layer and a yes or no for each tag (section 3).

    Documents are the users and tags the items (sources of posts); a document is asked without a history. parts: columns of the
    user table; one that the data lacks is read as missing. towers: "own" (triplet), "shared" (twin) or "joined" (one text).
    tuned: False leaves the language model as it is and learns the layers on top (needs a higher lr, such as 1e-3). layers: only
    the first so many of the backbone. max_tokens: of each part.

    Departures: the default backbone is a small general encoder (paper: CodeBERT, 512 tokens); a part that a post lacks is a zero
    vector (paper: that of an empty text); lr rises over a tenth of the steps and falls to 0; validation keeps the best epoch.
    """
    documents = views.Documents(parts)
    return System(
        paper=Paper(
            "PTM4Tag: Sharpening Tag Recommendation of Stack Overflow Posts with Pre-trained Models", "He et al.", 2022, "ICPC",
            "2203.10965", survey="fine-tune whole",
        ),
        model=models.TextTowers(
            TextEncoder(Backbone(backbone, precision), normalise=False, max_tokens=max_tokens, layers=layers), parts,
            towers=towers, hidden=hidden, dropout=dropout,
        ),
        stages=(
            Stage(
                "finetune",
                documents,
                objectives.Tags(),
                tuning.Everything() if tuned else tuning.Part(("dense.*", "tags.*")),
                Budget(
                    epochs=epochs, batch_size=batch_size, lr=lr, patience=patience, measure=measure, schedule=Linear(warmup=0.1)
                ),
            ),
        ),
        task=tasks.Ranking(documents),
    )  # fmt: skip
