"""The canonical store: a folder of Arrow files, sorted by (user, time, file order), read by memory map.

    store/ events.arrow      item:int32, time:int64 (microseconds), rating:float32, type:int32; one record batch
           offsets.arrow     offsets:int64[U+1]
           items.arrow       item_id + what the catalogue says, in vocab order
           users.arrow       user_id + what is known of users, in vocab order
           attributes.arrow  one row per attribute: names, offsets, values (CSR)
           edges.arrow       head, relation, tail, head_item, tail_item
           manifest.json     counts, where it came from, and size and SHA-256 of every file; written last

Any number of events is sorted in bounded memory: events are spooled in file order, scattered to runs of users of at most
`BUCKET` events, and each run is sorted alone (Knuth, TAOCP 3, section 5.4.9, distribution before an internal sort).
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from lmrs.dataset import TIE_RULE, Dataset
from lmrs.errors import DataError
from lmrs.files import fsync_folder, sha256_file, storage, write_atomic
from lmrs.vocab import Attributes, Vocab

FORMAT = 1
BUCKET = 1 << 17  # events sorted at once
PIECE = 1 << 16  # events moved at once
HASH_WHEN_BELOW = 64 << 20  # bytes: smaller stores are hashed whenever they are opened
DTYPES = {"item": np.int32, "time": np.int64, "rating": np.float32, "type": np.int32}


@dataclass(frozen=True)
class Sorted:
    """What the sort found. events: N kept. duplicates: events equal in every column to an earlier one (kept unless dropped).
    dropped: duplicates that were removed. ties: events whose time equals that of the event before them of the same user."""

    events: int
    duplicates: int
    dropped: int
    ties: int


class EventWriter:
    """Takes events in file order and leaves `events.arrow` and `offsets.arrow`, sorted, in a folder.

    A context manager: leaving it closes its files. folder: where to write; it must exist. columns: which of item, time, rating,
    type every event has ("item" at least).
    """

    def __init__(self, folder: Path, *, columns: tuple[str, ...]) -> None:
        self.folder, self.columns = folder, columns
        self.counts = np.zeros(0, np.int64)
        self._dtypes = {"user": np.int32, **{name: DTYPES[name] for name in columns}}
        with storage(folder):
            self._spool = {name: self._path("spool", name).open("wb") for name in self._dtypes}

    def _path(self, stage: str, name: str) -> Path:
        return self.folder / f"{stage}-{name}.tmp"

    def __enter__(self) -> EventWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._spool.values():
            with contextlib.suppress(OSError):
                file.close()

    def add(self, user: np.ndarray, values: dict[str, np.ndarray]) -> None:
        """Appends events: user int32[n] numbers, and one array of length n for each column."""
        if not len(user):
            return
        seen = np.bincount(user)
        if len(seen) > len(self.counts):
            self.counts = np.pad(self.counts, (0, len(seen) - len(self.counts)))
        self.counts[: len(seen)] += seen
        with storage(self.folder, size=len(user) * 24):
            self._spool["user"].write(np.ascontiguousarray(user, np.int32).data)
            for name in self.columns:
                self._spool[name].write(np.ascontiguousarray(values[name], DTYPES[name]).data)

    def finish(
        self, *, n_users: int, drop_duplicates: bool = False, by_time: bool = True, find_duplicates: bool = True
    ) -> Sorted:
        """Sorts by (user, time, file order) and writes the two files.

        n_users: U; users from the last one seen on have no events. Without a time column the order is file order.
        find_duplicates: False for lists whose repeats are meant.
        """
        with storage(self.folder):
            for file in self._spool.values():
                file.close()
        lengths = np.pad(self.counts, (0, n_users - len(self.counts)))
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        bounds = _bounds(offsets)
        stage = self._scatter(offsets, bounds) if len(bounds) > 2 else "spool"
        found, kept = self._sort(stage, offsets, bounds, drop=drop_duplicates, find=find_duplicates)
        if found.dropped:
            offsets = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)
        _lay_out(
            self.folder / "events.arrow", {name: (self._path(stage, name), DTYPES[name]) for name in self.columns}, found.events
        )
        for name in self._dtypes:
            self._path(stage, name).unlink()
        _write_table(self.folder / "offsets.arrow", pa.table({"offsets": offsets}))
        return found

    def _scatter(self, offsets: np.ndarray, bounds: np.ndarray) -> str:
        """Moves the spooled events into files where every run of users is contiguous, in file order."""
        cursor = offsets[bounds[:-1]].copy()
        total = int(offsets[-1])
        with storage(self.folder, size=total * 24), contextlib.ExitStack() as stack:
            users = stack.enter_context(self._path("spool", "user").open("rb"))
            spool = {name: stack.enter_context(self._path("spool", name).open("rb")) for name in self.columns}
            runs = {name: stack.enter_context(self._path("run", name).open("wb")) for name in self._dtypes}
            while len(user := _read(users, np.int32, PIECE)):
                run = np.searchsorted(bounds, user, side="right") - 1
                order = np.argsort(run, kind="stable")
                sizes = np.bincount(run, minlength=len(cursor))
                ends = np.cumsum(sizes)
                pieces = {"user": user[order]} | {n: _read(spool[n], DTYPES[n], PIECE)[order] for n in self.columns}
                for at in np.flatnonzero(sizes):
                    lo, hi = ends[at] - sizes[at], ends[at]
                    for name, array in pieces.items():
                        runs[name].seek(int(cursor[at]) * array.itemsize)
                        runs[name].write(array[lo:hi].data)
                cursor += sizes
        for name in self._dtypes:
            self._path("spool", name).unlink()
        return "run"

    def _sort(self, stage: str, offsets: np.ndarray, bounds: np.ndarray, *, drop: bool, find: bool) -> tuple[Sorted, np.ndarray]:
        """Sorts each run in place (closing the gaps of dropped events). Returns the counts and int64[U] events kept."""
        written = duplicates = ties = 0
        kept = np.diff(offsets)
        with storage(self.folder), contextlib.ExitStack() as stack:
            files = {name: stack.enter_context(self._path(stage, name).open("r+b")) for name in self._dtypes}
            for first, last in itertools.pairwise(bounds):
                lo, hi = int(offsets[first]), int(offsets[last])
                run = {name: _read_at(files[name], self._dtypes[name], lo, hi) for name in self._dtypes}
                order = np.lexsort((run["time"], run["user"])) if "time" in run else np.argsort(run["user"], kind="stable")
                run = {name: array[order] for name, array in run.items()}
                same = run["user"][1:] == run["user"][:-1]
                if "time" in run:
                    tied = same & (run["time"][1:] == run["time"][:-1])
                    ties += int(tied.sum())
                repeat = _repeats(run, tied if "time" in run else same) if find else np.zeros(hi - lo, bool)
                duplicates += int(repeat.sum())
                if drop and repeat.any():
                    np.subtract.at(kept, run["user"][repeat], 1)
                    run = {name: array[~repeat] for name, array in run.items()}
                for name, array in run.items():
                    files[name].seek(written * array.itemsize)
                    files[name].write(array.data)
                written += len(run["user"])
        return Sorted(written, duplicates, duplicates if drop else 0, ties), kept


def _bounds(offsets: np.ndarray) -> np.ndarray:
    """int64[R+1] users at which runs start: as many users a run as fit into BUCKET events (one user at least)."""
    bounds, at, last = [0], 0, len(offsets) - 1
    while at < last:
        at = max(at + 1, int(np.searchsorted(offsets, offsets[at] + BUCKET, side="right")) - 1)
        bounds.append(min(at, last))
    return np.asarray(bounds, np.int64)


def _repeats(run: dict[str, np.ndarray], near: np.ndarray) -> np.ndarray:
    """bool[n]: events equal in every column to an earlier one. near: event i+1 shares user (and time) with event i."""
    repeat = np.zeros(len(run["user"]), bool)
    at = np.flatnonzero(np.append(near, False) | np.insert(near, 0, False)) if len(near) else np.zeros(0, np.int64)
    if len(at):
        cells = [run[name][at] for name in run]
        order = np.lexsort((at, *cells))  # equal events become neighbours, the earliest first
        equal = np.ones(len(at) - 1, bool)
        for cell in cells:
            equal &= cell[order][1:] == cell[order][:-1]
        repeat[at[order[1:][equal]]] = True
    return repeat


def _read(file: object, dtype: type, count: int) -> np.ndarray:
    return np.fromfile(file, dtype, count)  # type: ignore[call-overload]


def _read_at(file: object, dtype: type, lo: int, hi: int) -> np.ndarray:
    file.seek(lo * np.dtype(dtype).itemsize)  # type: ignore[attr-defined]
    return _read(file, dtype, hi - lo)


def _lay_out(path: Path, columns: dict[str, tuple[Path, type]], n: int) -> None:
    """Writes raw column files as one Arrow record batch without ever holding a column.

    Arrow decides the layout from arrays of zeros, which cost no memory because nobody touches them; the true bytes are
    then streamed over the zeros.
    """
    zeros = {name: pa.array(np.zeros(n, dtype)) for name, (_, dtype) in columns.items()}
    _write_table(path, pa.table(zeros))
    if not n:
        return
    with pa.memory_map(str(path)) as mapped:
        whole = mapped.read_buffer(mapped.size())
        batch = pa.ipc.open_file(whole).get_batch(0)
        places = {name: batch.column(name).buffers()[1].address - whole.address for name in columns}
        del batch, whole
    with storage(path, size=n * 20), path.open("r+b") as target:
        for name, (raw, _) in columns.items():
            target.seek(places[name])
            with raw.open("rb") as source:
                left = n * np.dtype(columns[name][1]).itemsize
                while left:
                    piece = source.read(min(left, 1 << 20))
                    target.write(piece)
                    left -= len(piece)


def _write_table(path: Path, table: pa.Table) -> None:
    """Writes a table as an Arrow IPC file with a single record batch."""
    arrays = [_one(column) for column in table.columns]
    batch = pa.RecordBatch.from_arrays(arrays, schema=table.schema)
    with storage(path, size=table.nbytes), pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_batch(batch)


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])


def _attribute_table(attributes: dict[str, Attributes]) -> pa.Table:
    def cells(arrays: list[pa.Array], kind: pa.DataType) -> pa.Array:
        ends = np.concatenate([[0], np.cumsum([len(a) for a in arrays])]).astype(np.int64)
        return pa.LargeListArray.from_arrays(ends, pa.concat_arrays([a.cast(kind) for a in arrays]))

    found = attributes.values()
    return pa.table(
        {
            "attribute": pa.array(list(attributes), pa.large_string()),
            "names": cells([a.names for a in found], pa.large_string()),
            "offsets": cells([pa.array(a.offsets) for a in found], pa.int64()),
            "values": cells([pa.array(a.values, pa.int32()) for a in found], pa.int32()),
        }
    )


@contextmanager
def building(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place when the block ends well, and vanishes when it does not.

    Leftovers of processes that died are removed first. If another process put a store there meanwhile, that one stays.
    """
    folder = Path(folder)
    with storage(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        for old in folder.parent.glob(".building-*"):
            if not _alive(old.name.split("-")[1]):
                shutil.rmtree(old, ignore_errors=True)
        work = folder.parent / f".building-{os.getpid()}-{secrets.token_hex(4)}"
        work.mkdir()
    try:
        yield work
        fsync_folder(work)
        with storage(folder):
            try:
                os.rename(work, folder)
            except OSError:
                if not (folder / "manifest.json").exists():
                    raise
        fsync_folder(folder.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True


def seal(
    work: Path,
    *,
    name: str,
    items: pa.Table,
    users: pa.Table,
    attributes: dict[str, Attributes],
    edges: pa.Table | None,
    types: tuple[str, ...],
    about: dict,
) -> None:
    """Adds the catalogue to a folder that holds the sorted events, then the manifest that makes it a store.

    items: V rows, first column `item_id`; users: U rows, first column `user_id`; both in vocab order. about: JSON values.
    """
    _write_table(work / "items.arrow", items)
    _write_table(work / "users.arrow", users)
    if attributes:
        _write_table(work / "attributes.arrow", _attribute_table(attributes))
    if edges is not None:
        _write_table(work / "edges.arrow", edges)
    files = {}
    for path in sorted(work.iterdir()):
        with storage(path), path.open("r+b") as file:
            os.fsync(file.fileno())
        files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    body = {
        "format": FORMAT,
        "name": name,
        "ties": TIE_RULE,
        "types": list(types),
        "about": about,
        "files": files,
    }
    write_atomic(work / "manifest.json", json.dumps(body | {"sha256": _digest(body)}, indent=1, sort_keys=True).encode())


def _digest(body: dict) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def write(dataset: Dataset, folder: str | os.PathLike[str]) -> Path:
    """Writes a Dataset as a store and returns the folder. An older store of that name is replaced; anything else is an error."""
    folder = Path(folder)
    if folder.exists():
        if not (folder / "manifest.json").exists():
            raise DataError(
                needed=f"a new folder or an older store at {folder}", came="something else", remedy="choose another folder"
            )
        with storage(folder):
            shutil.rmtree(folder)
    columns = {"item": dataset.item, "time": dataset.time, "rating": dataset.rating, "type": dataset.type}
    with building(folder) as work:
        _write_table(
            work / "events.arrow",
            pa.table({name: pa.array(np.asarray(array, DTYPES[name])) for name, array in columns.items() if array is not None}),
        )
        _write_table(work / "offsets.arrow", pa.table({"offsets": np.asarray(dataset.offsets, np.int64)}))
        seal(
            work,
            name=dataset.name,
            items=_with_ids(dataset.items, "item_id", dataset.vocab.items),
            users=_with_ids(dataset.users, "user_id", dataset.vocab.users),
            attributes=dataset.vocab.attributes,
            edges=dataset.edges,
            types=dataset.types,
            about=dataset.about,
        )
    return folder


def _with_ids(table: pa.Table | None, column: str, ids: pa.Array) -> pa.Table:
    ids = ids.cast(pa.large_string())
    if table is None:
        return pa.table({column: ids})
    rest = {name: table.column(name) for name in table.column_names if name != column}
    return pa.table({column: ids, **rest})


def open(folder: str | os.PathLike[str], *, verify: bool | None = None) -> Dataset:
    """The Dataset of a store, memory-mapped: nothing is read until it is used.

    verify: True hashes every file, False compares sizes only, None hashes if the store is small (below 64 MiB).
    Raises DataError, naming the file, for a missing, truncated or changed one.
    """
    folder = Path(folder)
    manifest = _manifest(folder)
    files = manifest["files"]
    if verify is None:
        verify = sum(entry["bytes"] for entry in files.values()) < HASH_WHEN_BELOW
    for name, entry in files.items():
        path = folder / name
        size = path.stat().st_size if path.exists() else None
        if size != entry["bytes"]:
            raise _damaged(path, f"{entry['bytes']:,} bytes", "no such file" if size is None else f"{size:,} bytes")
        if verify and sha256_file(path) != entry["sha256"]:
            raise _damaged(path, f"content with SHA-256 {entry['sha256'][:12]}...", "changed content")
    try:
        tables = {name: _map(folder / name) for name in files if name.endswith(".arrow")}
    except (pa.ArrowException, OSError, KeyError) as error:
        raise _damaged(folder, "readable Arrow files", str(error).splitlines()[0]) from error
    events, items, users = tables["events.arrow"], tables["items.arrow"], tables["users.arrow"]
    arrays = {name: _one(events.column(name)).to_numpy(zero_copy_only=True) for name in events.column_names}
    offsets = _one(tables["offsets.arrow"].column("offsets")).to_numpy(zero_copy_only=True)
    if not (
        len(offsets) == len(users) + 1
        and offsets[0] == 0
        and offsets[-1] == len(arrays["item"])
        and (np.diff(offsets) >= 0).all()
    ):
        raise _damaged(folder / "offsets.arrow", "offsets that fit the users and the events", "others")
    return Dataset(
        name=manifest["name"],
        vocab=Vocab(
            items=_one(items.column("item_id")),
            users=_one(users.column("user_id")),
            attributes=_attributes(tables.get("attributes.arrow")),
        ),
        item=arrays["item"],
        offsets=offsets,
        time=arrays.get("time"),
        rating=arrays.get("rating"),
        type=arrays.get("type"),
        types=tuple(manifest["types"]),
        items=items,
        users=users if users.num_columns > 1 else None,
        edges=tables.get("edges.arrow"),
        about=manifest["about"],
    )


def _manifest(folder: Path) -> dict:
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_bytes())
        body = {key: value for key, value in manifest.items() if key != "sha256"}
        whole = manifest["sha256"] == _digest(body)
    except FileNotFoundError as error:
        raise DataError(
            needed=f"a store (a folder with manifest.json) at {folder}", came="none", remedy="check the path"
        ) from error
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise _damaged(path, "a manifest", "unreadable content") from error
    if not whole:
        raise _damaged(path, "an unchanged manifest", "changed content")
    if manifest["format"] != FORMAT:
        raise DataError(
            needed=f"store format {FORMAT} in {path}", came=f"format {manifest['format']}", remedy="prepare the data again"
        )
    return manifest


def _damaged(path: Path, needed: str, came: str) -> DataError:
    return DataError(needed=f"{needed} in {path}", came=came, remedy="delete the store and prepare the data again")


def _map(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as mapped:
        table = pa.ipc.open_file(mapped).read_all()
    table.validate()
    return table


def _attributes(table: pa.Table | None) -> dict[str, Attributes]:
    if table is None:
        return {}
    return {
        table["attribute"][row].as_py(): Attributes(
            names=table["names"][row].values,
            offsets=table["offsets"][row].values.to_numpy(),
            values=table["values"][row].values.to_numpy(),
        )
        for row in range(table.num_rows)
    }
