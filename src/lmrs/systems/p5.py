"""P5 and OpenP5: recommendation as text to text, several tasks in one model (Geng et al., RecSys 2022, arXiv 2203.13366)."""

from __future__ import annotations

from lmrs import indexing, models, objectives, tasks, views
from lmrs.errors import ContractError, did_you_mean
from lmrs.language import Backbone
from lmrs.models.code_prompts import HISTORY, Wording
from lmrs.schedule import Linear
from lmrs.system import Budget, Paper, Stage, System
from lmrs.systems.p5_questions import ASKS, FAMILIES, NOBODY, Question

SPACE = {"index": ["sequential", "collaborative", "hybrid"], "dim": [64, 128], "lr": [1e-3, 3e-3, 1e-2]}


def p5(
    *,
    backbone: str = "tiny-seq2seq",
    fresh: bool = True,
    families: tuple[str, ...] = ("sequential", "direct"),
    shares: tuple[float, ...] = (),
    asks: str = "sequential",
    prompt: str = "seen",
    index: str = "sequential",
    branches: int = 20,
    cluster: int = 500,
    whole_words: bool = True,
    users: int = 0,
    beams: int | None = 50,
    candidates: int = 100,
    expected: bool = True,
    says: str = "explanation",
    longest: int = 20,
    reads: int = 60,
    dim: int = 128,
    layers: int = 4,
    heads: int = 4,
    dropout: float = 0.1,
    max_len: int = 20,
    recent: int | None = 20,
    lr: float = 3e-3,
    epochs: int = 20,
    batch_size: int = 128,
    patience: int | None = 5,
    every: int = 1,
) -> System:
    """One sequence-to-sequence model answers every question that can be put about an event, each in several wordings (section 3);
    items are spelt by an index (OpenP5; arXiv 2306.11134).

    families: any of "sequential" (next item of a history), "direct" (an item for a user, OpenP5's second task), "candidates" (one
    of a list of `candidates`), "yes-no" (is this item for the user?), "rating" (stars, yes or no to a star, like or dislike),
    "explanation" (with and without a feature word), "review" (headline and stars of a review). The last three need ratings or
    texts (reviews:PATH, and --split review). shares: how often each is drawn for an event; () equally often.
    asks: what the system is evaluated on, and used for: one of ASKS, of a family that is trained; lmrs evaluate --ask puts
    another question to the same run. prompt: in a "seen" wording, or one "unseen" in training.
    backbone: of family seq2seq: t5-small or a folder. fresh: only its tokeniser is used, and a T5 of `dim`, `layers`, `heads` is
    trained from scratch; False: its own weights and sizes.
    index: "number" (P5's random number as text), "sequential" (numbers in the order of training), "collaborative" (clusters of
    co-occurrence, cut into `branches` until they hold `cluster` items), "independent" (a token an item), "hybrid" (collaborative
    path and own token), "title" or "random" (random tokens). whole_words: P5's vectors that hold the pieces of an item
    together. users: 0 writes users as text, else as one of so many tokens. beams: None scores the whole catalogue.
    expected: ratings by expectation over the ratings of training; False: the likeliest one, as P5 reads what is written.
    says: the text of a review that explains; longest: its words; reads: words of a review that are read.
    recent: newest events of a user that are learned from; None: all of them.

    Departures: one question is drawn for an event and an epoch (paper: as many of a family as its multiplier); wordings are our
    own; ratings are whole values (paper: one decimal, drawn about each star); names of users and facts of items are not read, and
    the zero-shot templates are left out; by default weights are drawn, lr is .003 (paper: t5-small, .001) and most words are
    spelt in bytes; numbers follow training events alone (released files: whole histories, test items included); the search
    is held to the catalogue; families are mixed within a batch (OpenP5: in turns); texts are written greedily (paper: 12 beams
    with a feature word).
    """
    trained = _trained(families, shares)
    if asks not in ASKS or ASKS[asks][0] not in families:
        offered = [name for name, (family, _, _) in ASKS.items() if family in families]
        raise ContractError(
            needed=f"asks among {', '.join(offered)}, which these families teach", came=repr(asks),
            remedy=did_you_mean(asks, offered) if asks not in ASKS else f"add {ASKS[asks][0]} to families",
        )  # fmt: skip
    if prompt not in ("seen", "unseen"):
        raise ContractError(needed="prompt 'seen' or 'unseen'", came=repr(prompt))
    questions = [question for _, _, own in trained for question in own]
    family, place, unseen = ASKS[asks]
    asking = len(questions) if prompt == "unseen" else questions.index(FAMILIES[family][place])
    questions += [unseen, *([] if any(Wording(text).columns == {HISTORY} for text, _ in questions) else [NOBODY])]
    events = views.Events(max_len=max_len, recent=recent, says=says, longest=longest, reads=reads)
    task, measure = _task(asks, events)
    return System(
        paper=Paper(
            "Recommendation as Language Processing (RLP): A Unified Pretrain, Personalized Prompt & Predict Paradigm (P5)",
            "Geng et al.", 2022, "RecSys", "2203.13366", survey="tuning-free prompting",
        ),
        model=models.Answering(
            indexer(index, branches=branches, cluster=cluster), Backbone(backbone),
            models.Scratch(dim, layers, heads, dim // heads, 4 * dim, dropout) if fresh else None,
            tuple(text for text, _ in questions), asking, users=users, whole_words=whole_words, beams=beams, max_len=max_len,
            answers=tuple(answer for _, answer in questions), says=says, longest=longest, tokens=5 * longest,
            candidates=candidates, expected=expected,
        ),
        stages=(
            Stage(
                "instruct",
                events,
                objectives.Families(trained, candidates=candidates),
                budget=Budget(
                    epochs=epochs, batch_size=batch_size, lr=lr, schedule=Linear(warmup=0.05), patience=patience, every=every,
                    clip=1.0, measure=measure,
                ),
            ),
        ),
        task=task,
    )  # fmt: skip


def _trained(families: tuple[str, ...], shares: tuple[float, ...]) -> tuple[tuple[str, float, tuple[Question, ...]], ...]:
    """(name, share, questions) of the families. Raises ContractError for unknown ones."""
    for name in families:
        if name not in FAMILIES:
            raise ContractError(
                needed=f"families among {', '.join(FAMILIES)}", came=repr(name), remedy=did_you_mean(name, FAMILIES)
            )
    if shares and len(shares) != len(families):
        raise ContractError(needed=f"{len(families)} shares, one for each family", came=f"{shares}")
    return tuple((name, share, FAMILIES[name]) for name, share in zip(families, shares or (1.0,) * len(families), strict=True))


def _task(asks: str, events: views.Events) -> tuple[tasks.Task, str]:
    """(task, what validation watches)."""
    match asks:
        case "sequential" | "direct":
            return tasks.Ranking(views.ItemSequence(max_len=events.max_len)), "NDCG@10"
        case "candidates" | "yes-no":
            return tasks.Ranking(views.ItemSequence(max_len=events.max_len)), "NDCG@10/99neg"
        case "rating" | "review-rating":
            return tasks.Rating(events), "RMSE"
        case "review-title":
            return tasks.Explaining(views.Reviews("title", events.longest, events.reads)), "PPL"
    return tasks.Explaining(views.Reviews(events.says, events.longest)), "PPL"


def indexer(name: str, *, branches: int = 20, cluster: int = 500) -> indexing.Indexer:
    """The way to index items of that name. Raises ContractError for another one."""
    groups = indexing.Collaborative(branches, cluster)
    made: dict[str, indexing.Indexer] = {
        "number": indexing.NumberText(), "sequential": indexing.Sequential(), "collaborative": groups,
        "independent": indexing.Independent(), "hybrid": indexing.Hybrid(groups), "title": indexing.Title(" {}"),
        "random": indexing.Random(),
    }  # fmt: skip
    if name not in made:
        raise ContractError(needed=f"an index among {', '.join(made)}", came=repr(name), remedy=did_you_mean(name, made))
    return made[name]
