"""Prompts in which items are written as their codes: words of the author's, users, items and texts of the data, as tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from lmrs.answers import Jagged
from lmrs.errors import ContractError
from lmrs.indexing import Index
from lmrs.language.tokens import Tokens
from lmrs.prompts import Data, Hard, ListOf, parse
from lmrs.prompts.segments import Segment

HISTORY, CANDIDATES, USER, ITEM = "history", "candidates", "user", "item"
TEXTS = ("star", "feature", "title", "text")  # texts of the data, one a row
WORDS = 512  # numbers of words that are told apart within a prompt
LONG = 160  # tokens that a text of the data may have


@dataclass(frozen=True)
class Wording:
    """A template with the slots {user}, {item}, {list history}, {list candidates}, {star}, {feature}, {title} and {text}.

    Raises ContractError for any other slot.
    """

    text: str

    def __post_init__(self) -> None:
        for segment in self.segments:
            match segment:
                case Hard():
                    pass
                case Data(name, None) if name in (USER, ITEM, *TEXTS):
                    pass
                case ListOf(name, item=item) if name in (HISTORY, CANDIDATES) and item.pattern == "{}" and item.limit is None:
                    pass
                case _:
                    raise ContractError(
                        needed="words, {user} and {list history separator=...} in a wording", came=f"{segment} in {self.text!r}",
                        remedy=f"other slots are {{item}}, {{list candidates}}, {', '.join(f'{{{name}}}' for name in TEXTS)}",
                    )  # fmt: skip

    @property
    def segments(self) -> tuple[Segment, ...]:
        return parse(self.text).segments

    @property
    def columns(self) -> frozenset[str]:
        """The names of its slots."""
        return frozenset(parse(self.text).columns)

    @property
    def names_user(self) -> bool:
        return USER in self.columns

    @property
    def names_history(self) -> bool:
        return HISTORY in self.columns

    @property
    def has_words(self) -> bool:
        return any(isinstance(segment, Hard) and segment.text.strip() for segment in self.segments)


@dataclass(frozen=True, eq=False)
class Written:
    """B prompts. offsets: int64[B+1]. ids: int64[n] tokens.

    words: int64[n], the word of its prompt that a token belongs to, from 1 on; 0 for the token that ends it. Pieces of one item
    are one word (P5's whole-word embedding).
    """

    offsets: np.ndarray
    ids: np.ndarray
    words: np.ndarray


class CodePrompts:
    """Writes prompts. Everything that can stand in one is a piece: an item, a user, a run of words, a separator.

    wordings: by number. index: how items are written; the token that ends a code is left out within a prompt. tokens: of the
    words, None where there are none. users: the tokens of each user, the last one that of a user nobody knows.
    context: tokens that a prompt may have; `reads` says how many items of a history that leaves room for. listed: the most
    candidates of a list. Texts of the data are cut after LONG tokens.
    Raises ContractError for words without a tokeniser, and if not a single item has room.
    """

    def __init__(
        self,
        wordings: Sequence[str],
        index: Index,
        tokens: Tokens | None,
        users: list[list[int]],
        context: int,
        *,
        listed: int = 0,
    ) -> None:
        self.wordings = [Wording(text) for text in wordings]
        self.n_items, self.n_users, self.listed = index.n_items, len(users), listed
        ends = 1 if index.reader else 0  # codes of text close with a token of their own
        pieces = [index.code(item)[: len(index.code(item)) - ends] for item in range(index.n_items)]
        words = [np.zeros(len(piece), np.int64) for piece in pieces]
        pieces += [np.asarray(user, np.int64) for user in users]
        words += [np.zeros(len(user), np.int64) for user in users]
        self.plans: list[list[int | str]] = []
        self.separators: list[dict[str, int]] = []

        def add(text: str) -> int:
            ids, numbers = _words(text, tokens)
            pieces.append(ids)
            words.append(numbers)
            return len(pieces) - 1

        for wording in self.wordings:
            plan: list[int | str] = []
            self.separators.append({})
            segments = wording.segments
            for segment, after in zip(segments, (*segments[1:], None), strict=True):
                match segment:
                    case Data(name):
                        plan.append(name)
                    case ListOf(name, separator=text):
                        plan.append(name)
                        self.separators[-1][name] = add(text)
                    case Hard(text):  # a text of the data brings the space before it along
                        plan.append(add(text.rstrip(" ") if isinstance(after, Data) and after.field in TEXTS else text))
                    case _:
                        raise AssertionError(segment)
            self.plans.append(plan)
        self.end = -1 if tokens is None or tokens.eos is None else tokens.eos
        self.offsets = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])])
        self.ids = np.concatenate(pieces).astype(np.int64)
        self.words = np.concatenate(words)
        self.word_count = np.array([int(number.max(initial=-1)) + 1 for number in words])
        self.reads = min(
            (self._room(number, context) for number, one in enumerate(self.wordings) if one.columns & {HISTORY, CANDIDATES}),
            default=0,
        )

        @lru_cache(maxsize=50_000)
        def read(text: str) -> tuple[np.ndarray, np.ndarray]:
            first, second = _words(f" {text}", tokens)
            return first[:LONG], second[:LONG]

        self._read = read

    def write(
        self,
        item: np.ndarray,
        offsets: np.ndarray,
        user: np.ndarray,
        wording: np.ndarray,
        *,
        shown: np.ndarray | None = None,
        among: Jagged | None = None,
        texts: Mapping[str, Sequence[str | None]] | None = None,
    ) -> Written:
        """The prompts of B histories item[offsets[b]:offsets[b + 1]], of which the newest `reads` are written.

        user: int64[B], -1 for nobody known. wording: int64[B], numbers of wordings. shown: int64[B], the item in question.
        among: (offsets int64[B+1], items) the candidates. texts: B of each name in TEXTS that a wording names; None is nothing.
        Raises ContractError for more candidates than `listed`.
        """
        rows: list[list[int]] = []
        said: list[tuple[np.ndarray, np.ndarray]] = []
        for row, number in enumerate(wording.tolist()):
            held: list[int] = []
            for part in self.plans[number]:
                if part == USER:
                    who = int(user[row])
                    held.append(self.n_items + (who if 0 <= who < self.n_users - 1 else self.n_users - 1))
                elif part == HISTORY:
                    history = item[max(offsets[row], offsets[row + 1] - self.reads) : offsets[row + 1]].tolist()
                    held += self._listed(number, HISTORY, history)
                elif part == CANDIDATES:
                    assert among is not None
                    these = among[1][among[0][row] : among[0][row + 1]].tolist()
                    if len(these) > self.listed:
                        raise ContractError(
                            needed=f"at most {self.listed} candidates in a list", came=f"{len(these)}",
                            remedy="fit with a larger candidates=...",
                        )  # fmt: skip
                    held += self._listed(number, CANDIDATES, these)
                elif part == ITEM:
                    assert shown is not None
                    held.append(int(shown[row]))
                elif isinstance(part, str):
                    text = None if texts is None else texts[part][row]
                    if text:
                        held.append(len(self.word_count) + len(said))
                        said.append(self._read(text))
                else:
                    held.append(part)
            rows.append(held)
        return self._joined(rows, said)

    def _listed(self, number: int, name: str, items: list[int]) -> list[int]:
        separator = self.separators[number][name]
        return [piece for each in items for piece in (separator, each)][1:]

    def _joined(self, rows: list[list[int]], said: list[tuple[np.ndarray, np.ndarray]]) -> Written:
        """Pieces to tokens, with the end token after each row. said: (ids, words) of the pieces that only these rows have."""
        every, numbers, begin, counted = self.ids, self.words, self.offsets, self.word_count
        if said:
            every, numbers = np.concatenate([every, *(ids for ids, _ in said)]), np.concatenate([numbers, *(w for _, w in said)])
            begin = np.concatenate([begin, begin[-1] + np.cumsum([len(ids) for ids, _ in said])])
            counted = np.concatenate([counted, [int(w.max(initial=-1)) + 1 for _, w in said]])
        piece = np.array([each for row in rows for each in row], np.int64)
        count = np.array([len(row) for row in rows], np.int64)
        size = begin[piece + 1] - begin[piece]
        before = np.cumsum(size) - size
        flat = np.arange(int(size.sum())) + np.repeat(begin[piece] - before, size)
        owner = np.repeat(np.repeat(np.arange(len(rows)), count), size)
        told = np.cumsum(counted[piece]) - counted[piece]  # words before each piece, in all rows together
        first = np.concatenate([told, [int(counted[piece].sum())]])[np.cumsum(count) - count]
        words = np.minimum(np.repeat(told, size) - first[owner] + numbers[flat] + 1, WORDS - 1)
        length = np.bincount(owner, minlength=len(rows))
        ids = every[flat]
        if self.end >= 0:
            last = np.cumsum(length)
            ids, words = np.insert(ids, last, self.end), np.insert(words, last, 0)
            length = length + 1
        return Written(np.concatenate([[0], np.cumsum(length)]), ids, words)

    def _room(self, number: int, context: int) -> int:
        """Items of a history that fit into a prompt of this wording, whichever they are."""
        size = np.diff(self.offsets)
        users = int(size[self.n_items : self.n_items + self.n_users].max(initial=0))
        widest = int(size[: self.n_items].max(initial=0))
        plan, separators = self.plans[number], self.separators[number]
        fixed = sum(int(size[part]) for part in plan if isinstance(part, int)) + users * plan.count(USER) + (self.end >= 0)
        fixed += widest * plan.count(ITEM) + LONG * sum(plan.count(name) for name in TEXTS)
        if CANDIDATES in plan:
            fixed += self.listed * (widest + int(size[separators[CANDIDATES]]))
        if HISTORY in plan:
            gap = int(size[separators[HISTORY]])
            room = (context - fixed + gap) // (widest + gap) if self.n_items else 0
        else:
            room = WORDS if fixed <= context else 0
        if room < 1:
            raise ContractError(
                needed=f"a context that holds one item after {fixed} other tokens of {self.wordings[number].text!r}",
                came=f"{context} tokens", remedy="use a shorter wording, another index or fewer candidates",
            )  # fmt: skip
        return room


def _words(text: str, tokens: Tokens | None) -> tuple[np.ndarray, np.ndarray]:
    """(ids, number of its word from 0) of the author's words; a word takes the space before it."""
    ids: list[int] = []
    numbers: list[int] = []
    if text and tokens is None:
        raise ContractError(needed="a backbone with a tokeniser for words", came=repr(text), remedy="leave the words out")
    for number, part in enumerate(re.findall(r"\s*\S+|\s+$", text)):
        assert tokens is not None
        found = tokens.encode(part)
        ids += found
        numbers += [number] * len(found)
    return np.array(ids, np.int64), np.array(numbers, np.int64)
