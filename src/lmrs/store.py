"""The canonical store: a folder of Arrow files, sorted by (user, time, file order), read by memory map.

store/ events.arrow      item:int32, time:int64 (microseconds), rating:float32, type:int32; one record batch
       offsets.arrow     offsets:int64[U+1]
       items.arrow       item_id + what the catalogue says, in vocab order
       users.arrow       user_id + what is known of users, in vocab order
       attributes.arrow  one row per attribute: names, offsets, values (CSR)
       edges.arrow       head, relation, tail, head_item, tail_item
       record-NAME.arrow one file for each table of records; their columns are in `records.py`
       manifest.json     counts, where it came from, and size and SHA-256 of every file; written last
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from lmrs.dataset import TIE_RULE, Dataset
from lmrs.errors import DataError
from lmrs.files import fsync_folder, sha256_file, storage, write_atomic
from lmrs.sorting import DTYPES, one, write_table
from lmrs.vocab import Attributes, Vocab

FORMAT = 1
HASH_WHEN_BELOW = 64 << 20  # bytes: smaller stores are hashed whenever they are opened


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
    write_table(work / "items.arrow", items)
    write_table(work / "users.arrow", users)
    if attributes:
        write_table(work / "attributes.arrow", _attribute_table(attributes))
    if edges is not None:
        write_table(work / "edges.arrow", edges)
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
        write_table(
            work / "events.arrow",
            pa.table({name: pa.array(np.asarray(array, DTYPES[name])) for name, array in columns.items() if array is not None}),
        )
        write_table(work / "offsets.arrow", pa.table({"offsets": np.asarray(dataset.offsets, np.int64)}))
        for name, table in dataset.records.items():
            write_table(work / f"record-{name}.arrow", table)
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
    arrays = {name: one(events.column(name)).to_numpy(zero_copy_only=True) for name in events.column_names}
    offsets = one(tables["offsets.arrow"].column("offsets")).to_numpy(zero_copy_only=True)
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
            items=one(items.column("item_id")),
            users=one(users.column("user_id")),
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
        records={
            name.removeprefix("record-").removesuffix(".arrow"): table
            for name, table in sorted(tables.items())
            if name.startswith("record-")
        },
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
