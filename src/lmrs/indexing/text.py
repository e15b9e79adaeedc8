"""Items written in the tokeniser's own tokens: numbers as digits, and titles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmrs.errors import ContractError
from lmrs.indexing.index import Collisions, Index, Indexer, by_id, jagged, made, rank_in_group
from lmrs.language.tokens import Tokens
from lmrs.seeding import numpy_generator
from lmrs.split import Train

ORDERS = ("original", "short-to-long", "long-to-short")


@dataclass(frozen=True)
class NumberText:
    """A number drawn at random, as text that the tokeniser cuts into pieces: "item_1274" (P5's form; OpenP5's random index, RID).

    text: what is written, with {} for the number. start: the lowest number. The code ends with the tokeniser's end token, so that
    12 does not begin 123. A new item gets a number like every other.
    """

    text: str = "item_{}"
    start: int = 1000

    def __post_init__(self) -> None:
        _check_text(self.text)

    def fit(self, train: Train, *, seed: int = 0, tokens: Tokens | None = None, vectors: np.ndarray | None = None) -> Index:
        order = by_id(train.dataset.vocab)
        number = np.empty(len(order), np.int64)
        number[order] = self.start + numpy_generator(seed, "indexing", "numbers").permutation(len(order))
        return _numbered(self, train, number, self.text, tokens)


@dataclass(frozen=True)
class Sequential:
    """Numbers in the order in which items first occur in training, user after user, as text (OpenP5's sequential index, SID).

    Items of one history get neighbouring numbers and so share pieces. P5's released files number along whole histories, test
    items included, and leak them; here the numbers stop at the end of training, and items that only occur later follow in the
    order of their ids.

    text, start: as for NumberText. users: "original" (the data set's order), "short-to-long" or "long-to-short" by training
    events.
    """

    text: str = "item_{}"
    start: int = 1001
    users: str = "original"

    def __post_init__(self) -> None:
        _check_text(self.text)
        if self.users not in ORDERS:
            raise ContractError(needed="users as " + ", ".join(ORDERS), came=repr(self.users))

    def fit(self, train: Train, *, seed: int = 0, tokens: Tokens | None = None, vectors: np.ndarray | None = None) -> Index:
        users, places = train.events()
        if self.users != "original":
            key = train.lengths if self.users == "short-to-long" else -train.lengths
            places = places[np.argsort(key[users], kind="stable")]
        seen, first = np.unique(train.dataset.item[places], return_index=True)
        ids = by_id(train.dataset.vocab)
        order = np.concatenate([seen[np.argsort(first)], ids[~np.isin(ids, seen)]])
        number = np.empty(len(order), np.int64)
        number[order] = self.start + np.arange(len(order))
        return _numbered(self, train, number, self.text, tokens)


@dataclass(frozen=True)
class Title:
    """The title, in the tokeniser's tokens, cut after `limit` of them and closed by its end token.

    Items that come out alike (same title, or alike up to the cut) are told apart by " (2)", " (3)", ... in the order of their
    ids, trained items first; an item without a title is written by its id. text: what is written, with {} for the title (" {}"
    for tokenisers that write the space before a word).
    """

    text: str = "{}"
    limit: int = 32

    def __post_init__(self) -> None:
        _check_text(self.text)
        if self.limit < 1:
            raise ContractError(needed="a limit of at least 1 token", came=f"limit={self.limit}")

    def fit(self, train: Train, *, seed: int = 0, tokens: Tokens | None = None, vectors: np.ndarray | None = None) -> Index:
        read, end = _reader(self, tokens)
        titles = train.dataset.titles(np.arange(train.dataset.n_items))
        ids, offsets = read.batch([self.text.replace("{}", title) for title in titles])
        rows = [tuple(row[: self.limit].tolist()) for row in np.split(ids, offsets[1:-1])]
        groups = {row: at for at, row in enumerate(dict.fromkeys(rows))}
        order = by_id(train.dataset.vocab)
        order = order[np.argsort(train.counts()[order] == 0, kind="stable")]
        place, collisions = rank_in_group(np.asarray([groups[row] for row in rows]), order)
        taken = set(rows)
        for item in order[place[order] > 0].tolist():
            at = int(place[item]) + 1
            while (row := (*rows[item], *read.encode(f" ({at})"))) in taken:
                at += 1
            taken.add(row)
            rows[item] = row
        return made(self, train, jagged([(*row, end) for row in rows]), tokens=read, text=True, collisions=collisions)


def _numbered(indexer: Indexer, train: Train, number: np.ndarray, text: str, tokens: Tokens | None) -> Index:
    read, end = _reader(indexer, tokens)
    ids, offsets = read.batch([text.replace("{}", str(each)) for each in number.tolist()])
    rows = [[*row.tolist(), end] for row in np.split(ids, offsets[1:-1])]
    alone = Collisions(len(rows), len(rows), 0, 1)
    index = made(indexer, train, jagged(rows), tokens=read, text=True, collisions=alone)
    _readable(index, rows)
    return index


def _reader(indexer: Indexer, tokens: Tokens | None) -> tuple[Tokens, int]:
    """The tokeniser and the token that ends a code."""
    if tokens is None:
        raise ContractError(
            needed=f"a tokeniser: {indexer!r} writes text", came="tokens=None", remedy="pass the backbone's tokenizer()"
        )
    end = tokens.eos if tokens.eos is not None else tokens.sep
    if end is None:
        raise ContractError(
            needed="a tokeniser with an end or separator token", came="one without", remedy="extend it, or use another indexer"
        )
    return tokens, end


def _readable(index: Index, rows: Sequence[Sequence[int]]) -> None:
    """Numbers may not melt together: a vocabulary without digits would write all of them as the unknown token."""
    if len(set(map(tuple, rows))) < len(rows):
        raise ContractError(
            needed="a tokeniser that can write digits", came=f"one that writes two numbers alike for {index.method}",
            remedy="use an indexer with words of its own",
        )  # fmt: skip


def _check_text(text: str) -> None:
    if text.count("{}") != 1:
        raise ContractError(needed="a text with one {} in it", came=repr(text), remedy='such as "item_{}"')
