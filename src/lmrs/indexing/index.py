"""How the items of a catalogue are written for a language model: a fitted artefact, like a tokeniser."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from lmrs.answers import Jagged
from lmrs.errors import CheckpointError, ContractError
from lmrs.files import storage, write_atomic
from lmrs.indexing.trie import Trie
from lmrs.language.tokens import Tokens
from lmrs.split import Train
from lmrs.vocab import Vocab

FORMAT = 1


@dataclass(frozen=True)
class Collisions:
    """How far the rule alone tells items apart, before a last token does.

    items: V. distinct: different codes among them. sharing: items whose code another item has, too. largest: items of the
    most crowded code.
    """

    items: int
    distinct: int
    sharing: int
    largest: int

    def __str__(self) -> str:
        if not self.sharing:
            return f"{self.items:,} items, each with a code of its own"
        return (
            f"{self.items:,} items, {self.distinct:,} codes: "
            f"{self.sharing:,} items ({self.sharing / self.items:.1%}) share theirs, at most {self.largest:,} the same one"
        )


@dataclass(frozen=True, eq=False)
class Index:
    """The code of every item: a sequence of tokens, none equal to another or the beginning of one.

    method: the indexer that made it, as its repr. vocab: fingerprint of the item ids (`Vocab.fingerprint`).
    offsets: int64[V+1], codes: int32[n]; item i is written `codes[offsets[i]:offsets[i+1]]`.
    words: new atomic tokens. base: size of the tokeniser they come after: a code below it is one of the tokeniser's own tokens,
    and code `base + j` is `words[j]`: what `tokens.extended(index.words)` gives. 0 without a tokeniser.
    reader: mark of the tokeniser whose own tokens are used; "" if none are.
    collisions: what the rule could not tell apart.
    new_items: items without a training event, which the indexer indexed by the rule it states.
    """

    method: str
    vocab: str
    offsets: np.ndarray
    codes: np.ndarray
    words: tuple[str, ...]
    base: int
    reader: str
    collisions: Collisions
    new_items: int

    @property
    def n_items(self) -> int:
        return len(self.offsets) - 1

    @property
    def size(self) -> int:
        """Rows that an embedding table needs to hold every code."""
        return self.base + len(self.words)

    @property
    def longest(self) -> int:
        """Tokens of the longest code."""
        return int(np.diff(self.offsets).max(initial=0))

    def code(self, item: int) -> np.ndarray:
        """int32[n]: the tokens of one item."""
        return self.codes[self.offsets[item] : self.offsets[item + 1]]

    def batch(self, items: np.ndarray) -> Jagged:
        """(offsets int64[B+1], tokens int64[n]): the codes of some items, one after another."""
        items = np.asarray(items, np.int64)
        counts = self.offsets[items + 1] - self.offsets[items]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[items] - offsets[:-1], counts)
        return offsets, self.codes[places].astype(np.int64)

    @cached_property
    def trie(self) -> Trie:
        """The codes as a tree. Raises ContractError if one code begins another."""
        return Trie.build(self.offsets, self.codes)

    def extended(self, tokens: Tokens) -> Tokens:
        """The tokeniser with the words of this index. Raises ContractError if the codes were made for another one."""
        if tokens.size != self.base or self.reader not in ("", mark(tokens)):
            raise ContractError(
                needed=f"the tokeniser this index was fitted with ({self.base:,} tokens)",
                came=f"another one ({tokens.size:,} tokens)",
                remedy="use index.on(tokens) if the index has only words of its own, else fit it again",
            )
        return tokens.extended(self.words)

    def on(self, tokens: Tokens) -> Index:
        """The same codes behind another tokeniser.

        Raises ContractError if they are made of tokens of the old one (numbers as text, titles).
        """
        if self.reader and self.reader != mark(tokens):
            raise ContractError(
                needed="an index that has only words of its own", came=f"{self.method}, written in a tokeniser's tokens",
                remedy="fit it again with this tokeniser",
            )  # fmt: skip
        shift = 0 if self.reader else tokens.size - self.base
        return replace(self, codes=self.codes + np.int32(shift), base=self.base + shift)

    def spelled(self, item: int, tokens: Tokens | None = None) -> str:
        """The code of an item as people read it; tokens of the tokeniser itself need `tokens` (else their numbers are shown)."""
        parts = []
        for token in self.code(item).tolist():
            own = token - self.base
            parts.append(self.words[own] if own >= 0 else f"#{token}" if tokens is None else tokens.decode([token], control=True))
        return "".join(parts)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over items, codes and words: equal iff two indexes write the same catalogue in the same way."""
        head = json.dumps([self.vocab, self.words, self.base, self.reader])
        digest = hashlib.sha256(head.encode("utf-8", "surrogatepass"))
        digest.update(self.offsets.astype("<i8").tobytes())
        digest.update(self.codes.astype("<i4").tobytes())
        return digest.hexdigest()

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes index.arrow (one list of codes an item) and, last, index.json. Raises StorageError."""
        folder = Path(folder)
        with storage(folder):
            folder.mkdir(parents=True, exist_ok=True)
        rows = pa.LargeListArray.from_arrays(pa.array(self.offsets, pa.int64()), pa.array(self.codes, pa.int32()))
        sink = io.BytesIO()
        table = pa.table({"code": rows})
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        write_atomic(folder / "index.arrow", sink.getvalue())
        about: dict[str, Any] = {
            name: getattr(self, name) for name in ("method", "vocab", "words", "base", "reader", "new_items")
        }
        about |= {"format": FORMAT, "collisions": asdict(self.collisions), "fingerprint": self.fingerprint}
        write_atomic(folder / "index.json", json.dumps(about, indent=1).encode())
        return folder

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Index:
        """Reads what `save` wrote. Raises CheckpointError if a file is missing, truncated or changed."""
        folder = Path(folder)
        try:
            about = json.loads((folder / "index.json").read_bytes())
            table = pa.ipc.open_file(pa.BufferReader((folder / "index.arrow").read_bytes())).read_all()
            rows = table.column("code").combine_chunks().cast(pa.large_list(pa.int32()))
            found = cls(
                method=str(about["method"]),
                vocab=str(about["vocab"]),
                offsets=rows.offsets.to_numpy().astype(np.int64),
                codes=rows.values.to_numpy().astype(np.int32),
                words=tuple(map(str, about["words"])),
                base=int(about["base"]),
                reader=str(about["reader"]),
                collisions=Collisions(**about["collisions"]),
                new_items=int(about["new_items"]),
            )
            whole = found.fingerprint == about["fingerprint"] and about["format"] == FORMAT
        except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
            why = " ".join(str(error).split())[:120] or type(error).__name__
            raise CheckpointError(needed=f"a saved item index in {folder}", came=why, remedy="fit the index again") from error
        if not whole:
            raise CheckpointError(
                needed=f"the item index in {folder} as it was saved", came="files that were changed or belong to another version",
                remedy="fit the index again",
            )  # fmt: skip
        return found

    def __str__(self) -> str:
        return f"{self.method}: codes of up to {self.longest} tokens, {len(self.words):,} new words; {self.collisions}"

    def __repr__(self) -> str:
        return f"<Index of {self.n_items:,} items by {self.method}: up to {self.longest} tokens, {len(self.words):,} new words>"


class Indexer(Protocol):
    """What every way to index items offers; descriptions are frozen dataclasses."""

    def fit(self, train: Train, *, seed: int = 0, tokens: Tokens | None = None, vectors: np.ndarray | None = None) -> Index:
        """The index of all V items of the catalogue, learnt from training events alone.

        seed: of whatever is drawn. tokens: the tokeniser that the codes are for; indexers that write text need it, the others
        number their words from 0 without one. vectors: float[V, E], what is known of the items (Quantised needs it).
        """
        ...


def made(
    indexer: Indexer,
    train: Train,
    rows: Jagged,
    *,
    words: Sequence[str] = (),
    tokens: Tokens | None = None,
    text: bool = False,
    collisions: Collisions,
) -> Index:
    """The Index of codes that are numbered from 0 (places in `words`) or, with `text`, tokens of the tokeniser."""
    base = 0 if tokens is None else tokens.size
    offsets, codes = rows
    return Index(
        method=repr(indexer),
        vocab=train.dataset.vocab.fingerprint,
        offsets=offsets.astype(np.int64),
        codes=(codes if text else codes + base).astype(np.int32),
        words=tuple(words),
        base=base,
        reader=mark(tokens) if text and tokens is not None else "",
        collisions=collisions,
        new_items=int((train.counts() == 0).sum()),
    )


def mark(tokens: Tokens) -> str:
    """A short mark of a tokeniser: what it does with a text that uses letters, digits and signs."""
    probe = "The 12 quick-brown foxes (1995): naïve Ωμέγα, 1,024 items; \u65e5\u672c"
    told = [tokens.size, tokens.eos, tokens.sep, tokens.pad, *tokens.encode(probe)]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def by_id(vocab: Vocab) -> np.ndarray:
    """int64[V]: item numbers in the order of their ids' bytes.

    The order of the numbers themselves is that of the whole log, held-out events included; whatever depends on an order that
    training did not fix uses this one instead.
    """
    keys = [text.encode("utf-8", "surrogatepass") for text in vocab.items.to_pylist()]
    return np.asarray(sorted(range(len(keys)), key=keys.__getitem__), np.int64)


def rank_in_group(groups: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, Collisions]:
    """(int64[V] place of each item among those of its group, in the given order of items; what the groups share).

    groups: int64[V], a number for each code.
    """
    place = np.empty(len(groups), np.int64)
    sorted_ = order[np.argsort(groups[order], kind="stable")]
    _, start, counts = np.unique(groups[sorted_], return_index=True, return_counts=True)
    place[sorted_] = np.arange(len(groups)) - np.repeat(start, counts)
    many = counts[counts > 1]
    return place, Collisions(len(groups), len(counts), int(many.sum()), int(counts.max(initial=0)))


def jagged(rows: Sequence[Sequence[int] | np.ndarray]) -> Jagged:
    """(offsets, values) of rows of different length."""
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    values = np.concatenate([np.asarray(row, np.int64) for row in rows]) if len(rows) else np.zeros(0, np.int64)
    return offsets, values
