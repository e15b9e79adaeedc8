"""A piece of a table on its way from a file to the store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from lmrs.sources.rejects import Reject


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of a table.

    cells: the columns asked for, by name, of equal length. where(rows) -> [(line, raw row)], for messages.
    rejected: rows between these that have no cells (wrong number of columns, broken quotes).
    users: for lists, all user ids of the piece, those with an empty list included; else None.
    """

    cells: dict[str, pa.Array]
    where: Callable[[np.ndarray], list[tuple[int, str]]]
    rejected: list[Reject] = field(default_factory=list)
    users: pa.Array | None = None

    @property
    def rows(self) -> int:
        return len(next(iter(self.cells.values())))
