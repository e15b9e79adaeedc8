"""What training reviews say: their words, which users and items they speak of, and by which features. A fitted artefact."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from lmrs import records
from lmrs.errors import CheckpointError, ContractError
from lmrs.files import write_atomic
from lmrs.measures.words import WORDS
from lmrs.split import Train
from lmrs.views.reviews import Reviews
from lmrs.vocab import Prepared, Vocab

FILE = "said.arrow"
_LISTS = {
    "words": pa.large_string(), "users": pa.int64(), "items": pa.int64(), "features": pa.large_string(),
    "user_offsets": pa.int64(), "user_features": pa.int64(), "item_offsets": pa.int64(), "item_features": pa.int64(),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Said:
    """Counted over training reviews.

    words: the most frequent first, ties in alphabetical order. users: int64[U], items: int64[V], reviews of each.
    features: the distinct ones (as words joined by blanks). user_offsets: int64[U+1], user_features: places in `features`, those
    that a user spoke of, most often first; item_offsets, item_features: the same of items. Empty where nobody asked for them.
    """

    words: tuple[str, ...]
    users: np.ndarray
    items: np.ndarray
    features: tuple[str, ...]
    user_offsets: np.ndarray
    user_features: np.ndarray
    item_offsets: np.ndarray
    item_features: np.ndarray

    @classmethod
    def of(cls, train: Train, view: Reviews, *, words: int = 0, features: bool = False) -> Said:
        """words: how many are kept. features: count those of users and items, too. Raises DataError without reviews."""
        rows = view.rows(train, ahead=0, rng=np.random.default_rng(0))
        texts = view.collate(rows).texts
        counts: Counter[str] = Counter()
        if words:
            for text in texts["explanation"]:
                counts.update(WORDS["words"](text or ""))
        listed = sorted(counts, key=lambda word: (-counts[word], word))[:words]
        n_users, n_items = train.dataset.n_users, train.dataset.n_items
        named = [" ".join(WORDS["words"](text or "")) for text in texts["feature"]] if features else []
        names = tuple(sorted({name for name in named if name}))
        of_user, of_item = (_listed(owner, named, names, size) for owner, size in ((rows.user, n_users), (rows.item, n_items)))
        return cls(
            tuple(listed),
            np.bincount(rows.user, minlength=n_users),
            np.bincount(rows.item, minlength=n_items),
            names,
            *of_user,
            *of_item,
        )

    def shared_first(self, user: int, item: int) -> list[str]:
        """The features of a pair: those of both, then the user's, then the item's."""
        own = self.user_features[self.user_offsets[user] : self.user_offsets[user + 1]].tolist()
        its = self.item_features[self.item_offsets[item] : self.item_offsets[item + 1]].tolist()
        both = [each for each in own if each in set(its)]
        return [self.features[each] for each in dict.fromkeys([*both, *own, *its])]

    def table(self) -> pa.Table:
        """One row, a list a column."""
        return pa.table({name: pa.array([list(getattr(self, name))], pa.large_list(kind)) for name, kind in _LISTS.items()})

    @cached_property
    def fingerprint(self) -> str:
        return records.digest(self.table()).hex()

    def save(self, folder: Path) -> Path:
        """Writes said.arrow. Raises StorageError."""
        sink, table = io.BytesIO(), self.table()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        write_atomic(folder / FILE, sink.getvalue())
        return folder / FILE

    @classmethod
    def load(cls, folder: Path) -> Said:
        """Reads what `save` wrote. Raises CheckpointError if it is missing or damaged."""
        try:
            table = pa.ipc.open_file(pa.BufferReader((folder / FILE).read_bytes())).read_all()
            lists = {name: table.column(name).combine_chunks().values for name in _LISTS}
            numbers = {name: lists[name].to_numpy() for name, kind in _LISTS.items() if kind == pa.int64()}
            return cls(words=tuple(lists["words"].to_pylist()), features=tuple(lists["features"].to_pylist()), **numbers)
        except (OSError, KeyError, ValueError, AttributeError, pa.ArrowException) as error:
            why = " ".join(str(error).split())[:120] or type(error).__name__
            raise CheckpointError(needed=f"what reviews said in {folder / FILE}", came=why, remedy="fit it again") from error

    def __str__(self) -> str:
        met = f"{int((self.users > 0).sum()):,} users and {int((self.items > 0).sum()):,} items"
        parts = [f"{int(self.users.sum()):,} training reviews of {met}"]
        parts += [f"{len(self.words):,} words"] if self.words else []
        parts += [f"{len(self.features):,} features"] if self.features else []
        return ", ".join(parts)

    def __repr__(self) -> str:
        return f"<Said: {self}>"


def said_in(vocab: Vocab) -> Said:
    """The artefact that `Model.prepare` made. Raises ContractError if it is not there."""
    found: Prepared | None = vocab.prepared
    if not isinstance(found, Said):
        raise ContractError(
            needed="what was counted in training reviews",
            came="a vocabulary without it",
            remedy="build it with fit, or Model.prepare",
        )
    return found


def _listed(owner: np.ndarray, named: list[str], names: tuple[str, ...], size: int) -> tuple[np.ndarray, np.ndarray]:
    """(offsets int64[size+1], places in `names`): what each owner spoke of, most often first, ties in the order of names."""
    place = {name: at for at, name in enumerate(names)}
    counts: list[Counter[int]] = [Counter() for _ in range(size if names else 0)]
    for who, name in zip(owner.tolist(), named):
        if name:
            counts[who][place[name]] += 1
    lists = [[at for at, _ in sorted(each.items(), key=lambda told: (-told[1], told[0]))] for each in counts]
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in lists])]) if names else np.zeros(size + 1)
    return offsets.astype(np.int64), np.array([at for each in lists for at in each], np.int64)
