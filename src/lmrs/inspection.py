"""What a dataset holds, and what about it looks wrong."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lmrs.dataset import TIE_RULE, Dataset

QUANTILES = (0, 0.25, 0.5, 0.75, 0.95, 1)
MANY_TIES = 0.3  # share of events from which on the order within a user is mostly file order
BINS = 12
_FLOAT_ID = r"^-?\d+\.0+$"


def inspect(dataset: Dataset) -> dict:
    """Everything that `lmrs data inspect` shows, as JSON values.

    Shares are of events, in [0, 1]. `ties`: events with the time of the same user's event before; `repeats`: events whose item
    the user had before; `duplicates`: events equal to an earlier one in all that is stored. `warnings`: sentences.
    """
    events, lengths = dataset.n_events, dataset.lengths
    counts = np.bincount(dataset.item, minlength=dataset.n_items)
    owner = np.repeat(np.arange(dataset.n_users), lengths)
    pairs = np.unique(owner * dataset.n_items + dataset.item)
    cells = dataset.n_users * dataset.n_items
    found = {
        "name": dataset.name,
        "users": dataset.n_users,
        "items": dataset.n_items,
        "events": events,
        "density": len(pairs) / cells if cells else 0.0,
        "lengths": _quantiles(lengths),
        "item_counts": _quantiles(counts),
        "users_with_one_event": int((lengths == 1).sum()),
        "users_without_events": int((lengths == 0).sum()),
        "items_without_events": int((counts == 0).sum()),
        "repeats": _share(events - len(pairs), events),
        "duplicates": int(dataset.about.get("duplicates", 0)),
        "time": _time(dataset, owner),
        "tie_rule": TIE_RULE,
        "rating": _rating(dataset),
        "types": _types(dataset),
        "item_columns": _coverage(dataset.items),
        "user_columns": _coverage(dataset.users),
        "attributes": {
            name: {
                "values": attribute.count,
                "per_item": len(attribute.values) / max(dataset.n_items, 1),
                "coverage": _share(int((np.diff(attribute.offsets) > 0).sum()), dataset.n_items),
            }
            for name, attribute in dataset.vocab.attributes.items()
        },
        "edges": _edges(dataset.edges),
        "histograms": {"events per user": _histogram(lengths), "events over time": _timeline(dataset)},
        "about": dataset.about,
    }
    return found | {"warnings": _warnings(dataset, found, counts)}


def _quantiles(values: np.ndarray) -> dict[str, float]:
    names = ("min", "25%", "median", "75%", "95%", "max")
    if not len(values):
        return {}
    return {"mean": float(values.mean())} | {n: float(v) for n, v in zip(names, np.quantile(values, QUANTILES), strict=True)}


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def moment(micros: int) -> str:
    """A time of the store as people read it (UTC, to the second)."""
    return datetime.fromtimestamp(micros / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _time(dataset: Dataset, owner: np.ndarray) -> dict | None:
    if dataset.time is None or not dataset.n_events:
        return None
    low, high = int(dataset.time.min()), int(dataset.time.max())
    tied = (owner[1:] == owner[:-1]) & (dataset.time[1:] == dataset.time[:-1])
    return {
        "first": moment(low),
        "last": moment(high),
        "days": (high - low) / 86_400e6,
        "unit": dataset.about.get("time_unit"),
        "ties": _share(int(tied.sum()), dataset.n_events),
    }


def _rating(dataset: Dataset) -> dict | None:
    if dataset.rating is None or not dataset.n_events:
        return None
    values, counts = np.unique(dataset.rating, return_counts=True)
    found: dict = {"min": float(values[0]), "mean": float(dataset.rating.mean(dtype=np.float64)), "max": float(values[-1])}
    found["distinct"] = len(values)
    if len(values) <= BINS:
        found["counts"] = {f"{v:g}": int(c) for v, c in zip(values, counts, strict=True)}
    return found


def _types(dataset: Dataset) -> dict[str, int]:
    if dataset.type is None:
        return {}
    counts = np.bincount(dataset.type, minlength=len(dataset.types))
    return {name: int(count) for name, count in zip(dataset.types, counts, strict=True)}


def _coverage(table: pa.Table | None) -> dict[str, float]:
    """Share of rows with a value, by column (the id column aside)."""
    if table is None:
        return {}
    return {name: _share(_filled(table.column(name)), table.num_rows) for name in table.column_names[1:]}


def _filled(column: pa.ChunkedArray) -> int:
    kind = column.type
    if pa.types.is_large_string(kind) or pa.types.is_string(kind):
        return int(pc.sum(pc.greater(pc.binary_length(column), 0)).as_py() or 0)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return int(pc.sum(pc.greater(pc.list_value_length(column), 0)).as_py() or 0)
    return len(column) - column.null_count


def _edges(edges: pa.Table | None) -> dict | None:
    if edges is None:
        return None
    ends = pa.concat_arrays([edges.column(end).combine_chunks() for end in ("head_item", "tail_item")])
    return {
        "edges": edges.num_rows,
        "relations": pc.count_distinct(edges.column("relation")).as_py(),
        "entities": pc.count_distinct(pa.chunked_array([*edges.column("head").chunks, *edges.column("tail").chunks])).as_py(),
        "items_linked": pc.count_distinct(ends, mode="only_valid").as_py(),
    }


def _histogram(lengths: np.ndarray) -> list[tuple[str, int]]:
    """Users by number of events, in bins that double."""
    if not len(lengths):
        return []
    bins = np.where(lengths > 0, np.floor(np.log2(np.maximum(lengths, 1))).astype(int) + 1, 0)
    counts = np.bincount(bins)
    names = ["0"] + [str(2**i) if i == 0 else f"{2**i}-{2 ** (i + 1) - 1}" for i in range(len(counts) - 1)]
    first = int(np.flatnonzero(counts)[0])
    return [(names[i], int(counts[i])) for i in range(first, len(counts))]


def _timeline(dataset: Dataset) -> list[tuple[str, int]]:
    """Events in equal spans of time, each named by its first day."""
    if dataset.time is None or not dataset.n_events or dataset.time.min() == dataset.time.max():
        return []
    low, high = int(dataset.time.min()), int(dataset.time.max())
    counts, edges = np.histogram(dataset.time, bins=BINS, range=(low, high))
    return [(moment(int(edge))[:10], int(count)) for edge, count in zip(edges[:-1], counts, strict=True)]


def _warnings(dataset: Dataset, found: dict, counts: np.ndarray) -> list[str]:
    """What looks wrong, most harmful first."""
    said = []
    about, time, rating = dataset.about, found["time"], found["rating"]
    if not about.get("order_known", True):
        said.append(
            "the order of a user's events is not known (no time column): file order is taken; sequence models learn noise"
        )
    if time is not None and time["days"] == 0:
        said.append("all times are equal: the order is file order")
    elif time is not None and time["ties"] > MANY_TIES:
        said.append(f"{time['ties']:.0%} of the events share their time with the event before: their order is {TIE_RULE}")
    if time is not None and time["last"] < "1980":
        said.append(f"all times lie before 1980 (last: {time['last']}): are they counters, or in another unit?")
    if about.get("quarantined"):
        said.append(f"{about['quarantined']:,} of {about['rows']:,} rows were set aside: {_reasons(about['quarantine_reasons'])}")
    for file, count in about.get("quarantined_beside", {}).items():
        said.append(f"{count:,} rows of {file} were set aside")
    if found["duplicates"] and not about.get("duplicates_dropped"):
        said.append(
            f"{found['duplicates']:,} events equal an earlier one in all that is stored (kept; --drop-duplicates drops them)"
        )
    if rating is not None and rating["distinct"] == 1 and dataset.n_events > 1:
        said.append(f"all ratings equal {rating['min']:g}: they say nothing")
    if found["users_with_one_event"] > 0.05 * dataset.n_users:
        said.append(
            f"{found['users_with_one_event']:,} of {dataset.n_users:,} users have one event: nothing can be asked about them"
        )
    if found["users_without_events"]:
        said.append(f"{found['users_without_events']:,} users of the user table have no event")
    if found["items_without_events"]:
        said.append(f"{found['items_without_events']:,} of {dataset.n_items:,} items of the catalogue have no event")
    if dataset.n_items == 1:
        said.append("there is one item: every ranking is the same")
    if dataset.n_events and int(counts.max()) > 0.5 * dataset.n_events and dataset.n_items > 1:
        top = dataset.titles(np.asarray([int(counts.argmax())]))[0]
        said.append(f"one item ({top[:40]}) has {counts.max() / dataset.n_events:.0%} of the events")
    for what, ids in (("item", dataset.vocab.items), ("user", dataset.vocab.users)):
        said += _odd_ids(what, ids)
    titles = found["item_columns"].get("title")
    if titles is not None and titles < 0.9:
        said.append(f"{titles:.0%} of the items have a title: the others are shown by their id")
    return said


def _reasons(counts: dict[str, int]) -> str:
    return ", ".join(f"{reason} ({count:,})" for reason, count in sorted(counts.items(), key=lambda entry: -entry[1]))


def _odd_ids(what: str, ids: pa.Array) -> list[str]:
    """Ids that a careless export left: 3.0, nan, blanks around."""
    said = []
    if floats := int(pc.sum(pc.match_substring_regex(ids, _FLOAT_ID)).as_py() or 0):
        said.append(f"{floats:,} {what} ids look like floats (such as 3.0): were integers exported with missing values?")
    empty = pc.is_in(pc.utf8_lower(ids), value_set=pa.array(["nan", "null", "none", "n/a"], ids.type))
    if pc.any(empty).as_py():
        said.append(
            f"an {what} id is {ids.filter(empty)[0].as_py()!r}"
            if what == "item"
            else f"a user id is {ids.filter(empty)[0].as_py()!r}"
        )
    if padded := int(pc.sum(pc.not_equal(ids, pc.utf8_trim_whitespace(ids))).as_py() or 0):
        said.append(f"{padded:,} {what} ids have blanks at an end: they differ from the same ids without")
    return said
