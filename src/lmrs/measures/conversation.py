"""Measures of what a system says in a dialogue, where the items that it names stand as the one character `records.SLOT`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lmrs.measures.text import TextMeasure, Texts
from lmrs.records import SLOT


@dataclass(frozen=True)
class ItemRatio(TextMeasure):
    """How many items a response names: slots in each text, float64[n]; the mean is the item ratio that UniCRS reports.

    Another quantity goes by this name, too: the share of responses that name an item at all (RecInDial).
    """

    choices: ClassVar[dict[str, tuple[str, ...]]] = {}
    per_query: ClassVar[bool] = True

    def __call__(self, texts: Texts) -> np.ndarray:
        return np.array([float(text.count(SLOT)) for text in texts.generated])
