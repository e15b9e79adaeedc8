"""Vectorised validation: raw cells in, numbers out, and a reason for every row that cannot be used."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lmrs.columns import laid_out
from lmrs.errors import DataError
from lmrs.sources.delimited import unreadable

Bad = dict[str, np.ndarray]  # reason -> bool[n]

MICROS = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 0}  # microseconds in a unit; nanoseconds are divided instead
YEAR_3000 = 32_503_680_000  # seconds since 1970
_LOWEST = {"s": 0.0, "ms": 1e11, "us": 1e14, "ns": 1e17}  # a number from here to year 3000 is taken for this unit
_PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}


def ids(array: pa.Array) -> tuple[pa.Array, Bad]:
    """Ids as text or int64. Text stays byte for byte; whole floats become integers; empty and missing ones are bad."""
    kind = array.type
    bad: Bad = {}
    if array.null_count:
        bad["missing"] = pc.is_null(array).to_numpy(zero_copy_only=False)
    if pa.types.is_large_string(kind):
        ends, _ = laid_out(array)
        empty = ends[1:] == ends[:-1]
        if array.null_count:
            empty &= ~bad["missing"]
        if empty.any():
            bad["empty"] = empty
    elif pa.types.is_integer(kind):
        array = array.cast(pa.large_string() if pa.types.is_uint64(kind) else pa.int64())
    elif pa.types.is_floating(kind):
        values = np.asarray(array.to_numpy(zero_copy_only=False), np.float64)
        real = np.isfinite(values)
        whole = real & (values == np.floor(values)) & (np.abs(values) < 2**53)
        if not (gone := real | bad.get("missing", np.zeros(len(values), bool))).all():
            bad["missing"] = bad.get("missing", np.zeros(len(values), bool)) | ~gone
        if (broken := real & ~whole).any():
            bad["not a whole number"] = broken
        array = pa.array(np.where(whole, values, 0).astype(np.int64))
    elif pa.types.is_boolean(kind) or pa.types.is_temporal(kind) or pa.types.is_decimal(kind):
        array = array.cast(pa.large_string())
    else:
        raise DataError(needed="ids that are text or integers", came=str(kind), remedy="choose another column with --column")
    return array, bad


def ratings(array: pa.Array) -> tuple[np.ndarray, Bad]:
    """float32[n]; missing, unreadable, NaN and infinite ones are bad."""
    values, bad = _numbers(array)
    values = np.asarray(values, np.float64)
    infinite = ~np.isfinite(values)
    for mask in bad.values():
        infinite &= ~mask
    if infinite.any():
        bad["not a finite number"] = infinite
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    if (huge := np.isinf(single) & ~infinite & np.isfinite(values)).any():
        bad["too large"] = huge
    return single, bad


def _numbers(array: pa.Array) -> tuple[np.ndarray, Bad]:
    """int64[n] if every value is a whole number without a point, else float64[n]; unreadable ones are 0 and bad."""
    bad: Bad = {}
    if array.null_count:
        bad["missing"] = pc.is_null(array).to_numpy(zero_copy_only=False)
        array = pc.fill_null(array, "" if pa.types.is_large_string(array.type) else pa.scalar(0).cast(array.type))
    if not pa.types.is_large_string(array.type):
        if not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_decimal(array.type)):
            raise DataError(needed="a column of numbers", came=str(array.type), remedy="choose another column with --column")
        if pa.types.is_decimal(array.type):
            array = array.cast(pa.float64())
        return array.to_numpy(zero_copy_only=False), bad
    for kind in (pa.int64(), pa.float64()):
        try:
            return array.cast(kind).to_numpy(zero_copy_only=False), bad
        except pa.ArrowInvalid:
            continue
    mask = unreadable(array, pa.float64())
    empty = pc.equal(pc.binary_length(array), 0).to_numpy(zero_copy_only=False)
    if (fresh := empty & ~bad.get("missing", np.zeros(len(array), bool))).any():
        bad["empty"] = fresh
    if (mask & ~empty).any():
        bad["not a number"] = mask & ~empty
    kept = pc.if_else(pa.array(mask), pa.scalar("0", pa.large_string()), array)
    return _numbers(kept)[0], bad


def codes(array: pa.Array) -> tuple[pa.Array, Bad]:
    """Event types as text; missing ones are bad."""
    bad = {"missing": pc.is_null(array).to_numpy(zero_copy_only=False)} if array.null_count else {}
    return array.cast(pa.large_string()), bad


@dataclass
class Clock:
    """Reads times as microseconds since the epoch; the first chunk settles what kind of times a file holds.

    unit: "s", "ms", "us", "ns", or None to tell it by magnitude: from 1e11 on numbers are milliseconds, from 1e14
    microseconds, from 1e17 nanoseconds (seconds reach 3.25e10 in the year 3000, so the ranges do not meet).
    One file has one unit: numbers that fit another are bad. Negative times and times after the year 3000 are bad.
    """

    unit: str | None = None
    _kind: str | None = field(default=None, init=False)

    def read(self, array: pa.Array) -> tuple[np.ndarray, Bad]:
        """(int64[n] microseconds, reasons)."""
        if pa.types.is_temporal(array.type):
            return self._moments(array)
        if pa.types.is_large_string(array.type):
            self._kind = self._kind or _kind_of(array)
            if self._kind != "number":
                return self._dates(array)
        return self._scaled(*_numbers(array))

    def _moments(self, array: pa.Array) -> tuple[np.ndarray, Bad]:
        self.unit = "date"
        bad = {"missing": pc.is_null(array).to_numpy(zero_copy_only=False)} if array.null_count else {}
        kind = array.type
        if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
            raise DataError(needed="a column of points in time", came=str(kind), remedy="choose another column with --column")
        micros = pc.fill_null(array.cast(pa.timestamp("us"), safe=False).cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
        return micros, bad | _range(micros, 1_000_000)

    def _dates(self, array: pa.Array) -> tuple[np.ndarray, Bad]:
        """ISO 8601 dates and times; without a zone they are UTC."""
        self.unit = "date"
        kind = pa.timestamp("us", "UTC") if self._kind == "zoned" else pa.timestamp("us")
        bad: Bad = {}
        try:
            read = array.cast(kind)
        except pa.ArrowInvalid:
            mask = unreadable(array, kind)
            empty = pc.equal(pc.binary_length(array), 0).to_numpy(zero_copy_only=False)
            if (mask & empty).any():
                bad["empty"] = mask & empty
            if (mask & ~empty).any():
                bad["not a date like the first one"] = mask & ~empty
            filler = "2000-01-01T00:00:00Z" if self._kind == "zoned" else "2000-01-01"
            read = pc.if_else(pa.array(mask), pa.scalar(filler, pa.large_string()), array).cast(kind)
        micros = read.cast(pa.int64()).to_numpy(zero_copy_only=False)
        return micros, bad | _range(micros, 1_000_000)

    def _scaled(self, values: np.ndarray, bad: Bad) -> tuple[np.ndarray, Bad]:
        usable = np.isfinite(values) if values.dtype.kind == "f" else np.ones(len(values), bool)
        if not usable.all():
            bad["not a finite number"] = ~usable
            values = np.where(usable, values, 0)
        for mask in bad.values():
            usable = usable & ~mask
        if self.unit is None:
            self.unit = _unit_of(values[usable])
        unit = self.unit
        bad |= {why: mask & usable for why, mask in _range(values, _PER_SECOND[unit]).items() if (mask & usable).any()}
        low, high = _LOWEST[unit], YEAR_3000 * _PER_SECOND[unit]
        for other in _LOWEST:
            fits = usable & (values >= _LOWEST[other]) & (values <= YEAR_3000 * _PER_SECOND[other])
            mixed = fits & ~((values >= low) & (values <= high))
            if other != unit and mixed.any():
                bad[f"{_NAMES[other]} where the file has {_NAMES[unit]}"] = mixed
                bad = {why: mask & ~mixed if why == "after the year 3000" else mask for why, mask in bad.items()}
        values = np.where((values >= 0) & (values <= high), values, 0)
        if unit == "ns":
            return (values // 1000).astype(np.int64), bad
        if values.dtype.kind == "f":
            return np.round(values * MICROS[unit]).astype(np.int64), bad
        return values.astype(np.int64) * MICROS[unit], bad


def _range(values: np.ndarray, per_second: float) -> Bad:
    bad = {}
    if (early := values < 0).any():
        bad["before 1970 (negative)"] = early
    if (late := values > YEAR_3000 * per_second).any():
        bad["after the year 3000"] = late
    return bad


def _unit_of(values: np.ndarray) -> str:
    """The unit that most of the numbers fit; seconds if none does."""
    fits = {unit: int(((values >= low) & (values <= YEAR_3000 * _PER_SECOND[unit])).sum()) for unit, low in _LOWEST.items()}
    return max(fits, key=fits.__getitem__)


def _kind_of(array: pa.Array) -> str:
    """number, date or zoned: what most of the first thousand texts can be read as."""
    head = array.slice(0, 1000)
    kinds = {"number": pa.float64(), "date": pa.timestamp("us"), "zoned": pa.timestamp("us", "UTC")}
    failures = {name: int(unreadable(head, kind).sum()) for name, kind in kinds.items()}
    return min(failures, key=failures.__getitem__)
