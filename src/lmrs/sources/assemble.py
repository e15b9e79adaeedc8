"""From rows in memory to a Dataset with records: for sources whose rows say more than who took what (news, reviews, posts)."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from lmrs import records, store
from lmrs.dataset import Dataset
from lmrs.files import sha256_file, storage
from lmrs.sources import catalogue
from lmrs.sources.catalogue import TableFile
from lmrs.sources.rejects import Rejects
from lmrs.vocab import Attributes, Vocab


def assemble(
    *,
    name: str,
    user: np.ndarray,
    item: np.ndarray,
    users: pa.Table,
    items: pa.Table,
    attributes: dict[str, Attributes] | None = None,
    time: np.ndarray | None = None,
    rating: np.ndarray | None = None,
    about: dict,
) -> tuple[Dataset, np.ndarray]:
    """(the Dataset, int64[N] the place that each row got in it).

    user, item: int32[N] numbers of the events in file order. users, items: in vocab order, the ids in the first column.
    time: int64[N] microseconds. rating: float32[N]. about: JSON values. The store's order: user, then time, then file order.
    """
    order = np.lexsort((user,) if time is None else (time, user))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    counts = np.bincount(user, minlength=users.num_rows)
    made = Dataset(
        name=name,
        vocab=Vocab(items=_ids(items), users=_ids(users), attributes=attributes or {}),
        item=np.asarray(item, np.int32)[order],
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        time=None if time is None else np.asarray(time, np.int64)[order],
        rating=None if rating is None else np.asarray(rating, np.float32)[order],
        items=items,
        users=users if users.num_columns > 1 else None,
        about=about,
    )
    return made, place


def with_records(dataset: Dataset, **tables: pa.Table) -> Dataset:
    """The Dataset with these records, every number in them checked. Raises DataError for one that does not exist."""
    records.check_values(tables, users=dataset.n_users, items=dataset.n_items, events=dataset.n_events)
    return replace(dataset, records=tables)


def _ids(table: pa.Table) -> pa.Array:
    return table.column(0).combine_chunks().cast(pa.large_string())


def known(file: TableFile, *, column: str, name: str, seen: pa.Array, rejects: Rejects) -> tuple[pa.Table, dict, list[str]]:
    """(table in vocab order, attributes, notes) of a side file: first the ids `seen`, then the rest; strange ids get nulls.

    column: where the file has its ids. name: item_id or user_id. Raises DataError for an id given twice, unless lenient.
    """
    raw, where = catalogue.read(file, rejects)
    table, ids = catalogue.keys(raw, column, rejects, where)
    table, found = catalogue.order(table, ids, column=column, name=name, seen=seen)
    notes = [f"{len(seen) - found:,} of {len(seen):,} ids are not in {file.path.name}"] if found < len(seen) else []
    table, more = catalogue.titled(table)
    table, attributes = catalogue.attributes(table)
    return table, attributes, notes + more


def kept(
    build: Callable[[Path | None], Dataset],
    *,
    name: str,
    files: list[Path],
    recipe: dict,
    cache: Path,
    lenient: bool,
    quarantine: Path | None,
) -> Dataset:
    """The Dataset that `build` makes, from the cache if the same files were read in the same way before.

    build(aside): reads; bad rows go to the file `aside`, or stop the reading where it is None. recipe: JSON values, all that
    decides how the files are read. quarantine: where the user wants a copy of the bad rows.
    """
    made = recipe | {"files": {path.name: sha256_file(path) for path in files}, "lenient": lenient, "format": store.FORMAT}
    key = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
    plain = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)[:40]
    folder = cache / "stores" / f"{plain}-{key[:16]}"
    if not (folder / "manifest.json").exists():
        aside = cache / "stores" / f".{plain}-{key[:16]}.csv" if lenient else None
        if aside is not None:
            with storage(aside):
                aside.parent.mkdir(parents=True, exist_ok=True)
                aside.unlink(missing_ok=True)
        store.write(build(aside), folder)
        if aside is not None and aside.exists():
            with storage(folder):
                shutil.move(aside, folder / "quarantine.csv")
    dataset = store.open(folder)
    if quarantine is not None and (folder / "quarantine.csv").exists():
        with storage(quarantine):
            shutil.copyfile(folder / "quarantine.csv", quarantine)
    about = dataset.about | {"source": str(files[0].parent), "store": str(folder)}
    return replace(dataset, name=name, about=about)
