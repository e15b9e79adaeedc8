"""Measures of explanations: do they differ, and do they speak of the features of the item (Li, Zhang & Chen 2020; PETER, PEPLER).

A feature occurs in a text if its words stand there side by side, cut by the same rule as the text: for a feature of one word
this is the papers' test, and "sound quality" is found too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lmrs.errors import ContractError
from lmrs.measures.text import TextMeasure, Texts
from lmrs.measures.words import WORDS, grams

Feature = tuple[str, ...]


@dataclass(frozen=True)
class USR(TextMeasure):
    """Unique sentence ratio: different texts / texts, in (0, 1]; equal words are equal texts. One number, not one a text."""

    words: str = "words"

    def __call__(self, texts: Texts) -> float:
        return len({tuple(WORDS[self.words](text)) for text in texts.generated}) / len(texts)


@dataclass(frozen=True)
class FMR(TextMeasure):
    """Feature matching ratio: 1 if the feature of the pair occurs in its text, else 0. float64[n]; the mean is reported."""

    words: str = "words"
    per_query: ClassVar[bool] = True

    def __call__(self, texts: Texts) -> np.ndarray:
        wanted = _cut(texts.needed("features", self), self.words)
        found = _found(texts.generated, wanted, self.words)
        return np.array([float(feature in there) for feature, there in zip(wanted, found, strict=True)])


@dataclass(frozen=True)
class FCR(TextMeasure):
    """Feature coverage ratio: different features in all texts / different features of the data set, in [0, 1]. One number."""

    words: str = "words"

    def __call__(self, texts: Texts) -> float:
        every = set(_cut(texts.needed("all_features", self), self.words))
        if not every:
            raise ContractError(needed=f"at least one feature for {self}", came="none")
        return len(set().union(*_found(texts.generated, every, self.words))) / len(every)


@dataclass(frozen=True)
class DIV(TextMeasure):
    """Feature diversity: the mean over pairs of texts of the number of features they share, >= 0; the smaller the better.

    2 / (n (n - 1)) sum_{a<b} |F_a & F_b| = sum_f n_f (n_f - 1) / (n (n - 1)), with n_f the texts that hold feature f: linear
    time. Features are those of the data set. One number; 0 for a single text.
    """

    words: str = "words"

    def __call__(self, texts: Texts) -> float:
        every = set(_cut(texts.needed("all_features", self), self.words))
        counts = Counter(feature for there in _found(texts.generated, every, self.words) for feature in there)
        pairs = len(texts) * (len(texts) - 1)
        return sum(count * (count - 1) for count in counts.values()) / pairs if pairs else 0.0


def _cut(features: Iterable[str], words: str) -> list[Feature]:
    found = []
    for feature in features:
        found.append(tuple(WORDS[words](feature)))
        if not found[-1]:
            raise ContractError(needed="features of at least one word", came=repr(feature), remedy="leave out pairs without one")
    return found


def _found(texts: Iterable[str], features: Iterable[Feature], words: str) -> list[set[Feature]]:
    """The features that occur in each text."""
    every = set(features)
    lengths = sorted({len(feature) for feature in every})
    found = []
    for text in texts:
        there = WORDS[words](text)
        found.append({gram for n in lengths for gram in grams(there, n) if gram in every})
    return found
