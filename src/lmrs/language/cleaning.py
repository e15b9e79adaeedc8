"""What a model reads of a text: the same text without what nobody can see.

Titles are data of strangers. Characters that are invisible, that turn the direction of writing or that have no agreed meaning
carry nothing a reader would miss, but they can hide words from a person that a model reads. `clean` is applied before every
encoding; the catalogue keeps the text as it came.
"""

from __future__ import annotations

import re
import unicodedata

_UNKNOWN = "\N{REPLACEMENT CHARACTER}"
# Visible to str.isprintable, invisible to people: variation selectors, Hangul and Khmer fillers, the combining joiner.
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")


class _Table(dict[int, str]):
    """What becomes of a character, found once for each that occurs (`str.translate` asks for it)."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        match unicodedata.category(character):
            case "Cc":
                kept = character if character in "\t\n\r" else ""
            case "Cf":
                kept = ""
            case "Cs" | "Co":
                kept = _UNKNOWN
            case "Zl" | "Zp":
                kept = "\n"
            case "Cn" if code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF:  # noncharacters; the rest may be assigned one day
                kept = _UNKNOWN
            case _:
                kept = "" if _BLANK.match(character) else character
        self[code] = kept
        return kept


_TABLE = _Table()


def clean(text: str) -> str:
    """The text without control characters (but tab and line ends), invisible and direction marks; others stay as they are.

    Lone surrogates, private-use characters and noncharacters become U+FFFD, one each; line and paragraph separators become a
    line end. `clean(clean(x)) == clean(x)`; the result can always be written as UTF-8.

    >>> clean("Toy\\u200b Story\\x00 \\ud800")
    'Toy Story \N{REPLACEMENT CHARACTER}'
    """
    if text.isascii() and text.isprintable():
        return text
    return text.translate(_TABLE)
