"""Texts as they lie in Arrow's columns, hashed and read by NumPy alone: loading Arrow takes longer than a few answers do."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

FACTOR = 0x9E3779B97F4A7C15  # of the hash of texts; odd, 2^64 over the golden ratio (Knuth, TAOCP 3, section 6.4)
PART = 1 << 15  # texts that are read at once: what is made of them stays in the caches
_LONG = 256  # bytes: longer texts are hashed one by one
_MASKS = np.array([(1 << 8 * size) - 1 for size in range(9)], np.uint64)  # of the bytes of a word that belong to a text
_LOW = (1 << 16) - 1  # bits of a hash that tell most texts from those that are looked for
_ENDS = {"string": "<i4", "large_string": "<i8"}  # number type of the ends of texts, by the name of the column's type


def laid_out(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(int64[n + 1], uint8[...]) of large_string: text i is the bytes from the i-th place to the next."""
    if not len(texts):
        return np.zeros(1, np.int64), np.zeros(0, np.uint8)
    ends, data = np.frombuffer(texts.buffers()[1], np.int64, len(texts) + 1, texts.offset * 8), texts.buffers()[2]
    return ends, np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(0, np.uint8)


def hashed(ends: np.ndarray, raw: np.ndarray, factor: int = FACTOR) -> np.ndarray:
    """int64 of each text as `laid_out` has it: h = size factor, then h = (h ^ word) factor, h ^= h >> 32 for each 8 bytes of it.

    A word is little-endian, the last one filled with zeros. Of texts over 256 bytes it is eight bytes of their BLAKE2b.
    """
    out = np.empty(len(ends) - 1, np.uint64)
    for part in range(0, len(out), PART):
        out[part : part + PART] = _hashed(ends[part : part + PART + 1], raw, factor)
    return out.view(np.int64)


def _hashed(ends: np.ndarray, raw: np.ndarray, factor: int) -> np.ndarray:
    """uint64 of each text, at least one, all at once."""
    raw = np.concatenate([raw[ends[0] : ends[-1]], np.zeros(8, np.uint8)])  # the last word of the last text may be read whole
    size, start = np.diff(ends), ends[:-1] - ends[0]
    shortest, longest = int(size.min()), int(size.max())
    spread, half = np.uint64(factor), np.uint64(32)
    out = np.multiply(size.view(np.uint64), spread)
    for at in range(0, min(longest, _LONG), 8):
        if shortest == longest:
            rows: slice | np.ndarray = slice(None)
            word = np.ndarray((len(out),), "<u8", raw.data, offset=at, strides=(longest,)) & _MASKS[min(longest - at, 8)]
        else:
            rows = np.flatnonzero(size > at)
            word = np.ndarray((len(raw) - 7,), "<u8", raw.data, strides=(1,))[start[rows] + at]
            word &= _MASKS[np.minimum(size[rows] - at, 8)]
        word ^= out[rows]
        word *= spread
        word ^= word >> half
        out[rows] = word
    for row in np.flatnonzero(size > _LONG) if longest > _LONG else ():
        text = raw[start[row] : start[row] + size[row]].data
        out[row] = int.from_bytes(hashlib.blake2b(text, digest_size=8, key=factor.to_bytes(8, "little")).digest(), "little")
    return out


def fingerprint(parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> str:
    """SHA-256 of two of them, one after the other: of the lengths of texts in bytes, eight bytes each, and of their bytes.

    parts: the texts in order, some at a time, as `laid_out` has them.
    """
    sizes, texts = hashlib.sha256(), hashlib.sha256()
    for ends, raw in parts:
        sizes.update(np.diff(ends).astype("<i8").data)
        texts.update(raw[ends[0] : ends[-1]].data)
    return hashlib.sha256(sizes.digest() + texts.digest()).hexdigest()


def places(file: Path, names: Iterable[str]) -> dict[str, Any]:
    """For each of these columns that an Arrow file has: its type, rows, and the [begin, bytes] of its buffers in the file.

    A buffer that is not there, or empty, is None, and so is a column that cannot be read so: of another type, in several parts or
    none, compressed.
    """
    import pyarrow as pa

    found: dict[str, Any] = {}
    with pa.memory_map(str(file)) as source:
        whole = source.read_buffer()
        table = pa.ipc.open_file(pa.BufferReader(whole)).read_all()
        for name in names:
            if name not in table.column_names:
                continue
            parts = table.column(name).chunks
            found[name] = None
            if len(parts) != 1 or parts[0].offset or str(parts[0].type) not in (*_ENDS, "int64"):
                continue
            buffers = (each if each is not None and each.size else None for each in parts[0].buffers())
            spans = [None if each is None else [each.address - whole.address, each.size] for each in buffers]
            if all(span is None or (span[0] >= 0 and sum(span) <= whole.size) for span in spans):
                found[name] = {"type": str(parts[0].type), "rows": len(parts[0]), "buffers": spans}
    return found


def mapped(file: Path) -> mmap.mmap:
    """The bytes of a file, read when they are asked for. Raises OSError or ValueError (an empty file)."""
    with open(file, "rb") as opened:
        return mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)


def numbers(content: mmap.mmap, place: dict[str, Any]) -> np.ndarray:
    """An int64 column without gaps. place: as in `places`. Raises ValueError, KeyError or TypeError if it is none."""
    there, values = place["buffers"]
    if place["type"] != "int64" or there is not None:
        raise ValueError("a column of other numbers")
    return np.frombuffer(content, "<i8", place["rows"], values[0])


@dataclass(frozen=True, eq=False)
class Texts:
    """n texts. ends: int64[n + 1], raw: uint8[...]: text i is the bytes from the i-th place to the next. there: bool[n], False
    where there is none, or None if all are."""

    ends: np.ndarray
    raw: np.ndarray
    there: np.ndarray | None = None

    @classmethod
    def at(cls, content: mmap.mmap, place: dict[str, Any]) -> Texts:
        """A column of a file. Raises ValueError, KeyError or TypeError if it is none of texts."""
        there, ends, raw = place["buffers"]
        rows = place["rows"]
        bits = None if there is None else np.frombuffer(content, np.uint8, (rows + 7) // 8, there[0])
        return cls(
            np.frombuffer(content, _ENDS[place["type"]], rows + 1, ends[0]).astype(np.int64),
            np.zeros(0, np.uint8) if raw is None else np.frombuffer(content, np.uint8, raw[1], raw[0]),
            None if bits is None else np.unpackbits(bits, bitorder="little")[:rows].astype(bool),
        )

    def __len__(self) -> int:
        return len(self.ends) - 1

    def take(self, which: np.ndarray) -> list[str | None]:
        """The texts at some places (each 0..n-1), None where there is none."""
        return [self._one(each) for each in np.asarray(which, np.int64).tolist()]

    def _one(self, at: int) -> str | None:
        if self.there is not None and not self.there[at]:
            return None
        return bytes(self.raw[self.ends[at] : self.ends[at + 1]]).decode("utf-8", "surrogatepass")

    def find(self, asked: list[str]) -> np.ndarray:
        """int64: the place of each text, -1 for one that is not there. Texts must be distinct, and all there."""
        if not len(self) or not asked:
            return np.full(len(asked), -1, np.int64)
        each = [text.encode("utf-8", "surrogatepass") for text in asked]
        ends = np.concatenate([[0], np.cumsum([len(text) for text in each])]).astype(np.int64)
        wanted = hashed(ends, np.frombuffer(b"".join(each), np.uint8))
        marks = np.zeros(_LOW + 1, bool)
        marks[wanted & _LOW] = True
        near = np.flatnonzero(marks.take(self._keys & _LOW))  # few; to sort all hashes takes as long as a hundred questions
        near = near[np.argsort(self._keys[near], kind="stable")]
        begin, end = (np.searchsorted(self._keys[near], wanted, side=side) for side in ("left", "right"))
        same = (near[first:last].tolist() for first, last in zip(begin.tolist(), end.tolist(), strict=True))
        return np.array(
            [next((at for at in candidates if self._one(at) == text), -1) for candidates, text in zip(same, asked, strict=True)],
            np.int64,
        )

    @cached_property
    def _keys(self) -> np.ndarray:
        """int64 hashes of the texts."""
        return hashed(self.ends, self.raw)

    def same(self, other: Texts) -> bool:
        """Whether both are the same texts in the same order, all of them there."""
        (a, b), (c, d) = ((int(each.ends[0]), int(each.ends[-1])) for each in (self, other))
        return (
            self.there is None
            and other.there is None
            and np.array_equal(self.ends - a, other.ends - c)
            and np.array_equal(self.raw[a:b], other.raw[c:d])
        )
