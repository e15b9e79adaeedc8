"""What is known of items and users, and the edges between things, brought into the order of the vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lmrs.errors import DataError
from lmrs.sources import check, delimited, parquet
from lmrs.sources.columns import ATTRIBUTES, TITLES, YEARS, find, fold
from lmrs.sources.rejects import Reject, Rejects
from lmrs.vocab import Attributes

HEADS = ("head", "head_id", "source", "subject", "from")
RELATIONS = ("relation", "relation_id", "predicate", "edge", "type")
TAILS = ("tail", "tail_id", "target", "object", "to")
ENTITIES = ("entity_id", "entity", "kg_id", "node")


@dataclass(frozen=True)
class TableFile:
    """A catalogue file. dialect: None for Parquet. words: columns whose text is a list separated by blanks (RecBole's
    token_seq). rename: new names of columns (RecBole's type suffix is gone by then). flags: columns of 0 and 1 that together
    make the list column `genres`."""

    path: Path
    dialect: delimited.Dialect | None = None
    words: tuple[str, ...] = ()
    rename: tuple[tuple[str, str], ...] = ()
    flags: tuple[str, ...] = ()


def names(file: TableFile) -> list[str]:
    """The column names of a file."""
    if file.dialect is None:
        return parquet.schema(file.path).names
    return delimited.header(file.path, file.dialect)


Where = Callable[[int], tuple[int, str]]  # row of a table -> (line, or row of a Parquet file; the row as it stands)


def read(file: TableFile, rejects: Rejects) -> tuple[pa.Table, Where]:
    """(the whole table, where its rows stand); empty cells of text files are null."""
    if file.dialect is None:
        table = parquet.table(file.path)
        return _renamed(table, file), lambda row: (row + 1, str(table.slice(row, 1).to_pylist()[0]))
    columns = names(file)
    if len(set(columns)) < len(columns):
        raise DataError(needed=f"distinct column names in {file.path.name}", came=", ".join(columns), remedy="rename one")
    chunks = []
    for chunk in delimited.read(file.path, columns=columns, dialect=file.dialect):
        rejects.take(chunk.rejected)
        chunks.append(chunk)
    first = np.cumsum([0, *(chunk.rows for chunk in chunks)])

    def where(row: int) -> tuple[int, str]:
        at = int(np.searchsorted(first, row, side="right")) - 1
        return chunks[at].where(np.asarray([row - first[at]]))[0]

    empty = pa.table({name: pa.array([], pa.large_string()) for name in columns})
    table = pa.concat_tables([empty, *(pa.table(chunk.cells) for chunk in chunks)])
    table = pa.table({name: _emptied(table.column(name)) for name in columns})
    for name in file.words:
        table = _put(table, name, pc.split_pattern(table.column(name), " "))
    if file.flags:
        table = table.append_column("genres", _flagged(table, file.flags)).drop_columns(list(file.flags))
    return _renamed(table, file), where


def _renamed(table: pa.Table, file: TableFile) -> pa.Table:
    """Without RecBole's type suffixes, and with the names that the source gives."""
    plain = [name.split(":")[0] if _typed(table) else name for name in table.column_names]
    renamed = dict(file.rename)
    return table.rename_columns([renamed.get(name, name) for name in plain])


def _flagged(table: pa.Table, flags: tuple[str, ...]) -> pa.Array:
    """One list an item of the flags that are "1"."""
    on = np.stack([pc.fill_null(pc.equal(table.column(name), "1"), False).to_numpy() for name in flags], axis=1)
    ends = np.concatenate([[0], np.cumsum(on.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(ends, pa.array(flags, pa.large_string()).take(pa.array(np.nonzero(on)[1])))


def _typed(table: pa.Table) -> bool:
    return all(":" in name for name in table.column_names)


def _emptied(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.equal(pc.binary_length(column), 0), pa.scalar(None, pa.large_string()), column)


def _put(table: pa.Table, name: str, column: pa.ChunkedArray | pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, column)


def keys(table: pa.Table, column: str, rejects: Rejects, where: Where) -> tuple[pa.Table, pa.Array]:
    """(rows with a usable id, their ids as text). An id given twice is an error; lenient reading keeps the first."""
    cells = table.column(column).combine_chunks() if table.num_rows else pa.array([], pa.large_string())
    if pa.types.is_string(cells.type):
        cells = cells.cast(pa.large_string())
    found, bad = check.ids(cells)
    text = found.cast(pa.large_string())
    gone = np.zeros(len(text), bool)
    for mask in bad.values():
        gone |= mask
    coded = pc.fill_null(text, "").dictionary_encode().indices.to_numpy(zero_copy_only=False)
    first = np.zeros(len(text), bool)
    first[np.unique(coded, return_index=True)[1]] = True
    reasons = {**bad, "id given twice": ~first & ~gone}
    for reason, mask in reasons.items():
        places = [where(int(row)) for row in np.flatnonzero(mask)]
        rejects.take(Reject(line, column, reason, raw) for line, raw in places)
    keep = pa.array(np.flatnonzero(first & ~gone))
    return table.take(keep), text.take(keep)


def order(table: pa.Table, ids: pa.Array, *, column: str, name: str, seen: pa.Array) -> tuple[pa.Table, int]:
    """(the table in vocab order, rows that were seen in events): first the ids `seen`, then the rest in table order.

    Ids that the table does not know get a row of nulls. The first column is called `name` and holds the ids.
    """
    place = pc.index_in(seen, value_set=ids)
    rest = pc.is_null(pc.index_in(ids, value_set=seen)).to_numpy(zero_copy_only=False)
    rows = pa.concat_arrays([place.cast(pa.int64()), pa.array(np.flatnonzero(rest))])
    everything = pa.concat_arrays([seen, ids.filter(pa.array(rest))])
    table = table.drop_columns([column, *([name] if name in table.column_names and name != column else [])])
    columns = {name: everything, **{other: table.column(other).take(rows) for other in table.column_names}}
    return pa.table(columns), len(seen) - place.null_count


def titled(table: pa.Table) -> tuple[pa.Table, list[str]]:
    """The table with its title column called `title`, the year added where it stands apart ("Heat" + 1995 = "Heat (1995)")."""
    notes: list[str] = []
    name = find(table.column_names[1:], TITLES)
    if name is None:
        return table, notes
    if name != "title":
        table = table.rename_columns(["title" if other == name else other for other in table.column_names])
        notes.append(f"titles read from column '{name.split(':')[0]}'")
    year = find(table.column_names, YEARS)
    if year is not None:
        texts = table.column("title").to_pylist()
        years = table.column(year).cast(pa.large_string()).to_pylist()
        bare = [bool(t and y) and not t.endswith(f"({y})") for t, y in zip(texts, years, strict=True)]
        if any(bare):
            joined = [f"{t} ({y})" if b else t for t, y, b in zip(texts, years, bare, strict=True)]
            table = _put(table, "title", pa.array(joined, pa.large_string()))
            notes.append(f"column '{year}' added to the titles")
    return table, notes


def attributes(table: pa.Table) -> tuple[pa.Table, dict[str, Attributes]]:
    """(the table with lists for attribute columns, the attributes by column name).

    Attributes are list columns, and text columns with a usual name (genres, brand, ...), split at "|" if any value holds one.
    Where a table numbers its attributes without naming them, `attribute_ids` serves as `attributes`.
    """
    found = {}
    for name in table.column_names[1:]:
        column = table.column(name)
        if (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)) and fold(name) in ATTRIBUTES:
            column = pc.split_pattern(column.cast(pa.large_string()), "|")
            table = _put(table, name, column)
        kind = column.type
        if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and not pa.types.is_nested(kind.value_type):
            found[name] = Attributes.from_lists(column)
    if "attributes" not in found and "attribute_ids" in found:
        found["attributes"] = found["attribute_ids"]
    return table, found


def edges(table: pa.Table, link: pa.Table | None, items: pa.Array, *, where: str) -> pa.Table:
    """The knowledge graph: head, relation, tail as text, and head_item, tail_item as item numbers (null: not an item).

    link: table of item id and entity id; the first item of an entity counts. Without one an entity is the item whose id
    it has. items: the vocabulary. Entity ids stay as they came.
    """
    head, relation, tail = (find(table.column_names, wanted) for wanted in (HEADS, RELATIONS, TAILS))
    if head is None or tail is None:
        raise DataError(
            needed=f"columns head, relation and tail in {where}", came=", ".join(table.column_names), remedy="rename the columns"
        )
    cells = {
        "head": table.column(head).cast(pa.large_string()),
        "relation": table.column(relation).cast(pa.large_string())
        if relation
        else pa.array(["related"] * table.num_rows, pa.large_string()),
        "tail": table.column(tail).cast(pa.large_string()),
    }
    entities, numbers = items, pa.array(np.arange(len(items), dtype=np.int32))
    if link is not None:
        entity = find(link.column_names, ENTITIES) or link.column_names[-1]
        item = next(name for name in link.column_names if name != entity)
        entities = link.column(entity).cast(pa.large_string()).combine_chunks()
        numbers = pc.index_in(link.column(item).cast(pa.large_string()), value_set=items).combine_chunks()
    for end in ("head", "tail"):
        cells[f"{end}_item"] = numbers.take(pc.index_in(cells[end], value_set=entities))
    return pa.table(cells)
