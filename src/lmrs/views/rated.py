"""Item sequences in which every event says whether the user liked the item (TALLRec, Bao et al., RecSys 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from lmrs.batch import Batch
from lmrs.errors import DataError
from lmrs.split import Train
from lmrs.views.sequence import ItemSequence, Rows


@dataclass(frozen=True)
class Rated:
    """The rows of `sequence` with a channel more, `liked` (bool[N]): rated higher than `above`.

    A bare history, as it is asked when a system is used, has no ratings and no such channel: what somebody names, they like.
    """

    sequence: ItemSequence = ItemSequence()  # noqa: RUF009 - a frozen value
    above: float = 3.0

    @property
    def max_len(self) -> int:
        return self.sequence.max_len

    @property
    def gives(self) -> tuple[str, ...]:
        return (*self.sequence.gives, "liked")

    def rows(self, train: Train, *, ahead: int, rng: np.random.Generator) -> Rows:
        """As `sequence`. Raises DataError if the data has no ratings."""
        if train.dataset.rating is None:
            raise DataError(needed="ratings", came=f"{train.dataset.name}, which has none", remedy="set rating=none")
        return self.sequence.rows(train, ahead=ahead, rng=rng)

    def collate(self, rows: Rows) -> Batch:
        batch = self.sequence.collate(rows)
        rating = rows.dataset.rating
        if rating is None:
            return batch
        start = torch.from_numpy(rows.start)[batch.rows["example"]]
        place = (start[batch.row_of] + batch.channels["position"]).numpy()
        return batch.with_channels(liked=torch.from_numpy(np.asarray(rating[place] > self.above)))

    def asked(self, rows: Rows, *, asks: int) -> Rows:
        return self.sequence.asked(rows, asks=asks)

    def known(self, rows: Rows) -> np.ndarray:
        return self.sequence.known(rows)
