"""What is told of a dataset, by hand, and every warning with data that deserves it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lmrs import sources
from lmrs.inspection import inspect


def looked(folder: Path, events: str, **options) -> dict:
    (folder / "interactions.csv").write_text(events)
    return inspect(sources.load(folder, cache=folder.parent / "cache", **options))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "shop"
    made.mkdir()
    return made


def test_everything_by_hand(folder: Path) -> None:
    (folder / "items.csv").write_text("item,title,genres\nx,Ex,Fun|Odd\ny,,Fun\nz,Zet,\n")
    (folder / "edges.csv").write_text("head,relation,tail\nx,likes,e1\ne1,has,e2\n")
    found = looked(
        folder,
        "user,item,timestamp,rating,type\n"
        "a,x,86400,5,view\na,y,86400,3,buy\na,x,172800,4,view\na,x,172800,4,view\nb,y,259200,5,view\nb,x,345600,5,view\n",
    )
    assert (found["users"], found["items"], found["events"]) == (2, 3, 6)
    assert found["density"] == pytest.approx(4 / 6)
    assert found["lengths"] == {"mean": 3, "min": 2, "25%": 2.5, "median": 3, "75%": 3.5, "95%": 3.9, "max": 4}
    assert found["repeats"] == pytest.approx(2 / 6)
    assert found["duplicates"] == 1
    assert found["time"] == {
        "first": "1970-01-02 00:00:00",
        "last": "1970-01-05 00:00:00",
        "days": 3,
        "unit": "s",
        "ties": pytest.approx(2 / 6),
    }
    assert found["rating"] == {
        "min": 3,
        "mean": pytest.approx(26 / 6),
        "max": 5,
        "distinct": 3,
        "counts": {"3": 1, "4": 2, "5": 3},
    }
    assert found["types"] == {"view": 5, "buy": 1}
    assert found["item_columns"] == {"title": pytest.approx(2 / 3), "genres": pytest.approx(2 / 3)}
    assert found["attributes"]["genres"] == {"values": 2, "per_item": 1, "coverage": pytest.approx(2 / 3)}
    assert found["edges"] == {"edges": 2, "relations": 2, "entities": 3, "items_linked": 1}
    assert found["histograms"]["events per user"] == [("2-3", 1), ("4-7", 1)]
    assert sum(count for _, count in found["histograms"]["events over time"]) == 6
    assert found["about"]["guessed"] == ["user", "item", "time", "rating", "type"]
    json.dumps(found)


@pytest.mark.parametrize(
    ("events", "warning"),
    [
        ("user,item\na,x\na,y\nb,x\nb,y\n", "order of a user's events is not known"),
        ("user,item,time\na,x,1500000000\na,y,1500000000\n", "all times are equal"),
        (
            "user,item,time\na,x,1500000000\na,y,1500000000\nb,x,1500000001\nb,y,1500000001\n",
            "50% of the events share their time",
        ),
        ("user,item,time\na,x,1\na,y,2\n", "before 1980"),
        ("user,item,time,rating\na,x,1500000000,5\na,y,1500000001,5\n", "all ratings equal 5"),
        ("user,item,time\na,x,1500000000\nb,x,1500000001\n", "2 of 2 users have one event"),
        ("user,item,time\na,x,1500000000\na,x,1500000001\n", "there is one item"),
        ("user,item,time\na,x,1500000000\na,x,1500000000\n", "1 events equal an earlier one"),
        ("user,item,time\na,3.0,1500000000\na,4.0,1500000001\n", "2 item ids look like floats"),
        ("user,item,time\nnan,x,1500000000\na,y,1500000001\n", "a user id is 'nan'"),
        ("user,item,time\na,x ,1500000000\na,y,1500000001\n", "1 item ids have blanks"),
        (
            "user,item,time\na,x,1500000000\na,x,1500000001\na,x,1500000002\na,y,1500000003\n",
            r"one item \(x\) has 75% of the events",
        ),
    ],
)
def test_what_looks_wrong_is_said(folder: Path, events: str, warning: str) -> None:
    found = looked(folder, events)
    assert re.search(warning, "\n".join(found["warnings"])), found["warnings"]


def test_nothing_wrong_nothing_said(folder: Path) -> None:
    events = "".join(f"u{u},i{(u + n) % 9},{1_500_000_000 + 100 * u + n},{n % 5}\n" for u in range(9) for n in range(6))
    assert looked(folder, "user,item,time,rating\n" + events)["warnings"] == []


def test_lenient_reading_is_reported(folder: Path) -> None:
    found = looked(folder, "user,item\na,x\n,y\na,y\nb\n", lenient=True)
    assert any(
        "2 of 4 rows were set aside: 1 columns where 2 are named (1), user: empty (1)" in said for said in found["warnings"]
    )


def test_catalogue_beyond_the_events(folder: Path) -> None:
    (folder / "items.csv").write_text("item_id\nx\nq\n")
    (folder / "users.csv").write_text("user_id,age\na,3\nnew,4\n")
    found = looked(folder, "user,item,time\na,x,1500000000\n")
    assert (found["users"], found["items"]) == (2, 2)
    assert "1 users of the user table have no event" in found["warnings"]
    assert "1 of 2 items of the catalogue have no event" in found["warnings"]
