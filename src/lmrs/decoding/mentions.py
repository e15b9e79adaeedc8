"""Titles that stand in the middle of a sentence, as somebody typed it; what is not certain is said, never guessed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lmrs.decoding.titles import Match, Titles
from lmrs.records import SLOT

LONGEST = 14  # words of a title that is looked for
_WORD = re.compile(r"[^\W_]+(?:['’.\-/&:][^\W_]+)*")
_YEAR = re.compile(r"\s*[(\[]\d{4}[)\]]")
_QUOTED = re.compile(r"\"([^\"\n]+)\"|“([^”\n]+)”|«([^»\n]+)»|\*([^*\n]+)\*|(?<!\w)['‘]([^'’\n]+)['’](?!\w)")
_ENDED = re.compile(r"(?:^|[.!?:;)\n\"“(])\s*$")
# Single words that people write with a capital for another reason than that a title is meant.
_COMMON = frozenset([
    "a", "all", "and", "any", "but", "did", "do", "great", "have", "he", "hello", "her", "hey", "hi", "his", "how", "i",
    "if", "it", "just", "lol", "maybe", "me", "my", "no", "not", "oh", "ok", "okay", "one", "or", "she", "so", "some",
    "sure", "thank", "thanks", "that", "the", "their", "them", "then", "there", "they", "this", "us", "we", "well", "what",
    "when", "where", "which", "who", "why", "will", "yeah", "yes", "you",
])  # fmt: skip


@dataclass(frozen=True)
class Named:
    """What a text names.

    text: with `records.SLOT` in the place of each item. items: their numbers, in order. unmatched: pieces that are marked as
    titles, by quotation marks or a year, and that no item has. ambiguous: pieces that are the title of several items. unsure:
    pieces that are the title of an item, but may be ordinary words. All three stay in the text as they are.
    """

    text: str
    items: tuple[int, ...]
    unmatched: tuple[str, ...]
    ambiguous: tuple[str, ...]
    unsure: tuple[str, ...]


def named(text: str, titles: Titles) -> Named:
    """Finds titles in a text, letter for letter but for signs, articles and a year left out (give `titles` no threshold).

    A piece in quotation marks, or with its year behind it, counts whatever its letters. Any other must be written with capital
    letters and have no further capitalised word or number beside it (a longer title may be meant). A single word must not be
    the first of its sentence, none of a few very common ones ("It", "Yes") and not of capitals or digits alone.
    """
    text = text.replace(SLOT, " ")
    found: list[tuple[int, int, int]] = []  # start, end, item
    left: dict[str, list[str]] = {"none": [], "ambiguous": [], "unsure": []}
    done: list[tuple[int, int]] = []  # what has been read, found or not

    def take(start: int, end: int, match: Match) -> None:
        done.append((start, end))
        if match.item is not None:
            found.append((start, end, match.item))
        else:
            left["ambiguous" if match.items else "none"].append(text[start:end].strip("\"“”«»*'‘’ "))

    for quoted in _QUOTED.finditer(text):
        year = _YEAR.match(text, quoted.end())
        inner = next(each for each in quoted.groups() if each is not None)
        take(quoted.start(), year.end() if year else quoted.end(), titles.find(inner + (year[0] if year else "")))
    words = [(each.start(), each.end()) for each in _WORD.finditer(text)]
    at = 0
    while at < len(words):
        start = words[at][0]
        hit = None
        if not any(a <= start < b for a, b in done):
            hit = _longest(text, words, at, done, titles)
        if hit is None:
            at += 1
            continue
        end, match, sure = hit
        if sure:
            take(start, end, match)
        else:
            left["ambiguous" if match.item is None else "unsure"].append(text[start:end])
        while at < len(words) and words[at][0] < end:
            at += 1
    for year in _YEAR.finditer(text):
        if not any(a < year.end() <= b for a, b in done):
            left["none"].append(text[_run_before(text, words, year.start()) : year.end()].strip())
    out, last = [], 0
    found.sort()
    for start, end, _ in found:
        out += [text[last:start], SLOT]
        last = end
    return Named(
        "".join([*out, text[last:]]),
        tuple(item for _, _, item in found),
        *(tuple(dict.fromkeys(filter(None, left[how]))) for how in ("none", "ambiguous", "unsure")),
    )


def _longest(
    text: str, words: list[tuple[int, int]], at: int, done: list[tuple[int, int]], titles: Titles
) -> tuple[int, Match, bool] | None:
    """(end, match, whether it is certain) of the longest title that begins with a word, or None."""
    for stop in range(min(len(words), at + LONGEST), at, -1):
        start, end = words[at][0], words[stop - 1][1]
        if "\n" in text[start:end] or any(a < end and start < b for a, b in done):
            continue
        year = _YEAR.match(text, end)
        if year is not None:
            match = titles.find(text[start : year.end()])
            if match.how != "none":
                return year.end(), match, True
            continue  # the year is another item's
        match = titles.find(text[start:end])
        if match.how == "none":
            continue
        piece = words[at:stop]
        capital = [_capital(text[a:b]) for a, b in piece]
        spelt = capital[0] and capital[-1] and not text.isupper()
        spelt &= all(there or b - a <= 3 for there, (a, b) in zip(capital, piece, strict=True))
        first = _ENDED.search(text[:start]) is not None
        word = text[start:end] if stop - at == 1 else ""
        if word and (word.casefold() in _COMMON or not any(letter.islower() for letter in word)):
            continue
        if spelt and not (word and first) and not _goes_on(text, words, at, stop, first):
            return end, match, True
        if not word or (spelt and first):
            return end, match, False
    return None


def _capital(word: str) -> bool:
    return word[:1].isupper() or word[:1].isdigit()


def _goes_on(text: str, words: list[tuple[int, int]], at: int, stop: int, first: bool) -> bool:
    """Whether a capitalised word or a number stands right before or behind, with nothing but a space between."""
    if stop < len(words) and text[words[stop - 1][1] : words[stop][0]] == " " and _capital(text[slice(*words[stop])]):
        return text[slice(*words[stop])] != "I"
    if at and not first and text[words[at - 1][1] : words[at][0]] == " ":
        before = text[slice(*words[at - 1])]
        opens = _ENDED.search(text[: words[at - 1][0]]) is not None
        return _capital(before) and before != "I" and not opens
    return False


def _run_before(text: str, words: list[tuple[int, int]], end: int) -> int:
    """Where the capitalised words begin that stand right before a place; the last word, if it has no capital."""
    begin = end
    for start, stop in reversed([each for each in words if each[1] <= end]):
        if text[stop:begin].strip() or (begin < end and not _capital(text[start:stop])):
            break
        begin = start
    return begin
