"""Prompts in which items are written as their codes: words of the author's, `{user}` and `{list history}`, as tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmrs.errors import ContractError
from lmrs.indexing import Index
from lmrs.language.tokens import Tokens
from lmrs.prompts import Data, Hard, ListOf, parse
from lmrs.prompts.segments import Segment

HISTORY, USER = "history", "user"
WORDS = 512  # numbers of words that are told apart within a prompt


@dataclass(frozen=True)
class Wording:
    """A template of which only the slots {user} and {list history} are filled. Raises ContractError for any other slot."""

    text: str

    def __post_init__(self) -> None:
        for segment in self.segments:
            match segment:
                case Hard() | Data("user", None):
                    pass
                case ListOf("history", item=item) if item.pattern == "{}" and item.limit is None:
                    pass
                case _:
                    raise ContractError(
                        needed="words, {user} and {list history separator=...} in a wording", came=f"{segment} in {self.text!r}",
                        remedy="items are written as their codes, and nothing else of them is known here",
                    )  # fmt: skip

    @property
    def segments(self) -> tuple[Segment, ...]:
        return parse(self.text).segments

    @property
    def names_user(self) -> bool:
        return USER in parse(self.text).columns

    @property
    def names_history(self) -> bool:
        return HISTORY in parse(self.text).columns

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
    context: tokens that a prompt may have; `reads` says how many items that leaves room for.
    Raises ContractError for words without a tokeniser, and if not a single item has room.
    """

    def __init__(
        self, wordings: Sequence[str], index: Index, tokens: Tokens | None, users: list[list[int]], context: int
    ) -> None:
        self.wordings = [Wording(text) for text in wordings]
        self.n_items, self.n_users = index.n_items, len(users)
        ends = 1 if index.reader else 0  # codes of text close with a token of their own
        pieces = [index.code(item)[: len(index.code(item)) - ends] for item in range(index.n_items)]
        words = [np.zeros(len(piece), np.int64) for piece in pieces]
        pieces += [np.asarray(user, np.int64) for user in users]
        words += [np.zeros(len(user), np.int64) for user in users]
        self.plans: list[list[int | str]] = []
        self.separators: list[int] = []
        for wording in self.wordings:
            plan: list[int | str] = []
            self.separators.append(-1)
            for segment in wording.segments:
                match segment:
                    case Data():
                        plan.append(USER)
                        continue
                    case ListOf(separator=text):
                        plan.append(HISTORY)
                    case Hard(text):
                        plan.append(len(pieces))
                    case _:
                        raise AssertionError(segment)
                if isinstance(segment, ListOf):
                    self.separators[-1] = len(pieces)
                ids, numbers = _words(text, tokens)
                pieces.append(ids)
                words.append(numbers)
            self.plans.append(plan)
        self.end = -1 if tokens is None or tokens.eos is None else tokens.eos
        self.offsets = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])])
        self.ids = np.concatenate(pieces).astype(np.int64)
        self.words = np.concatenate(words)
        self.word_count = np.array([int(number.max(initial=-1)) + 1 for number in words])
        self.reads = min(
            (self._room(number, context) for number, one in enumerate(self.wordings) if one.names_history), default=0
        )

    def write(self, item: np.ndarray, offsets: np.ndarray, user: np.ndarray, wording: np.ndarray) -> Written:
        """The prompts of B histories item[offsets[b]:offsets[b + 1]], of which the newest `reads` are written.

        user: int64[B], -1 for nobody known. wording: int64[B], numbers of wordings.
        """
        rows: list[list[int]] = []
        for row, number in enumerate(wording.tolist()):
            held: list[int] = []
            for part in self.plans[number]:
                if part == USER:
                    who = int(user[row])
                    held.append(self.n_items + (who if 0 <= who < self.n_users - 1 else self.n_users - 1))
                elif part == HISTORY:
                    history = item[max(offsets[row], offsets[row + 1] - self.reads) : offsets[row + 1]].tolist()
                    held += [piece for each in history for piece in (self.separators[number], each)][1:]
                else:
                    assert isinstance(part, int)
                    held.append(part)
            rows.append(held)
        return self._joined(rows)

    def _joined(self, rows: list[list[int]]) -> Written:
        """Pieces to tokens, with the end token after each row."""
        piece = np.array([each for row in rows for each in row], np.int64)
        count = np.array([len(row) for row in rows], np.int64)
        size = self.offsets[piece + 1] - self.offsets[piece]
        before = np.cumsum(size) - size
        flat = np.arange(int(size.sum())) + np.repeat(self.offsets[piece] - before, size)
        owner = np.repeat(np.repeat(np.arange(len(rows)), count), size)
        told = np.cumsum(self.word_count[piece]) - self.word_count[piece]  # words before each piece, in all rows together
        first = np.concatenate([told, [int(self.word_count[piece].sum())]])[np.cumsum(count) - count]
        words = np.minimum(np.repeat(told, size) - first[owner] + self.words[flat] + 1, WORDS - 1)
        length = np.bincount(owner, minlength=len(rows))
        ids = self.ids[flat]
        if self.end >= 0:
            last = np.cumsum(length)
            ids, words = np.insert(ids, last, self.end), np.insert(words, last, 0)
            length = length + 1
        return Written(np.concatenate([[0], np.cumsum(length)]), ids, words)

    def _room(self, number: int, context: int) -> int:
        """Items that fit into a prompt of this wording, whichever they are."""
        size = np.diff(self.offsets)
        users = int(size[self.n_items : self.n_items + self.n_users].max(initial=0))
        plan = self.plans[number]
        fixed = sum(int(size[part]) for part in plan if isinstance(part, int)) + users * plan.count(USER) + (self.end >= 0)
        gap = int(size[self.separators[number]])
        room = (context - fixed + gap) // (int(size[: self.n_items].max()) + gap) if self.n_items else 0
        if room < 1:
            raise ContractError(
                needed=f"a context that holds one item after {fixed} other tokens of {self.wordings[number].text!r}",
                came=f"{context} tokens", remedy="use a shorter wording or another index",
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
