"""News by their texts, readers by what they read: a language model inside NRMS (Wu et al., EMNLP 2019; PLM-NR, SIGIR 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.errors import ContractError
from lmrs.language import Backbone
from lmrs.losses import Output
from lmrs.models.attention import attend, attend_at
from lmrs.models.checks import at_least, below_one
from lmrs.models.dropout import dropout
from lmrs.models.network import Model, Network
from lmrs.models.unread import Unread
from lmrs.texts import Attention, Cached, Frozen, ItemText, ItemVectors, Joint, TextEncoder
from lmrs.texts.encoder import STACKS
from lmrs.texts.pooling import AdditiveQuery
from lmrs.visibility import Causal, Full, Visibility
from lmrs.vocab import Vocab

NEW_LAYERS = ("items.encoder.pool.*", "narrow.*", "user.*")


@dataclass(frozen=True)
class News(Model):
    """score(h, i) = u . v_i, v_i = W pooled text of i, u = additive attention over self-attention over v of the history.

    encoder: the text tower; with `Attention` pooling it learns how to pool. text: which text. policy: when texts are encoded:
    `Joint` (in every step, each text once), `Cached` (kept for some steps), `Frozen` (never again: pooling without weights).
    dim: width of news and readers. heads: of the reader's self-attention, which divide dim; 0: additive attention alone.
    query: length of the additive query. dropout: on pooled texts and on what the reader's attention gives. max_len: of a history.

    Every item of the catalogue has a text, so news without any click are ranked like others.
    """

    encoder: TextEncoder = TextEncoder(Backbone("minilm"), Attention(), normalise=False, max_tokens=32)  # noqa: RUF009 - a frozen value
    text: ItemText = ItemText(("title",))  # noqa: RUF009 - a frozen value
    policy: Joint | Cached | Frozen = Joint()  # noqa: RUF009 - a frozen value
    dim: int = 64
    heads: int = 2
    query: int = 200
    dropout: float = 0.2
    max_len: int = 50

    def __post_init__(self) -> None:
        if self.heads < 0 or (self.heads and self.dim % self.heads):
            raise ContractError(
                needed="heads that divide dim, or 0", came=f"dim={self.dim}, heads={self.heads}", remedy="change one of them"
            )
        at_least(1, dim=self.dim, query=self.query, max_len=self.max_len)
        below_one(dropout=self.dropout)

    @property
    def knows_new(self) -> bool:
        return True

    @property
    def pretrained(self) -> bool:
        return True

    @property
    def origin(self) -> str:
        return self.encoder.backbone.info().fingerprint

    def given(self, name: str) -> bool:
        return name.startswith("items.encoder.backbone.")

    def group(self, name: str) -> str:
        return "model" if name.startswith("items.encoder.backbone.") else "head"

    def allows(self, visible: Visibility) -> bool:
        return isinstance(visible, Causal | Full)

    def build(self, vocab: Vocab) -> NewsNetwork:
        """Raises DataError if no item has a text, UserError if the backbone is not at hand."""
        return NewsNetwork(self, vocab)


def last_layers(layers: int, tuned: int) -> tuple[str, ...]:
    """Patterns of the names of the last `tuned` of `layers` layers in a NewsNetwork, and of all that is new in it."""
    if layers < 1:
        raise ContractError(needed="layers of at least 1", came=f"layers={layers}")
    if not 1 <= tuned <= layers:
        raise ContractError(needed=f"tuned layers from 1 to {layers}", came=f"tuned={tuned}", remedy="or None for all weights")
    stacks = (f"items.encoder.backbone.{path}.{layer}.*" for layer in range(layers - tuned, layers) for path in STACKS)
    return (*NEW_LAYERS, *stacks)


class NewsNetwork(Network):
    """items: text vectors by the policy. narrow: E -> D. user: the reader's attention. coverage: how many items have a text."""

    def __init__(self, about: News, vocab: Vocab) -> None:
        super().__init__()
        self.about, self.n_items, self.dim = about, vocab.n_items, about.dim
        texts, self.coverage = about.text.of(vocab)
        self.unread = Unread(without_text=self.coverage.without)
        self.items: ItemVectors = about.policy.build(about.encoder, texts)
        self.narrow = nn.Linear(self.items.dim, about.dim)
        self.user = Reader(about.dim, about.heads, about.query, about.dropout)
        self._ranked = Kept()

    def look_up(self, items: Tensor, rng: torch.Generator | None) -> Tensor:
        """[n, D] for item numbers [n], with gradients; each distinct text is encoded once."""
        return self.narrow(dropout(self.items(items, rng), self.about.dropout, rng))

    def forward(self, batch: Batch, visible: Visibility, rng: torch.Generator | None = None, at: Tensor | None = None) -> Tensor:
        return self.user(self._vectors(batch.channels["item"], rng), batch, visible, rng, at)

    def verdicts(
        self, batch: Batch, visible: Visibility, at: Tensor, items: Tensor, rng: torch.Generator | None = None
    ) -> Tensor:
        """[M, K]: the scores. History and candidates are looked up together, so a text that is in both is encoded once."""
        read = batch.n_positions
        both = self._vectors(torch.cat([batch.channels["item"], items.reshape(-1)]), rng)
        found = self.user(both[:read], batch, visible, rng, at)
        return torch.einsum("md,mkd->mk", found, both[read:].view(*items.shape, self.dim))

    def score_among(self, batch: Batch, visible: Visibility, candidates: Tensor) -> Tensor:
        asked = batch.channels["asked"].nonzero()[:, 0]
        return self.verdicts(batch, visible, asked, candidates.clamp_min(0))

    def vectors(self, items: Tensor) -> Tensor:
        return self._vectors(items, None)

    def output(self) -> Output:
        return Output(self._vectors(torch.arange(self.n_items, device=self.narrow.weight.device), None), None)

    def _vectors(self, items: Tensor, rng: torch.Generator | None) -> Tensor:
        """As `look_up`; without gradients a text is encoded once for the present weights, however often it is ranked."""
        if torch.is_grad_enabled() or rng is not None:
            return self.look_up(items, rng)
        return self._ranked.of(items, self.items, self.narrow)


class Reader(nn.Module):
    """[N, D] vectors of what was read to [M, D]: self-attention, then sum_j a_j x_j with a = softmax_j(q . tanh(W x_j + b))."""

    def __init__(self, dim: int, heads: int, query: int, p: float) -> None:
        super().__init__()
        self.heads, self.p = heads, p
        self.mix = nn.Linear(dim, 3 * dim) if heads else None
        self.look = AdditiveQuery(dim, query)

    def forward(
        self, x: Tensor, batch: Batch, visible: Visibility, rng: torch.Generator | None, at: Tensor | None = None
    ) -> Tensor:
        width = x.shape[1]
        if self.mix is not None:
            query, pairs = self.mix(x).split((width, 2 * width), 1)
            x = dropout(attend(query, pairs, batch, visible, heads=self.heads, p=0, rng=None), self.p, rng)
        # The same kernel pools: with the query e_1 and the keys a_j e_1, softmax(q k) is softmax(a).
        key = torch.zeros_like(x).index_add(1, x.new_zeros(1, dtype=torch.int64), self.look(x)[:, None])
        query = torch.zeros_like(x if at is None else x[at])
        query[:, 0] = math.sqrt(width)
        if at is None:
            return attend(query, torch.cat([key, x], 1), batch, visible, heads=1, p=0, rng=None)
        return attend_at(query, torch.cat([key, x], 1), at, batch, visible, heads=1, p=0, rng=None)


class Kept:
    """Vectors of items for ranking, made when first asked for and thrown away when a weight has changed."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []
        self.vectors, self.made = torch.zeros(0, 0), torch.zeros(0, dtype=torch.bool)

    @torch.no_grad()
    def of(self, items: Tensor, texts: ItemVectors, narrow: nn.Linear) -> Tensor:
        """[n, D] of item numbers [n]."""
        now = [*texts.parameters(), *narrow.parameters()]
        if len(now) != len(self.weights) or not all(map(same, now, self.weights)):
            self.weights = [each.detach().clone() for each in now]
            self.vectors = narrow.weight.new_zeros(texts.n_items, narrow.out_features)
            self.made = torch.zeros(texts.n_items, dtype=torch.bool, device=narrow.weight.device)
        wanted = items.unique()
        missing = wanted[~self.made[wanted]]
        if len(missing):
            self.vectors[missing] = narrow(texts.fresh(missing).to(narrow.weight)).to(self.vectors)
            self.made[missing] = True
        return self.vectors[items]


def same(one: Tensor, two: Tensor) -> bool:
    """Equal bits at the same place."""
    return one.device == two.device and one.dtype == two.dtype and torch.equal(one, two)
