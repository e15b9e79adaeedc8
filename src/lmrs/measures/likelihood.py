"""How well a language model expected the references: perplexity from sums of log-probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lmrs.errors import ContractError


@dataclass(frozen=True, eq=False)
class Likelihoods:
    """How probable the references were to a model, n >= 1 texts.

    total: float[n], sum over the tokens of a text of log p(token | what came before), natural logarithm, dropout off.
    tokens: integer[n], how many tokens were summed, at least one in all.
    """

    total: np.ndarray
    tokens: np.ndarray

    def __post_init__(self) -> None:
        total, tokens = np.asarray(self.total, np.float64), np.asarray(self.tokens)
        if total.ndim != 1 or total.shape != tokens.shape or not len(total):
            raise ContractError(needed="one sum and one count for each text", came=f"{total.shape} and {tokens.shape}")
        if tokens.dtype.kind not in "iu" or (tokens < 0).any() or not tokens.sum():
            raise ContractError(needed="whole numbers of tokens, at least one in all", came=f"{tokens[:3]} ({tokens.dtype})")
        if np.isnan(total).any() or (total > 0).any() or (total[tokens == 0] != 0).any():
            at = int(np.argmax(np.isnan(total) | (total > 0) | ((tokens == 0) & (total != 0))))
            raise ContractError(
                needed="sums of log-probabilities (at most 0, and 0 without tokens)",
                came=f"{total[at]} for {tokens[at]} tokens at place {at}",
                remedy="sum log p, not -log p",
            )


@dataclass(frozen=True)
class PPL:
    """Perplexity exp(-sum log p / number of tokens), over all tokens of all texts: one number, >= 1, the smaller the better.

    It depends on the tokens: models with different tokenisers must not be compared by it.
    """

    reads: ClassVar[str] = "likelihoods"
    per_query: ClassVar[bool] = False

    def __str__(self) -> str:
        return "PPL"

    def __call__(self, found: Likelihoods) -> float:
        with np.errstate(over="ignore"):
            return float(np.exp(-np.sum(found.total, dtype=np.float64) / np.sum(found.tokens)))
