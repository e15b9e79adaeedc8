"""Text vectors to item vectors: a mixture of parametric whitenings (UniSRec, Hou et al., KDD 2022, section 2.1.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmrs.errors import ContractError
from lmrs.models.checks import below_one
from lmrs.models.dropout import dropout

FLOOR = 0.01  # least deviation of the gate's noise, as in the released code


@dataclass(frozen=True)
class Adaptor:
    """sum_k g_k (Drop(x) - b_k) W_k, with one learned shift b_k and map W_k an expert (parametric whitening).

    g = softmax(x U + noise . (softplus(x U') + .01)), noise ~ N(0, 1) where a generator is given and none elsewhere.
    experts: >= 1; one has no gate and is a single whitening, that is a plain linear map. dropout: on x, for each expert anew.
    """

    experts: int = 8
    dropout: float = 0.2

    def __post_init__(self) -> None:
        if self.experts < 1:
            raise ContractError(needed="at least one expert", came=f"experts={self.experts}")
        below_one(dropout=self.dropout)

    def build(self, width: int, dim: int) -> AdaptorModule:
        """The module that maps [n, width] to [n, dim]."""
        return AdaptorModule(self, width, dim)


class AdaptorModule(nn.Module):
    """shift: [G, E]. weight: [G, E, D]. gate, noise: E -> G, or None of one expert."""

    def __init__(self, about: Adaptor, width: int, dim: int) -> None:
        super().__init__()
        self.p = about.dropout
        self.shift = nn.Parameter(torch.zeros(about.experts, width))
        self.weight = nn.Parameter(torch.empty(about.experts, width, dim).normal_(std=0.02))
        self.gate = nn.Linear(width, about.experts, bias=False) if about.experts > 1 else None
        self.noise = nn.Linear(width, about.experts, bias=False) if about.experts > 1 else None
        for each in (self.gate, self.noise):
            if each is not None:
                nn.init.zeros_(each.weight)

    def shares(self, x: Tensor, rng: torch.Generator | None) -> Tensor:
        """[n, G]: how much of each expert every vector gets; rows sum to 1."""
        if self.gate is None or self.noise is None:
            return x.new_ones(len(x), 1)
        logits = self.gate(x)
        if rng is not None:
            drawn = torch.randn(logits.shape, generator=rng, device=logits.device, dtype=logits.dtype)
            logits = logits + drawn * (F.softplus(self.noise(x)) + FLOOR)
        return logits.softmax(1)

    def forward(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        shares = self.shares(x, rng)
        parts = (
            shares[:, k, None] * ((dropout(x, self.p, rng) - shift) @ weight)
            for k, (shift, weight) in enumerate(zip(self.shift, self.weight, strict=True))
        )
        total = next(parts)
        for part in parts:
            total = total + part
        return total
