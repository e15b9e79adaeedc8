"""UniCRS: a frozen language model, steered by prompts of words and knowledge (Wang et al., KDD 2022, arXiv 2206.09363)."""

from __future__ import annotations

from lmrs import models, objectives, tasks, tuning, views
from lmrs.errors import ContractError, did_you_mean
from lmrs.graph import Knowledge
from lmrs.language import Backbone
from lmrs.schedule import Linear
from lmrs.system import Budget, Paper, Stage, System

SPACE = {"task": [5, 10, 20], "context": [64, 128, 200], "lr": [1e-4, 3e-4, 1e-3], "pretrain_epochs": [1, 3, 5]}
FUSED, TASK = ("prompt.items.*", "prompt.fusion.*"), ("prompt.task.*", "item_bias")
ANSWERS = ("items", "responses", "both")


def unicrs(
    *,
    answers: str = "items",
    backbone: str = "",
    precision: str = "fp32",
    task: int = 10,
    fuse: bool = True,
    pretrain: bool = True,
    bias: bool = True,
    context: int = 200,
    dim: int = 128,
    bases: int = 8,
    least: int = 1,
    edges: bool = True,
    attributes: tuple[str, ...] | None = None,
    max_len: int = 33,
    pretrain_epochs: int = 5,
    pretrain_lr: float = 5e-4,
    epochs: int = 5,
    lr: float = 1e-4,
    batch_size: int = 64,
    weight_decay: float = 0.01,
    patience: int | None = 3,
    every: int = 1,
    speech: int = 20,
    said: int = 183,
    most: int = 50,
    converse_epochs: int = 10,
    converse_lr: float = 1e-4,
    converse_batch_size: int = 8,
) -> System:
    """The dialogue's words and the items named so far are joined by cross-attention into soft prompts (section 4.2); these are
    pre-trained on finding the items of a sentence, and then tuned, with task vectors, for what the recommender names next and
    for what it says (section 4.4). The language model itself never changes.

    answers: "items", "responses" or "both"; the stages are fuse, then recommend, converse, or recommend and converse.
    backbone, precision: the frozen model; "": minilm for items alone, else smollm2 (an encoder writes nothing). task: number of
    task vectors. fuse: False leaves the prompts of words and items out, pretrain: False the first stage (the ablations of
    table 4). bias: learned item biases. context: tokens of the dialogue. dim, bases, least, edges, attributes: of the graph
    convolution, as for KBRD. speech: task vectors of the conversation. said: tokens of a response that are learned. most: tokens
    of a response that are written, greedily and without repeating three in a row; items in it are slots, which the ranking fills
    (with "responses" the ranking that pre-training left).

    Departures: pre-training predicts the items of the turn from dialogue and turn, as the authors' code does (paper: it generates
    the turn); no words are linked to entities; the prompts stand before the input embeddings (code: keys and values of every
    layer); one frozen model reads the words and answers (paper: RoBERTa beside DialoGPT), for items alone a small encoder whose
    mean state is read (code: last state of a causal model); padding is masked (code: not); the scores have item biases (code:
    none); with "both" the conversation prompts start from those of recommending (paper: of pre-training); the slot of an item has
    two learned vectors (code: a frozen random row); only the response is charged (code: the dialogue's tokens, too) and kept free
    of repetition (code: with the dialogue); the recommender does not read a response that was written before (in the paper part
    of its prompt, off in the published command line).
    """
    if answers not in ANSWERS:
        raise ContractError(
            needed=f"answers {' or '.join(map(repr, ANSWERS))}", came=repr(answers), remedy=did_you_mean(answers, ANSWERS)
        )
    turns, replies = views.Turns(max_len=max_len), views.Replies(max_len=max_len)
    finds, speaks = answers != "responses", answers != "items"

    def budget(epochs: int, lr: float, patience: int | None, size: int = batch_size, measure: str = "Recall@10") -> Budget:
        return Budget(
            epochs=epochs, batch_size=size, lr=lr, patience=patience, every=every, measure=measure,
            weight_decay=weight_decay, schedule=Linear(warmup=0.05), clip=1.0,
        )  # fmt: skip

    first = Stage(
        "fuse",
        views.Turns("both", max_len=max_len, reveal=True),
        objectives.Spoken(),
        tuning.Part((*FUSED, "item_bias")),
        budget(pretrain_epochs, pretrain_lr, None, measure="Recall@10" if finds else "PPL"),
    )
    second = Stage(
        "recommend", turns, objectives.NextItem(places="last"), tuning.Part((*FUSED, *TASK)), budget(epochs, lr, patience)
    )
    third = Stage(
        "converse",
        replies,
        objectives.Reply(),
        tuning.Part(("speech.*",)),
        budget(converse_epochs, converse_lr, patience, converse_batch_size, "PPL"),
    )
    asked = (
        tasks.Talking(turns, replies) if finds and speaks else tasks.Responding(replies) if speaks else tasks.Conversing(turns)
    )
    return System(
        paper=Paper(
            "Towards Unified Conversational Recommender Systems via Knowledge-Enhanced Prompt Learning",
            "Wang et al.", 2022, "KDD", "2206.09363", survey="fixed-model prompt tuning",
        ),
        model=models.FusedPrompt(
            Backbone(backbone or ("smollm2" if speaks else "minilm"), precision),
            models.Relational(Knowledge(edges=edges, attributes=attributes, users=False), dim, bases, least),
            task=task if finds else 0, fuse=fuse, context=context, max_len=max_len, bias=bias,
            speech=speech if speaks else 0, said=said, most=most,
        ),
        stages=(first,) * pretrain + (second,) * finds + (third,) * speaks,
        task=asked,
    )  # fmt: skip
