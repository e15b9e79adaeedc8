"""Learned pooling: the states of a text's tokens become one vector by attention (NRMS's and PLM-NR's text tower)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmrs.errors import ContractError


@dataclass(frozen=True)
class Attention:
    """sum_t a_t h_t with a = softmax_t(q . tanh(W h_t + b)), h the output of multi-head self-attention over the token states.

    heads x width: of the self-attention, which has no output map and no residual (Wu et al., EMNLP 2019, section 2.1); heads=0
    leaves it out and pools the states themselves. query: length of q. The vector has heads * width numbers, or the model's.
    """

    heads: int = 20
    width: int = 20
    query: int = 200

    def __post_init__(self) -> None:
        if self.heads < 0 or self.width < 1 or self.query < 1:
            raise ContractError(
                needed="heads >= 0, width >= 1, query >= 1", came=f"heads={self.heads}, width={self.width}, query={self.query}"
            )

    def build(self, dim: int) -> AttentionPool:
        """The module for states of width `dim`; draws its weights from torch's generator as it stands."""
        return AttentionPool(self, dim)


class AttentionPool(nn.Module):
    """dim: width of the pooled vectors."""

    def __init__(self, about: Attention, dim: int) -> None:
        super().__init__()
        self.heads, self.dim = about.heads, about.heads * about.width or dim
        self.mix = nn.Linear(dim, 3 * self.dim) if about.heads else None
        self.look = AdditiveQuery(self.dim, about.query)

    def forward(self, states: Tensor, real: Tensor | None) -> Tensor:
        """[R, E] from states [R, T, D]. real: bool[R, T], which tokens are no padding, or None if all are."""
        if self.mix is not None:
            rows, length = states.shape[:2]
            query, key, value = self.mix(states).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            allowed = None if real is None else real[:, None, None, :]
            found = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
            states = found.transpose(1, 2).reshape(rows, length, self.dim)
        logits = self.look(states)  # (R, T)
        if real is not None:
            logits = logits.masked_fill(~real, -torch.inf)
        return torch.einsum("rt,rtd->rd", logits.softmax(1), states)


class AdditiveQuery(nn.Module):
    """q . tanh(W h + b): how much each state counts, before the softmax."""

    def __init__(self, dim: int, query: int) -> None:
        super().__init__()
        self.map = nn.Linear(dim, query)
        self.query = nn.Linear(query, 1, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        """[*] from [*, D]."""
        return self.query(self.map(states).tanh())[..., 0]
