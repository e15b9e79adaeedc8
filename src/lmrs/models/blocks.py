"""Transformer blocks: where the norms stand, what the feed-forward is, what is gated. One description each.

Each description is a frozen value; `.build(dim, heads, dropout, attention_dropout)` returns its module, whose
`forward(x, batch, visible, rng, at)` maps [N, D] to [N, D], or to [M, D] for the places `at` alone. `final_norm` tells the stack
whether it must close with a LayerNorm.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.models.attention import attend, attend_at, pick
from lmrs.models.dropout import dropout
from lmrs.visibility import Visibility


@dataclass(frozen=True)
class PostNorm:
    """BERT's block: x = LN(x + Drop(attention(x))), x = LN(x + Drop(W2 gelu(W1 x))), feed-forward width `expand` D."""

    expand: int = 4
    final_norm = False

    def build(self, dim: int, heads: int, p: float, attention_p: float) -> nn.Module:
        return PlainModule(dim, heads, p, attention_p, hidden=self.expand * dim, order="post", act=F.gelu)


@dataclass(frozen=True)
class PreNorm:
    """x = x + Drop(attention(LN(x))), x = x + Drop(W2 gelu(W1 LN(x))), feed-forward width `expand` D; an LN closes the stack."""

    expand: int = 4
    final_norm = True

    def build(self, dim: int, heads: int, p: float, attention_p: float) -> nn.Module:
        return PlainModule(dim, heads, p, attention_p, hidden=self.expand * dim, order="pre", act=F.gelu)


@dataclass(frozen=True)
class QueryNorm:
    """SASRec's block as its code has it: the *query* alone is normalised and carries the residual.

    q = LN(x), x = q + attention(q, x, x), then y = LN(x), x = y + Drop(W2 Drop(relu(W1 y))), feed-forward width D.
    """

    final_norm = True

    def build(self, dim: int, heads: int, p: float, attention_p: float) -> nn.Module:
        return PlainModule(dim, heads, p, attention_p, hidden=dim, order="query", act=F.relu)


def look(
    mix: nn.Linear,
    asks: Tensor,
    seen: Tensor,
    batch: Batch,
    visible: Visibility,
    rng: torch.Generator | None,
    at: Tensor | None,
    *,
    heads: int,
    p: float,
) -> Tensor:
    """[M, D]: attention of the places `at` (None: all) whose queries come from `asks` [M, D], over `seen` [N, D].

    mix: the map D -> 3 D to queries, keys and values.
    """
    width = asks.shape[1]
    if at is None and asks is seen:
        query, pairs = mix(seen).split((width, 2 * width), 1)
        return attend(query, pairs, batch, visible, heads=heads, p=p, rng=rng)
    query = F.linear(asks, mix.weight[:width], mix.bias[:width])
    pairs = F.linear(seen, mix.weight[width:], mix.bias[width:])
    if at is None:
        return attend(query, pairs, batch, visible, heads=heads, p=p, rng=rng)
    return attend_at(query, pairs, at, batch, visible, heads=heads, p=p, rng=rng)


class PlainModule(nn.Module):
    """order: "post", "pre" or "query", where the norms stand. act: of the feed-forward."""

    look = staticmethod(look)

    def __init__(self, dim: int, heads: int, p: float, attention_p: float, *, hidden: int, order: str, act) -> None:
        super().__init__()
        self.heads, self.p, self.attention_p, self.order, self.act = heads, p, attention_p, order, act
        self.mix = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.up = nn.Linear(dim, hidden)
        self.down = nn.Linear(hidden, dim)
        self.norm_attention = nn.LayerNorm(dim)
        self.norm_feed = nn.LayerNorm(dim)

    def attention(
        self, asks: Tensor, seen: Tensor, batch: Batch, visible: Visibility, rng: torch.Generator | None, at: Tensor | None
    ) -> Tensor:
        """[M, D]: queries from `asks` [M, D], keys and values from `seen` [N, D]."""
        return self.out(self.look(self.mix, asks, seen, batch, visible, rng, at, heads=self.heads, p=self.attention_p))

    def forward(
        self, x: Tensor, batch: Batch, visible: Visibility, rng: torch.Generator | None, at: Tensor | None = None
    ) -> Tensor:
        asking = x if at is None else pick(x, at)
        if self.order == "post":
            x = self.norm_attention(asking + dropout(self.attention(asking, x, batch, visible, rng, at), self.p, rng))
            return self.norm_feed(x + dropout(self.down(self.act(self.up(x))), self.p, rng))
        if self.order == "pre":
            seen = self.norm_attention(x)
            query = seen if at is None else pick(seen, at)
            x = asking + dropout(self.attention(query, seen, batch, visible, rng, at), self.p, rng)
            return x + dropout(self.down(self.act(self.up(self.norm_feed(x)))), self.p, rng)
        query = self.norm_attention(asking)
        y = self.norm_feed(query + self.attention(query, x, batch, visible, rng, at))
        return y + dropout(self.down(dropout(self.act(self.up(y)), self.p, rng)), self.p, rng)


@dataclass(frozen=True)
class Gated:
    """The LiGR block: pre-norm, a learned gate on each residual branch, SwiGLU feed-forward of width `expand` D.

    x = x + attention(N(x)) . sig(Wg x), x = x + (W3 (silu(W1 N(x)) . W2 N(x))) . sig(Wf x)
    (Borisyuk et al. 2025, LiGR, arXiv 2502.03417, as used by eSASRec, arXiv 2508.06450).
    """

    expand: int = 4
    final_norm = True

    def build(self, dim: int, heads: int, p: float, attention_p: float) -> nn.Module:
        return GatedModule(dim, heads, p, attention_p, self.expand * dim)


class GatedModule(nn.Module):
    order, act, look = "gated", staticmethod(F.silu), staticmethod(look)

    def __init__(self, dim: int, heads: int, p: float, attention_p: float, hidden: int) -> None:
        super().__init__()
        self.heads, self.p, self.attention_p = heads, p, attention_p
        self.mix = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.up = nn.Linear(dim, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)
        self.gate_attention = nn.Linear(dim, dim)
        self.gate_feed = nn.Linear(dim, dim)
        self.norm_attention = nn.LayerNorm(dim)
        self.norm_feed = nn.LayerNorm(dim)

    def forward(
        self, x: Tensor, batch: Batch, visible: Visibility, rng: torch.Generator | None, at: Tensor | None = None
    ) -> Tensor:
        seen = self.norm_attention(x)
        query = seen if at is None else pick(seen, at)
        seen = self.out(self.look(self.mix, query, seen, batch, visible, rng, at, heads=self.heads, p=self.attention_p))
        x = x if at is None else pick(x, at)
        x = x + dropout(seen, self.p, rng) * torch.sigmoid(self.gate_attention(x))
        left, right = self.up(self.norm_feed(x)).chunk(2, 1)
        return x + dropout(self.down(F.silu(left) * right), self.p, rng) * torch.sigmoid(self.gate_feed(x))


Block = PostNorm | PreNorm | QueryNorm | Gated
