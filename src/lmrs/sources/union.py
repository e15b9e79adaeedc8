"""Several data sets as one, so that one model can be trained on all of them (UniSRec's pre-training over domains)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from lmrs.dataset import Dataset
from lmrs.errors import DataError
from lmrs.vocab import Attributes, Vocab


def union(datasets: Sequence[Dataset], *, name: str = "") -> Dataset:
    """One Dataset with the users and items of all, none of them shared: ids become "NAME:id", NAME the data set's.

    Item columns are put below each other by name, empty where a data set has no such column; columns that hold another type
    elsewhere become text (lists: joined by ", "). Attributes likewise. Times, ratings and event types are kept if every data set
    has them; user tables, graphs and records are not kept. name: of the result, by default all names joined by "+".
    Raises DataError for no data sets and for two of one name.
    """
    names = [each.name for each in datasets]
    if not datasets or len(set(names)) < len(names):
        raise DataError(
            needed="data sets with different names", came=", ".join(names) or "none", remedy="rename one: data.renamed('other')"
        )
    first = np.concatenate([[0], np.cumsum([each.n_items for each in datasets])])
    items = [np.asarray(each.item, np.int64) + at for each, at in zip(datasets, first, strict=False)]
    ends = np.concatenate([[0], np.cumsum([each.n_events for each in datasets])])
    offsets = [np.asarray(each.offsets[1:], np.int64) + at for each, at in zip(datasets, ends, strict=False)]
    attributes = sorted({key for each in datasets for key in each.vocab.attributes})
    vocab = Vocab(
        _ids([each.vocab.items for each in datasets], names),
        _ids([each.vocab.users for each in datasets], names),
        {key: _attributes(datasets, key) for key in attributes},
    )
    columns = dict.fromkeys(key for each in datasets if each.items is not None for key in each.items.column_names)
    table = {"item_id": vocab.items, **{key: _column(datasets, key) for key in columns if key != "item_id"}}
    return Dataset(
        name=name or "+".join(names),
        vocab=vocab,
        item=np.concatenate(items).astype(np.int32),
        offsets=np.concatenate([[0], *offsets]).astype(np.int64),
        time=_kept([each.time for each in datasets]),
        rating=_kept([each.rating for each in datasets]),
        items=pa.table(table),
        about={"union": [{"name": each.name, "fingerprint": each.fingerprint} for each in datasets]},
    )


def _ids(parts: Sequence[pa.Array], names: Sequence[str]) -> pa.Array:
    every = [f"{name}:{each}" for part, name in zip(parts, names, strict=True) for each in part.to_pylist()]
    return pa.array(every, pa.large_string())


def _kept(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    there = [part for part in parts if part is not None]
    return np.concatenate(there) if len(there) == len(parts) else None


def _attributes(datasets: Sequence[Dataset], key: str) -> Attributes:
    lists: list[list[str]] = []
    for each in datasets:
        own = each.vocab.attributes.get(key)
        lists += [own.of(item) if own is not None else [] for item in range(each.n_items)]
    return Attributes.from_lists(pa.array(lists, pa.list_(pa.string())))


def _column(datasets: Sequence[Dataset], key: str) -> pa.ChunkedArray:
    """One column of all item tables; as text if they disagree about its type."""
    there = [each.items.column(key) for each in datasets if each.items is not None and key in each.items.column_names]
    kinds = {_plain(column.type) for column in there}
    kind = kinds.pop() if len(kinds) == 1 else pa.large_string()
    chunks: list[pa.Array] = []
    for each in datasets:
        if each.items is None or key not in each.items.column_names:
            chunks.append(pa.nulls(each.n_items, kind))
            continue
        column = each.items.column(key)
        if column.type != kind and kind == pa.large_string():
            column = pa.chunked_array([pa.array([_text(value) for value in column.to_pylist()], kind)])
        chunks += column.cast(kind).chunks
    return pa.chunked_array(chunks, kind)


def _plain(kind: pa.DataType) -> pa.DataType:
    return pa.large_string() if pa.types.is_string(kind) else kind


def _text(value: object) -> str | None:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or None
    return None if value is None else str(value)
