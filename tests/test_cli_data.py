"""`lmrs data`: what it prints, as text and as JSON, and how it says what a user can mend."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmrs import store
from lmrs.cli import run

EVENTS = "uid,thing,ts,rating\na,x,1500000000,5\na,y,1500000001,4\nb,x,1500000002,3\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMRS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def events(tmp_path: Path) -> Path:
    (tmp_path / "log.csv").write_text(EVENTS)
    return tmp_path / "log.csv"


def test_list_names_every_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "list"]) == 0
    assert "movielens-100k (also ml-100k)" in capsys.readouterr().out
    assert run(["data", "list", "--json"]) == 0
    assert [each["name"] for each in json.loads(capsys.readouterr().out)] == [
        "movielens-100k", "synthetic", "synthetic-news", "synthetic-dialogues",
    ]  # fmt: skip


def test_get_prepares_and_may_write_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "get", "synthetic:users=5,items=4,length=3", "--to", str(tmp_path / "s"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"name": "synthetic", "store": str(tmp_path / "s"), "users": 5, "items": 4, "events": 15}
    assert store.open(tmp_path / "s").n_events == 15
    assert run(["data", "get", "synthetic:users=5,items=4,length=3"]) == 0
    assert capsys.readouterr().out == "synthetic: 5 users, 4 items, 15 events\n"


def test_inspect_shows_what_was_understood(events: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "inspect", str(events), "--column", "item=thing"]) == 0
    out = capsys.readouterr().out
    assert "3 by 2 users on 2 items" in out
    assert "item = thing, rating = rating (guessed), time = ts (guessed), user = uid (guessed)" in out.replace("\n", "")
    assert "2017-07-14 02:40:00 to 2017-07-14 02:40:02" in out
    assert "rows read" in out
    assert "1 of 2 users have one event" in out


def test_inspect_as_json(events: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "inspect", str(events), "--column", "item=thing", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["events"], found["users"], found["items"]) == (3, 2, 2)
    assert "1 of 2 users have one event: nothing can be asked about them" in found["warnings"]


def test_inspect_a_store_and_synthetic_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "get", "synthetic:users=5,items=4,length=3", "--to", str(tmp_path / "s")]) == 0
    assert run(["data", "inspect", str(tmp_path / "s")]) == 0
    assert "attribute group" in capsys.readouterr().out


def test_lenient_reading_adds_up(tmp_path: Path, events: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events.write_text(EVENTS + "c,x\n,x,1500000003,4\n")
    aside = tmp_path / "aside.csv"
    command = ["data", "inspect", str(events), "--column", "item=thing", "--lenient", "--quarantine", str(aside)]
    assert run(command) == 0
    out = capsys.readouterr().out
    assert "5 = 3 events, 2 quarantined" in out
    assert "2 of 5 rows were set aside" in out
    assert [line.split(",")[:2] for line in aside.read_text().splitlines()[1:]] == [["log.csv", "5"], ["log.csv", "6"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "{log}"], "a column for item in log.csv, got columns uid, thing, ts, rating; say which with --column item="),
        (["inspect", "{log}", "--column", "item"], "needed a column such as user=customer_id, got 'item'"),
        (["inspect", "{log}", "--column", "itm=thing"], "got 'itm'; did you mean item"),
        (["inspect", "{log}", "--column", "item=thong"], "did you mean thing"),
        (["inspect", "nowhere"], "needed the name of a source or an existing path, got 'nowhere'"),
        (["get", "movilens-100k"], "got 'movilens-100k'; did you mean movielens-100k"),
    ],
)
def test_mistakes_are_one_line_and_exit_1(
    events: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(["data", *(text.format(log=events) for text in arguments)]) == 1
    told = capsys.readouterr()
    assert message in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""
