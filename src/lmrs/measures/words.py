"""How text becomes words before it is counted: four pinned rules, each a function text -> list of words.

| rule | what it does | who counts with it |
|---|---|---|
| "13a" | punctuation apart, numbers together, case kept: mteval-v13a, the default of sacrebleu | BLEU |
| "latin" | lower case; everything but a-z and 0-9 is a blank: the default of the rouge-score package | ROUGE |
| "space" | cut at white space only: text that was tokenised before (PETER, PEPLER) | by request |
| "words" | NFC, lower case; runs of letters and digits with inner apostrophes, other marks one by one | the other measures |

"latin" finds no words at all in Greek or Chinese; measures of such texts must be asked for with another rule.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice

Words = Sequence[str]

_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_APART = re.compile(r"([{-~\[-` -&(-+:-@/])")  # ASCII marks other than ' , - .
_AFTER_OTHER = re.compile(r"([^0-9])([.,])")
_BEFORE_OTHER = re.compile(r"([.,])([^0-9])")
_RANGE = re.compile(r"([0-9])(-)")
_LATIN = re.compile(r"[a-z0-9]+")
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*|[^\w\s]|_")


def _mteval(text: str) -> list[str]:
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    text = _APART.sub(r" \1 ", f" {text} ")
    text = _AFTER_OTHER.sub(r"\1 \2 ", text)
    text = _BEFORE_OTHER.sub(r" \1 \2", text)
    return _RANGE.sub(r"\1 \2 ", text).split()


WORDS: dict[str, Callable[[str], list[str]]] = {
    "13a": _mteval,
    "latin": lambda text: _LATIN.findall(text.lower()),
    "space": str.split,
    "words": lambda text: _WORD.findall(unicodedata.normalize("NFC", text).lower()),
}


def first_words(text: str, n: int) -> str:
    """The text up to the end of its n-th word (rule "words"), as it is spelt but for NFC; white space at its ends goes."""
    text = unicodedata.normalize("NFC", text)
    ends = [found.end() for found in islice(_WORD.finditer(text), n)]
    return text[: ends[-1] if ends else 0].strip()


def grams(words: Words, n: int) -> list[tuple[str, ...]]:
    """The n-grams of a text in order: len(words) - n + 1 of them, none if the text is shorter."""
    return list(zip(*(words[at:] for at in range(n)), strict=False))


def overlap(one: Counter, other: Counter) -> int:
    """How many elements two multisets share, each counted as often as in the set that has fewer of it."""
    return sum(min(one[gram], other[gram]) for gram in one.keys() & other.keys())


def common_subsequence(one: Words, other: Words) -> int:
    """Length of the longest common subsequence, by bits of one integer (Hyyrö 2004, "Bit-parallel LCS-length computation")."""
    places: dict[str, int] = {}
    for at, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << at
    full = (1 << len(one)) - 1
    row = full
    for word in other:
        hit = row & places.get(word, 0)
        row = ((row + hit) | (row - hit)) & full
    return len(one) - row.bit_count()
