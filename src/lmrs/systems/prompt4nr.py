"""Prompt4NR: will the user click the news, asked as a word to fill in (Zhang and Wang, SIGIR 2023, arXiv 2304.05263)."""

from __future__ import annotations

from lmrs import models, objectives, tasks, tuning, views
from lmrs.errors import UserError, did_you_mean
from lmrs.language import Backbone
from lmrs.prompts import YesNo
from lmrs.schedule import Linear
from lmrs.system import Budget, Paper, Stage, System
from lmrs.visibility import Causal

WORDS = {
    "relevance": ("related", "unrelated"), "emotion": ("interesting", "boring"), "action": ("yes", "no"),
    "utility": ("good", "bad"),
}  # fmt: skip
_NEWS, _READ = "{candidate limit=24}", "{list history tokens=14}"
_P, _Q, _M = "[soft p 3]", "[soft q 3]", "[soft m 3]"
_ENDS = {
    "relevance": "This news is [mask] to the user's area of interest", "emotion": "The user feels [mask] about the news",
    "action": "Does the user click the news? [mask]", "utility": "Recommending the news to the user is a [mask] choice",
}  # fmt: skip
TEMPLATES = {
    "discrete-relevance": f"{_NEWS} is [mask] to {_READ}",
    "discrete-emotion": f"The user feels [mask] about {_NEWS} according to his area of interest {_READ}",
    "discrete-action": f"User: {_READ} [special sep] News: {_NEWS} [special sep] Does the user click the news? [mask]",
    "discrete-utility": f"Recommending {_NEWS} to the user is a [mask] choice according to {_READ}",
    "continuous-relevance": f"{_Q} {_NEWS} {_M} [mask] {_P} {_READ}",
    "continuous-emotion": f"{_M} [mask] {_Q} {_NEWS} {_P} {_READ}",
    "continuous-action": f"{_P} {_READ} [special sep] {_Q} {_NEWS} [special sep] {_M} [mask]",
    "continuous-utility": f"{_Q} {_NEWS} {_M} [mask] {_P} {_READ}",
    **{f"hybrid-{kind}": f"{_P} {_READ} [special sep] {_Q} {_NEWS} [special sep] {end}" for kind, end in _ENDS.items()},
}
SPACE = {"templates": [(name,) for name in TEMPLATES], "max_len": [10, 50], "lr": [2e-5, 1e-4, 5e-4]}


def prompt4nr(
    *,
    backbone: str = "minilm",
    precision: str = "fp32",
    head: str = "new",
    templates: tuple[str, ...] = ("hybrid-action",),
    max_len: int = 50,
    context: int | None = 500,
    unclicked: int = 4,
    lr: float = 2e-5,
    weight_decay: float = 1e-3,
    epochs: int = 4,
    batch_size: int = 16,
    patience: int | None = 2,
) -> System:
    """A masked language model reads what the user clicked and a candidate, and fills in one of two words; all weights and the
    virtual tokens are tuned on clicked and unclicked news of an impression (section 3). With several templates each has a model
    of its own, and the mean of their probabilities ranks (section 3.4).

    templates: of discrete-, continuous- and hybrid- with relevance, emotion, action and utility; see TEMPLATES.
    head: "trained" for a backbone that was saved with its word head; "new" draws one (the default backbone has none).
    context: tokens of a prompt; the oldest news go first.

    Departures: the default backbone is a small sentence encoder with a new word head (paper: BERT-base with its own); titles
    stand oldest first with "; " between them (paper: newest first, each behind a new token); limits are in tokens (paper: words);
    virtual tokens begin as words of the vocabulary (paper: random rows); the members of an ensemble stop together, at the best
    of their mean.
    """
    for name in templates or ("",):
        if name not in TEMPLATES:
            raise UserError(needed="templates such as hybrid-action", came=repr(name), remedy=did_you_mean(name, TEMPLATES))
    members = []
    for name in templates:
        yes, no = WORDS[name.partition("-")[2]]
        members.append(
            models.Prompted(
                Backbone(backbone, precision), TEMPLATES[name], read="words", words=YesNo((yes,), (no,)), max_len=max_len,
                context=context, head=head,
            )
        )  # fmt: skip
    view = views.Impressions(max_len=max_len, unclicked=unclicked)
    return System(
        paper=Paper(
            "Prompt Learning for News Recommendation", "Zhang and Wang", 2023, "SIGIR", "2304.05263",
            survey="fixed-prompt model tuning",
        ),
        model=members[0] if len(members) == 1 else models.Ensemble(tuple(members), max_len),
        stages=(
            Stage(
                "finetune",
                view,
                objectives.Shown(by_item=True, visible=Causal()),
                tuning.Everything(),
                Budget(
                    epochs=epochs, batch_size=batch_size, lr=lr, weight_decay=weight_decay, patience=patience, measure="AUC",
                    schedule=Linear(warmup=0.1),
                ),
            ),
        ),
        task=tasks.Clicks(view),
    )  # fmt: skip
