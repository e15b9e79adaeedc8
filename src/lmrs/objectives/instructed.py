"""Instructed: several tasks at once, each asked in words drawn for every row (P5's and OpenP5's multi-task training)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.errors import ContractError
from lmrs.models.network import Network
from lmrs.objectives.looking_back import LookingBack
from lmrs.objectives.next_item import NextItem, charged
from lmrs.vocab import Vocab


@dataclass(frozen=True)
class Instructed(LookingBack):
    """sum_k share_k mean over the rows of task k of -log p(x_{t+1} | wording, user, x_<=t); every row draws its task and wording.

    hidden: nothing. seen: what the wording shows of the user and the past. tasks: (name, share, wordings) triples: a row gets
    task k with probability share_k / sum of shares, and one of its wordings, numbers of `models.Generative.wordings`, uniformly.
    They travel in the row channel `wording`; networks that read no words ignore it, and this is NextItem then. places: as in
    NextItem.
    """

    tasks: tuple[tuple[str, float, tuple[int, ...]], ...] = (("sequential", 1.0, (0,)),)
    places: str = "last"

    def __post_init__(self) -> None:
        NextItem(places=self.places)
        names = [name for name, _, _ in self.tasks]
        numbers = [number for _, _, own in self.tasks for number in own]
        sound = all(own and 0 < share < math.inf for _, share, own in self.tasks)
        if not names or not sound or len(set(names)) < len(names) or len(set(numbers)) < len(numbers) or min(numbers) < 0:
            raise ContractError(
                needed="tasks with distinct names, shares above 0 and wordings that no other task has", came=repr(self.tasks)
            )

    @property
    def weights(self) -> dict[str, float]:
        total = sum(share for _, share, _ in self.tasks)
        return {name: share / total for name, share, _ in self.tasks}

    def corrupt(self, batch: Batch, vocab: Vocab, rng: torch.Generator) -> Batch:
        prepared = NextItem(places=self.places).corrupt(batch, vocab, rng)
        shares = torch.tensor([share for _, share, _ in self.tasks], dtype=torch.float64)
        task = (
            torch.multinomial(shares, prepared.n_rows, replacement=True, generator=rng) if prepared.n_rows else shares[:0].long()
        )
        count = torch.tensor([len(own) for _, _, own in self.tasks])
        first = count.cumsum(0) - count
        drawn = (torch.rand(prepared.n_rows, generator=rng, dtype=torch.float64) * count[task]).long()
        wording = torch.tensor([number for _, _, own in self.tasks for number in own])[first[task] + drawn]
        return replace(prepared, rows={**prepared.rows, "wording": wording})

    def counts(self, prepared: Batch) -> dict[str, int]:
        task = self._task(prepared)[prepared.channels["target"].cpu() >= 0]
        return {name: int((task == number).sum()) for number, (name, _, _) in enumerate(self.tasks)}

    def charge(
        self, network: Network, head: nn.Module | None, prepared: Batch, vocab: Vocab, rng: torch.Generator | None
    ) -> dict[str, Tensor]:
        at = charged(prepared)
        places = torch.arange(prepared.n_positions, device=prepared.channels["target"].device) if at is None else at
        if not len(places):
            nothing = next(network.parameters()).sum() * 0
            return {name: nothing for name, _, _ in self.tasks}
        cost = -network.likelihood(prepared, self.visible, places, prepared.channels["target"][places], rng)
        task = self._task(prepared).to(places.device)[places]
        return {name: cost[task == number].sum() for number, (name, _, _) in enumerate(self.tasks)}

    def _task(self, prepared: Batch) -> Tensor:
        """int64[N]: the number of the task of each position's row."""
        wording = prepared.rows["wording"].cpu()
        task = torch.empty_like(wording)
        for number, (_, _, own) in enumerate(self.tasks):
            task[torch.isin(wording, torch.tensor(own))] = number
        return task[prepared.row_of.cpu()]
