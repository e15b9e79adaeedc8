"""The contract of a training signal: four questions, answered in one file each."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.models.network import Network
from lmrs.visibility import Visibility
from lmrs.vocab import Vocab


class Objective(Protocol):
    """One training signal. A frozen value; everything it draws comes from `rng`, everything it learns lives in `head`.

    needs: channels that the view must give. ahead: how many further events a row must hold beyond the inputs (1 for next item).
    asks: positions that `ask` adds to a row (1 where a mask is appended). weights: weight of each named part of the loss.
    visible: who may see whom in training; asked_visible: the same when the catalogue is ranked.
    """

    @property
    def needs(self) -> tuple[str, ...]: ...
    @property
    def ahead(self) -> int: ...
    @property
    def asks(self) -> int: ...
    @property
    def weights(self) -> dict[str, float]: ...
    @property
    def visible(self) -> Visibility: ...
    @property
    def asked_visible(self) -> Visibility: ...

    def head(self, vocab: Vocab, dim: int) -> nn.Module | None:
        """The parameters that belong to the signal itself, or None."""

    def corrupt(self, batch: Batch, vocab: Vocab, rng: torch.Generator) -> Batch:
        """What is hidden: a new Batch with inputs and targets. Pure; made for the whole batch before it is sharded."""

    def counts(self, prepared: Batch) -> dict[str, int]:
        """By what each part of the loss is divided: a property of the prepared batch alone, so that shards agree."""

    def charge(
        self, network: Network, head: nn.Module | None, prepared: Batch, vocab: Vocab, rng: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The *sum* of each part of the loss over the prepared batch (or a shard of it)."""

    def ask(self, batch: Batch, vocab: Vocab) -> Batch | None:
        """The question at test time: the batch with a channel `asked` (bool[N]) that marks one position a row, or None if it
        cannot ask."""
