"""Text that a model wrote, read as items of the catalogue; what cannot be read is said, never guessed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lmrs.errors import ContractError

_YEAR = re.compile(r"[\s,]*[(\[](\d{4})(?:\s*-\s*(?:\d{4})?)?[)\]]\s*$")
_BRACKETS = re.compile(r"\s*[(\[][^()\[\]]*[)\]]")
_ARTICLE = re.compile(r"^(.*\S)\s*,\s*(the|a|an|le|la|les|l'|il|el|los|das|der|die)$")
_LIST_MARK = re.compile(r"^\s*(?:[-*\u2022]\s+|\(?\d{1,3}[.):]\s+)+")
_INLINE_MARK = re.compile(r"(?:^|\s)\(?\d{1,3}[.)]\s+")
_ROMAN = frozenset(("ii", "iii", "iv", "v", "vi", "vii", "viii", "ix"))
_QUOTES = "\"'`*_\u201c\u201d\u2018\u2019\u00ab\u00bb "


@dataclass(frozen=True)
class Match:
    """What one piece of text was taken for.

    text: the piece. how: "exact" (a title letter for letter), "normalised" (but for case, signs, the place of an article, or a
    year that the text leaves out), "fuzzy" (by likeness), "ambiguous" (more than one item fits equally), "none".
    items: the item numbers that fit: one for the first three, several if ambiguous, none else.
    likeness: 1 for the first two; else that of the nearest title by shared trigrams (Dice), in [0, 1].
    """

    text: str
    how: str
    items: tuple[int, ...]
    likeness: float

    @property
    def item(self) -> int | None:
        """The item, if there is one and only one."""
        return self.items[0] if len(self.items) == 1 and self.how != "ambiguous" else None


@dataclass(frozen=True)
class Parsed:
    """What a generated text was taken for, piece by piece."""

    matches: tuple[Match, ...]

    @property
    def items(self) -> tuple[int, ...]:
        """The items that are certain, each once, in the order of the text."""
        return tuple(dict.fromkeys(match.item for match in self.matches if match.item is not None))

    @property
    def unmatched(self) -> tuple[str, ...]:
        """Pieces that are no item of the catalogue."""
        return tuple(match.text for match in self.matches if match.how == "none")

    @property
    def ambiguous(self) -> tuple[str, ...]:
        """Pieces that fit several items."""
        return tuple(match.text for match in self.matches if match.how == "ambiguous")

    def __str__(self) -> str:
        return (
            f"{len(self.matches)} pieces: {len(self.items)} items, {len(self.ambiguous)} ambiguous, {len(self.unmatched)} unknown"
        )


@dataclass(frozen=True, eq=False)
class Titles:
    """The display names of a catalogue, made searchable.

    names: V titles, item i's at place i. threshold: the least likeness of a fuzzy match, in (0, 1]; None: no fuzzy matches.
    margin: a fuzzy match must beat every other title by more than this, or it is ambiguous.
    """

    names: Sequence[str]
    threshold: float | None = 0.8
    margin: float = 0.05

    def __post_init__(self) -> None:
        if (self.threshold is not None and not 0 < self.threshold <= 1) or self.margin < 0:
            raise ContractError(
                needed="threshold in (0, 1] or None, margin >= 0", came=f"threshold={self.threshold}, margin={self.margin}"
            )

    def find(self, text: str) -> Match:
        """The item that a text names. A year in the text must be the item's own where the title has one."""
        text = text.strip().strip(_QUOTES).strip()
        found: Sequence[int] = self._exact.get(text, ())
        if found:
            return _match(text, "exact", found)
        plain, year = normalised(text)
        found = [item for item in self._plain.get(plain, ()) if _agree(year, self._years[item])]
        if year is not None and len(found) > 1:  # the item of that year rather than one without any
            found = [item for item in found if self._years[item] == year] or found
        if found and plain:
            return _match(text, "normalised", found)
        return self._alike(text, plain, year)

    def parse(self, text: str, *, separator: str | None = None) -> Parsed:
        """Reads a list: one title a line, with or without numbers or dashes before it, or numbered within one line.

        separator: what stands between titles within a line (", "). A title may hold it itself: the longest run of pieces that is
        a title, but for case and signs, is taken as one.
        """
        pieces = [_LIST_MARK.sub("", part) for line in text.splitlines() for part in _numbered(line)]
        pieces = [piece.strip().strip(_QUOTES).strip() for piece in pieces]
        matches: list[Match] = []
        for piece in filter(None, pieces):
            matches += [self.find(piece)] if separator is None else self._run(piece.split(separator), separator)
        return Parsed(tuple(matches))

    def _run(self, parts: list[str], separator: str) -> list[Match]:
        matches, at = [], 0
        while at < len(parts):
            stop = at + 1
            for end in range(min(len(parts), at + 6), at + 1, -1):
                if self.find(separator.join(parts[at:end])).how in ("exact", "normalised"):
                    stop = end
                    break
            if piece := separator.join(parts[at:stop]).strip():
                matches.append(self.find(piece))
            at = stop
        return matches

    def _alike(self, text: str, plain: str, year: int | None) -> Match:
        """A fuzzy match, through an inverted index of trigrams: only titles that share one are looked at.

        Years and numbers must agree: a sequel is one letter away from the film before it.
        """
        fits, likeness = self._likeness(plain)
        if not len(fits):
            return Match(text, "none", (), 0.0)
        best, least = float(likeness.max()), self.threshold
        if least is None or best < least:
            return Match(text, "none", (), best)
        numbers = _numbers(plain)
        good = [
            (float(likeness[at]), int(fits[at]))
            for at in np.flatnonzero(likeness >= least).tolist()
            if _agree(year, self._years[fits[at]]) and numbers == _numbers(self._read[fits[at]][0])
        ]
        if not good:
            return Match(text, "none", (), best)
        best = max(good)[0]
        close = tuple(item for each, item in good if each >= best - self.margin)
        return Match(text, "fuzzy" if len(close) == 1 else "ambiguous", close, best)

    def _likeness(self, plain: str) -> tuple[np.ndarray, np.ndarray]:
        """(int64[F] the titles that share a trigram with a plain text, float64[F] how alike they are)."""
        own = _trigrams(plain) if plain else set()
        rows = [self._postings[self._starts[at] : self._starts[at + 1]] for g in own if (at := self._grams.get(g)) is not None]
        if not rows:
            return np.zeros(0, np.int64), np.zeros(0)
        shared = np.bincount(np.concatenate(rows), minlength=len(self.names))
        fits = np.flatnonzero(shared)
        return fits, 2 * shared[fits] / (len(own) + self._sizes[fits])

    def near(self, text: str, *, n: int = 3, least: float = 0.5) -> tuple[int, ...]:
        """The items whose titles are most like a text, best first: to offer, not to take. least: likeness, in (0, 1]."""
        fits, likeness = self._likeness(normalised(text)[0])
        order = np.lexsort((fits, -likeness))[:n]
        return tuple(int(fits[at]) for at in order if likeness[at] >= least)

    @cached_property
    def _exact(self) -> dict[str, list[int]]:
        return _grouped([name.strip().strip(_QUOTES).strip() for name in self.names])

    @cached_property
    def _read(self) -> list[tuple[str, int | None]]:
        return [normalised(name) for name in self.names]

    @cached_property
    def _plain(self) -> dict[str, list[int]]:
        return _grouped([plain for plain, _ in self._read])

    @cached_property
    def _years(self) -> list[int | None]:
        return [year for _, year in self._read]

    @cached_property
    def _index(self) -> tuple[dict[str, int], np.ndarray, np.ndarray, np.ndarray]:
        grams: dict[str, int] = {}
        rows = [sorted(grams.setdefault(gram, len(grams)) for gram in _trigrams(plain)) for plain, _ in self._read]
        sizes = np.asarray([len(row) for row in rows], np.int64)
        flat = np.asarray([gram for row in rows for gram in row], np.int64)
        order = np.argsort(flat, kind="stable")
        starts = np.searchsorted(flat[order], np.arange(len(grams) + 1))
        return grams, starts, np.repeat(np.arange(len(rows)), sizes)[order], sizes

    @property
    def _grams(self) -> dict[str, int]:
        return self._index[0]

    @property
    def _starts(self) -> np.ndarray:
        return self._index[1]

    @property
    def _postings(self) -> np.ndarray:
        return self._index[2]

    @property
    def _sizes(self) -> np.ndarray:
        return self._index[3]

    def __repr__(self) -> str:
        return f"<Titles: {len(self.names):,} names, threshold={self.threshold}, margin={self.margin}>"


def normalised(title: str) -> tuple[str, int | None]:
    """(the words of a title, its year if it ends in one in brackets).

    Compatibility forms are unified, case and accents dropped, "Matrix, The" becomes "the matrix", "&" becomes "and", other
    brackets (alternative titles) go, and every other sign counts as a space.

    >>> normalised("Cité des enfants perdus, La (City of Lost Children, The) (1995)")
    ('la cite des enfants perdus', 1995)
    """
    text = unicodedata.normalize("NFKD", title).casefold()
    text = "".join(letter for letter in text if not unicodedata.combining(letter))
    year = None
    if found := _YEAR.search(text):
        year, text = int(found[1]), text[: found.start()]
    bare = _BRACKETS.sub("", text).strip()
    text = bare or text.strip()  # a title that is nothing but brackets keeps them
    if article := _ARTICLE.match(text):
        text = f"{article[2]} {article[1]}"
    text = text.replace("&", " and ").replace("'", "").replace("\u2019", "")
    return " ".join("".join(letter if letter.isalnum() else " " for letter in text).split()), year


def _match(text: str, how: str, items: Sequence[int]) -> Match:
    return Match(text, how if len(items) == 1 else "ambiguous", tuple(items), 1.0)


def _agree(asked: int | None, known: int | None) -> bool:
    return asked is None or known is None or asked == known


def _numbers(plain: str) -> list[str]:
    """The numbers among the words of a normalised title, Roman ones (II to IX) included, in order."""
    return [word for word in plain.split() if word in _ROMAN or not word.isalpha()]


def _grouped(names: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for item, name in enumerate(names):
        found.setdefault(name, []).append(item)
    return found


def _trigrams(plain: str) -> set[str]:
    padded = f"  {plain} "
    return {padded[at : at + 3] for at in range(len(padded) - 2)} if plain else set()


def _numbered(line: str) -> list[str]:
    """The pieces of a line with several numbers in it ("1. Heat 2. Casino"), else the line."""
    marks = [found.group() for found in _INLINE_MARK.finditer(line)]
    numbers = [int(re.sub(r"\D", "", mark)) for mark in marks]
    if len(numbers) > 1 and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        return _INLINE_MARK.split(line)
    return [line]
