"""CSV and TSV files, block by block, with the line of every row at hand when it is needed.

Quoting is RFC 4180: a field that starts with a double quote ends with one, a doubled quote inside stands for one, and
line ends inside are part of the field. A quote in the middle of an unquoted field is taken as it is.
"""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from lmrs.errors import DataError
from lmrs.sources.chunk import Chunk
from lmrs.sources.rejects import Reject

BLOCK = 8 << 20  # bytes read at once
LONGEST = 64 << 20  # bytes: a record longer than this is a quote that nobody closed
_UNIT = b"\x1f"
_CELL = re.compile(rb"[^\r\n]")
_MARK = b"\xef\xbb\xbf"  # the byte order mark: dropped at the start of a file, data anywhere else


@dataclass(frozen=True)
class Dialect:
    """How rows are written.

    delimiter: one character, or "::". quotes: whether double quotes mean anything. names: the columns if the file has no
    header line, else None. encoding: "utf-8" or "latin-1".
    """

    delimiter: str = ","
    quotes: bool = True
    names: tuple[str, ...] | None = None
    encoding: str = "utf-8"

    @property
    def byte(self) -> bytes:
        return _UNIT if self.delimiter == "::" else self.delimiter.encode()


def sniff(path: Path) -> Dialect:
    """The dialect of a file with a header line: by its ending, corrected by what the header holds."""
    first = _first_line(path)
    usual = "\t" if path.suffix.lower() in (".tsv", ".inter", ".item", ".user", ".kg", ".link") else ","
    if usual in first:
        return Dialect(usual)
    return Dialect(next((other for other in ("\t", ";", ",", "|") if other in first), usual))


def header(path: Path, dialect: Dialect) -> list[str]:
    """The column names. Raises DataError for an empty file or one that is not text."""
    if dialect.names is not None:
        return list(dialect.names)
    line = _first_line(path)
    if dialect.quotes:
        return next(csv.reader([line], delimiter=dialect.delimiter))
    return line.split(dialect.delimiter)


def _first_line(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(1 << 20)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(needed=f"UTF-8 text in {path}", came="UTF-16", remedy="save the file as UTF-8")
    line = re.split(rb"\r\n|\n|\r", start.removeprefix(_MARK).lstrip(b"\r\n"), maxsplit=1)[0]
    if not line:
        raise DataError(needed=f"a header line in {path}", came="an empty file", remedy="the first line names the columns")
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise DataError(needed=f"UTF-8 text in {path}", came="other bytes", remedy="save it as UTF-8") from error
    if "\0" in text:
        raise DataError(needed=f"text in {path}", came="NUL bytes in its first line", remedy="is it a binary file?")
    return text


def read(path: Path, *, columns: list[str], dialect: Dialect) -> Iterator[Chunk]:
    """The named columns as text, in chunks of whole rows. Blank lines are skipped; bad rows are in `rejected`."""
    names = header(path, dialect)
    for block, line, regular in _blocks(path, dialect):
        yield _parse(block, line, regular=regular, names=names, columns=columns, dialect=dialect)


def _blocks(path: Path, dialect: Dialect) -> Iterator[tuple[bytes, int, bool]]:
    """(whole records, line number of the first, known to be `_regular`?) until the file ends; the header is left out."""
    line, rest, skip = 1, b"", dialect.names is None
    with path.open("rb") as file:
        last = False
        while not last:
            piece = file.read(BLOCK)
            last = not piece
            data = rest + piece
            if line == 1:
                data = data.removeprefix(_MARK)
            end, regular = (len(data), False) if last else _cut(data, dialect)
            if not end and len(data) > LONGEST:
                end, regular = data.rfind(b"\n") + 1, False
            block, rest = data[:end], data[end:]
            if skip and block:
                start = re.match(rb"(?:\r\n|\n|\r)*[^\r\n]*(?:\r\n|\n|\r|\Z)", block).end()  # type: ignore[union-attr]
                line += _lines(block[:start])
                block, skip, regular = block[start:], False, False
            if _filled(block):
                yield block, line, regular
            line += _lines(block)


def _filled(block: bytes) -> bool:
    """Whether there is anything but line ends."""
    return _CELL.search(block) is not None


def _lines(data: bytes) -> int:
    lines = int(np.count_nonzero(np.frombuffer(data, np.uint8) == 10))
    return lines + data.count(b"\r") - data.count(b"\r\n") if b"\r" in data else lines


def _cut(data: bytes, dialect: Dialect) -> tuple[int, bool]:
    """(end of the last record that is whole, 0 if none is; whether all before it is known to be `_regular`)."""
    end = data.rfind(b"\n") + 1
    if not dialect.quotes or b'"' not in data:
        return end, True
    quotes = _quotes(data)
    if _regular(data, dialect.byte, quotes):
        before = int(np.searchsorted(quotes, end))
        while before % 2:  # this line ends inside a field: go back to before its quote
            end = data.rfind(b"\n", 0, int(quotes[before - 1])) + 1
            before = int(np.searchsorted(quotes, end))
        return end, True
    at, record = 0, _patterns(dialect.byte)[2]
    while (found := record.match(data, at)) is not None and data[found.end() : found.end() + 1] in (b"\r", b"\n"):
        at = found.end() + 1
    return at, False  # here begins a record that is not whole, or whose quote is still open


def _quotes(data: bytes) -> np.ndarray:
    """int64: where the double quotes are."""
    return np.flatnonzero(np.frombuffer(data, np.uint8) == 34)


def _regular(data: bytes, delimiter: bytes, quotes: np.ndarray) -> bool:
    """Every quote opens a field, closes one, or is doubled inside one (then their parity tells inside from outside)."""
    cells = np.frombuffer(data, np.uint8)
    edge = np.zeros(256, bool)
    edge[[delimiter[0], 10, 13, 34]] = True
    opening, closing = quotes[0::2], quotes[1::2]
    opening = opening[1:] if len(opening) and opening[0] == 0 else opening  # the start is an edge, and so is the end
    closing = closing[:-1] if len(closing) and closing[-1] == len(data) - 1 else closing
    return bool(edge[cells[opening - 1]].all() and edge[cells[closing + 1]].all())


@functools.cache
def _patterns(delimiter: bytes, quotes: bool = True) -> tuple[re.Pattern[bytes], ...]:
    """(any record, a sound one, one whose quotes close). Broken are text after a closed quote, and quotes that never close."""
    d = re.escape(delimiter)
    plain = rb"[^" + d + rb"\r\n]*+"
    if not quotes:
        return re.compile(rb"[^\r\n]*+"), re.compile(rb".*+"), re.compile(rb"[^\r\n]*+")
    quoted = rb'"(?:[^"]++|"")*+"'
    fields = (
        rb"(?:" + quoted + plain + rb"|" + plain + rb")",
        rb"(?:" + quoted + rb'|(?!")' + plain + rb")",
        rb"(?:" + quoted + plain + rb'|(?!")' + plain + rb")",
    )
    return tuple(re.compile(field + rb"(?:" + d + field + rb")*+") for field in fields)


def _records(data: bytes, line: int, dialect: Dialect) -> list[tuple[int, bytes, bool]]:
    """(line, bytes, broken?) of every record, blank ones left out. Slow: used only where something is wrong."""
    record, sound, _ = _patterns(dialect.byte, dialect.quotes)
    found, at = [], 0
    while at < len(data):
        end = record.match(data, at).end()  # type: ignore[union-attr]
        raw = data[at:end]
        if raw:
            found.append((line, raw, b'"' in raw and sound.fullmatch(raw) is None))
        after = 2 if data[end : end + 2] == b"\r\n" else 1
        line += _lines(raw) + (1 if end < len(data) else 0)
        at = end + after
    return found


def _sound(block: bytes, delimiter: bytes) -> bool:
    quotes = _quotes(block)
    return len(quotes) % 2 == 0 and _regular(block, delimiter, quotes)


def _parse(block: bytes, line: int, *, regular: bool, names: list[str], columns: list[str], dialect: Dialect) -> Chunk:
    if dialect.encoding == "latin-1":
        block = block.decode("latin-1").encode()
    if dialect.delimiter == "::":
        block = block.replace(b"::", _UNIT)

    def text(raw: bytes) -> str:
        shown = raw.replace(_UNIT, b"::") if dialect.delimiter == "::" else raw
        return shown.decode(errors="backslashreplace")

    rejected: list[Reject] = []
    records: list[tuple[int, bytes, bool]] | None = None
    if not regular and dialect.quotes and b'"' in block and not _sound(block, dialect.byte):
        records = _records(block, line, dialect)
        rejected += [Reject(at, "", "broken quotes", text(raw)) for at, raw, broken in records if broken]
        records = [entry for entry in records if not entry[2]]
        block = b"\n".join(raw for _, raw, _ in records)

    wrong: dict[int, int] = {}

    def set_aside(row: pacsv.InvalidRow) -> str:
        wrong[row.number - 1] = row.actual_columns
        return "skip"

    odd = not _is_utf8(block)
    kind = pa.large_binary() if odd else pa.large_string()
    if odd:  # the parser cannot report a bad row that is not UTF-8: give it one character a byte, and take the bytes back
        original, block = block, block.decode("latin-1").encode()
    if _filled(block):
        table = pacsv.read_csv(
            pa.BufferReader(b"\n" + block if block.startswith(_MARK) else block),  # else the parser would drop the mark
            read_options=pacsv.ReadOptions(use_threads=False, block_size=len(block) + 2, column_names=names),
            parse_options=pacsv.ParseOptions(
                delimiter=dialect.byte.decode(),
                quote_char='"' if dialect.quotes else False,
                newlines_in_values=dialect.quotes,
                invalid_row_handler=set_aside,
            ),
            convert_options=pacsv.ConvertOptions(
                column_types=dict.fromkeys(columns, kind), check_utf8=False, strings_can_be_null=False, include_columns=columns
            ),
        ).combine_chunks()
        cells = {name: table[name].chunk(0) if table[name].num_chunks else pa.array([], kind) for name in columns}
    else:
        cells = {name: pa.array([], kind) for name in columns}
    if odd:
        cells = {name: pa.array([b.decode().encode("latin-1") for b in a.to_pylist()], a.type) for name, a in cells.items()}
        block = original

    def listed() -> list[tuple[int, bytes, bool]]:
        nonlocal records
        if records is None:
            records = _records(block, line, dialect)
        return records

    if wrong:
        rejected += [
            Reject(listed()[at][0], "", f"{count} columns where {len(names)} are named", text(listed()[at][1]))
            for at, count in wrong.items()
        ]

    def where(rows: np.ndarray) -> list[tuple[int, str]]:
        good = [entry for at, entry in enumerate(listed()) if at not in wrong]
        return [(good[row][0], text(good[row][1])) for row in rows]

    bad = np.zeros(len(next(iter(cells.values()))), bool)
    for name in columns:
        cells[name], here = _text(cells[name], nul=b"\0" in block)
        for reason, mask in here.items():
            rejected += [Reject(at, name, reason, raw) for at, raw in where(np.flatnonzero(mask & ~bad))]
            bad |= mask
    if not bad.any():
        return Chunk(cells, where, rejected)
    keep = np.flatnonzero(~bad)
    return Chunk({name: array.take(pa.array(keep)) for name, array in cells.items()}, lambda rows: where(keep[rows]), rejected)


def _is_utf8(block: bytes) -> bool:
    ends = pa.py_buffer(np.array([0, len(block)], np.int64))
    whole = pa.Array.from_buffers(pa.large_binary(), 1, [None, ends, pa.py_buffer(block)])
    try:
        whole.cast(pa.large_string())
    except pa.ArrowInvalid:
        return False
    return True


def _text(array: pa.Array, *, nul: bool) -> tuple[pa.Array, dict[str, np.ndarray]]:
    """(large_string, {reason: bool[n]}): bytes that are not UTF-8, or hold NUL; such cells become empty."""
    reasons: dict[str, np.ndarray] = {}
    if nul:
        mask = pc.greater_equal(pc.find_substring(array, "\0"), 0).to_numpy(zero_copy_only=False)
        if mask.any():
            reasons["NUL byte"] = mask
    try:
        return array.cast(pa.large_string()), reasons
    except pa.ArrowInvalid:
        mask = unreadable(array, pa.large_string())
        reasons["not UTF-8"] = mask
        return pc.if_else(pa.array(mask), pa.scalar(b"", pa.large_binary()), array).cast(pa.large_string()), reasons


def unreadable(array: pa.Array, kind: pa.DataType) -> np.ndarray:
    """bool[n]: the values that cannot be cast to a type, found by halving, so that few bad ones cost few casts."""
    mask = np.zeros(len(array), bool)
    todo = [(0, len(array))]
    while todo:
        lo, hi = todo.pop()
        try:
            array.slice(lo, hi - lo).cast(kind)
        except pa.ArrowInvalid:
            if hi - lo == 1:
                mask[lo] = True
            else:
                middle = (lo + hi) // 2
                todo += [(lo, middle), (middle, hi)]
    return mask
