"""From raw files to the canonical store: one path for every size and format."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lmrs import sorting, store
from lmrs.dataset import Dataset
from lmrs.errors import DataError
from lmrs.files import sha256_file, storage
from lmrs.numbering import Numbering
from lmrs.sources import catalogue, check, delimited, parquet
from lmrs.sources.catalogue import TableFile
from lmrs.sources.chunk import Chunk
from lmrs.sources.rejects import Reject, Rejects


@dataclass(frozen=True)
class Filter:
    """Rows that a source declares to be no interactions. columns: what it reads. keep(cells) -> bool[n]. why: for the report."""

    why: str
    columns: tuple[str, ...]
    keep: Callable[[dict[str, pa.Array]], np.ndarray]


@dataclass(frozen=True)
class Layout:
    """What the files of a source are. roles: {user, item, time, rating, type: column}.

    lists: events are whole sequences, one row a user. item_key: column of the item table that the events refer to.
    item_title: column of the events that holds the title of the item. guessed: roles nobody named.
    """

    name: str
    events: TableFile
    roles: dict[str, str]
    guessed: tuple[str, ...] = ()
    lists: bool = False
    items: TableFile | None = None
    users: TableFile | None = None
    edges: TableFile | None = None
    link: TableFile | None = None
    item_key: str | None = None
    user_key: str | None = None
    item_title: str | None = None
    filters: tuple[Filter, ...] = ()
    not_read: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def tables(self) -> list[TableFile]:
        return [file for file in (self.events, self.items, self.users, self.edges, self.link) if file is not None]


def prepare(
    layout: Layout,
    *,
    cache: Path,
    lenient: bool = False,
    drop_duplicates: bool = False,
    time_unit: str | None = None,
    quarantine: Path | None = None,
) -> Dataset:
    """The Dataset of a layout, from the cache if the same bytes were prepared in the same way before.

    lenient: set bad rows aside in `quarantine.csv` of the store (copied to `quarantine` if given) instead of stopping.
    drop_duplicates: keep only the first of events that are equal in every column. time_unit: s, ms, us, ns or None (by
    magnitude). Raises DataError with file and line for the first bad row unless lenient.
    """
    if time_unit not in (None, *check.MICROS):
        raise DataError(
            needed="a time unit s, ms, us or ns", came=f"'{time_unit}'", remedy="leave it out to tell it by magnitude"
        )
    made = {
        "files": {path.name: sha256_file(path) for path in (file.path for file in layout.tables)},
        "columns": layout.roles,
        "lenient": lenient,
        "drop_duplicates": drop_duplicates,
        "time_unit": time_unit,
    }
    tables = [repr(replace(file, path=Path(file.path.name))) for file in layout.tables]
    filters = [rule.why for rule in layout.filters]
    recipe = made | {"format": store.FORMAT, "tables": tables, "filters": filters, "notes": layout.notes, "lists": layout.lists}
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    folder = cache / "stores" / f"{_plain(layout.name)}-{key[:16]}"
    if not (folder / "manifest.json").exists():
        with store.building(folder) as work, _lean():
            _fill(work, layout, made=made, lenient=lenient, drop_duplicates=drop_duplicates, time_unit=time_unit)
    dataset = store.open(folder)
    if quarantine is not None and (folder / "quarantine.csv").exists():
        with storage(quarantine):
            shutil.copyfile(folder / "quarantine.csv", quarantine)
    about = dataset.about | {"source": str(layout.events.path.parent), "store": str(folder), "guessed": list(layout.guessed)}
    return replace(dataset, name=layout.name, about=about)


@contextmanager
def _lean() -> Iterator[None]:
    """Within the block Arrow takes memory from jemalloc where there is one: it keeps less of what was freed."""
    usual = pa.default_memory_pool()
    if "jemalloc" in pa.supported_memory_backends():
        pa.set_memory_pool(pa.jemalloc_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(usual)


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)[:40]


@dataclass
class _Events:
    """The state of reading the events: numbers given so far, counts, and the judge of bad rows."""

    layout: Layout
    clock: check.Clock
    rejects: Rejects
    users: Numbering = field(default_factory=Numbering)
    items: Numbering = field(default_factory=Numbering)
    types: Numbering = field(default_factory=Numbering)
    rows: int = 0
    filtered: dict[str, int] = field(default_factory=dict)

    def read(self) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """(user numbers, values by column of the store) of the good rows, a chunk at a time, in file order."""
        roles = self.layout.roles
        self.filtered = {rule.why: 0 for rule in self.layout.filters}
        for chunk in _chunks(self.layout):
            if chunk.users is not None:
                self.users.add(_sound(check.ids(chunk.users), "user ids", self.layout.events.path))
            self.rows += chunk.rows + len(chunk.rejected)
            cells, where, rejected = self._filter(chunk)
            found = {role: self._check(role, cells[column]) for role, column in roles.items()}
            good = np.ones(len(cells[roles["item"]]), bool)
            for role, (_, bad) in found.items():
                for reason, mask in bad.items():
                    at = np.flatnonzero(mask & good)
                    rejected += [Reject(line, roles[role], reason, raw) for line, raw in where(at)]
                    good &= ~mask
            self.rejects.take(rejected)
            values = {role: array if good.all() else _kept(array, good) for role, (array, _) in found.items()}
            for role, numbering in (("user", self.users), ("item", self.items), ("type", self.types)):
                if role in values:
                    values[role] = numbering.add(values[role])
            yield values.pop("user"), values

    def _check(self, role: str, cells: pa.Array) -> tuple[pa.Array | np.ndarray, check.Bad]:
        match role:
            case "time":
                return self.clock.read(cells)
            case "rating":
                return check.ratings(cells)
            case "type":
                return check.codes(cells)
        return check.ids(cells)

    def _filter(self, chunk: Chunk) -> tuple[dict[str, pa.Array], Callable, list[Reject]]:
        """The cells that pass the source's declared filters; the others are counted by reason."""
        cells, where = dict(chunk.cells), chunk.where
        for rule in self.layout.filters:
            keep = rule.keep(cells)
            self.filtered[rule.why] += int((~keep).sum())
            if not keep.all():
                cells = {name: _kept(array, keep) for name, array in cells.items()}
                where = _shifted(where, np.flatnonzero(keep))
        return cells, where, list(chunk.rejected)


def _kept(array: pa.Array | np.ndarray, keep: np.ndarray) -> pa.Array | np.ndarray:
    return array[keep] if isinstance(array, np.ndarray) else array.take(pa.array(np.flatnonzero(keep)))


def _shifted(where: Callable, at: np.ndarray) -> Callable:
    return lambda rows: where(at[rows])


def _fill(work: Path, layout: Layout, *, made: dict, lenient: bool, drop_duplicates: bool, time_unit: str | None) -> None:
    """Reads everything of a layout into a new store folder."""

    judges: list[Rejects] = []

    def judge(file: TableFile) -> Rejects:
        unit = "row" if file.dialect is None else "line"
        judges.append(Rejects(file.path.name, unit=unit, quarantine=work / "quarantine.csv" if lenient else None))
        return judges[-1]

    timed = "time" in layout.roles
    reading = _Events(layout, check.Clock(unit=time_unit), judge(layout.events))
    with sorting.EventWriter(work, columns=tuple(role for role in sorting.DTYPES if role in layout.roles)) as writer:
        for user, values in reading.read():
            writer.add(user, values)
        if not writer.counts.sum():
            came = f"{reading.rows:,} rows, none of them usable" if reading.rows else "none"
            raise DataError(needed=f"events in {layout.events.path}", came=came, remedy="is it the right file?")
        user_table, user_notes = _users(layout, reading.users.text(), judge)
        reading.users = Numbering()  # sorting needs the room
        found = writer.finish(n_users=user_table.num_rows, drop_duplicates=drop_duplicates, find_duplicates=not layout.lists)
    item_table, attributes, item_notes = _items(layout, reading.items.text(), judge)
    edges = None
    if layout.edges is not None:
        link = catalogue.read(layout.link, judge(layout.link))[0] if layout.link else None
        graph, _ = catalogue.read(layout.edges, judge(layout.edges))
        edges = catalogue.edges(graph, link, item_table.column("item_id").combine_chunks(), where=layout.edges.path.name)
    about = made | {
        "rows": reading.rows,
        "events": found.events,
        "quarantined": reading.rejects.count,
        "quarantined_beside": {each.file: each.count for each in judges[1:] if each.count},
        "quarantine_reasons": dict(reading.rejects.reasons),
        "filtered": reading.filtered,
        "duplicates": found.duplicates,
        "duplicates_dropped": found.dropped,
        "ties": found.ties,
        "time_unit": reading.clock.unit if timed else None,
        "order": "time, then file order" if timed else "list order" if layout.lists else "file order (no time column)",
        "order_known": timed or layout.lists,
        "not_read": list(layout.not_read),
        "notes": [*layout.notes, *user_notes, *item_notes],
    }
    store.seal(
        work,
        name=layout.name,
        items=item_table,
        users=user_table,
        attributes=attributes,
        edges=edges,
        types=tuple(reading.types.text().to_pylist()),
        about=about,
    )


def _chunks(layout: Layout) -> Iterator[Chunk]:
    file = layout.events
    columns = list(dict.fromkeys([*layout.roles.values(), *(name for f in layout.filters for name in f.columns)]))
    if layout.lists:
        return parquet.read_lists(file.path, user=layout.roles["user"], items=layout.roles["item"])
    if file.dialect is None:
        return parquet.read(file.path, columns=columns)
    return delimited.read(file.path, columns=columns, dialect=file.dialect)


def _sound(checked: tuple[pa.Array, check.Bad], what: str, path: Path) -> pa.Array:
    array, bad = checked
    if bad:
        raise DataError(needed=f"{what} in {path.name}", came=f"rows where it is {next(iter(bad))}", remedy="mend the file")
    return array


def _users(layout: Layout, seen: pa.Array, judge: Callable[[TableFile], Rejects]) -> tuple[pa.Table, list[str]]:
    """(user table in vocab order, notes)."""
    if layout.users is None:
        return pa.table({"user_id": seen}), []
    rejects = judge(layout.users)
    raw, where = catalogue.read(layout.users, rejects)
    table, ids = catalogue.keys(raw, str(layout.user_key), rejects, where)
    table, known = catalogue.order(table, ids, column=str(layout.user_key), name="user_id", seen=seen)
    return table, _unknown("users", known, len(seen), layout.users.path)


def _items(layout: Layout, seen: pa.Array, judge: Callable[[TableFile], Rejects]) -> tuple[pa.Table, dict, list[str]]:
    """(item table in vocab order, attributes, notes)."""
    notes: list[str] = []
    if layout.items is None:
        table = pa.table({"item_id": seen})
        if layout.item_title is not None:
            titles = _first_titles(layout)
            place = pc.index_in(seen, value_set=titles.column("item").combine_chunks())
            table = table.append_column("title", titles.column("title").take(place))
        return table, {}, notes
    rejects = judge(layout.items)
    raw, where = catalogue.read(layout.items, rejects)
    table, ids = catalogue.keys(raw, str(layout.item_key), rejects, where)
    if layout.lists and "item_id" in table.column_names and layout.item_key != "item_id":
        # the lists hold places in the item table; what the world knows are the ids beside them
        place = pc.index_in(seen, value_set=ids)
        if place.null_count:
            lost = seen.filter(pc.is_null(place))[0].as_py()
            raise DataError(
                needed=f"every listed item in {layout.items.path.name}", came=f"'{lost}', which it lacks", remedy="mend it"
            )
        table, ids = catalogue.keys(table, "item_id", rejects, where)
        seen = ids.take(place)
        table, known = catalogue.order(table, ids, column="item_id", name="item_id", seen=seen)
    else:
        table, known = catalogue.order(table, ids, column=str(layout.item_key), name="item_id", seen=seen)
    notes += _unknown("items", known, len(seen), layout.items.path)
    table, more = catalogue.titled(table)
    table, attributes = catalogue.attributes(table)
    return table, attributes, notes + more


def _unknown(what: str, known: int, seen: int, path: Path) -> list[str]:
    return [f"{seen - known:,} of {seen:,} {what} of the events are not in {path.name}"] if known < seen else []


def _first_titles(layout: Layout) -> pa.Table:
    """(item, title) with the first title that each item has in the events."""
    column, title = layout.roles["item"], str(layout.item_title)
    cells = parquet.table(layout.events.path).select([column, title]).rename_columns(["item", "title"])
    cells = cells.filter(pc.and_(pc.is_valid(cells["title"]), pc.is_valid(cells["item"])))
    first = cells.group_by("item", use_threads=False).aggregate([("title", "first")])
    return pa.table({"item": first["item"].cast(pa.large_string()), "title": first["title_first"].cast(pa.large_string())})
