"""UniCRS: a frozen language model, steered by prompts of words and knowledge (Wang et al., KDD 2022, arXiv 2206.09363)."""

from __future__ import annotations

from lmrs import models, objectives, tasks, tuning, views
from lmrs.graph import Knowledge
from lmrs.language import Backbone
from lmrs.schedule import Linear
from lmrs.system import Budget, Paper, Stage, System

SPACE = {"task": [5, 10, 20], "context": [64, 128, 200], "lr": [1e-4, 3e-4, 1e-3], "pretrain_epochs": [1, 3, 5]}
FUSED, TASK = ("prompt.items.*", "prompt.fusion.*"), ("prompt.task.*", "item_bias")


def unicrs(
    *,
    backbone: str = "minilm",
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
) -> System:
    """The dialogue's words and the items named so far are joined by cross-attention into soft prompts (section 4.2); these are
    pre-trained on finding the items of a sentence, and then tuned, with task vectors, for what the recommender names next
    (section 4.4). The language model itself never changes.

    backbone, precision: the frozen model. task: number of task vectors. fuse: False leaves the prompts of words and items out,
    pretrain: False the first stage (the ablations of table 4). bias: learned item biases. context: tokens of the dialogue.
    dim, bases, least, edges, attributes: of the graph convolution, as for KBRD.

    Departures: pre-training predicts the items of the turn from dialogue and turn, as the authors' code does (paper: it generates
    the turn); no words are linked to entities; the prompts stand before the input embeddings (code: keys and values of every
    layer); one frozen model reads the words and answers (paper: RoBERTa beside DialoGPT), by default a small encoder whose mean
    state is read (code: last state of a causal model); padding is masked (code: not); the scores have item biases (code: none);
    the conversation prompts and the response template are not here.
    """
    turns = views.Turns(max_len=max_len)

    def budget(epochs: int, lr: float, patience: int | None) -> Budget:
        return Budget(
            epochs=epochs, batch_size=batch_size, lr=lr, patience=patience, every=every, measure="Recall@10",
            weight_decay=weight_decay, schedule=Linear(warmup=0.05), clip=1.0,
        )  # fmt: skip

    first = Stage(
        "fuse",
        views.Turns("both", max_len=max_len, reveal=True),
        objectives.Spoken(),
        tuning.Part((*FUSED, "item_bias")),
        budget(pretrain_epochs, pretrain_lr, None),
    )
    second = Stage(
        "recommend", turns, objectives.NextItem(places="last"), tuning.Part((*FUSED, *TASK)), budget(epochs, lr, patience)
    )
    return System(
        paper=Paper(
            "Towards Unified Conversational Recommender Systems via Knowledge-Enhanced Prompt Learning",
            "Wang et al.", 2022, "KDD", "2206.09363", survey="fixed-model prompt tuning",
        ),
        model=models.FusedPrompt(
            Backbone(backbone, precision),
            models.Relational(Knowledge(edges=edges, attributes=attributes, users=False), dim, bases, least),
            task=task, fuse=fuse, context=context, max_len=max_len, bias=bias,
        ),
        stages=(first, second) if pretrain else (second,),
        task=tasks.Conversing(turns),
    )  # fmt: skip
