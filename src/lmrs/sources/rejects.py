"""Rows that cannot be read: the first one stops the reading, or all of them go to a side file and are counted."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from lmrs.errors import DataError
from lmrs.files import storage


class Reject(NamedTuple):
    """line: 1-based line (row of a Parquet file). column: which one, or "". reason: what is wrong. raw: the row as it stands."""

    line: int
    column: str
    reason: str
    raw: str


class Rejects:
    """Strict or lenient judge of one file.

    file: its name, for messages. unit: "line" or "row". quarantine: the side file to write to; None means strict.
    """

    def __init__(self, file: str, *, unit: str = "line", quarantine: Path | None = None) -> None:
        self.file, self.unit, self.quarantine = file, unit, quarantine
        self.reasons: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """Rows set aside so far."""
        return self.reasons.total()

    def take(self, rejects: Iterable[Reject]) -> None:
        """Strict: raises DataError for the first row (in file order). Lenient: appends all of them to the side file."""
        rows = sorted(rejects)
        if not rows:
            return
        if self.quarantine is None:
            line, column, reason, raw = rows[0]
            at = f"{self.file}:{line}" if self.unit == "line" else f"{self.file}, row {line}"
            what = f"column '{column}': {reason}" if column else reason
            raise DataError(
                needed=f"readable rows, {at}",
                came=f"{what} in {_short(raw)}",
                remedy="mend the row, or pass --lenient to set such rows aside",
            )
        with storage(self.quarantine), self.quarantine.open("a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            if file.tell() == 0:
                writer.writerow(["file", self.unit, "column", "reason", "row"])
            writer.writerows((self.file, row.line, row.column, row.reason, row.raw) for row in rows)
        self.reasons.update(f"{row.column}: {row.reason}" if row.column else row.reason for row in rows)


def _short(raw: str) -> str:
    return repr(raw if len(raw) <= 80 else raw[:77] + "...")
