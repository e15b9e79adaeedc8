"""Logs of impressions in MIND's format: read, refused where broken, written back, and split without leaks."""

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
from lmrs.records import Impressions
from lmrs.split import by_time, leave_one_out

LOG = [  # U1's first impression by time is the third line
    ["1", "U1", "11/15/2019 9:05:58 AM", "N1 N2 N1", "N3-1 N4-0"],
    ["2", "U2", "11/15/2019 12:00:00 PM", "", "N2-0 N9-1 N4-1"],
    ["3", "U1", "11/14/2019 11:59:59 PM", "N1 N2 N1", "N5-0 N2-1"],
    ["4", "U3", "11/15/2019 12:30:00 AM", "N5", "N1-0 N3-0"],
]
NEWS = [
    ["N2", "sports", "golf", 'Two “quoted" titles', "An abstract", "https://x", "[]", "[]"],
    ["N3", "news", "local", "Three", "", "https://x", "[]", "[]"],
    ["N7", "news", "local", "Never shown", "", "https://x", "[]", "[]"],
]


def mind(folder: Path, *, log: list[list[str]] = LOG, news: list[list[str]] | None = NEWS) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "behaviors.tsv").write_text("".join("\t".join(row) + "\n" for row in log), encoding="utf-8")
    if news is not None:
        (folder / "news.tsv").write_text("".join("\t".join(row) + "\n" for row in news), encoding="utf-8")
    return folder


def load(folder: Path, **options):
    return sources.load(folder, cache=folder.parent / "cache", **options)


def told(data) -> list[tuple]:
    """(key, user, history, shown, clicked) of every impression, in words."""
    log = Impressions.of(data.records["impressions"])
    found = []
    for at in range(len(log)):
        history, shown, clicked = log.row(at)
        names = data.vocab.item_ids
        found.append(
            (log.keys[at].as_py(), data.vocab.users[log.user[at]].as_py(), names(history), names(shown), clicked.tolist())
        )
    return found


def test_a_log_is_read(tmp_path):
    data = load(mind(tmp_path / "mind"))
    assert told(data) == [
        ("1", "U1", ["N1", "N2", "N1"], ["N3", "N4"], [True, False]),
        ("2", "U2", [], ["N2", "N9", "N4"], [False, True, True]),
        ("3", "U1", ["N1", "N2", "N1"], ["N5", "N2"], [False, True]),
        ("4", "U3", ["N5"], ["N1", "N3"], [False, False]),
    ]
    log = Impressions.of(data.records["impressions"])
    moment = np.array(["2019-11-15T09:05:58", "2019-11-15T12:00", "2019-11-14T23:59:59", "2019-11-15T00:30"], "datetime64[us]")
    assert log.time.tolist() == moment.astype(np.int64).tolist()
    # Events: history once, then the clicks in order of time.
    events = [data.vocab.item_ids(data.history(user)) for user in range(3)]
    assert events == [["N1", "N2", "N1", "N2", "N3"], ["N9", "N4"], ["N5"]]
    begin = moment[2].astype(np.int64) - 1
    assert data.time.tolist() == [begin] * 3 + [log.time[2], log.time[0], log.time[1], log.time[1], begin]
    assert list(zip(log.start.tolist(), log.stop.tolist())) == [(4, 5), (5, 7), (3, 4), (8, 8)]
    titles = dict(zip(data.vocab.items.to_pylist(), data.items.column("title").to_pylist()))
    assert (titles["N2"], titles["N9"], titles["N7"]) == ('Two “quoted" titles', None, "Never shown")
    assert data.vocab.attributes["category"].of(data.vocab.items.to_pylist().index("N2")) == ["sports"]


def test_what_was_understood_is_told(tmp_path):
    data = load(mind(tmp_path / "mind", log=[*LOG, ["5", "U1", "11/16/2019 1:00:00 AM", "N2", "N3-1 N4-0"]]))
    assert data.about["notes"][0] == "5 impressions in behaviors.tsv"
    assert "1 impressions tell another history than the first one of their reader" in data.about["notes"]
    json.dumps(inspect(data))
    again = load(tmp_path / "mind")
    assert again.about["store"] == data.about["store"]
    assert again.fingerprint == data.fingerprint
    assert Path(data.about["store"], "record-impressions.arrow").exists()


def test_the_history_that_counts_is_the_earliest_not_the_first_line(tmp_path):
    data = load(mind(tmp_path / "mind", log=[*LOG, ["5", "U1", "11/13/2019 1:00:00 AM", "N7", "N3-1 N4-0"]]))
    assert data.vocab.item_ids(data.history(0)) == ["N7", "N3", "N2", "N3"]
    assert told(data)[0][2] == ["N1", "N2", "N1"]  # what each impression says of the history stays as it is


def test_a_test_log_tells_no_clicks(tmp_path):
    rows = [["1", "U1", "11/15/2019 9:05:58 AM", "N1 N2", "N3 N4"], ["2", "U1", "11/16/2019 9:05:58 AM", "N1 N2", "N3-1 N4-0"]]
    data = load(mind(tmp_path / "mind", log=rows, news=None))
    log = Impressions.of(data.records["impressions"])
    assert log.told.tolist() == [False, True]
    assert log.known(data.offsets[1:]).tolist() == [False, True]
    assert list(zip(log.start.tolist(), log.stop.tolist())) == [(2, 2), (2, 3)]
    assert data.records["impressions"].column("clicked").to_pylist() == [None, [True, False]]
    assert told(data)[0][3] == ["N3", "N4"]
    assert "2 impressions in behaviors.tsv, 1 without flags" in data.about["notes"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            ["5", "U1", "2019-11-15", "N1", "N3-1"],
            r"behaviors\.tsv:5, got column 'time': not a time such as 11/15/2019 9:05:58 AM",
        ),
        (["5", "U1", "11/15/2019 9:05:58 AM", "N1", ""], r"behaviors\.tsv:5, got column 'impressions': no item shown"),
        (["5", "U1", "11/15/2019 9:05:58 AM", "N1", "N3-1 N4"], r"behaviors\.tsv:5, got .* not -0 or -1 behind every id"),
        (["5", "U1", "11/15/2019 9:05:58 AM", "N1", "N3-1 N4-2"], r"not -0 or -1 behind every id"),
        (["5", "", "11/15/2019 9:05:58 AM", "N1", "N3-1"], r"behaviors\.tsv:5, got column 'user_id': empty"),
        (["5", "U1", "11/15/2019 9:05:58 AM", "N1 N3-1"], r"behaviors\.tsv:5, got 4 columns where 5 are named"),
    ],
)
def test_a_broken_line_is_named_or_set_aside(tmp_path, row, message):
    folder = mind(tmp_path / "mind", log=[*LOG, row, ["6", *LOG[0][1:]]])
    with pytest.raises(DataError, match=message):
        load(folder)
    aside = tmp_path / "bad.csv"
    data = load(folder, lenient=True, quarantine=aside)
    assert [entry[0] for entry in told(data)] == ["1", "2", "3", "4", "6"]
    assert data.about["quarantined"] == 1
    assert aside.read_text(encoding="utf-8").splitlines()[1].startswith("behaviors.tsv,5,")
    clean = load(mind(tmp_path / "clean", log=[*LOG, ["6", *LOG[0][1:]]]))
    assert data.fingerprint == clean.fingerprint  # what was set aside leaves no trace
    with pytest.raises(DataError, match=message):  # and the cache does not hide it from a strict reader
        load(folder)


def test_folders_that_hold_no_log_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"needed impressions in .*behaviors\.tsv, got none that can be used"):
        load(mind(tmp_path / "mind", log=[]))
    with pytest.raises(DataError, match=r"needed readable rows, news\.tsv:2, got column 'news_id': id given twice"):
        load(mind(tmp_path / "twice", news=[NEWS[0], NEWS[0]]))
    (tmp_path / "lists").mkdir()
    cells = {"impression_id": [1], "user_id": ["u"], "time": [1], "candidates": [["N1"]]}
    pq.write_table(pa.table(cells), tmp_path / "lists" / "behaviors.parquet")
    with pytest.raises(DataError, match=r"columns impression_id, .* got none called history, clicked"):
        load(tmp_path / "lists")


def parquet(folder: Path, **changes) -> Path:
    moments = ["2019-11-15T09:05:58", "2019-11-15T12:00", "2019-11-14T23:59:59", "2019-11-15T00:30"]
    cells = {
        "impression_id": pa.array([1, 2, 3, 4]),
        "user_id": pa.array(["U1", "U2", "U1", "U3"]),
        "time": pa.array(np.array(moments, "datetime64[ms]")),
        "history": pa.array([["N1", "N2", "N1"], [], ["N1", "N2", "N1"], ["N5"]]),
        "candidates": pa.array([["N3", "N4"], ["N2", "N9", "N4"], ["N5", "N2"], ["N1", "N3"]]),
        "clicked": pa.array([[1, 0], [0, 1, 1], [0, 1], [0, 0]]),
    }
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(cells | changes), folder / "behaviors.parquet")
    return folder


def test_parquet_says_the_same(tmp_path):
    lists, text = load(parquet(tmp_path / "lists")), load(mind(tmp_path / "text", news=None))
    assert told(lists) == told(text)
    assert lists.fingerprint == text.fingerprint


@pytest.mark.parametrize(
    ("column", "cells", "message"),
    [
        ("clicked", [[1, 0], [0, 1], [0, 1], [0, 0]], r"behaviors\.parquet, row 2, got column 'clicked': not one flag for each"),
        ("clicked", [[1, 0], [0, 1, 1], [0, 2], [0, 0]], r"behaviors\.parquet, row 3, got column 'clicked': not 0 or 1"),
        ("clicked", [[1, 0], [0, 1, 1], [0, 1], [None, 0]], r"row 4, got column 'clicked': not 0 or 1"),
        ("user_id", ["U1", None, "U1", "U3"], r"row 2, got column 'user_id': missing"),
        ("candidates", [["N3", "N4"], ["N2", "N9", "N4"], [], ["N1", "N3"]], r"row 3, got column 'candidates': no item shown"),
    ],
)
def test_a_broken_row_of_parquet_is_named(tmp_path, column, cells, message):
    folder = parquet(tmp_path / "lists", **{column: pa.array(cells)})
    with pytest.raises(DataError, match=message):
        load(folder)
    kept = load(folder, lenient=True)
    assert len(told(kept)) == 3
    assert all(len(shown) == len(clicked) for *_, shown, clicked in told(kept))


def test_what_is_written_reads_back(tmp_path):
    made = sources.load("synthetic-news:readers=20,articles=60,fresh=20,shown=5,impressions=3,history=4,seed=3")
    back = load(sources.write_mind(made, tmp_path / "mind"))
    assert told(back) == told(made)
    assert [back.vocab.item_ids(back.history(u)) for u in range(20)] == [made.vocab.item_ids(made.history(u)) for u in range(20)]
    names = ("start", "stop", "time")
    for name in names:
        assert back.records["impressions"].column(name).to_pylist() == made.records["impressions"].column(name).to_pylist()
    titles = dict(zip(made.vocab.items.to_pylist(), made.titles(np.arange(made.n_items))))
    assert dict(zip(back.vocab.items.to_pylist(), back.titles(np.arange(back.n_items)))) == titles
    with pytest.raises(DataError, match="a dataset with impressions, got synthetic"):
        sources.write_mind(sources.load("synthetic:users=3"), tmp_path / "none")


@pytest.mark.parametrize("cut", [leave_one_out, lambda data: by_time(data, valid_from=0.8, test_from=0.9)], ids=["last", "time"])
def test_what_is_learnt_from_is_not_asked_about(tmp_path, cut):
    """No impression of training reveals a click that validation or test asks for, nor comes after one of its user."""
    data = sources.synthetic_news(readers=30, impressions=6)
    log, split = Impressions.of(data.records["impressions"]), cut(data)
    known = log.known(split.train.stop)
    assert known.any()
    for queries in (split.valid, split.test):
        lo, hi = (np.full(data.n_users, -1) for _ in range(2))
        lo[queries.user], hi[queries.user] = queries.stop, queries.target
        asked = log.within(lo, hi)
        assert asked.sum() == (queries.target - queries.stop).sum()  # every click belongs to one impression
        assert not (known & asked).any()
        for user in np.unique(log.user[asked]):
            own = log.user == user
            assert log.time[own & known].max(initial=0) < log.time[own & asked].min()
