"""The catalogue: every system that lmrs can build, one line each."""

from lmrs.systems.bert4rec import bert4rec
from lmrs.systems.sasrec import sasrec

__all__ = ["bert4rec", "sasrec"]
