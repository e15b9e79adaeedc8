"""Gated recurrent units over item ids (Hidasi et al., ICLR 2016, arXiv 1511.06939; Hidasi & Karatzoglou, CIKM 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lmrs.batch import Batch
from lmrs.errors import ContractError
from lmrs.losses import Output
from lmrs.models.checks import at_least
from lmrs.models.dropout import dropout
from lmrs.models.network import Model, Network
from lmrs.visibility import Causal, Visibility
from lmrs.vocab import Vocab


@dataclass(frozen=True)
class Recurrent(Model):
    """Item embedding, `layers` GRUs, scores against an item table. Every row starts from the zero state.

    h_t = (1 - z) n + z h_{t-1}, with z, r = sig(W x_t + U h_{t-1} + b), n = tanh(W_n x_t + b_n + r (U_n h_{t-1} + c_n)).

    dim: width of embeddings and states. max_len: longest row, in positions. dropout: on the states that each layer gives;
    embedding_dropout: on whole components of the item vectors; both in [0, 1). tied: score with the input item table (the
    "constrained embeddings" of 2018), else with one of its own. bias: add a bias for each item.
    """

    dim: int = 100
    layers: int = 1
    max_len: int = 50
    dropout: float = 0.0
    embedding_dropout: float = 0.0
    tied: bool = True
    bias: bool = True

    def __post_init__(self) -> None:
        at_least(1, dim=self.dim, layers=self.layers, max_len=self.max_len)
        for name in ("dropout", "embedding_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ContractError(needed=f"{name} in [0, 1)", came=f"{name}={getattr(self, name)}")

    def allows(self, visible: Visibility) -> bool:
        return isinstance(visible, Causal)

    def build(self, vocab: Vocab) -> RecurrentNetwork:
        return RecurrentNetwork(self, vocab)


class RecurrentNetwork(Network):
    def __init__(self, model: Recurrent, vocab: Vocab) -> None:
        super().__init__()
        self.model, self.n_items, self.dim = model, vocab.n_items, model.dim
        self.items = nn.Embedding(vocab.n_items, model.dim)
        # One nn.GRU a layer: its own dropout between layers would draw from the global generator.
        self.layers = nn.ModuleList(nn.GRU(model.dim, model.dim) for _ in range(model.layers))
        self.table = None if model.tied else nn.Embedding(vocab.n_items, model.dim)
        self.item_bias = nn.Parameter(torch.zeros(vocab.n_items)) if model.bias else None
        self.apply(_initialise)

    def forward(self, batch: Batch, visible: Visibility, rng: torch.Generator | None = None, at: Tensor | None = None) -> Tensor:
        if not self.model.allows(visible):
            raise ContractError(needed="Causal() visibility for a recurrent network", came=repr(visible))
        x = dropout(self.items(batch.channels["item"]), self.model.embedding_dropout, rng)
        if not len(x):
            return x if at is None else x[at]
        by_time, sizes = _time_major(batch)
        x = x[by_time]
        for layer in self.layers:
            x = layer(PackedSequence(x, sizes))[0].data
            x = dropout(x, self.model.dropout, rng)
        x = torch.empty_like(x).index_copy(0, by_time, x)
        return x if at is None else x[at]

    def output(self) -> Output:
        return Output(self.items.weight if self.table is None else self.table.weight, self.item_bias)


def _time_major(batch: Batch) -> tuple[Tensor, Tensor]:
    """(int64[N] flat places ordered by position, then row; int64[T] rows that are at least t + 1 long, on the CPU).

    Rows are sorted by falling length, so the rows that are still going on at any time are the first ones: nothing is padded.
    """
    position = torch.arange(batch.n_positions) - torch.repeat_interleave(batch.offsets[:-1], batch.lengths)
    order = torch.argsort(position, stable=True)
    return order.to(batch.channels["item"].device), torch.bincount(position)


def _initialise(module: nn.Module) -> None:
    """Uniform with the bound sqrt(6 / (rows + columns)) for every matrix, one gate at a time; zero for biases."""
    if isinstance(module, nn.Embedding):
        nn.init.xavier_uniform_(module.weight)
    if isinstance(module, nn.GRU):
        for name, parameter in module.named_parameters():
            if name.startswith("bias"):
                nn.init.zeros_(parameter)
            else:
                for gate in parameter.data.chunk(3):
                    nn.init.xavier_uniform_(gate)
