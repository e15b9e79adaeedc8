"""The transformer over item ids: one module under every visibility (Vaswani et al. 2017; SASRec; BERT4Rec; Transformers4Rec)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.errors import ContractError
from lmrs.losses import Output
from lmrs.models.blocks import Block, PreNorm
from lmrs.models.dropout import dropout
from lmrs.models.features import Features
from lmrs.models.last_states import last_states
from lmrs.models.network import Model, Network
from lmrs.native import chosen_kernel
from lmrs.visibility import Visibility
from lmrs.vocab import Vocab


@dataclass(frozen=True)
class Transformer(Model):
    """Item embedding + learned position, `layers` blocks, scores against an item table.

    dim: width D. layers, heads: depth and attention heads (heads must divide dim). max_len: longest row, in positions.
    dropout: on embeddings and residual branches; attention_dropout: on attention weights (slower: it needs the dense weights);
    both in [0, 1).
    block: where norms and gates stand. align: "right" numbers positions so that the last one is max_len - 1, "left" from 0.
    scale: multiply item embeddings by sqrt(D) (SASRec). embed_norm: LayerNorm after the sum of embeddings (BERT).
    tied: score with the input item table, else with one of its own. bias: add a bias for each item (BERT4Rec, Transformers4Rec).
    transform: dense, GELU, LayerNorm before scoring (BERT's prediction head). positions: False leaves the position embedding out
    (ablation).
    features: side information mixed into the item embedding, or None.
    item_dim: width E of the item embeddings, with a linear map E -> D before the blocks and D -> E before scoring
    (Transformers4Rec); None: E = D without maps.
    """

    dim: int = 64
    layers: int = 2
    heads: int = 2
    max_len: int = 50
    dropout: float = 0.2
    attention_dropout: float = 0.0
    block: Block = PreNorm()  # noqa: RUF009 - a frozen value
    align: str = "right"
    scale: bool = False
    embed_norm: bool = False
    tied: bool = True
    bias: bool = False
    transform: bool = False
    positions: bool = True
    features: Features | None = None
    item_dim: int | None = None

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ContractError(
                needed="heads that divide dim", came=f"dim={self.dim}, heads={self.heads}", remedy="change one of them"
            )
        if self.align not in ("left", "right"):
            raise ContractError(needed="align 'left' or 'right'", came=repr(self.align))
        for name in ("dim", "layers", "heads", "max_len"):
            if getattr(self, name) < 1:
                raise ContractError(needed=f"{name} of at least 1", came=f"{name}={getattr(self, name)}")
        if self.item_dim is not None and self.item_dim < 1:
            raise ContractError(needed="item_dim of at least 1, or None", came=f"item_dim={self.item_dim}")
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ContractError(needed=f"{name} in [0, 1)", came=f"{name}={getattr(self, name)}")

    def allows(self, visible: Visibility) -> bool:
        return True

    def build(self, vocab: Vocab) -> TransformerNetwork:
        return TransformerNetwork(self, vocab)


class TransformerNetwork(Network):
    """items: the input table, None (`table=False`) where a subclass looks vectors up elsewhere and has an `output` of its own."""

    def __init__(self, model: Transformer, vocab: Vocab, *, table: bool = True) -> None:
        super().__init__()
        self.model, self.n_items, self.dim = model, vocab.n_items, model.dim
        width = model.item_dim or model.dim
        self.items = nn.Embedding(vocab.n_symbols, width) if table else None
        self.positions = nn.Embedding(model.max_len, model.dim) if model.positions else None
        self.features = model.features.build(vocab, width) if model.features else None
        self.widen = nn.Linear(width, model.dim) if model.item_dim else None
        self.narrow = nn.Linear(model.dim, width) if model.item_dim else None
        self.embed_norm = nn.LayerNorm(model.dim) if model.embed_norm else None
        self.blocks = nn.ModuleList(
            model.block.build(model.dim, model.heads, model.dropout, model.attention_dropout) for _ in range(model.layers)
        )
        self.final_norm = nn.LayerNorm(model.dim) if model.block.final_norm else None
        self.transform = (
            nn.Sequential(nn.Linear(model.dim, model.dim), nn.GELU(), nn.LayerNorm(model.dim)) if model.transform else None
        )
        self.table = None if model.tied else nn.Embedding(vocab.n_items, width)
        self.item_bias = nn.Parameter(torch.zeros(vocab.n_items)) if model.bias else None
        self.apply(_initialise)

    def embed(self, batch: Batch, rng: torch.Generator | None = None) -> Tensor:
        """[N, D] input vectors."""
        x = self.look_up(batch, rng)
        if self.model.scale:
            x = x * math.sqrt(x.shape[1])
        if self.features is not None:
            x = self.features(x, batch, self.n_items)
        if self.widen is not None:
            x = self.widen(x)
        if self.positions is not None:
            x = x + self.positions(self.place(batch))
        if self.embed_norm is not None:
            x = self.embed_norm(x)
        return dropout(x, self.model.dropout, rng)

    def look_up(self, batch: Batch, rng: torch.Generator | None) -> Tensor:
        """[N, E]: the item of each position as a vector."""
        assert self.items is not None
        return self.items(batch.channels["item"])

    def place(self, batch: Batch) -> Tensor:
        """int64[N]: the row of the position table for each position."""
        position = batch.channels["position"]
        if self.model.align == "left":
            return position
        if batch.n_rows == 1 and len(position):
            return position + (self.model.max_len - 1 - position.amax())
        span = torch.zeros(batch.n_rows, dtype=position.dtype, device=position.device)
        span.scatter_reduce_(0, batch.row_of, position, "amax", include_self=False)
        return position + (self.model.max_len - 1 - span)[batch.row_of]

    def forward(self, batch: Batch, visible: Visibility, rng: torch.Generator | None = None, at: Tensor | None = None) -> Tensor:
        x = self.embed(batch, rng)
        for block in self.blocks[:-1]:
            x = block(x, batch, visible, rng)
        x = self.blocks[-1](x, batch, visible, rng, at)  # nobody reads the other positions of the last block
        return x if self.final_norm is None else self.final_norm(x)

    def asked_states(self, batch: Batch, visible: Visibility) -> Tensor:
        kernel = chosen_kernel("ranking")
        if kernel is not None and type(self).forward is TransformerNetwork.forward and not torch.is_grad_enabled():
            asked = batch.channels["asked"].nonzero()[:, 0]
            found = last_states(kernel, self, batch, visible, asked)
            if found is not None:
                return found
        return super().asked_states(batch, visible)

    def plain(self) -> bool:
        """Whether a position begins as its row of `items` and that of `positions`, with nothing else."""
        own = all(getattr(type(self), name) is getattr(TransformerNetwork, name) for name in ("embed", "look_up", "place"))
        return own and self.items is not None and self.features is None and self.widen is None

    def read(self, states: Tensor) -> Tensor:
        if self.transform is not None:
            states = self.transform(states)
        return states if self.narrow is None else self.narrow(states)

    def output(self) -> Output:
        assert self.items is not None
        table = self.items.weight[: self.n_items] if self.table is None else self.table.weight
        return Output(table, self.item_bias)


def _initialise(module: nn.Module) -> None:
    """Normal(0, .02) cut at two deviations for weights, zero for biases (BERT's initialisation)."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
