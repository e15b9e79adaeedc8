"""PPR: personalised prompts for cold users of a sequential recommender (Wu et al., arXiv 2205.09666; TKDE 2024)."""

from __future__ import annotations

from lmrs import losses, models, objectives, tasks, tuning, views
from lmrs.errors import ContractError, did_you_mean
from lmrs.negatives import Uniform
from lmrs.system import Budget, Paper, Stage, System
from lmrs.systems.sasrec import charge

SPACE = {"length": [1, 2, 4], "hidden": [32, 64, 128], "contrast": [0.0, 0.1], "lr": [5e-4, 1e-3, 3e-3]}
VARIANTS = ("light", "full", "finetune", "frozen")
LOSSES = ("pairwise", "softmax", "sampled", "bce", "gbce")
BODY = ("items.*", "positions.*", "blocks.*", "final_norm.*")


def ppr(
    *,
    variant: str = "light",
    profile: tuple[str, ...] = (),
    personal: bool = True,
    length: int = 1,
    hidden: int = 64,
    contrast: float = 0.1,
    few: int = 10,
    dim: int = 64,
    layers: int = 2,
    heads: int = 2,
    max_len: int = 50,
    dropout: float = 0.2,
    loss: str = "pairwise",
    negatives: int = 256,
    pretrain_epochs: int = 200,
    lr: float = 1e-3,
    epochs: int = 100,
    batch_size: int = 128,
    patience: int | None = 10,
    every: int = 1,
) -> System:
    """SASRec pre-trained on warm users; cold ones are answered after soft prompts that a generator makes from their profile.

    variant: "light" freezes the recommender and tunes the generator, "full" tunes both; "finetune" tunes the recommender without
    prompts and "frozen" leaves it as it is (what the two are compared with).
    profile: columns of the user table, () for all with at most 128 values. personal: False gives every user the same prompt.
    length: prompts. hidden: of the generator. contrast: weight of the contrastive part, 0 leaves it out.
    few: users with at most so many training events are cold, all others warm. loss: "pairwise" (the paper's) or one of sasrec's.

    Departures: the first event is predicted, too, so that users without any can be asked; which pair of views is contrasted is
    our reading (one with attributes hidden, one with events left out; the paper masks elements of the embedded profile, and
    events); no aggregate of the history enters the generator (it would show later events to earlier places); a user with one
    event is asked, not learned from; attention weights are not dropped out; both stages are validated on the split's queries.
    """
    if variant not in VARIANTS:
        raise ContractError(
            needed=f"a variant among {', '.join(VARIANTS)}", came=repr(variant), remedy=did_you_mean(variant, VARIANTS)
        )
    if loss not in LOSSES:
        raise ContractError(needed=f"a loss among {', '.join(LOSSES)}", came=repr(loss), remedy=did_you_mean(loss, LOSSES))
    pairwise = losses.BPRMax(Uniform(1), regularisation=0.0, elu=None)
    paid = pairwise if loss == "pairwise" else charge(loss, negatives, 0.0)
    sequence = views.ItemSequence(max_len=max_len)
    body = models.Transformer(
        dim=dim, layers=layers, heads=heads, max_len=max_len + length - 1, dropout=dropout, block=models.QueryNorm(), scale=True
    )
    opens = variant in ("light", "full")
    first = Stage(
        "pretrain", views.Profiled(sequence, least=few + 1), objectives.NextItem(paid),
        tuning.Part(BODY) if opens else tuning.Everything(),
        Budget(epochs=pretrain_epochs, batch_size=batch_size, patience=patience, every=every),
    )  # fmt: skip
    second = Stage(
        "prompt" if opens else "finetune", views.Profiled(sequence, least=1, most=few),
        objectives.Opened(paid, contrast=contrast) if opens else objectives.NextItem(paid),
        tuning.Part(("prompt.*",)) if variant == "light" else tuning.Everything(),
        Budget(epochs=epochs, batch_size=batch_size, lr=lr, patience=patience, every=every),
    )  # fmt: skip
    return System(
        paper=Paper(
            "Personalized Prompt for Sequential Recommendation", "Wu et al.", 2022, "TKDE 2024", "2205.09666",
            survey="fixed-model prompt tuning",
        ),
        model=models.ProfilePrompt(body, profile, personal, length, hidden=hidden) if opens else body,
        stages=(first,) if variant == "frozen" else (first, second),
        task=tasks.Ranking(views.Profiled(sequence) if opens else sequence),
    )  # fmt: skip
