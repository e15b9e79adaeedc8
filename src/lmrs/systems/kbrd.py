"""KBRD: what was named in a dialogue, seen in a knowledge graph (Chen et al., EMNLP 2019, arXiv 1908.05391)."""

from __future__ import annotations

from lmrs import models, objectives, tasks, tuning, views
from lmrs.errors import ContractError, did_you_mean
from lmrs.graph import Knowledge
from lmrs.models.word_speech import WordSpeech
from lmrs.system import Budget, Paper, Stage, System

SPACE = {"dim": [32, 64, 128], "bases": [4, 8], "dropout": [0.0, 0.3], "lr": [1e-3, 3e-3], "weight_decay": [0.0, 0.01]}
ANSWERS = ("items", "both")
FINDS = ("entities.*", "attend.*", "weigh.*", "item_bias")  # of the network: what finds items


def kbrd(
    *,
    answers: str = "items",
    dim: int = 128,
    bases: int = 8,
    least: int = 1,
    edges: bool = True,
    attributes: tuple[str, ...] | None = None,
    max_len: int = 33,
    dropout: float = 0.0,
    weight_decay: float = 0.0,
    lr: float = 3e-3,
    epochs: int = 30,
    batch_size: int = 256,
    patience: int | None = 5,
    every: int = 1,
    words: int = 20_000,
    speech_dim: int = 300,
    layers: int = 2,
    heads: int = 2,
    speech_dropout: float = 0.1,
    word_bias: bool = True,
    context: int = 256,
    said: int = 128,
    most: int = 50,
    converse_epochs: int = 30,
    converse_lr: float = 1e-3,
    converse_batch_size: int = 32,
) -> System:
    """The items named so far are entities of a graph; a relational graph convolution gives their vectors, self-attention pools
    them, and the item that the recommender names next is scored by a product and a bias (section 3.2).

    dim, bases: of the convolution. least: leave out relations with fewer edges at the items. edges, attributes: make the graph of
    the data's edges, and of item attributes (None: all). max_len: items of a dialogue that are read, and one.

    answers: "items", or "both": then a transformer is trained, too, that writes responses, its words biased by the same vector
    (section 3.3); what finds items stays as it is. words, speech_dim, layers, heads, speech_dropout, context, said, most: of it,
    see models.WordSpeech. word_bias: False leaves the bias out, which makes it a plain transformer (the ablation of table 3).

    Departures: only items are entities of a dialogue, words are not linked (paper: by an entity linker over DBpedia); the
    convolution has learned input vectors and matrices of one relation each by bases (paper's code: the vectors of a basis are its
    matrix); relations are kept from `least` edges at the items on (code: more than 1,000 in the graph); entities with one
    neighbour are left out; an item in a response is a slot that the ranking fills (paper: a word of its own); dropout is on the
    words that are read alone (paper: in all layers); the dialogue model is not tuned jointly with the graph.
    """
    if answers not in ANSWERS:
        raise ContractError(
            needed=f"answers {' or '.join(map(repr, ANSWERS))}", came=repr(answers), remedy=did_you_mean(answers, ANSWERS)
        )
    turns, replies, speaks = views.Turns(max_len=max_len), views.Replies(max_len=max_len), answers == "both"
    speech = WordSpeech(words, speech_dim, layers, heads, speech_dropout, bias=word_bias, context=context, said=said, most=most)
    converse = Stage(
        "converse",
        replies,
        objectives.Reply(),
        tuning.Part(("speech.*",)),
        Budget(
            epochs=converse_epochs, batch_size=converse_batch_size, lr=converse_lr, patience=patience, every=every, measure="PPL",
            clip=1.0,
        ),
    )  # fmt: skip
    return System(
        paper=Paper("Towards Knowledge-Based Recommender Dialog System", "Chen et al.", 2019, "EMNLP-IJCNLP", "1908.05391"),
        model=models.NamedEntities(
            models.Relational(Knowledge(edges=edges, attributes=attributes, users=False), dim, bases, least),
            hidden=dim, max_len=max_len, dropout=dropout,
            speech=speech if speaks else None,
        ),
        stages=(
            Stage(
                "recommend",
                turns,
                objectives.NextItem(places="last"),
                tuning.Part(FINDS) if speaks else tuning.Everything(),
                budget=Budget(
                    epochs=epochs, batch_size=batch_size, lr=lr, patience=patience, every=every, measure="Recall@10",
                    weight_decay=weight_decay,
                ),
            ),
            *(converse,) * speaks,
        ),
        task=tasks.Talking(turns, replies) if speaks else tasks.Conversing(turns),
    )  # fmt: skip
