"""What goes wrong in raw files: strict reading says file, line, column and reason; lenient reading loses nothing."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmrs import sources
from lmrs.dataset import Dataset
from lmrs.errors import DataError, StorageError, UserError
from lmrs.sources import delimited

GOOD = "user,item,timestamp,rating\na,x,1000000000,5\na,y,1000000001,4\nb,x,1000000002,3\n"


def read(folder: Path, content: str | bytes, *, name: str = "interactions.csv", **options) -> Dataset:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return sources.load(path, cache=folder / "cache", **options)


def attempt(load: Callable[[], Dataset]) -> tuple[Dataset | None, str]:
    """(what was read, "") or (None, the message of the error that a user sees)."""
    try:
        return load(), ""
    except UserError as error:
        return None, str(error)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("c,z,1000000003", r"interactions\.csv:5, got 3 columns where 4 are named in 'c,z,1000000003'"),
        ("c,z,1000000003,4,9", r"csv:5, got 5 columns where 4 are named"),
        (",z,1000000003,4", r"csv:5, got column 'user': empty"),
        ("c,,1000000003,4", r"csv:5, got column 'item': empty"),
        ("c,z,,4", r"csv:5, got column 'timestamp': empty"),
        ("c,z,soon,4", r"csv:5, got column 'timestamp': not a number in 'c,z,soon,4'"),
        ("c,z,-5,4", r"csv:5, got column 'timestamp': before 1970"),
        ("c,z,nan,4", r"csv:5, got column 'timestamp': not a finite number"),
        ("c,z,40000000000,4", r"csv:5, got column 'timestamp': after the year 3000"),
        ("c,z,1000000003000,4", r"csv:5, got column 'timestamp': milliseconds where the file has seconds"),
        ("c,z,1000000003000000,4", r"csv:5, got column 'timestamp': microseconds where the file has seconds"),
        ("c,z,1000000003,nan", r"csv:5, got column 'rating': not a finite number"),
        ("c,z,1000000003,-inf", r"csv:5, got column 'rating': not a finite number"),
        ("c,z,1000000003,1e300", r"csv:5, got column 'rating': too large"),
        ("c,z,1000000003,", r"csv:5, got column 'rating': empty"),
        ("c,z,1000000003,good", r"csv:5, got column 'rating': not a number"),
        ("c,z\0,1000000003,4", r"csv:5, got column 'item': NUL byte"),
        ('c,"z"z,1000000003,4', r"csv:5, got broken quotes"),
        ('c,"z,1000000003,4', r"csv:5, got broken quotes"),
    ],
)
def test_a_malformed_row_stops_with_its_line_or_is_set_aside(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, GOOD + row + "\n")
    kept = read(tmp_path, GOOD + row + "\nd,z,1000000009,1\n", lenient=True, quarantine=tmp_path / "aside.csv")
    assert (kept.n_events, kept.about["quarantined"], kept.about["rows"]) == (4, 1, 5)
    assert kept.vocab.users.to_pylist() == ["a", "b", "d"]
    with (tmp_path / "aside.csv").open(newline="") as file:
        (entry,) = csv.DictReader(line for line in file.read().replace("\0", "").splitlines(keepends=True))
    assert (entry["file"], entry["line"], entry["row"]) == ("interactions.csv", "5", row.replace("\0", ""))


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"csv:5, got column 'item': not UTF-8 in .*caf\\\\xe9"):
        read(tmp_path, GOOD.encode() + b"c,caf\xe9,1000000003,4\n")
    with pytest.raises(DataError, match="got UTF-16; save the file as UTF-8"):
        read(tmp_path, GOOD.encode("utf-16"))


def test_a_byte_order_mark_inside_the_file_is_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "BLOCK", 1)
    assert read(tmp_path, "\ufeffuser,item\na,x\n\ufeffb,y\n").vocab.users.to_pylist() == ["a", "\ufeffb"]


def test_an_unused_column_is_never_judged(tmp_path: Path) -> None:
    found = read(tmp_path, b"user,item,comment\na,x,caf\xe9\0\nb,x,\n")
    assert found.n_events == 2


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("usr,item,timestamp", r"a column for user in interactions\.csv, got columns usr, item, timestamp; .*--column user=usr"),
        ("user,produkt_id,timestamp", r"a column for item .*--column item=produkt_id"),
        ("user,item,user", r"distinct column names in interactions\.csv, got 'user' twice"),
        ("196,242,881250949", r"a column for user in interactions\.csv, got columns 196, 242, 881250949"),
    ],
)
def test_missing_columns_offer_the_nearest(tmp_path: Path, header: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, header + "\na,x,1\n")


def test_named_columns_must_exist_and_roles_too(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"needed column 'custmer' for user .* did you mean customer"):
        read(tmp_path, "customer,thing\na,x\n", columns={"user": "custmer"})
    with pytest.raises(DataError, match="got 'usr'; did you mean user"):
        read(tmp_path, GOOD, columns={"usr": "user"})
    assert read(tmp_path, "customer,thing\na,x\n", columns={"user": "customer", "item": "thing"}).about["guessed"] == []


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_an_empty_file(tmp_path: Path, content: str) -> None:
    with pytest.raises(DataError, match=r"a header line in .*interactions\.csv, got an empty file"):
        read(tmp_path, content)


def test_a_header_alone_and_nothing_usable(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"events in .*interactions\.csv, got none"):
        read(tmp_path, "user,item\n")
    with pytest.raises(DataError, match="got 2 rows, none of them usable"):
        read(tmp_path, "user,item\n,x\n,y\n", lenient=True)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_marks_and_line_ends_change_nothing(tmp_path: Path, mark: str, end: str, last: bool) -> None:
    plain = read(tmp_path, GOOD)
    other = mark + GOOD.replace("\n", end) + end
    assert read(tmp_path, other if last else other.rstrip("\r\n")).fingerprint == plain.fingerprint


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 20])
def test_lines_are_right_across_blocks_quotes_and_blank_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(delimited, "BLOCK", block)
    content = 'user,item\n"a\nb",x\n\n"say ""hi""",7" disc\n"c, d",y\nbad\ne,z\n'
    with pytest.raises(DataError, match=r"interactions\.csv:7, got 1 columns"):
        read(tmp_path, content)
    found = read(tmp_path, content, lenient=True)
    assert found.vocab.users.to_pylist() == ["a\nb", 'say "hi"', "c, d", "e"]
    assert found.vocab.items.to_pylist() == ["x", '7" disc', "y", "z"]
    assert (found.about["rows"], found.n_events, found.about["quarantined"]) == (5, 4, 1)


def test_a_quote_that_never_closes_costs_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "BLOCK", 16)
    monkeypatch.setattr(delimited, "LONGEST", 64)
    rows = "".join(f"u{n},i{n}\n" for n in range(40))
    found = read(tmp_path, 'user,item\n"open,x\n' + rows, lenient=True)
    assert (found.n_events, found.about["quarantined"]) == (40, 1)


FIELD = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(FIELD, FIELD), min_size=1, max_size=12), st.integers(1, 50))
def test_any_text_survives_csv(tmp_path_factory: pytest.TempPathFactory, rows: list, block: int) -> None:
    folder = tmp_path_factory.mktemp("csv")
    with (folder / "t.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([("user", "item"), *rows])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "BLOCK", block)
        chunks = list(delimited.read(folder / "t.csv", columns=["user", "item"], dialect=delimited.Dialect()))
    assert not any(chunk.rejected for chunk in chunks)
    found = [pair for c in chunks for pair in zip(c.cells["user"].to_pylist(), c.cells["item"].to_pylist(), strict=True)]
    assert found == rows


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=80) | st.text(alphabet='a,"\n\r\0é1', max_size=60).map(str.encode), st.integers(1, 40))
def test_rubbish_is_a_clear_error_or_adds_up(tmp_path_factory: pytest.TempPathFactory, rubbish: bytes, block: int) -> None:
    folder = tmp_path_factory.mktemp("rubbish")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "BLOCK", block)
        found, said = attempt(lambda: read(folder, b"user,item\n" + rubbish, lenient=True))
    assert "\n" not in said
    assert found is None or found.about["rows"] == found.n_events + found.about["quarantined"]


IDS = [
    "01",
    "1",
    "nan",
    "NaN",
    "null",
    "😀",
    "caf\u00e9",
    "cafe\u0301",
    "x" * 10_000,
    " a",
    "a ",
    "3.0",
    "9223372036854775808",
    "שלום",
]


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_ids_come_back_byte_for_byte(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"interactions.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"user": IDS, "item": IDS[::-1]}), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter="," if kind == "csv" else "\t").writerows(
                [("user", "item"), *zip(IDS, IDS[::-1], strict=True)]
            )
    found = sources.load(path, cache=tmp_path / "cache")
    assert found.vocab.users.to_pylist() == IDS
    assert found.vocab.items.to_pylist() == IDS[::-1]
    assert found.n_events == len(IDS)


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_the_unit_of_time_is_told_by_magnitude_or_by_the_user(tmp_path: Path, unit: str, factor: int) -> None:
    rows = "".join(f"a,x,{(1_000_000_000 + n) * factor}\n" for n in range(3))
    found = read(tmp_path, "user,item,time\n" + rows)
    assert found.time.tolist() == [(1_000_000_000 + n) * 10**6 for n in range(3)]
    assert found.about["time_unit"] == unit
    assert read(tmp_path, "user,item,time\n" + rows, time_unit=unit).time.tolist() == found.time.tolist()


def test_a_wrong_unit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="milliseconds where the file has seconds"):
        read(tmp_path, "user,item,time\na,x,1000000000000\n", time_unit="s")
    with pytest.raises(DataError, match="needed a time unit s, ms, us or ns, got 'min'"):
        read(tmp_path, GOOD, time_unit="min")


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("2001-09-09", 999993600 * 10**6),
        ("2001-09-09 01:46:40", 10**15),
        ("2001-09-09T01:46:40.5", 10**15 + 500_000),
        ("2001-09-09T01:46:40Z", 10**15),
        ("2001-09-09T03:46:40+02:00", 10**15),
        ("1000000000.25", 10**15 + 250_000),
        ("1e9", 10**15),
    ],
)
def test_dates_and_fractions(tmp_path: Path, text: str, micros: int) -> None:
    assert read(tmp_path, f"user,item,date\na,x,{text}\n").time.tolist() == [micros]


def test_dates_of_another_kind_are_malformed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"csv:3, got column 'date': not a date like the first one in 'a,y,09/10/2001'"):
        read(tmp_path, "user,item,date\na,x,2001-09-09\na,y,09/10/2001\n")
    with pytest.raises(DataError, match=r"csv:2, got column 'date': before 1970"):
        read(tmp_path, "user,item,date\na,x,1969-12-31\n")


def test_duplicates_are_kept_counted_and_dropped_on_request(tmp_path: Path) -> None:
    content = "user,item,time,rating\na,x,5,1\na,y,5,1\na,x,5,1\na,x,5,2\nb,x,5,1\na,x,6,1\n"
    kept = read(tmp_path, content)
    assert (kept.n_events, kept.about["duplicates"], kept.about["duplicates_dropped"]) == (6, 1, 0)
    assert kept.vocab.item_ids(kept.history(0)) == ["x", "y", "x", "x", "x"]
    dropped = read(tmp_path, content, drop_duplicates=True)
    assert (dropped.n_events, dropped.about["duplicates_dropped"]) == (5, 1)
    assert dropped.vocab.item_ids(dropped.history(0)) == ["x", "y", "x", "x"]


def parquet(folder: Path, **columns) -> Dataset:
    path = folder / "interactions.parquet"
    pq.write_table(pa.table(columns), path)
    return sources.load(path, cache=folder / "cache")


def test_parquet_ids_of_every_type(tmp_path: Path) -> None:
    assert parquet(tmp_path, user=[7, 8], item=pa.array([2**64 - 1, 1], pa.uint64())).vocab.items.to_pylist() == [
        str(2**64 - 1),
        "1",
    ]
    whole = parquet(tmp_path, user=[1.0, 2.0], item=["x", "y"])
    assert whole.vocab.users.to_pylist() == ["1", "2"]
    assert parquet(tmp_path, user=pa.array(["b", "a", "b"]).dictionary_encode(), item=[1, 2, 3]).vocab.users.to_pylist() == [
        "b",
        "a",
    ]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": [1.5, 2.0], "item": [1, 2]}, r"interactions\.parquet, row 1, got column 'user': not a whole number"),
        ({"user": [1, None], "item": [1, 2]}, r"row 2, got column 'user': missing"),
        ({"user": [1.0, float("nan")], "item": [1, 2]}, r"row 2, got column 'user': missing"),
        ({"user": ["a", ""], "item": [1, 2]}, r"row 2, got column 'user': empty"),
        ({"user": ["a", "b"], "item": [1, 2], "time": [10**9, -1]}, r"row 2, got column 'time': before 1970"),
        ({"user": ["a", "b"], "item": [1, 2], "time": [10**9, None]}, r"row 2, got column 'time': missing"),
        ({"user": ["a", "b"], "item": [1, 2], "rating": [1.0, float("inf")]}, r"row 2, got column 'rating': not a finite number"),
        ({"user": ["a", "b"], "item": [1, 2], "rating": [[1], [2]]}, r"needed a column of numbers, got list"),
        ({"user": [["a"], ["b"]], "item": [1, 2]}, r"ids that are text or integers, got list"),
    ],
)
def test_bad_parquet_cells(tmp_path: Path, columns: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parquet(tmp_path, **columns)


def test_damaged_parquet_is_named_and_never_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "interactions.parquet"
    pq.write_table(
        pa.table({"user": [f"u{n % 9}" for n in range(300)], "item": list(range(300)), "time": list(range(300))}),
        path,
        compression="zstd",
        write_page_checksum=True,
    )
    whole = path.read_bytes()
    sound = sources.load(path, cache=tmp_path / "cache").fingerprint
    rng = np.random.default_rng(1)
    for at in rng.integers(0, len(whole), 40):
        path.write_bytes(whole[:at])
        with pytest.raises(DataError, match=r"interactions\.parquet"):
            sources.load(path, cache=tmp_path / "cache")
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << int(rng.integers(8))]) + whole[at + 1 :])
        found, said = attempt(lambda: sources.load(path, cache=tmp_path / "cache"))
        # pages carry checksums, so what still opens holds the same events (the flip hit a statistic)
        assert found.fingerprint == sound if found is not None else "interactions.parquet" in said


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "interactions.csv").write_text(GOOD)
    monkeypatch.setenv("LMRS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(StorageError, match=r"a cache folder at .*cache, got Not a directory; set LMRS_CACHE"):
        sources.load(tmp_path)


def test_no_such_name_or_path() -> None:
    with pytest.raises(DataError, match="got 'movielens-100'; did you mean movielens-100k"):
        sources.load("movielens-100")
