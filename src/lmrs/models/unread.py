"""What a network that reads texts could not read: items that have none, histories that are longer than its context."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmrs.prompts.compiled import Report


@dataclass
class Unread:
    """A count that goes on while the network is asked.

    without_title, without_text: items for which something else stands, their id or a fixed text. prompts: that were written since
    `restart`; cut: those that the context was too short for; entries: what they lost, the oldest events first.
    """

    without_title: int = 0
    without_text: int = 0
    prompts: int = 0
    cut: int = 0
    entries: int = 0

    def restart(self) -> None:
        """Count prompts anew."""
        self.prompts = self.cut = self.entries = 0

    def add(self, report: Report) -> None:
        """Prompts that were written."""
        self.prompts += len(report.dropped)
        self.cut += report.cut
        self.entries += int(report.dropped.sum())

    def facts(self) -> dict[str, float]:
        """For a report: what there is to tell, so nothing where everything was read."""
        found = {"items_without_title": self.without_title, "items_without_text": self.without_text}
        if self.cut:
            found |= {"prompts": self.prompts, "prompts_cut": self.cut, "entries_cut": self.entries}
        return {name: float(value) for name, value in found.items() if value}
