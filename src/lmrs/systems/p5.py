"""P5 and OpenP5: recommendation as text to text, several tasks in one model (Geng et al., RecSys 2022, arXiv 2203.13366)."""

from __future__ import annotations

from lmrs import indexing, models, objectives, tasks, views
from lmrs.errors import ContractError, did_you_mean
from lmrs.language import Backbone
from lmrs.models.code_prompts import Wording
from lmrs.schedule import Linear
from lmrs.system import Budget, Paper, Stage, System

HISTORY = '{list history separator=" , "}'
SEQUENTIAL = (
    f"The user bought {HISTORY} . What comes next ?",
    f"{{user}} has bought {HISTORY} so far . Name the next item .",
    f"Here is what {{user}} bought , in order : {HISTORY} . Predict the next one .",
    f"Items so far : {HISTORY} . Which item would the user like to buy next ?",
    f"After {HISTORY} , what will {{user}} buy ?",
    f"{{user}} is a user who liked {HISTORY} . Recommend the next item to {{user}} .",
)
UNSEEN = f"Given the history of {{user}} : {HISTORY} , what is the item to recommend ?"
DIRECT = (
    "What would {user} like to buy ?",
    "Recommend an item to {user} .",
    "Which item is good for {user} ?",
    "Find something that {user} will like .",
)
INDEXES = ("number", "sequential", "collaborative", "independent", "hybrid", "title", "random")
SPACE = {"index": ["sequential", "collaborative", "hybrid"], "dim": [64, 128], "lr": [1e-3, 3e-3, 1e-2]}


def p5(
    *,
    backbone: str = "tiny-seq2seq",
    fresh: bool = True,
    index: str = "sequential",
    branches: int = 20,
    cluster: int = 500,
    sequential: float = 1.0,
    direct: float = 1.0,
    prompt: str = "seen",
    whole_words: bool = True,
    users: int = 0,
    beams: int | None = 50,
    dim: int = 128,
    layers: int = 4,
    heads: int = 4,
    dropout: float = 0.1,
    max_len: int = 20,
    stride: int | None = None,
    lr: float = 3e-3,
    epochs: int = 20,
    batch_size: int = 128,
    patience: int | None = 5,
    every: int = 1,
) -> System:
    """One sequence-to-sequence model learns to name the next item from a history and to recommend to a user without one, each in
    several wordings (P5's families 2 and 5, OpenP5's two tasks); items are spelt by an index (section 3; arXiv 2306.11134).

    backbone: of family seq2seq: t5-small or a folder. fresh: only its tokeniser is used, and a T5 of `dim`, `layers`, `heads` is
    trained from scratch; False: its own weights and sizes.
    index: "number" (P5's random number as text), "sequential" (numbers in the order of training), "collaborative" (clusters of
    co-occurrence, cut into `branches` until they hold `cluster` items), "independent" (a token an item), "hybrid" (collaborative
    path and own token), "title" or "random" (random tokens). sequential, direct: shares of the two tasks; direct=0 leaves it out.
    prompt: asks with a "seen" wording, or one "unseen" in training. whole_words: P5's vectors that hold the pieces of an item
    together. users: 0 writes users as text, else as one of so many tokens. beams: None scores the whole catalogue.
    stride: None trains on every prefix of a user's last window; a number on all places of windows that far apart.

    Departures: the families of ratings, explanations and reviews, candidate lists and yes/no questions are left out; wordings are
    our own; by default weights are drawn, lr is .003 (paper: t5-small, .001) and the tokeniser spells most words in
    bytes; numbers follow training events alone (released files: whole histories, test items included); the search is held to the
    catalogue; the loss is summed over a code's tokens (paper: their mean); tasks are mixed within a batch.
    """
    if prompt not in ("seen", "unseen"):
        raise ContractError(needed="prompt 'seen' or 'unseen'", came=repr(prompt))
    sequence = views.ItemSequence(max_len=max_len)
    wordings = (*SEQUENTIAL, *DIRECT, UNSEEN)
    mixed = [("sequential", sequential, tuple(range(len(SEQUENTIAL))))]
    if direct:
        mixed.append(("direct", direct, tuple(range(len(SEQUENTIAL), len(wordings) - 1))))
    asking = next(number for number, text in enumerate(SEQUENTIAL) if Wording(text).names_user)
    return System(
        paper=Paper(
            "Recommendation as Language Processing (RLP): A Unified Pretrain, Personalized Prompt & Predict Paradigm (P5)",
            "Geng et al.", 2022, "RecSys", "2203.13366", survey="tuning-free prompting",
        ),
        model=models.Generative(
            indexer(index, branches=branches, cluster=cluster), Backbone(backbone),
            models.Scratch(dim, layers, heads, dim // heads, 4 * dim, dropout) if fresh else None,
            wordings, asking if prompt == "seen" else len(wordings) - 1,
            users=users, whole_words=whole_words, beams=beams, max_len=max_len,
        ),
        stages=(
            Stage(
                "instruct",
                views.ItemSequence(max_len=max_len, prefixes=stride is None, stride=stride),
                objectives.Instructed(tuple(mixed), places="last" if stride is None else "all"),
                budget=Budget(
                    epochs=epochs, batch_size=batch_size, lr=lr, schedule=Linear(warmup=0.05), patience=patience, every=every,
                    clip=1.0,
                ),
            ),
        ),
        task=tasks.Ranking(sequence),
    )  # fmt: skip


def indexer(name: str, *, branches: int = 20, cluster: int = 500) -> indexing.Indexer:
    """The way to index items of that name. Raises ContractError for another one."""
    match name:
        case "number":
            return indexing.NumberText()
        case "sequential":
            return indexing.Sequential()
        case "collaborative":
            return indexing.Collaborative(branches, cluster)
        case "independent":
            return indexing.Independent()
        case "hybrid":
            return indexing.Hybrid(indexing.Collaborative(branches, cluster))
        case "title":
            return indexing.Title(" {}")
        case "random":
            return indexing.Random()
    raise ContractError(needed=f"an index among {', '.join(INDEXES)}", came=repr(name), remedy=did_you_mean(name, INDEXES))
