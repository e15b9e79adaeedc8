"""The rows of a log of impressions, as MIND writes them (`behaviors.tsv`) or as lists in a Parquet file, and their faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lmrs.errors import DataError
from lmrs.sources import check, delimited, parquet
from lmrs.sources.delimited import Dialect
from lmrs.sources.rejects import Reject, Rejects

BEHAVIORS = ("impression_id", "user_id", "time", "history", "impressions")
NEWS = ("news_id", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities")
LISTS = ("impression_id", "user_id", "time", "history", "candidates", "clicked")  # columns of the Parquet form
CLOCK = "%m/%d/%Y %I:%M:%S %p"
TEXT = pa.large_string()


@dataclass(frozen=True)
class Rows:
    """Good rows of a log. history, shown: (int64[n] lengths, flat ids). clicked: bool beside the flat ids of shown."""

    key: pa.Array
    user: pa.Array
    time: np.ndarray
    history: tuple[np.ndarray, pa.Array]
    shown: tuple[np.ndarray, pa.Array]
    clicked: np.ndarray
    told: np.ndarray


def read_log(log: Path, rejects: Rejects) -> Rows:
    """All good rows of a log; the others go to `rejects`, which may raise. The ending tells the format."""
    return _joined(list(_read(log, rejects)))


def _read(log: Path, rejects: Rejects) -> Iterator[Rows]:
    if log.suffix == ".parquet":
        yield _from_lists(log, rejects)
        return
    for chunk in delimited.read(log, columns=list(BEHAVIORS), dialect=Dialect("\t", quotes=False, names=BEHAVIORS)):
        cells = chunk.cells
        read, past = _split(cells["history"])
        lengths, tokens = _split(cells["impressions"])
        flagged = pc.match_substring_regex(tokens, "^.+-[01]$").to_numpy(zero_copy_only=False)
        owner = np.repeat(np.arange(chunk.rows), lengths)
        flags = np.bincount(owner, flagged, minlength=chunk.rows).astype(np.int64)
        clicked = flagged & pc.ends_with(tokens, "-1").to_numpy(zero_copy_only=False)
        told = (flags == lengths) & (lengths > 0)
        moment = pc.strptime(cells["time"], format=CLOCK, unit="us", error_is_null=True)
        bad = {
            ("user_id", "empty"): pc.equal(pc.binary_length(cells["user_id"]), 0).to_numpy(zero_copy_only=False),
            ("time", "not a time such as 11/15/2019 9:05:58 AM"): pc.is_null(moment).to_numpy(zero_copy_only=False),
            ("impressions", "no item shown"): lengths == 0,
            ("impressions", "not -0 or -1 behind every id"): (flags > 0) & (flags < lengths),
        }
        ids = pc.if_else(pa.array(flagged), pc.utf8_slice_codeunits(tokens, 0, -2), tokens)
        rows = Rows(
            key=cells["impression_id"],
            user=cells["user_id"],
            time=pc.fill_null(moment.cast(pa.int64()), 0).to_numpy(zero_copy_only=False),
            history=(read, past),
            shown=(lengths, ids.cast(TEXT)),
            clicked=clicked,
            told=told,
        )
        yield _good(rows, bad, rejects, chunk.where, list(chunk.rejected))


def _split(texts: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """(int64[n] number of words, the words) of texts whose words stand apart by blanks."""
    lists = pc.ascii_split_whitespace(texts)
    owner, flat = pc.list_parent_indices(lists), pc.list_flatten(lists).cast(TEXT)
    real = pc.greater(pc.binary_length(flat), 0)
    counts = np.bincount(owner.filter(real).to_numpy(zero_copy_only=False), minlength=len(texts))
    return counts.astype(np.int64), flat.filter(real)


def _from_lists(log: Path, rejects: Rejects) -> Rows:
    table = parquet.table(log)
    if lost := [column for column in LISTS if column not in table.column_names]:
        raise DataError(
            needed=f"columns {', '.join(LISTS)} in {log}", came=f"none called {', '.join(lost)}", remedy="rename them"
        )
    cells = {column: table.column(column).combine_chunks() for column in LISTS}
    time, bad_time = check.Clock().read(cells["time"])
    user, bad_user = check.ids(cells["user_id"].cast(TEXT))
    (read, past), (lengths, shown), (flags, clicked) = (_flat(cells[name]) for name in ("history", "candidates", "clicked"))
    told = pc.is_valid(cells["clicked"]).to_numpy(zero_copy_only=False)
    sound = told & (flags == lengths)
    values = np.zeros(len(shown), np.float64)
    fits = np.repeat(sound, lengths)
    values[fits] = pc.fill_null(clicked.cast(pa.float64()), -1).to_numpy(zero_copy_only=False)[np.repeat(sound, flags)]
    odd = np.bincount(np.repeat(np.arange(len(lengths)), lengths), (values != 0) & (values != 1), minlength=len(lengths))
    bad = {
        **{("user_id", reason): mask for reason, mask in bad_user.items()},
        **{("time", reason): mask for reason, mask in bad_time.items()},
        ("candidates", "no item shown"): lengths == 0,
        ("clicked", "not one flag for each candidate"): told & (flags != lengths),
        ("clicked", "not 0 or 1"): odd > 0,
    }
    rows = Rows(
        key=cells["impression_id"].cast(TEXT),
        user=pc.fill_null(user.cast(TEXT), ""),
        time=time,
        history=(read, past.cast(TEXT)),
        shown=(lengths, shown.cast(TEXT)),
        clicked=values == 1,
        told=sound,
    )

    def where(at: np.ndarray) -> list[tuple[int, str]]:
        return [(int(row) + 1, str(table.slice(int(row), 1).to_pylist()[0])) for row in at]

    return _good(rows, bad, rejects, where, [])


def _flat(lists: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """(int64[n] lengths, values); null counts as empty."""
    return pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64), pc.list_flatten(lists)


def _good(
    rows: Rows, bad: dict, rejects: Rejects, where: Callable[[np.ndarray], list[tuple[int, str]]], rejected: list[Reject]
) -> Rows:
    """The rows with nothing wrong; the others go to `rejects`, each with its first reason."""
    good = np.ones(len(rows.time), bool)
    for (column, reason), mask in bad.items():
        rejected += [Reject(line, column, reason, raw) for line, raw in where(np.flatnonzero(mask & good))]
        good &= ~mask
    rejects.take(rejected)
    if good.all():
        return rows
    keep, (read, past), (lengths, shown) = pa.array(good), rows.history, rows.shown
    there = np.repeat(good, lengths)
    return Rows(
        key=rows.key.filter(keep),
        user=rows.user.filter(keep),
        time=rows.time[good],
        history=(read[good], past.filter(pa.array(np.repeat(good, read)))),
        shown=(lengths[good], shown.filter(pa.array(there))),
        clicked=rows.clicked[there],
        told=rows.told[good],
    )


def _joined(parts: list[Rows]) -> Rows:
    def text(arrays: list[pa.Array]) -> pa.Array:
        return pa.concat_arrays([pa.array([], TEXT), *arrays])

    def array(arrays: list[np.ndarray], kind: type) -> np.ndarray:
        return np.concatenate([np.zeros(0, kind), *arrays])

    return Rows(
        key=text([part.key for part in parts]),
        user=text([part.user for part in parts]),
        time=array([part.time for part in parts], np.int64),
        history=(array([part.history[0] for part in parts], np.int64), text([part.history[1] for part in parts])),
        shown=(array([part.shown[0] for part in parts], np.int64), text([part.shown[1] for part in parts])),
        clicked=array([part.clicked for part in parts], bool),
        told=array([part.told for part in parts], bool),
    )
