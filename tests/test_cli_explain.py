"""`lmrs explain` for a system that knows histories, by id and by title, and the command that comes after a fit."""

import json
import shlex

import pytest

from lmrs.cli import run

FILMS = {"heat": "Heat (1995)", "alien": "Alien (1979)", "brazil": "Brazil (1985)", "dune": "Dune (2021)"}
GENRES = {"heat": "crime", "alien": "space", "brazil": "space", "dune": "space"}
TASTES = {"u1": "heat alien brazil", "u2": "alien brazil dune", "u3": "heat dune alien brazil", "u4": "brazil dune heat alien"}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    events = [f"{user},{film},{at}" for user, films in TASTES.items() for at, film in enumerate(films.split(), 1_000_000_000)]
    (folder / "interactions.csv").write_text("\n".join(["user,item,timestamp", *events]) + "\n")
    items = [f"{film},{title},{GENRES[film]}" for film, title in FILMS.items()]
    (folder / "items.csv").write_text("\n".join(["item,title,genres", *items]) + "\n")
    out = folder / "run"
    small = "--set dim=8 --set layers=1 --set heads=2 --set transe_epochs=1 --set epochs=1 --set per_user=4 --set least=1"
    assert run(shlex.split(f"fit plm-rec --data {folder} --out {out} {small} --quiet")) == 0
    return out


def reasons(paths, capsys, *given):
    capsys.readouterr()
    assert run(["explain", str(paths), "--item", "brazil", "--json", *given]) == 0
    return json.loads(capsys.readouterr().out)


def test_titles_are_read_as_ids_and_a_note_says_so(paths, capsys):
    by_id = reasons(paths, capsys, "--history", "alien,dune")
    by_title = reasons(paths, capsys, "--history", "Alien (1979); dune")
    assert by_title["history"] == by_id["history"] == ["alien", "dune"]
    assert by_title["reasons"] == by_id["reasons"]
    assert by_id["reasons"][0].endswith("Brazil (1985)")
    assert not by_id["notes"]
    assert "'Alien (1979)' is read as the title of item alien" in by_title["notes"]


def test_a_user_of_the_run_brings_the_history_along(paths, capsys):
    found = reasons(paths, capsys, "--user", "u2")
    assert found["history"] == ["alien", "brazil", "dune"]


def test_after_a_fit_of_documents_the_next_command_asks_with_a_text(tmp_path, capsys):
    rows = [f"{at},Hops {at},Add hops,<hops>,2020-01-{at:02}" for at in range(1, 9)]
    (tmp_path / "posts.csv").write_text(
        "\n".join(["post_id,title,body,tags,created", *rows, "9,Malt,Ale,<malt>,2020-01-01"]) + "\n"
    )
    out = tmp_path / "run"
    fitted = f"fit ptm4tag --data {tmp_path / 'posts.csv'} --split time --valid-from .5 --test-from .75 --out {out}"
    assert run(shlex.split(f"{fitted} --set backbone=tiny-encoder --set epochs=1 --quiet")) == 0
    assert f"next: lmrs recommend {out} --text title=..." in capsys.readouterr().out
    assert run(["recommend", str(out), "--text", "title=Hops", "-k", "1"]) == 0
