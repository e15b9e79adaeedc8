"""Texts and numbers read from the bytes of an Arrow file are those that Arrow reads; texts are found by their hash."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmrs import columns
from lmrs.columns import Texts, laid_out, mapped, numbers, places
from lmrs.vocab import Vocab

NAMES = ("item_id", "title", "count", "year")


def of(array: pa.Array) -> Texts:
    """The texts of a large_string array."""
    return Texts(*laid_out(array), np.array(array.is_valid()) if array.null_count else None)


def written(file: Path, table: pa.Table, **options) -> Path:
    with (
        pa.OSFile(str(file), "wb") as sink,
        pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as out,
    ):
        out.write_table(table)
    return file


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
@pytest.mark.parametrize("titles", [["a", None, "", "ö", "last"], ["a", "b", "c", "d", "e"], [None] * 5, [""] * 5])
def test_what_arrow_reads(tmp_path, kind, titles):
    ids = ["i1", "i22", "", "é" * 300, "5"]
    table = pa.table({"count": pa.array([3, 0, -1, 2**40, 7]), "item_id": pa.array(ids, kind), "title": pa.array(titles, kind)})
    file = written(tmp_path / "table.arrow", table)
    found, content = places(file, NAMES), mapped(file)
    assert set(found) == {"item_id", "title", "count"}
    names, told = Texts.at(content, found["item_id"]), Texts.at(content, found["title"])
    assert names.take(np.arange(5)) == ids
    assert told.take(np.array([4, 0, 1])) == [titles[4], titles[0], titles[1]]
    assert numbers(content, found["count"]).tolist() == [3, 0, -1, 2**40, 7]
    assert names.find(["5", "i2", "é" * 300, "", "i22"]).tolist() == [4, -1, 3, 2, 1]
    assert len(names) == 5


def test_what_cannot_be_read_so_is_told(tmp_path):
    """Parts, other types, compressed buffers."""
    table = pa.table({"item_id": pa.array(["a", "b"]), "year": pa.array([1.0, 2.0]), "count": pa.array([1, 2], pa.int32())})
    found = places(written(tmp_path / "a.arrow", table), NAMES)
    assert (found.pop("item_id")["rows"], found) == (2, {"count": None, "year": None})
    two = pa.concat_tables([table, table])
    assert places(written(tmp_path / "b.arrow", two), ("item_id",)) == {"item_id": None}
    many = pa.table({"item_id": pa.array(["the same"] * 1000)})
    assert places(written(tmp_path / "c.arrow", many, compression="zstd"), NAMES) == {"item_id": None}
    assert places(written(tmp_path / "d.arrow", table[:0]), ("item_id",)) == {"item_id": None}


def test_numbers_with_gaps_and_others_are_refused(tmp_path):
    table = pa.table({"count": pa.array([1, None]), "item_id": pa.array(["a", "b"])})
    file = written(tmp_path / "table.arrow", table)
    found, content = places(file, NAMES), mapped(file)
    for place in (found["count"], found["item_id"]):
        with pytest.raises(ValueError, match=r"other numbers|unpack"):
            numbers(content, place)
    with pytest.raises((KeyError, ValueError)):
        Texts.at(content, found["count"])


@settings(deadline=None)
@given(st.lists(st.text(max_size=12), unique=True, max_size=40), st.lists(st.text(max_size=12), max_size=10))
def test_texts_are_found_as_a_vocabulary_finds_them(ids, others):
    array = pa.array(ids, pa.large_string())
    texts, asked = of(array), [*others, *ids[::2]]
    assert texts.find(asked).tolist() == [ids.index(text) if text in ids else -1 for text in asked]
    assert texts.find(asked).tolist() == Vocab(array).item_numbers(asked).tolist()
    assert texts.take(np.arange(len(ids))) == ids


def test_texts_that_share_a_hash_are_told_apart(monkeypatch):
    plain = columns.hashed
    monkeypatch.setattr(columns, "hashed", lambda *given: plain(*given) % 3)
    ids = [f"i{at}" for at in range(50)]
    assert of(pa.array(ids, pa.large_string())).find([*ids, "i50", "x"]).tolist() == [*range(50), -1, -1]


def test_the_same_texts():
    def made(*texts):
        return of(pa.array(texts, pa.large_string()))

    assert made("a", "bc").same(made("a", "bc"))
    assert of(pa.array(["x", "a", "bc"], pa.large_string())[1:]).same(made("a", "bc"))
    for other in (made("ab", "c"), made("a", "bd"), made("a"), made("a", "bc", ""), made("a", None)):
        assert not made("a", "bc").same(other)
        assert not other.same(made("a", "bc"))
    assert not made("a", None).same(made("a", None))
