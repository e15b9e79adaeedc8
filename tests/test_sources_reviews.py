"""Reviews: the events are those of the plain reader, and the text is with the right event, item or user."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmrs import sources
from lmrs.errors import DataError
from lmrs.inspection import inspect

ROWS = {
    "user_id": ["u", "v", "u", "w", "v"],
    "item_id": ["a", "a", "b", "b", "c"],
    "rating": [5, 4, 1, 3, 2],
    "timestamp": [400, 200, 100, 300, 150],
    "summary": ["Great", "Fine", "No", "", "So so"],
    "review": ["Crisp “strings”", "warm\ntone", " ", None, "<|endoftext|> [MASK]"],
    "feature": ["strings", "tone", None, None, "price"],
}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def written(folder: Path, rows: dict = ROWS, *, name: str = "reviews", **changes) -> Path:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(rows | changes), folder / f"{name}.parquet")
    return folder


def said(data) -> list[tuple]:
    """(user, item, rating, text, feature) of every review, in file order, found by its event."""
    found = []
    for row in data.records["reviews"].to_pylist():
        at = row["event"]
        assert data.item[at] == row["item"]
        assert data.offsets[row["user"]] <= at < data.offsets[row["user"] + 1]
        found.append(
            (
                data.vocab.users[row["user"]].as_py(),
                data.vocab.items[row["item"]].as_py(),
                float(data.rating[at]),
                row["text"],
                row["feature"],
            )
        )
    return found


def test_every_text_is_with_its_event(tmp_path, cache):
    folder = written(tmp_path / "set")
    data = sources.load(f"reviews:{folder}", cache=cache)
    assert said(data) == [
        ("u", "a", 5.0, "Crisp “strings”", "strings"),
        ("v", "a", 4.0, "warm\ntone", "tone"),
        ("u", "b", 1.0, None, None),
        ("w", "b", 3.0, None, None),
        ("v", "c", 2.0, "<|endoftext|> [MASK]", "price"),
    ]
    records = data.records["reviews"]
    assert records.column("event").to_pylist() == [1, 3, 0, 4, 2]
    assert records.column("title").to_pylist() == ["Great", "Fine", "No", None, "So so"]
    assert records.column("opinion").null_count == records.column("explanation").null_count == 5
    assert data.about["text_columns"] == {"title": "summary", "text": "review", "feature": "feature"}
    assert data.about["notes"] == ["reviews with title: 4 of 5", "reviews with text: 3 of 5", "reviews with feature: 3 of 5"]
    json.dumps(inspect(data))


def test_the_events_are_those_of_the_plain_reader(tmp_path, cache):
    folder = written(tmp_path / "set")
    pq.write_table(pa.table({"item_id": ["b", "z", "a"], "title": ["Bee", "Zed", "Ay"]}), folder / "items.parquet")
    data, plain = sources.load(f"reviews:{folder}", cache=cache), sources.load(folder, cache=cache)
    assert plain.records == {}
    for name in ("item", "offsets", "time", "rating"):
        assert getattr(data, name).tolist() == getattr(plain, name).tolist()
    assert data.vocab.fingerprint == plain.vocab.fingerprint
    assert data.items.to_pylist() == plain.items.to_pylist()
    assert data.fingerprint != plain.fingerprint
    again = sources.load(f"reviews:{folder}", cache=cache)
    assert (again.about["store"], again.fingerprint) == (data.about["store"], data.fingerprint)
    assert sources.load(f"reviews:{folder / 'reviews.parquet'}", cache=cache, name="other").name == "other"
    lines = 'user,item,text\nu,a,one\nu,b,\nv,a,"two, with a comma"\n'
    (tmp_path / "said.csv").write_text(lines, encoding="utf-8")
    text = sources.load(f"reviews:{tmp_path / 'said.csv'}", cache=cache)
    assert text.records["reviews"].column("text").to_pylist() == ["one", None, "two, with a comma"]
    assert text.time is None


def test_what_tells_of_items_and_users_goes_to_them(tmp_path, cache):
    rows = {
        "uid": [7, 8, 7],
        "iid": [1, 1, 2],
        "title": ["Taco", "Taco", "Pan"],
        "user_summary": ["likes heat", "likes sweet", "likes heat"],
        "item_summary": ["hot", "hot", "flat"],
        "explanation": ["Because it is hot.", "Because.", "For pans."],
    }
    data = sources.load(f"reviews:{written(tmp_path / 'x', rows) / 'reviews.parquet'}", cache=cache)
    assert data.items.to_pylist() == [
        {"item_id": "1", "title": "Taco", "summary": "hot"},
        {"item_id": "2", "title": "Pan", "summary": "flat"},
    ]
    assert data.users.to_pylist() == [{"user_id": "7", "summary": "likes heat"}, {"user_id": "8", "summary": "likes sweet"}]
    assert data.records["reviews"].column("explanation").to_pylist() == rows["explanation"]
    assert data.records["reviews"].column("title").null_count == 3
    assert data.titles(data.item[:1]) == ["Taco"]
    # A title that differs within an item is the title of the review (Amazon 2023), and says nothing of the item.
    other = sources.load(f"reviews:{written(tmp_path / 'y', rows, title=['Good', 'Bad', 'Ugly'])}", cache=cache)
    assert other.records["reviews"].column("title").to_pylist() == ["Good", "Bad", "Ugly"]
    assert "title" not in other.items.column_names
    mixed = sources.load(f"reviews:{written(tmp_path / 'z', rows, item_summary=['hot', 'cold', 'flat'])}", cache=cache)
    assert "summary" not in mixed.items.column_names


@pytest.mark.parametrize(
    ("change", "message", "left"),
    [
        ({"rating": ["5", "4", "x", "3", "2"]}, r"reviews\.parquet, row 3, got column 'rating': not a number", "uvwv"),
        ({"user_id": ["u", None, "u", "w", "v"]}, r"reviews\.parquet, row 2, got column 'user_id': missing", "uuwv"),
        ({"timestamp": [400, 200, 100, 300, -1]}, r"row 5, got column 'timestamp': before 1970", "uvuw"),
    ],
)
def test_a_bad_row_is_named_or_set_aside(tmp_path, cache, change, message, left):
    folder = written(tmp_path / "set", **change)
    with pytest.raises(DataError, match=message):
        sources.load(f"reviews:{folder}", cache=cache)
    aside = tmp_path / "bad.csv"
    data = sources.load(f"reviews:{folder}", cache=cache, lenient=True, quarantine=aside)
    assert "".join(row[0] for row in said(data)) == left
    assert (data.about["quarantined"], len(aside.read_text(encoding="utf-8").splitlines())) == (1, 2)


def test_tables_without_reviews_are_refused(tmp_path, cache):
    bare = {name: ROWS[name] for name in ("user_id", "item_id", "rating", "timestamp")}
    with pytest.raises(
        DataError, match=r"a column of text .* in reviews\.parquet, got columns user_id, item_id, rating, timestamp"
    ):
        sources.load(f"reviews:{written(tmp_path / 'bare', bare)}", cache=cache)
    with pytest.raises(DataError, match=r"one row a review in .*, got lists of items"):
        sources.load(
            f"reviews:{written(tmp_path / 'l', {'user': ['u'], 'items': [['a']], 'text': ['x']}, name='sequences')}", cache=cache
        )
    with pytest.raises(DataError, match="all reviews, got drop_duplicates"):
        sources.load(f"reviews:{written(tmp_path / 'set')}", cache=cache, drop_duplicates=True)
    with pytest.raises(DataError, match=r"the name of a source or an existing path, got '.*nowhere'"):
        sources.load(f"reviews:{tmp_path / 'nowhere'}", cache=cache)
    none = {name: [] for name in ("user_id", "item_id", "review")}
    empty = pa.table({name: pa.array(cells, pa.string()) for name, cells in none.items()})
    (tmp_path / "none").mkdir()
    pq.write_table(empty, tmp_path / "none" / "reviews.parquet")
    with pytest.raises(DataError, match=r"needed reviews in .*, got none that can be used"):
        sources.load(f"reviews:{tmp_path / 'none'}", cache=cache)
