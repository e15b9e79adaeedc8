"""Where a raw id becomes a number: distinct values in the order in which they first appear, a chunk at a time."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from lmrs.columns import FACTOR, hashed, laid_out

ROWS = 1 << 14  # values numbered at once: what is made of them stays in the cache


def hashes(texts: pa.Array, factor: int = FACTOR) -> np.ndarray:
    """`hashed` of each text (large_string)."""
    return hashed(*laid_out(texts), factor)


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
