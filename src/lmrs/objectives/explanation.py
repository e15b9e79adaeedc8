"""Explanation: what a user said of an item, word by word; beside it the words without order, and the rating (PETER, PEPLER)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.errors import ContractError
from lmrs.measures.words import WORDS
from lmrs.models.explainer import Explainer
from lmrs.models.network import Network
from lmrs.objectives.looking_back import LookingBack
from lmrs.vocab import Vocab


@dataclass(frozen=True)
class Explanation(LookingBack):
    """L = text L_text + context L_context + rating L_rating over the batches of views.Reviews, with models that explain.

    L_text = -log p(explanation | pair) a word, the end counted as one; L_context = -log p(w | pair) a word, all words from one
    state; L_rating = (rating - truth)^2 a pair that has one. hidden: nothing. seen: what a word comes after.
    text, context, rating: weights >= 0; a part of weight 0 is left out. Words are those of the measures of text, whatever tokens
    a model writes: what is charged is divided by the same number for all of them.
    """

    text: float = 1.0
    context: float = 0.0
    rating: float = 0.0

    ahead = 0

    def __post_init__(self) -> None:
        if min(self.text, self.context, self.rating) < 0 or not self.weights:
            raise ContractError(
                needed="weights of at least 0, one of them above",
                came=f"text={self.text}, context={self.context}, rating={self.rating}",
            )

    @property
    def weights(self) -> dict[str, float]:
        return {name: value for name in ("text", "context", "rating") if (value := getattr(self, name)) > 0}

    def corrupt(self, batch: Batch, vocab: Vocab, rng: torch.Generator) -> Batch:
        """Nothing is hidden; `rows["words"]` counts the words of each explanation."""
        words = torch.tensor([len(WORDS["words"](text or "")) for text in batch.texts["explanation"]], dtype=torch.int64)
        return replace(batch, rows={**batch.rows, "words": words})

    def counts(self, prepared: Batch) -> dict[str, int]:
        words, rated = prepared.rows["words"], prepared.rows["rating"].isfinite()
        sizes = {"text": int(words.sum()) + len(words), "context": int(words.sum()), "rating": int(rated.sum())}
        return {name: sizes[name] for name in self.weights}

    def charge(
        self, network: Network, head: nn.Module | None, prepared: Batch, vocab: Vocab, rng: torch.Generator | None
    ) -> dict[str, Tensor]:
        if not isinstance(network, Explainer):
            raise ContractError(
                needed="a model that explains, such as models.Peter or models.Pepler, for the objective Explanation",
                came=type(network).__name__,
            )
        told = network.tell(prepared, rng)
        found = {"text": -told.text}
        if self.context:
            found["context"] = -self._there(told.context, "context", network)
        if self.rating:
            truth = prepared.rows["rating"]
            rated = truth.isfinite()
            found["rating"] = (self._there(told.rating, "rating", network)[rated] - truth[rated]).square().sum()
        return {name: found[name] for name in self.weights}

    def _there(self, value: Tensor | None, part: str, network: Network) -> Tensor:
        if value is None:
            raise ContractError(
                needed=f"a network that predicts the {part}",
                came=type(network).__name__,
                remedy=f"leave the weight of {part} at 0",
            )
        return value
