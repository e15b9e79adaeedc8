"""Training signals, one file each."""

from lmrs.objectives.cloze import Cloze
from lmrs.objectives.next_item import NextItem
from lmrs.objectives.objective import Objective

__all__ = ["Cloze", "NextItem", "Objective"]
