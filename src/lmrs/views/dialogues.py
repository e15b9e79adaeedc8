"""Turns of dialogues: what was named and said before a turn, and what the turn names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow.compute as pc
import torch

from lmrs.batch import Batch, from_rows
from lmrs.dataset import Dataset
from lmrs.errors import ContractError, DataError
from lmrs.records import SLOT, Dialogues
from lmrs.split import Train

_said: WeakKeyDictionary[Dataset, Dialogues] = WeakKeyDictionary()


def dialogues_of(dataset: Dataset) -> Dialogues:
    """The turns of a Dataset, made once. Raises DataError if it has none."""
    if "dialogues" not in dataset.records:
        raise DataError(
            needed="data with dialogues",
            came=f"{dataset.name}, which has none",
            remedy="use ReDial, or synthetic-dialogues",
        )
    if dataset not in _said:
        _said[dataset] = Dialogues.of(dataset.records["dialogues"])
    return _said[dataset]


@dataclass(frozen=True, eq=False)
class TurnRows:
    """R turns. turn: int64[R], their rows in the records. target: int64[R], the item that a turn names (-1: none is told).

    user: int64[R], the dialogue. start, stop: the items named before the turn are `item[start:stop]`.
    """

    dataset: Dataset
    user: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    turn: np.ndarray
    target: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    def take(self, which: np.ndarray) -> TurnRows:
        return TurnRows(self.dataset, self.user[which], self.start[which], self.stop[which], self.turn[which], self.target[which])

    def __repr__(self) -> str:
        return f"<TurnRows: {len(self):,} turns of {self.dataset.name}>"


@dataclass(frozen=True)
class Turns:
    """Every item that a turn names is an example: the items named before the turn, the texts of the turns before, the item.

    A batch has the channel `item`: the symbol `vocab.mask`, which stands for "nothing was named yet", then the last max_len - 1
    items named before, and in training the item that the turn names. Two texts stand beside the rows: `context`, one line a turn
    ("seeker: I liked Heat"), items as their titles, and `response`, what the turn says (`SLOT` for each item), for models that
    learn to speak. An item that a turn names twice is one example.

    speakers: whose turns: "recommender", or "both" (UniCRS's pre-training). max_len: positions. turns: lines of context at most,
    the newest. reveal: gives the turn itself as the text `sentence`, titles and all: the question is then which item it speaks of
    (`objectives.Spoken`). What is asked never reveals.
    """

    speakers: str = "recommender"
    max_len: int = 33
    turns: int = 20
    reveal: bool = False

    gives = ("item", "position")

    def __post_init__(self) -> None:
        if self.speakers not in ("recommender", "both"):
            raise ContractError(needed="speakers 'recommender' or 'both'", came=repr(self.speakers))
        if self.max_len < 2 or self.turns < 1:
            raise ContractError(
                needed="max_len of at least 2 and turns of at least 1", came=f"max_len={self.max_len}, turns={self.turns}"
            )

    def rows(self, train: Train, *, ahead: int, rng: np.random.Generator) -> TurnRows:
        """Turns all of whose items are training events, in order. Raises DataError for data without dialogues."""
        found = self.within(train.dataset, train.start, train.stop)
        return found if ahead else replace(found, target=np.full(len(found), -1))

    def within(self, dataset: Dataset, start: np.ndarray, stop: np.ndarray) -> TurnRows:
        """The turns whose items are of the events `[start[u], stop[u])` of each user (int64[U]), with their items."""
        said = dialogues_of(dataset)
        chosen = said.within(start, stop) & (said.stop > said.event)
        if self.speakers == "recommender":
            chosen &= pc.equal(said.role, "recommender").to_numpy(zero_copy_only=False)
        turn = np.flatnonzero(chosen)
        size = said.stop[turn] - said.event[turn]
        turn = np.repeat(turn, size)
        nth = np.arange(len(turn)) - np.repeat(np.cumsum(size) - size, size)
        target = said.items[said.offsets[turn] + nth].astype(np.int64)
        first = np.sort(np.unique(turn * dataset.n_items + target, return_index=True)[1])
        turn, target = turn[first], target[first]
        user, end = said.dialogue[turn], said.event[turn]
        return TurnRows(dataset, user, self._cut(dataset.offsets[user], end), end, turn, target)

    def _cut(self, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        return np.maximum(start, stop - (self.max_len - 1))

    def collate(self, rows: TurnRows) -> Batch:
        """Channels `item` and `position`; rows `user`; texts `context` and `response`."""
        data = rows.dataset
        known, told = rows.stop - rows.start, rows.target >= 0
        length = 1 + known + told
        first = np.cumsum(length) - length
        item = np.full(int(length.sum()), data.vocab.mask, np.int64)
        within = np.arange(int(known.sum())) - np.repeat(np.cumsum(known) - known, known)
        item[np.repeat(first + 1, known) + within] = data.item[np.repeat(rows.start, known) + within]
        item[(first + length - 1)[told]] = rows.target[told]
        said, titles, turns = dialogues_of(data), _titled(data), rows.turn.tolist()
        texts: dict[str, Sequence[str | None]] = {
            "context": [self._context(said, titles, turn) for turn in turns],
            "response": [_line(said.text[turn].as_py()) if there else None for turn, there in zip(turns, told, strict=True)],
        }
        if self.reveal:
            texts["sentence"] = [spoken(said, turn, titles) if there else None for turn, there in zip(turns, told, strict=True)]
        return from_rows({"item": torch.from_numpy(item)}, torch.from_numpy(length), {"user": torch.from_numpy(rows.user)}, texts)

    def _context(self, said: Dialogues, titles: list[str], turn: int) -> str:
        begin = max(turn - int(said.turn[turn]), turn - self.turns)
        return "\n".join(spoken(said, at, titles) for at in range(begin, turn))

    def asked(self, rows: TurnRows, *, asks: int) -> TurnRows:
        """The same turns without what they name."""
        start = np.maximum(rows.start, rows.stop - (self.max_len - 1 - asks))
        return replace(rows, start=start, target=np.full(len(rows), -1))

    def known(self, rows: TurnRows) -> np.ndarray:
        """Every turn can be asked about: that nothing was named or said before is a question, too."""
        return np.ones(len(rows), bool)


@dataclass(frozen=True)
class Replies:
    """Every turn of the recommender is an example, whether it names an item or not: what came before it, and what it says.

    Batches have the channel `item`, which is that of `Turns` without the item that comes next, and the texts `context` and
    `response`. max_len: positions. turns: lines of context at most, the newest.
    """

    max_len: int = 33
    turns: int = 20

    gives = ("item", "position")

    def __post_init__(self) -> None:
        self._turns()  # checks the numbers

    def _turns(self) -> Turns:
        return Turns(max_len=self.max_len, turns=self.turns)

    def rows(self, train: Train, *, ahead: int, rng: np.random.Generator) -> TurnRows:
        """The turns of training, in order. Raises DataError for data without dialogues."""
        return self.within(train.dataset, train.start, train.stop)

    def within(self, dataset: Dataset, start: np.ndarray, stop: np.ndarray) -> TurnRows:
        """The turns that lie within the events `[start[u], stop[u])` of each user (int64[U]); the last words of a dialogue, which
        no event follows, where the span goes up to its end."""
        said = dialogues_of(dataset)
        end = stop[said.dialogue]
        last = (said.event == end) & (end == dataset.offsets[1:][said.dialogue]) & (start[said.dialogue] < end)
        chosen = said.within(start, stop) | last
        chosen &= pc.equal(said.role, "recommender").to_numpy(zero_copy_only=False)
        turn = np.flatnonzero(chosen)
        user, here = said.dialogue[turn], said.event[turn]
        first = np.maximum(dataset.offsets[user], here - (self.max_len - 1))
        return TurnRows(dataset, user, first, here, turn, np.full(len(turn), -1))

    def collate(self, rows: TurnRows) -> Batch:
        """Channels `item` and `position`; rows `user`; texts `context` and `response`."""
        said = dialogues_of(rows.dataset)
        batch = self._turns().collate(rows)
        response = [_line(said.text[turn].as_py()) for turn in rows.turn.tolist()]
        texts = batch.texts | {"response": tuple(response[row] for row in batch.rows["example"].tolist())}
        return replace(batch, texts=texts)

    def asked(self, rows: TurnRows, *, asks: int) -> TurnRows:
        return self._turns().asked(rows, asks=asks)

    def known(self, rows: TurnRows) -> np.ndarray:
        return np.ones(len(rows), bool)


def spoken(said: Dialogues, at: int, titles: list[str]) -> str:
    """One turn as a line "role: text", its slots filled with the titles of their items."""
    parts = said.text[at].as_py().split(SLOT)
    named = [titles[item] for item in said.items[said.offsets[at] : said.offsets[at + 1]]] + [""]
    return _line(f"{said.role[at].as_py()}: " + "".join(part + title for part, title in zip(parts, named, strict=True)))


def _line(text: str) -> str:
    """On one line: a text cannot begin another turn."""
    return " ".join(text.split())


_titles: WeakKeyDictionary[Dataset, list[str]] = WeakKeyDictionary()


def _titled(dataset: Dataset) -> list[str]:
    if dataset not in _titles:
        _titles[dataset] = dataset.titles(np.arange(dataset.n_items))
    return _titles[dataset]
