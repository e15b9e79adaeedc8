"""Posts with tags: documents as users, tags as items, answers left out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmrs import sources
from lmrs.errors import DataError
from lmrs.inspection import inspect
from lmrs.split import by_time

ROWS = {
    "site": ["beer", "beer", "coffee", "beer", "coffee"],
    "post_id": [1, 2, 1, 3, 4],
    "kind": ["question", "answer", "question", "question", "question"],
    "user_id": ["7", "8", None, "7", "9"],
    "created": np.array(["2014-01-04", "2014-01-01", "2014-01-02", "2014-01-03", "2014-01-05"], "datetime64[ms]"),
    "title": ["Hops?", None, "Beans?", "Foam?", "<b>Cups</b>"],
    "body": ["What are hops", "No", "Which", None, "Cups"],
    "tags": [["hops", "beer"], None, ["beans"], ["beer", " beer", "foam"], ["beans"]],
}


def written(folder: Path, **changes) -> Path:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(ROWS | changes), folder / "posts.parquet")
    return folder


def load(path: Path, **options):
    return sources.load(path, cache=path.parent / "cache", **options)


def tagged(data) -> dict[str, list[str]]:
    return {data.vocab.users[u].as_py(): data.vocab.item_ids(data.history(u)) for u in range(data.n_users)}


def test_posts_are_read(tmp_path):
    data = load(written(tmp_path / "se"))
    assert tagged(data) == {"beer/1": ["hops", "beer"], "coffee/1": ["beans"], "beer/3": ["beer", "foam"], "coffee/4": ["beans"]}
    assert data.vocab.items.to_pylist() == ["hops", "beer", "beans", "foam"]
    assert data.users.select(["user_id", "title", "text", "author", "site"]).to_pylist()[1:3] == [
        {"user_id": "coffee/1", "title": "Beans?", "text": "Which", "author": None, "site": "coffee"},
        {"user_id": "beer/3", "title": "Foam?", "text": None, "author": "7", "site": "beer"},
    ]
    day = 86_400_000_000
    assert (data.time // day - data.time.min() // day).tolist() == [2, 2, 0, 1, 1, 3]
    assert data.about["notes"] == ["4 documents are the users, their tags the items; 1 other rows left out"]
    json.dumps(inspect(data))
    assert load(tmp_path / "se" / "posts.parquet").fingerprint == data.fingerprint


def test_a_split_by_time_asks_for_all_tags_of_later_posts(tmp_path):
    data = load(written(tmp_path / "se"))
    moment = [int(np.datetime64(f"2014-01-0{day}", "us").astype(np.int64)) for day in (4, 5)]
    split = by_time(data, valid_from=moment[0], test_from=moment[1])
    assert data.vocab.users.take(pa.array(split.valid.user)).to_pylist() == ["beer/1"]
    assert data.vocab.item_ids(split.valid.truth(0)) == ["hops", "beer"]
    assert len(split.valid.history(0)) == 0
    assert data.vocab.users.take(pa.array(split.test.user)).to_pylist() == ["coffee/4"]


@pytest.mark.parametrize("form", ["<{}>", "{}"])
def test_tags_as_text(tmp_path, form):
    marks = [form.format(("><" if form != "{}" else "|").join(cell)) if cell else "" for cell in ROWS["tags"]]
    (tmp_path / "se").mkdir()
    lines = ["post_id,title,body,tags"] + [f"{at},t{at},b,{cell}" for at, cell in enumerate(marks) if cell]
    (tmp_path / "se" / "posts.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    data = load(tmp_path / "se")
    assert list(tagged(data).values()) == [["hops", "beer"], ["beans"], ["beer", "foam"], ["beans"]]
    assert data.time is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tags": [["hops"], None, [], ["beer"], ["beans"]]}, r"posts\.parquet, row 3, got column 'tags': no tag"),
        ({"tags": [["hops"], None, None, ["beer"], ["beans"]]}, r"posts\.parquet, row 3, got column 'tags': no tag"),
        ({"title": ["a", None, None, "b", "c"]}, r"row 3, got column 'title': missing"),
        ({"post_id": [1, 2, 4, 3, 4]}, r"row 5, got column 'post_id': id given twice"),
        ({"post_id": [1, 2, None, 3, 4]}, r"row 3, got column 'post_id': missing"),
    ],
)
def test_a_bad_post_is_named_or_set_aside(tmp_path, change, message):
    folder = written(tmp_path / "se", **change)
    with pytest.raises(DataError, match=message):
        load(folder)
    data = load(folder, lenient=True)
    assert len(tagged(data)) == data.about["quarantined"] + 2 == 3


def test_folders_that_are_no_posts(tmp_path):
    (tmp_path / "a").mkdir()
    pq.write_table(pa.table({"post_id": [1]}), tmp_path / "a" / "posts.parquet")
    with pytest.raises(DataError, match=r"tags and title in posts\.parquet, got columns post_id; add tags, title"):
        load(tmp_path / "a")
    with pytest.raises(DataError, match=r"questions with tags in .*, got 5 rows, none of them usable"):
        load(written(tmp_path / "b", kind=["answer"] * 5))
    both = written(tmp_path / "c")
    pq.write_table(pa.table({"user": ["u"], "item": ["a"]}), both / "interactions.parquet")
    assert load(both).vocab.items.to_pylist() == ["a"]  # interactions beside posts are what is read, as ever


def test_code_is_taken_out_of_the_body_of_a_dump(tmp_path):
    dump = (
        "<p>Why is <code>x</code> &lt; 1?</p>\n<pre class='py'><code>x = 1\nif x &lt; 2: pass\n</code></pre>"
        "<p>And</p><pre><code>y</code></pre>"
    )
    bodies = [dump, "No", "a < b and c > d", None, "<b>Cups</b>"]
    found = load(written(tmp_path / "se", body=bodies)).users
    assert found.column("code").to_pylist() == ["x = 1\nif x < 2: pass\ny", None, None, None]
    text = found.column("text").to_pylist()
    assert text[0].split() == ["Why", "is", "x", "<", "1?", "And"]
    assert text[1:] == ["a < b and c > d", None, "<b>Cups</b>"], "a body without blocks of code was changed"
    assert "code" not in load(written(tmp_path / "plain")).users.column_names
    told = load(written(tmp_path / "own", body=bodies, code=["z", None, None, "w", None])).users
    assert told.column("code").to_pylist() == ["z", None, "w", None]
    assert told.column("text").to_pylist()[0] == dump
