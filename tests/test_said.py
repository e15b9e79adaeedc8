"""What somebody says: titles found in it and nothing guessed, items and a response in answer; `lmrs recommend --said`."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import numpy as np
import pytest
import talked
import torch

from lmrs import systems, tasks
from lmrs.cli import run, show
from lmrs.conversation import heard, question
from lmrs.decoding import Titles
from lmrs.decoding.mentions import named
from lmrs.errors import UserError
from lmrs.fit import fit
from lmrs.models.speaker import filled
from lmrs.recommender import Recommendations, Recommender
from lmrs.records import SLOT
from lmrs.views import Replies

NAMES = (
    "Heat (1995)", "Matrix, The (1999)", "It (2017)", "Toy Story (1995)", "Toy Story 2 (1999)", "Titanic (1953)",
    "Titanic (1997)",
    "Face/Off (1997)", "Pulp Fiction (1994)", "The Matrix Reloaded (2003)", "E.T. the Extra-Terrestrial (1982)", "I (2015)",
    "Gone in 60 Seconds (2000)", "Alien (1979)",
)  # fmt: skip
TITLES = Titles(NAMES, threshold=None)


@pytest.mark.parametrize(
    ("text", "items", "left"),
    [
        ("I loved Heat (1995). What else is like it?", [0], {}),
        ("I loved heat (1995) and the matrix [1999]!", [0, 1], {}),
        ("We saw Heat and The Matrix, then Alien.", [0, 1, 13], {}),
        ("We saw The Matrix Reloaded", [9], {}),
        ("Toy Story 2 was better than Toy Story", [4, 3], {}),
        ('"heat" is good', [0], {}),
        ("I liked 'Face/Off' and Gone in 60 Seconds", [7, 12], {}),
        ("My kids love E.T. the Extra-Terrestrial", [10], {}),
        ("Titanic was long", [], {"ambiguous": ["Titanic"]}),
        ("Titanic (1997) was long", [6], {}),
        ("Heat is great. It is long, I think", [], {"unsure": ["Heat"]}),
        ("pulp fiction is fine", [], {"unsure": ["pulp fiction"]}),
        ("i saw it in the heat", [], {}),
        ("Have you seen Toy Story 3?", [], {"unsure": ["Toy Story"]}),
        ("I saw Alien Nation", [], {}),
        ('I saw "Alien Nation" and Big Fish (2003)', [], {"unmatched": ["Alien Nation", "Big Fish (2003)"]}),
        ("Heat (1986) is another one", [], {"unmatched": ["Heat (1986)"]}),
        ("You like Heat (1986)?", [], {"unmatched": ["Heat (1986)"]}),
        ("I LOVED HEAT, it WAS", [], {}),
        ("I had HEAT and It and I and, (yes) Alien", [], {"unsure": ["Alien"]}),
        ('I had "it"', [2], {}),
    ],
)  # fmt: skip
def test_titles_are_found_and_nothing_is_guessed(text, items, left):
    found = named(text, TITLES)
    assert list(found.items) == items
    assert {name: list(value) for name in ("unmatched", "ambiguous", "unsure") if (value := getattr(found, name))} == left
    assert found.text.count(SLOT) == len(items)


def test_what_is_left_of_the_text_is_as_it_was():
    assert (
        named(f"{SLOT} I loved Heat (1995), and 'the matrix'; not it.", TITLES).text == f"  I loved {SLOT}, and {SLOT}; not it."
    )


def test_who_speaks():
    said = heard(
        ["I liked Heat (1995)", "Assistant: Try Alien (1979)", "Why?", "No: really", "seeker: ok", "user: go on"], TITLES
    )
    assert [(role, each.text) for role, each in said.turns] == [
        ("seeker", f"I liked {SLOT}"), ("recommender", f"Try {SLOT}"), ("seeker", "Why?"), ("recommender", "No: really"),
        ("seeker", "ok go on"),
    ]  # fmt: skip
    assert said.items == (0, 13)
    with pytest.raises(UserError, match="something said"):
        heard(["User: ", " "], TITLES)
    with pytest.raises(UserError, match="a list of turns"):
        heard("hello", TITLES)


def test_a_dialogue_of_the_data_is_asked_as_the_task_asks_it():
    """The question that is made of typed text is the row that the view makes of the records."""
    split = talked.split(20)
    data, view = split.dataset, Replies()
    titles = Titles(data.titles(np.arange(data.n_items)), threshold=None)
    rows = view.within(data, data.offsets[:-1], data.offsets[1:]).take(np.arange(6))
    batch = view.collate(rows)
    for row, example in enumerate(batch.rows["example"].tolist()):
        lines = batch.texts["context"][row].split("\n")
        quoted = [titles_in_quotes(line) for line in lines]
        one = question(heard(quoted, titles), tasks.Responding(view), data.vocab, data.items)
        found = view.collate(one)
        assert found.texts["context"][0] == batch.texts["context"][row]
        here = slice(int(batch.offsets[row]), int(batch.offsets[row + 1]))
        assert torch.equal(found.channels["item"], batch.channels["item"][here]), example


def titles_in_quotes(line: str) -> str:
    words = line.split()
    for at, word in enumerate(words):
        if word == "Film":
            words[at : at + 2] = ['"Film', f'{words[at + 1]}"']
    return " ".join(words)


@pytest.fixture(scope="module")
def talker():
    split = talked.split(24)
    small = {"backbone": "tiny-causal", "task": 2, "speech": 2, "context": 24, "dim": 8, "bases": 2, "max_len": 9, "most": 6}
    epochs = {"pretrain_epochs": 1, "epochs": 1, "converse_epochs": 1, "said": 12}
    return Recommender.of(fit(systems.unicrs(answers="both", **small, **epochs), split), name="unicrs")


def test_a_reply_has_items_and_a_response_that_names_them(talker):
    titles = talker.titles(np.arange(24))
    said = [f'User: I liked "{titles[3]}" and "{titles[7]}"', "Sure", 'More like "Film Nought"']
    found = talker.reply(said, k=5)
    ids = talker.vocab.item_ids(np.array([3, 7]))
    assert found.named == tuple(ids)
    assert found.named_titles == (titles[3], titles[7])
    assert found.unmatched == ("Film Nought",)
    assert len(found.recommendations) == 5
    assert not set(ids) & set(found.recommendations.ids)
    assert isinstance(found.response, str)
    assert SLOT not in found.response
    first = found.recommendations.ids[:2]
    assert talker.reply(said, k=3, exclude=first).recommendations.ids == found.recommendations.ids[2:5]
    assert set(ids) < set(talker.reply(said, k=24, exclude_seen=False).recommendations.ids)
    again = talker.reply([said[0], "System: Sure", said[2]], k=5)
    assert again == found, "who speaks was told differently, the dialogue is the same"
    assert talker.reply([said[0], "Sure", "Nothing else"], k=5) != found


def test_slots_are_filled_with_the_best_items(talker, monkeypatch):
    monkeypatch.setattr(type(talker.scorer), "write", lambda self, batch: [f"Try {SLOT} or {SLOT}"])
    found = talker.reply(["Anything?"], k=1)
    assert len(found.recommendations) == 1
    two = talker.reply(["Anything?"], k=2).recommendations.titles
    assert found.response == f"Try {two[0]} or {two[1]}" == filled(f"Try {SLOT} or {SLOT}", two)


def test_systems_answer_as_far_as_they_can():
    split = talked.split(24)
    silent = Recommender.of(fit(systems.kbrd(dim=8, bases=2, epochs=1), split))
    titles = silent.titles(np.arange(24))
    found = silent.reply([f'I liked "{titles[3]}"'], k=4)
    assert found.response is None
    bare = silent.recommend(silent.vocab.item_ids(np.array([3])), k=4)
    assert found.recommendations.ids == bare.ids, "KBRD reads what was named"
    with pytest.raises(UserError, match="k of at least 1"):
        silent.reply(["Hi"], k=0)
    counted = fit(systems.popularity(), split)
    with pytest.raises(UserError, match=r"reads dialogues \(unicrs, kbrd\)"):
        Recommender.of(counted).reply(["Hi"])
    popular = Recommender.of(replace(counted, system=replace(counted.system, task=tasks.Conversing())))
    assert popular.reply(["Hi"], k=3).recommendations.ids == popular.recommend([], k=3).ids


def test_the_command_says_what_it_understood(talker, tmp_path, capsys):
    out = talker.save(tmp_path / "run")
    title = talker.titles(np.arange(24))[3]
    assert run(shlex.split(f"""recommend {out} --said 'I liked "{title}" and "Film Nought"' -k 3 --json""")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["named_titles"] == [title]
    assert found["unmatched"] == ["Film Nought"]
    assert len(found["items"]) == 3
    (tmp_path / "talk.txt").write_text(f'User: I liked "{title}" and "Film Nought"\n\n')
    assert run(shlex.split(f"recommend {out} --said-file {tmp_path / 'talk.txt'} -k 3 --json")) == 0
    assert json.loads(capsys.readouterr().out)["items"] == found["items"]
    assert run(shlex.split(f"""recommend {out} --said 'I liked "{title}" and "Film Nought"' -k 3""")) == 0
    shown = capsys.readouterr()
    assert f"understood: {title}" in shown.err
    assert "no title of the catalogue: Film Nought" in shown.err
    assert found["items"][0]["title"] in shown.out
    for more, message in (("--history f1", "one way to ask"), (f"--said-file {tmp_path / 'none'}", "one way to ask")):
        assert run(shlex.split(f"recommend {out} --said Hi {more}")) == 1
        assert message in capsys.readouterr().err
    assert run(shlex.split(f"recommend {out} --said-file {tmp_path / 'none'}")) == 1
    assert "needed a text at" in capsys.readouterr().err


def test_after_a_fit_of_dialogues_the_next_command_asks_with_words(tmp_path, capsys):
    out, small = (
        tmp_path / "run",
        "--set dim=4 --set bases=1 --set epochs=1 --set speech_dim=8 --set layers=1 --set converse_epochs=1",
    )
    assert (
        run(shlex.split(f"fit kbrd --data synthetic-dialogues --split user --out {out} --set answers=both {small} --quiet")) == 0
    )
    shown = capsys.readouterr().out
    assert f'next: lmrs recommend {out} --said "User: ..."' in shown
    assert "Distinct-2[responses]" in shown, "brackets are no markup"
    assert run(shlex.split(f'recommend {out} --said "User: Hello" -k 1')) == 0


def test_brackets_in_titles_are_shown():
    found = Recommendations(("[a]",), ("[REC] (2007)",), (1.0,))
    console = show.console()
    with console.capture() as printed:
        console.print(show.recommendations(found))
    assert "[REC] (2007)" in printed.get()
    assert "[a]" in printed.get()
