"""Item sequences in which every event pays: its reward, and what is still to come (PRL, Xin et al., SIGIR 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from lmrs.batch import Batch
from lmrs.dataset import Dataset
from lmrs.errors import ContractError, DataError, did_you_mean
from lmrs.split import Train
from lmrs.views.sequence import ItemSequence, Rows


@dataclass(frozen=True)
class Rewarded:
    """The rows of `sequence` with two channels more, float32[N]: `reward` r_t, and `return` R_t = sum_{k >= t} r_k in the row.

    purchase: the event type that pays `high`; every other one pays `low`. rating: where a data set has ratings in place of types,
    the lowest that pays `high` (types are then not read). Histories without types or ratings, as they are asked, have
    neither channel.
    """

    sequence: ItemSequence = ItemSequence()  # noqa: RUF009 - a frozen value
    purchase: str = "purchase"
    rating: float | None = None
    low: float = 0.2
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high or not self.high > 0:
            raise ContractError(needed="rewards 0 <= low <= high, high above 0", came=f"low={self.low}, high={self.high}")

    @property
    def max_len(self) -> int:
        return self.sequence.max_len

    @property
    def gives(self) -> tuple[str, ...]:
        return (*self.sequence.gives, "reward", "return")

    def rows(self, train: Train, *, ahead: int, rng: np.random.Generator) -> Rows:
        """As `sequence`. Raises DataError if the data says nothing of rewards."""
        data = train.dataset
        if self.rating is not None and data.rating is None:
            raise DataError(needed="ratings to make rewards of", came=f"{data.name}, which has none", remedy="set rating=none")
        if self.rating is None and (data.type is None or self.purchase not in data.types):
            raise DataError(
                needed=f"events of the type {self.purchase!r}",
                came=f"{data.name}, whose types are {', '.join(data.types) or 'not known'}",
                remedy=did_you_mean(self.purchase, data.types) if data.types else "set rating=4 to make rewards of ratings",
            )
        return self.sequence.rows(train, ahead=ahead, rng=rng)

    def collate(self, rows: Rows) -> Batch:
        batch = self.sequence.collate(rows)
        start = torch.from_numpy(rows.start)[batch.rows["example"]]
        better = self.better(rows.dataset, (start[batch.row_of] + batch.channels["position"]).numpy())
        if better is None:
            return batch
        reward = torch.where(torch.from_numpy(better), self.high, self.low).double()
        until = torch.cat([reward.new_zeros(1), reward.cumsum(0)])
        left = until[batch.offsets[1:]][batch.row_of] - until[:-1]
        return batch.with_channels(**{"reward": reward.float(), "return": left.float()})

    def better(self, data: Dataset, place: np.ndarray) -> np.ndarray | None:
        """bool[n]: whether the events at these places of the data pay `high`; None where that is not known."""
        if self.rating is not None:
            return None if data.rating is None else np.asarray(data.rating[place] >= self.rating)
        if data.type is None or self.purchase not in data.types:
            return None
        return np.asarray(data.type[place] == data.types.index(self.purchase))

    def asked(self, rows: Rows, *, asks: int) -> Rows:
        return self.sequence.asked(rows, asks=asks)

    def known(self, rows: Rows) -> np.ndarray:
        return self.sequence.known(rows)
