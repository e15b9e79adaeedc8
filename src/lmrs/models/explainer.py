"""What every network must be able to do that writes why a user chose an item."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lmrs.batch import Batch
from lmrs.errors import ContractError, UserError
from lmrs.losses import Output
from lmrs.models.network import Network
from lmrs.models.said import Said
from lmrs.views.reviews import pairs
from lmrs.visibility import Visibility


class Told(NamedTuple):
    """What a network makes of B pairs whose explanations are given.

    text: log p(explanation | pair), summed over all tokens and rows, the end included; a scalar. tokens: how many were summed.
    context: the same of the words without order, from the pair alone; None for a network that does not predict them.
    rating: [B], the rating it expects, in the rating's unit; None for a network without a head for it.
    """

    text: Tensor
    tokens: int
    context: Tensor | None
    rating: Tensor | None


@dataclass(frozen=True)
class Sentence:
    """An explanation that was written."""

    text: str


class Explainer(Network):
    """Batches are those of `views.Reviews`: one position with the item, the user beside it. It writes; it ranks only where
    it says so.

    said: what was counted in the training reviews.
    """

    said: Said

    @abstractmethod
    def tell(self, batch: Batch, rng: torch.Generator | None = None) -> Told:
        """Judges the explanations in `batch.texts`. rng: of dropout, None for none. Gradients reach all that is tuned."""

    @abstractmethod
    def write(self, batch: Batch) -> list[str]:
        """The explanation of each row, in row order: greedily, the likeliest token at every step."""

    @abstractmethod
    def rate(self, batch: Batch) -> Tensor | None:
        """[B]: the rating it expects, or None if it has no head for it."""

    @torch.no_grad()
    def explain(self, batch: Batch, item: int, *, k: int = 1) -> tuple[Sentence, ...]:
        return tuple(map(Sentence, self.write(self.pair(batch, item))))[:k]

    def pair(self, batch: Batch, item: int) -> Batch:
        """The question why the user of a batch of one row chose an item. Raises UserError for what training did not speak of."""
        user = int(batch.rows["user"][0])
        for what, counts, number in (("user", self.said.users, user), ("item", self.said.items, item)):
            if not 0 <= number < len(counts) or not counts[number]:
                raise UserError(
                    needed=f"{'a user who' if what == 'user' else 'an item that'} has reviews in training",
                    came=f"a {what} without" if what == "user" else "an item without",
                    remedy=f"nothing was learned of this {what}",
                )
        asked = pairs(np.array([user]), np.array([item]), texts={"feature": batch.texts.get("feature", (None,))})
        return asked.to(batch.channels["item"].device)

    # What ranking needs, it refuses by name.

    def forward(self, batch: Batch, visible: Visibility, rng: torch.Generator | None = None, at: Tensor | None = None) -> Tensor:
        raise _writes(self)

    def output(self) -> Output:
        raise _writes(self)

    def score(self, batch: Batch, visible: Visibility) -> Tensor:
        raise _writes(self)


def _writes(network: Network) -> ContractError:
    return ContractError(
        needed="a network that ranks items",
        came=f"{type(network).__name__}, which writes explanations",
        remedy="give it the objective Explanation and the task Explaining",
    )
