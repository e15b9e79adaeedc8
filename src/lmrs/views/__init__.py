"""How a Dataset is read as examples."""

from lmrs.views.sequence import ItemSequence, Rows

View = ItemSequence

__all__ = ["ItemSequence", "Rows", "View"]
