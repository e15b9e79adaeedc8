"""Where a raw id becomes a number: distinct values in the order in which they first appear, a chunk at a time."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa

FACTOR = 0x9E3779B97F4A7C15  # of the hash of texts; odd, 2^64 over the golden ratio (Knuth, TAOCP 3, section 6.4)
ROWS = 1 << 14  # values numbered at once: what is made of them stays in the cache
_LONG = 256  # bytes: longer texts are hashed one by one
_MASKS = np.array([(1 << 8 * size) - 1 for size in range(9)], np.uint64)  # of the bytes of a word that belong to a text


def laid_out(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(int64[n + 1], uint8[...]) of large_string: text i is the bytes from the i-th place to the next."""
    if not len(texts):
        return np.zeros(1, np.int64), np.zeros(0, np.uint8)
    ends, data = np.frombuffer(texts.buffers()[1], np.int64, len(texts) + 1, texts.offset * 8), texts.buffers()[2]
    return ends, np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(0, np.uint8)


def hashes(texts: pa.Array, factor: int = FACTOR) -> np.ndarray:
    """int64 of each text (large_string): h = size factor, then h = (h ^ word) factor, h ^= h >> 32 for each 8 bytes of it.

    A word is little-endian, the last one filled with zeros. Of texts over 256 bytes it is eight bytes of their BLAKE2b.
    """
    out = np.zeros(len(texts), np.uint64)
    if not len(texts):
        return out.view(np.int64)
    ends, raw = laid_out(texts)
    raw = np.concatenate([raw[ends[0] : ends[-1]], np.zeros(8, np.uint8)])  # the last word of the last text may be read whole
    size, start = np.diff(ends), ends[:-1] - ends[0]
    shortest, longest = int(size.min()), int(size.max())
    spread, half = np.uint64(factor), np.uint64(32)
    np.multiply(size.view(np.uint64), spread, out=out)
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
    return out.view(np.int64)


class Numbering:
    """Numbers distinct values in order of first appearance, a chunk at a time, without Python per value.

    A hash table with double hashing (Knuth, TAOCP 3, section 6.4, algorithm D), probed for all values of a chunk at once. It
    holds numbers alone, four bytes a slot; keys (integers, or the hashes of texts) and texts stand in the order of their numbers.
    """

    def __init__(self) -> None:
        self._slots = np.full(1 << 10, -1, np.int32)  # numbers, -1 where free; at most half of them taken
        self._keys = bytearray()  # int64
        self._text, self._ends = bytearray(), bytearray(8)  # texts one after another; int64: 0 and where each ends
        self._factor = FACTOR

    def __len__(self) -> int:
        return len(self._keys) // 8

    def add(self, values: pa.Array) -> np.ndarray:
        """int32 numbers of the values (text or integers, the same in all calls; no nulls); new ones get the next numbers."""
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
        whole = pa.types.is_integer(values.type)
        values = values.cast(pa.int64() if whole else pa.large_string())
        out = np.empty(len(values), np.int32)
        for lo in range(0, len(values), ROWS):
            piece = values.slice(lo, ROWS)
            out[lo : lo + ROWS] = self._integers(piece.to_numpy(zero_copy_only=False)) if whole else self._texts(piece)
        return out

    def _integers(self, keys: np.ndarray) -> np.ndarray:
        numbers, fresh = self._numbered(keys)
        self._enter(keys[fresh])
        return numbers

    def _texts(self, values: pa.Array) -> np.ndarray:
        while True:
            keys = hashes(values, self._factor)
            numbers, fresh = self._numbered(keys)
            before = len(self._text), len(self._ends)
            if len(fresh):
                self._keep(values.take(pa.array(fresh)))
            # Two texts may share a hash: then some text is not the one that has its number, and another hash is tried.
            if self._kept().take(pa.array(numbers)).equals(values):
                self._enter(keys[fresh])
                return numbers
            del self._text[before[0] :], self._ends[before[1] :]
            self._rehash()

    def _numbered(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(int32 numbers of int64 keys, where new ones first occur, in the order of the numbers they are to get)."""
        numbers = self._find(keys)
        new = np.flatnonzero(numbers < 0)
        if not len(new):
            return numbers, new
        _, first, inverse = np.unique(keys[new], return_index=True, return_inverse=True)
        order = np.argsort(first)
        places = np.empty(len(order), np.int32)
        places[order] = len(self) + np.arange(len(order))
        numbers[new] = places[inverse]
        return numbers, new[first[order]]

    def _find(self, keys: np.ndarray) -> np.ndarray:
        """int32 numbers of keys, -1 of those that are not in the table."""
        if not len(self):
            return np.full(len(keys), -1, np.int32)
        known = np.frombuffer(self._keys, np.int64)
        slot, step = self._way(keys)
        numbers = self._slots[slot]
        todo = np.flatnonzero((known[numbers] != keys) & (numbers >= 0))
        while len(todo):
            slot[todo] = (slot[todo] + step[todo]) & (len(self._slots) - 1)
            found = self._slots[slot[todo]]
            numbers[todo] = found
            todo = todo[(known[found] != keys[todo]) & (found >= 0)]
        return numbers

    def _enter(self, keys: np.ndarray) -> None:
        """Gives distinct new keys the next numbers."""
        if not len(keys):
            return
        first = len(self)
        self._keys += np.ascontiguousarray(keys).data.cast("B")
        if 2 * len(self) > len(self._slots):
            self._slots = np.full(1 << (2 * len(self)).bit_length(), -1, np.int32)
            first, keys = 0, np.frombuffer(self._keys, np.int64)
        for lo in range(0, len(keys), ROWS):
            slot, step = self._way(keys[lo : lo + ROWS])
            numbers = (first + lo + np.arange(len(slot))).astype(np.int32)
            while len(slot):
                free = self._slots[slot] < 0
                self._slots[slot[free]] = numbers[free]  # of several that meet in a slot one stays
                left = self._slots[slot] != numbers
                slot, step, numbers = (slot[left] + step[left]) & (len(self._slots) - 1), step[left], numbers[left]

    def _way(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(the slot where each key is looked for first, odd steps from one slot to the next)."""
        bits = len(self._slots).bit_length() - 1
        spread = keys.view(np.uint64) * np.uint64(FACTOR)
        return (spread >> np.uint64(64 - bits)).view(np.int64), (spread >> np.uint64(24) | np.uint64(1)).view(np.int64)

    def _rehash(self) -> None:
        """Takes another hash, one that tells all kept texts apart."""
        while True:
            self._factor = (self._factor * 6364136223846793005 + 1442695040888963407) % 2**64 | 1
            keys = hashes(self._kept(), self._factor)
            if len(np.unique(keys)) == len(keys):
                break
        self._keys.clear()
        self._slots.fill(-1)
        self._enter(keys)

    def _keep(self, texts: pa.Array) -> None:
        (ends, raw), at = laid_out(texts), len(self._text)
        self._text += raw[ends[0] : ends[-1]].data
        self._ends += (ends[1:] - ends[0] + at).data.cast("B")

    def _kept(self) -> pa.Array:
        """The texts as they stand here: none can be added as long as this is in use."""
        places = [None, pa.py_buffer(self._ends), pa.py_buffer(self._text)]
        return pa.Array.from_buffers(pa.large_string(), len(self._ends) // 8 - 1, places)

    def text(self) -> pa.Array:
        """The values as large_string in the order of their numbers; integers as their decimal text."""
        if len(self._ends) == 8:
            return pa.array(np.frombuffer(self._keys, np.int64)).cast(pa.large_string())
        places = [None, pa.py_buffer(bytes(self._ends)), pa.py_buffer(bytes(self._text))]
        return pa.Array.from_buffers(pa.large_string(), len(self), places)
