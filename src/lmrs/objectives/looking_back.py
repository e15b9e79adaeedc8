"""What signals have in common that predict what comes next from what came before."""

from __future__ import annotations

import torch
from torch import nn

from lmrs.batch import Batch
from lmrs.visibility import Causal, Visibility
from lmrs.vocab import Vocab


class LookingBack:
    """The part of the Objective contract that follows from it.

    A row holds one event beyond the inputs, positions see the past, and the question is put at the last one with nothing added.
    """

    needs: tuple[str, ...] = ("item",)
    ahead = 1
    asks = 0

    @property
    def visible(self) -> Visibility:
        return Causal()

    @property
    def asked_visible(self) -> Visibility:
        return Causal()

    def head(self, vocab: Vocab, dim: int) -> nn.Module | None:
        return None

    def ask(self, batch: Batch, vocab: Vocab) -> Batch:
        asked = torch.zeros(batch.n_positions, dtype=torch.bool)
        asked[(batch.offsets[1:] - 1)[batch.lengths > 0]] = True
        return batch.with_channels(asked=asked)
