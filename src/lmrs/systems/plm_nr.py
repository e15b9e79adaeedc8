"""PLM-NR: news recommendation with a pre-trained language model inside (Wu et al., SIGIR 2021, arXiv 2104.07413)."""

from __future__ import annotations

from lmrs import models, objectives, tasks, tuning, views
from lmrs.errors import UserError, did_you_mean
from lmrs.language import Backbone
from lmrs.models.news import NEW_LAYERS, last_layers
from lmrs.system import Budget, Paper, Stage, System
from lmrs.texts import Attention, Cached, Frozen, ItemText, Joint, TextEncoder

SPACE = {"tuned": [1, 2, None], "pooling": ["attention", "mean", "cls"], "dim": [64, 128], "lr": [1e-5, 1e-4, 1e-3]}


def plm_nr(
    *,
    backbone: str = "minilm",
    precision: str = "fp32",
    texts: tuple[str, ...] = ("title",),
    pooling: str = "attention",
    max_tokens: int = 30,
    layers: int = 6,
    tuned: int | None = 2,
    policy: str = "joint",
    staleness: int = 100,
    text_heads: int = 20,
    text_width: int = 20,
    query: int = 200,
    dim: int = 64,
    heads: int = 2,
    max_len: int = 50,
    unclicked: int = 4,
    dropout: float = 0.2,
    lr: float = 1e-5,
    epochs: int = 4,
    batch_size: int = 32,
    patience: int | None = 2,
) -> System:
    """NRMS whose news encoder is a language model: token states, self-attention, additive attention, a map to `dim`. The reader
    is self-attention and additive attention over what was read, the score a dot product, trained by a softmax over a clicked and
    some unclicked news of one impression (sections 3.1 to 3.3).

    backbone, precision, texts, max_tokens: what reads which text, in how many tokens. layers: the first so many of the backbone.
    pooling: "attention", or "mean" or "cls" (the paper's comparison). text_heads, text_width: of the text's self-attention
    (no heads: none). query, dim, heads: of the additive attentions, of news and readers, of the reader's self-attention.
    tuned: so many of the last layers learn, with all that is new (the paper: 2); None: everything.
    policy: "joint", "cached" (vectors live for `staleness` steps), or "frozen" (no layer learns; pooling "mean" or "cls").

    Departures: the default backbone is a small sentence encoder (paper: BERT-base and UniLM); one learning rate for all weights;
    impressions without history are answered by popularity; fewer than four unclicked news are not repeated.
    """
    made: dict[str, Joint | Cached | Frozen] = {"joint": Joint(), "cached": Cached(staleness), "frozen": Frozen()}
    if policy not in made:
        raise UserError(needed="policy joint, cached or frozen", came=repr(policy), remedy=did_you_mean(policy, made))
    view = views.Impressions(max_len=max_len, unclicked=unclicked)
    pool = Attention(text_heads, text_width, query) if pooling == "attention" else pooling
    learns: tuning.Tuning = tuning.Part(NEW_LAYERS)
    if policy != "frozen":
        learns = tuning.Everything() if tuned is None else tuning.Part(last_layers(layers, tuned))
    return System(
        paper=Paper(
            "Empowering News Recommendation with Pre-trained Language Models", "Wu et al.", 2021, "SIGIR", "2104.07413",
            survey="fine-tune part",
        ),
        model=models.News(
            TextEncoder(Backbone(backbone, precision), pool, normalise=False, max_tokens=max_tokens, layers=layers),
            ItemText(texts), made[policy], dim=dim, heads=heads, query=query, dropout=dropout, max_len=max_len,
        ),
        stages=(
            Stage(
                "finetune",
                view,
                objectives.Shown(),
                learns,
                Budget(epochs=epochs, batch_size=batch_size, lr=lr, patience=patience, measure="AUC"),
            ),
        ),
        task=tasks.Clicks(view),
    )  # fmt: skip
