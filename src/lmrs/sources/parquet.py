"""Parquet files: interaction tables, and whole sequences (one row a user with the list of items)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lmrs.errors import DataError
from lmrs.sources.chunk import Chunk

ROWS = 1 << 13  # rows decoded at once


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, OverflowError, MemoryError) as error:
        why = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise DataError(needed=f"a whole Parquet file at {path}", came=why, remedy="fetch or write the file again") from error


def schema(path: Path) -> pa.Schema:
    """Column names and types. Raises DataError, naming the file, if it is no Parquet file or is truncated."""
    with _named(path):
        return pq.read_schema(path)


def table(path: Path) -> pa.Table:
    """The whole file (for catalogues). Raises DataError, naming the file, if it is damaged."""
    with _named(path):
        found = pq.read_table(path, use_threads=False, page_checksum_verification=True)
        found.validate(full=True)
        return found


def read(path: Path, *, columns: list[str]) -> Iterator[Chunk]:
    """The named columns in chunks, as they are typed; text comes as large_string."""
    for batch, first in _batches(path, columns):
        cells = {name: _plain(batch.column(name)) for name in columns}
        yield Chunk(cells, lambda rows, b=batch, f=first: [(f + int(r), str(b.slice(int(r), 1).to_pylist()[0])) for r in rows])  # type: ignore[misc]


def read_lists(path: Path, *, user: str, items: str) -> Iterator[Chunk]:
    """Sequences as events: the user of a row repeated for every item of its list, in list order."""
    for batch, first in _batches(path, [user, items]):
        lists = batch.column(items)
        with _named(path):
            owner, flat = lists.value_parent_indices(), lists.flatten()
        users = _plain(batch.column(user))

        def where(rows: np.ndarray, owner: pa.Array = owner, batch: pa.RecordBatch = batch, first: int = first) -> list:
            at = [owner[int(row)].as_py() for row in rows]
            return [(first + row, str(batch.slice(row, 1).to_pylist()[0])) for row in at]

        yield Chunk({user: users.take(owner), items: _plain(flat)}, where, users=users)


def _batches(path: Path, columns: list[str]) -> Iterator[tuple[pa.RecordBatch, int]]:
    """(record batch, 1-based number of its first row); pages are read as they are needed."""
    with _named(path):
        file = pq.ParquetFile(path, buffer_size=1 << 17, pre_buffer=False, page_checksum_verification=True)
        batches = file.iter_batches(batch_size=ROWS, columns=columns, use_threads=False)
    first = 1
    while True:
        with _named(path):
            batch = next(batches, None)
            if batch is not None:
                batch.validate(full=True)
        if batch is None:
            return
        yield batch, first
        first += batch.num_rows


def _plain(array: pa.Array) -> pa.Array:
    """Dictionaries decoded; every kind of text as large_string."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_string(array.type) or pa.types.is_string_view(array.type):
        array = array.cast(pa.large_string())
    return array
