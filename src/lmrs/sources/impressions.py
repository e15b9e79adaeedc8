"""News impressions in the format of MIND (Wu et al. 2020, "MIND: A Large-scale Dataset for News Recommendation").

    behaviors.tsv   impression id, user, time (11/15/2019 9:05:58 AM), history (ids apart by blanks), impressions (N1-0 N2-1 ...)
    news.tsv        news id, category, subcategory, title, abstract, url, title entities, abstract entities

without header lines. The same as Parquet is read too: `behaviors.parquet` with the columns impression_id, user_id, time, history,
candidates, clicked (the last three lists), and `news.parquet`. A test log has no -0 and -1: its clicks are not told.

The events of a reader are the history of the first impression, then the clicks of the impressions in order of time. MIND does not
tell when the history was read, only that it was before the log: those events bear the time of the first impression of the
whole log less a microsecond.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lmrs.dataset import Dataset
from lmrs.errors import DataError
from lmrs.files import storage, write_atomic
from lmrs.numbering import Numbering
from lmrs.records import COLUMNS, Impressions
from lmrs.sources.assemble import assemble, kept, known, with_records
from lmrs.sources.behaviors import CLOCK, NEWS, read_log
from lmrs.sources.catalogue import TableFile
from lmrs.sources.delimited import Dialect
from lmrs.sources.rejects import Rejects
from lmrs.vocab import Attributes


def behaviors(folder: Path) -> Path | None:
    """The log of a folder in MIND's format, or None if it is no such folder."""
    return next((path for name in ("behaviors.tsv", "behaviors.parquet") if (path := folder / name).exists()), None)


def load_impressions(
    folder: Path, *, cache: Path, lenient: bool = False, quarantine: Path | None = None, name: str | None = None
) -> Dataset:
    """The Dataset of a folder with behaviors and news (tsv or parquet); `records["impressions"]` is the log.

    Items are the news; those that news.tsv lacks have no title. lenient, quarantine: as for `sources.load`.
    Raises DataError, with file and line, for a row that cannot be read.
    """
    log = behaviors(folder)
    if log is None:
        raise DataError(needed=f"behaviors.tsv in {folder}", came="none", remedy="give the folder that MIND unpacks to")
    news = next((path for ending in ("tsv", "parquet") if (path := folder / f"news.{ending}").exists()), None)
    name = name or folder.resolve().name
    return kept(
        lambda aside: _build(log, news, name=name, aside=aside),
        name=name,
        files=[log, *([news] if news else [])],
        recipe={"reader": "impressions 1"},
        cache=cache,
        lenient=lenient,
        quarantine=quarantine,
    )


def _build(log: Path, news: Path | None, *, name: str, aside: Path | None) -> Dataset:
    rejects = Rejects(log.name, unit="line" if log.suffix == ".tsv" else "row", quarantine=aside)
    rows = read_log(log, rejects)
    if not len(rows.time):
        raise DataError(needed=f"impressions in {log}", came="none that can be used", remedy="is it the right file?")
    users, items = Numbering(), Numbering()
    user = users.add(rows.user)
    (read, past), (lengths, shown_ids) = rows.history, rows.shown
    history, shown = items.add(past), items.add(shown_ids)
    item_table = pa.table({"item_id": items.text()})
    attributes: dict[str, Attributes] = {}
    notes: list[str] = []
    side = Rejects(news.name, unit="line" if news.suffix == ".tsv" else "row", quarantine=aside) if news else None
    if news is not None and side is not None:
        file = TableFile(news, Dialect("\t", quotes=False, names=NEWS) if news.suffix == ".tsv" else None)
        item_table, attributes, notes = known(file, column="news_id", name="item_id", seen=items.text(), rejects=side)

    order = np.lexsort((rows.time, user))
    first = order[np.r_[True, user[order][1:] != user[order][:-1]]]  # the first impression of each user, by number
    starts = np.cumsum(read) - read
    begun = np.repeat(starts[first], read[first]) + _within(read[first])
    owner = np.repeat(user, lengths)
    dataset, place = assemble(
        name=name,
        user=np.concatenate([np.repeat(user[first], read[first]), owner[rows.clicked]]),
        item=np.concatenate([history[begun], shown[rows.clicked]]),
        time=np.concatenate([np.full(len(begun), rows.time.min() - 1), np.repeat(rows.time, lengths)[rows.clicked]]),
        users=pa.table({"user_id": users.text()}),
        items=item_table,
        attributes=attributes,
        about={
            "impressions": len(user),
            "quarantined": rejects.count,
            "quarantined_beside": {side.file: side.count} if side is not None and side.count else {},
            "quarantine_reasons": dict(rejects.reasons),
            "time_unit": "date",
            "order": "history first, then clicks by time of the impression",
            "order_known": True,
            "notes": [
                f"{len(user):,} impressions in {log.name}"
                + ("" if rows.told.all() else f", {(~rows.told).sum():,} without flags"),
                "clicks of the histories have no time of their own: they bear the moment before the log begins",
                *_other_histories(read, history, user, first),
                *notes,
            ],
        },
    )
    clicks = np.bincount(np.repeat(np.arange(len(user)), lengths), rows.clicked, minlength=len(user)).astype(np.int64)
    start = _moments(dataset, user, rows.time)
    some = np.flatnonzero(clicks)
    start[some] = place[len(begun) + (np.cumsum(clicks) - clicks)[some]]
    kinds = COLUMNS["impressions"]
    mask = ~rows.told
    table = pa.table(
        {
            "key": rows.key,
            "user": user.astype(np.int32),
            "time": rows.time,
            "history": _list(read, pa.array(history, pa.int32())),
            "shown": _list(lengths, pa.array(shown, pa.int32())),
            "clicked": _list(np.where(mask, 0, lengths), pa.array(rows.clicked[np.repeat(rows.told, lengths)]), mask=mask),
            "start": start,
            "stop": start + clicks,
        },
        schema=pa.schema(list(kinds.items())),
    )
    return with_records(dataset, impressions=table)


def _within(lengths: np.ndarray) -> np.ndarray:
    """0, 1, ... within each run of the given lengths."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _list(lengths: np.ndarray, values: pa.Array, *, mask: np.ndarray | None = None) -> pa.Array:
    """A list column; rows of `mask` are null."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    made = pa.LargeListArray.from_arrays(offsets, values)
    return made if mask is None or not mask.any() else pc.if_else(pa.array(mask), pa.scalar(None, made.type), made)


def _moments(dataset: Dataset, user: np.ndarray, time: np.ndarray) -> np.ndarray:
    """int64[n]: the place behind the last event of each user at or before a time."""
    assert dataset.time is not None
    owner = np.repeat(np.arange(dataset.n_users), dataset.lengths)
    asks = np.r_[np.zeros(len(owner), bool), np.ones(len(user), bool)]
    order = np.lexsort((asks, np.r_[dataset.time, time], np.r_[owner, user]))
    before = np.cumsum(~asks[order])
    found = np.empty(len(order), np.int64)
    found[order] = before
    return found[len(owner) :]


def _other_histories(lengths: np.ndarray, history: np.ndarray, user: np.ndarray, first: np.ndarray) -> list[str]:
    """A note if some impressions tell another history than the first one of their reader."""
    powers = np.cumprod(np.full(int(lengths.max(initial=0)) + 1, 0x9E3779B97F4A7C15, np.uint64))  # a hash of the list, mod 2^64
    summed = np.concatenate([np.zeros(1, np.uint64), np.cumsum((history + 1).astype(np.uint64) * powers[_within(lengths)])])
    ends = np.cumsum(lengths)
    coded = summed[ends] - summed[ends - lengths]
    other = int((coded != coded[first][user]).sum())
    return [f"{other:,} impressions tell another history than the first one of their reader"] if other else []


def write_mind(dataset: Dataset, folder: Path) -> Path:
    """Writes the impressions and the items of a Dataset as behaviors.tsv and news.tsv, times to the second; returns the folder.

    Raises DataError for a dataset without impressions and for an id with a blank in it, which the format cannot hold.
    """
    if "impressions" not in dataset.records:
        raise DataError(needed="a dataset with impressions", came=dataset.name, remedy="see lmrs.records")
    log, ids = Impressions.of(dataset.records["impressions"]), dataset.vocab.items.to_pylist()
    users, keys = dataset.vocab.users.to_pylist(), log.keys.to_pylist()
    if odd := next((text for text in (*ids, *users) if not text or text.split() != [text]), None):
        raise DataError(needed="ids without blanks", came=repr(odd), remedy="rename it")
    lines = []
    for at in range(len(log)):
        history, shown, clicked = log.row(at)
        flags = [f"-{int(flag)}" if log.told[at] else "" for flag in clicked]
        moment = datetime.fromtimestamp(int(log.time[at]) / 1e6, UTC).strftime(CLOCK)
        items = " ".join(ids[item] + flag for item, flag in zip(shown, flags, strict=True))
        lines.append("\t".join([keys[at], users[log.user[at]], moment, " ".join(ids[item] for item in history), items]))
    known_of = dataset.items.to_pydict() if dataset.items is not None else {}
    news = []
    for at, key in enumerate(ids):
        cells = [known_of[column][at] if column in known_of else "" for column in NEWS[1:]]
        plain = [" ".join(cell) if isinstance(cell, list) else cell or "" for cell in cells]
        news.append("\t".join([key, *(" ".join(cell.split()) for cell in plain)]))
    with storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "behaviors.tsv", "".join(f"{line}\n" for line in lines).encode())
    write_atomic(folder / "news.tsv", "".join(f"{line}\n" for line in news).encode())
    return folder
