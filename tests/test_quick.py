"""A saved transformer answers without torch as it does with it, for every block and option; and says what it cannot read."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import zlib
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lmrs import models, objectives, quick, tasks, views
from lmrs.cli import run
from lmrs.errors import CheckpointError, DivergedError, UserError
from lmrs.folder import FILES, MANIFEST, MODEL, TENSORS, told_of
from lmrs.order import priority
from lmrs.quick import QuickRecommender
from lmrs.recommendations import Recommendations
from lmrs.recommender import Recommender
from lmrs.system import Paper, Stage, System
from lmrs.systems import CATALOGUE, sasrec
from lmrs.testing import tiny
from lmrs.vocab import Vocab

ITEMS, LENGTH = 83, 6
BLOCKS = {
    "query": models.QueryNorm(),
    "pre": models.PreNorm(expand=2),
    "post": models.PostNorm(expand=3),
    "gated": models.Gated(expand=2),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "left": {"align": "left"},
    "scale": {"scale": True},
    "norm": {"embed_norm": True},
    "own table": {"tied": False},
    "bias": {"bias": True},
    "transform": {"transform": True},
    "no positions": {"positions": False},
    "deep": {"layers": 3, "heads": 4},
    "shallow": {"layers": 1, "heads": 1},
    "long": {"max_len": LENGTH + 3},
}
SYSTEMS = [(block, "plain", asks) for block in BLOCKS for asks in ("next", "cloze")] + [
    ("query", option, asks) for option in OPTIONS if option != "plain" for asks in ("next", "cloze")
]


def system(block: str, option: str, asks: str) -> System:
    view = views.ItemSequence(max_len=LENGTH)
    given = {"dim": 8, "layers": 2, "heads": 2, "max_len": LENGTH} | OPTIONS[option]
    objective = objectives.NextItem() if asks == "next" else objectives.Cloze()
    paper = Paper("A test", "Nobody", 2026, "nowhere")
    return System(
        paper, models.Transformer(**given, block=BLOCKS[block]), (Stage("train", view, objective),), tasks.Ranking(view)
    )


def vocab() -> Vocab:
    """Items i0, i1, ..., of which i4 has no training event; every third has no title."""
    ids = pa.array([f"i{at}" for at in range(ITEMS)], pa.large_string())
    titles = [f"Title {at}" if at % 3 else None for at in range(ITEMS)]
    return Vocab(
        ids, counts=np.arange(ITEMS) % 7 * (np.arange(ITEMS) != 4), catalogue=pa.table({"item_id": ids, "title": titles})
    )


def made(folder: Path, wanted: System) -> Path:
    """A saved recommender in which no weight is zero or one, and items 5, 27 and the last are alike."""
    known = vocab()
    network = wanted.model.build(known)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in network.parameters():
            value.copy_(torch.randn(value.shape, generator=rng) * (0.7 if value.ndim > 1 else 0.3) + 0.1 * (value.ndim < 2))
        for name, value in network.named_parameters():
            if name in ("items.weight", "table.weight", "item_bias"):
                value[27] = value[ITEMS - 1] = value[5]
    objective = wanted.stages[0].objective  # type: ignore[union-attr]
    return Recommender(wanted, known, network, objective, items=known.catalogue, name="made").save(folder)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quick")


@cache
def both(home: Path, case: tuple[str, str, str]) -> tuple[Recommender, QuickRecommender]:
    folder = made(home / "-".join(case), system(*case))
    return Recommender.load(folder), QuickRecommender.load(folder)


def alike(a: Recommendations, b: Recommendations) -> None:
    """The same answers; scores within rounding, and other items only where scores are that near, or nearly the last one's."""
    assert replace(a, ids=(), titles=(), scores=()) == replace(b, ids=(), titles=(), scores=())
    assert a.scores == pytest.approx(b.scores, rel=1e-5, abs=1e-5)
    for score, one, two in zip(a.scores, zip(a.ids, a.titles), zip(b.ids, b.titles)):
        assert one == two or sum(abs(each - score) <= 2e-5 for each in a.scores) > 1 or score - a.scores[-1] <= 2e-5


IDS = st.integers(0, ITEMS - 1).map(lambda at: f"i{at}") | st.integers(0, 3).map(lambda at: f"stranger {at}")


@pytest.mark.parametrize("case", SYSTEMS, ids="-".join)
@settings(max_examples=25)
@given(
    history=st.lists(IDS, max_size=2 * LENGTH),
    k=st.sampled_from([1, 3, 10, ITEMS, 500]),
    exclude=st.lists(IDS, max_size=4),
    seen=st.booleans(),
)
def test_it_answers_as_torch_does(
    home: Path, case: tuple[str, str, str], history: list[str], k: int, exclude: list[str], seen: bool
) -> None:
    slow, fast = both(home, case)
    asked = {"k": k, "exclude": exclude, "exclude_seen": seen}
    alike(slow.recommend(history, **asked), fast.recommend(history, **asked))


@pytest.mark.parametrize(
    "case", [("query", "plain", "next"), ("post", "plain", "cloze"), ("query", "bias", "next")], ids="-".join
)
def test_items_that_are_alike_stand_in_the_order_of_the_hash(home: Path, case: tuple[str, str, str]) -> None:
    """Wherever they stand in the table: the last ones of a product are added up in another order, also by torch."""
    twins = np.array([5, 27, ITEMS - 1])
    best_first = [f"i{at}" for at in twins[np.argsort(~priority(0, np.zeros(1, np.int64), twins))]]
    _, fast = both(home, case)
    for history in (["i1"], ["i2", "i3"], [f"i{at}" for at in range(30, 60)]):
        found = fast.recommend(history, k=ITEMS, exclude_seen=False)
        places = [found.ids.index(each) for each in best_first]
        assert len({found.scores[at] for at in places}) == 1
        assert places == list(range(places[0], places[0] + 3))
        assert fast.recommend(history, k=places[0] + 1, exclude_seen=False).ids[-1] == best_first[0]


def test_without_a_known_history_it_is_popularity_in_torchs_order(home: Path) -> None:
    slow, fast = both(home, ("query", "plain", "next"))
    for history in ([], ["stranger"]):
        for k in (1, 5, 12, ITEMS):
            assert fast.recommend(history, k=k) == slow.recommend(history, k=k)
    assert fast.recommend([]).fallback == "training popularity"


def test_a_history_for_which_the_mask_leaves_no_room_is_no_fallback(tmp_path: Path) -> None:
    wanted = system("post", "plain", "cloze")
    folder = made(tmp_path / "model", replace(wanted, task=tasks.Ranking(views.ItemSequence(max_len=1))))
    assert QuickRecommender.load(folder).recommend(["i1"]) == Recommender.load(folder).recommend(["i1"])


def test_nothing_left_to_offer_is_an_empty_answer(home: Path) -> None:
    slow, fast = both(home, ("query", "plain", "next"))
    every = [f"i{at}" for at in range(ITEMS)]
    assert fast.recommend(every) == slow.recommend(every)
    assert len(fast.recommend(every)) == 0
    assert len(fast.recommend(every[1:])) == 1


@pytest.mark.parametrize(
    ("history", "asked"),
    [("i1", {}), (["i1"], {"k": 0}), (["i1"], {"k": True}), (["i1", 1.5], {}), ([None], {}), (["i1"], {"exclude": [True]})],
)
def test_a_bad_question_is_the_same_error(home: Path, history: Any, asked: dict[str, Any]) -> None:
    said = []
    for each in both(home, ("query", "plain", "next")):
        with pytest.raises(UserError) as error:
            each.recommend(history, **asked)
        said.append(str(error.value))
    assert said[0] == said[1]


def test_whole_numbers_are_ids_too(home: Path, tmp_path: Path) -> None:
    slow, _ = both(home, ("query", "plain", "next"))
    numbers = replace(slow.vocab, items=pa.array([str(at) for at in range(ITEMS)], pa.large_string()))
    fast = QuickRecommender.load(replace(slow, vocab=numbers, items=None).save(tmp_path / "model"))
    assert fast.recommend([1, np.int64(2)]) == fast.recommend(["1", "2"])
    assert fast.recommend([1]).titles == fast.recommend([1]).ids


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_the_same_error(home: Path, tmp_path: Path, value: float) -> None:
    slow, _ = both(home, ("query", "own table", "next"))
    folder = slow.save(tmp_path / "model")
    changed(folder, "table.weight", lambda table: table.index_fill_(0, torch.tensor([9]), value))
    said = []
    for each in (Recommender.load(folder), QuickRecommender.load(folder)):
        with pytest.raises(DivergedError) as error:
            each.recommend(["i1"])
        said.append(str(error.value))
    assert said[0] == said[1]
    assert "item 9" in said[0]


@settings(deadline=None)
@given(
    scores=st.lists(st.integers(-5, 5) | st.just(-np.inf), min_size=1, max_size=300),
    k=st.integers(1, 400),
    groups=st.sampled_from([8, 16]),
)
def test_at_least_k_scores_reach_what_the_list_begins_with(scores: list[float], k: int, groups: int) -> None:
    """However long they are, and of long ones no more than the maxima of groups tell."""
    array = np.array(scores, np.float32)
    exact = np.sort(array)[max(0, len(array) - k)]
    with mock.patch.object(quick, "_GROUPS", groups):
        found = quick._least(array, k)
    assert found <= exact
    if len(array) < 8 * groups or k > groups // 8:
        assert found == exact
    else:
        maxima = [array[at : len(array) - len(array) % groups : groups].max() for at in range(groups)]
        assert found == sorted(maxima)[-k]


# -- files -----------------------------------------------------------------------------------------------------------------


def changed(folder: Path, name: str, change: Any) -> None:
    """Another tensor under the name, with a manifest that fits."""
    tensors = load_file(folder / TENSORS)
    tensors[name] = change(tensors[name].clone())
    save_file(tensors, folder / TENSORS)
    manifest = json.loads((folder / MANIFEST).read_text())
    file = folder / TENSORS
    manifest["files"][TENSORS] = told_of(file)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def redescribed(folder: Path, change: Any) -> None:
    """Another model.json, with a manifest that fits."""
    file = folder / MODEL
    about = json.loads(file.read_text())
    change(about)
    file.write_text(json.dumps(about))
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][MODEL] = told_of(file)
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.fixture
def saved(home: Path, tmp_path: Path) -> Path:
    both(home, ("query", "plain", "next"))
    return Path(shutil.copytree(home / "query-plain-next", tmp_path / "model"))


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
@pytest.mark.parametrize("harm", ["gone", "cut", "changed"])
def test_a_damaged_file_is_named_as_by_the_other(saved: Path, name: str, harm: str) -> None:
    file = saved / name
    content = file.read_bytes()
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes(
            content[: len(content) // 2] if harm == "cut" else content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
        )
    said = []
    for kind in (Recommender, QuickRecommender):
        with pytest.raises(CheckpointError) as error:
            kind.load(saved)
        said.append(str(error.value))
    assert said[0] == said[1]
    assert name in said[0]


def test_a_folder_of_an_older_format_is_named_by_both(saved: Path) -> None:
    files = json.loads((saved / MANIFEST).read_text())["files"]
    (saved / MANIFEST).write_text(json.dumps({"format": 1, "files": {name: {"size": 1, "sha256": ""} for name in files}}))
    for kind in (Recommender, QuickRecommender):
        with pytest.raises(CheckpointError, match=r"a recommender of format 2 in .*manifest.json, got format 1; .* fit"):
            kind.load(saved)


def test_the_manifest_has_the_sums_that_other_programs_make(saved: Path) -> None:
    told = json.loads((saved / MANIFEST).read_text())["files"]
    for name, each in told.items():
        content = (saved / name).read_bytes()
        assert each == {
            "size": len(content), "SHA-256": hashlib.sha256(content).hexdigest(), "CRC-32": f"{zlib.crc32(content):08x}"
        }  # fmt: skip
    large = saved / "large"
    large.write_bytes(bytes(range(256)) * 2000)  # more than is read at once
    assert told_of(large)["CRC-32"] == f"{zlib.crc32(bytes(range(256)) * 2000):08x}"


def test_no_folder_is_the_same_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "nowhere", tmp_path / "empty"):
        said = []
        for kind in (Recommender, QuickRecommender):
            with pytest.raises(CheckpointError) as error:
                kind.load(folder)
            said.append(str(error.value))
        assert said[0] == said[1]


def test_tensors_that_do_not_fit_are_named(saved: Path) -> None:
    changed(saved, "final_norm.bias", lambda each: each[:-1].contiguous())
    said = []
    for kind in (Recommender, QuickRecommender):
        with pytest.raises(CheckpointError, match=r"final_norm\.bias") as error:
            kind.load(saved)
        said.append(str(error.value))
    assert said[0] == said[1]


def test_numbers_of_another_type_are_refused(saved: Path) -> None:
    changed(saved, "final_norm.bias", lambda each: each.double())
    with pytest.raises(CheckpointError, match=r"'final_norm\.bias' as F32"):
        QuickRecommender.load(saved)


def test_a_vocabulary_of_another_model_is_refused(saved: Path) -> None:
    redescribed(saved, lambda about: about["vocab"].update(fingerprint="0"))
    with pytest.raises(CheckpointError, match="the vocabulary that the model was trained with"):
        QuickRecommender.load(saved)


@pytest.mark.parametrize(
    ("place", "value", "came"),
    [
        (("model", "kind"), "models.Recurrent", "the model models.Recurrent"),
        (("model", "item_dim"), 8, "a model with item_dim"),
        (("model", "features"), {"kind": "models.Features"}, "a model with features"),
        (("model", "block", "kind"), "models.Other", "the block models.Other"),
        (("model", "rotary"), True, "models.Transformer with the fields .*rotary"),
        (("model", "block", "slope"), 1, "models.QueryNorm with the fields slope"),
        (("task", "kind"), "tasks.Rating", "the task tasks.Rating"),
        (("task", "view", "kind"), "views.Events", "the view views.Events"),
        (("stages", -1, "objective", "kind"), "objectives.Permuted", "the objective objectives.Permuted"),
        (("stages",), [{"kind": "system.Estimate", "name": "count"}], "the objective None"),
    ],
)
def test_another_system_is_refused_and_says_who_reads_it(saved: Path, place: tuple[Any, ...], value: Any, came: str) -> None:
    def change(about: dict[str, Any]) -> None:
        inner = about["system"]
        for name in place[:-1]:
            inner = inner[name]
        inner[place[-1]] = value

    redescribed(saved, change)
    with pytest.raises(UserError, match=f"{came}.*Recommender.load") as error:
        QuickRecommender.load(saved)
    assert not isinstance(error.value, CheckpointError)


def test_parts_of_the_users_own_are_refused(saved: Path) -> None:
    redescribed(saved, lambda about: about.update(code={"/home/ada/mine.py": "0"}))
    with pytest.raises(UserError, match="a file of your own"):
        QuickRecommender.load(saved)


def test_it_knows_every_field_that_the_described_classes_have() -> None:
    """A field added to one of them changes what it computes: then this reader must learn it, or refuse it."""
    assert {each.name for each in fields(models.Transformer)} == quick._MODEL
    assert {each.name for each in fields(views.ItemSequence)} == quick._VIEW
    for kind, names in quick._BLOCKS.items():
        assert {each.name for each in fields(getattr(models, kind.partition(".")[2]))} == names


@pytest.mark.parametrize("name", ["sasrec", "bert4rec", "esasrec"])
def test_systems_of_the_catalogue_are_read(tmp_path: Path, name: str) -> None:
    wanted = CATALOGUE[name](dim=8, max_len=LENGTH)
    known = tiny.vocab(tiny.split().train)
    objective = wanted.stages[-1].objective  # type: ignore[union-attr]
    slow = Recommender(wanted, known, wanted.model.build(known), objective, items=known.catalogue, name=name)
    fast = QuickRecommender.load(slow.save(tmp_path / "model"))
    alike(slow.recommend(["i1", "i2"]), fast.recommend(["i1", "i2"]))


# -- without torch ---------------------------------------------------------------------------------------------------------


def python(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_neither_torch_nor_pyarrow_compute_is_imported(saved: Path) -> None:
    ask = f"import lmrs, sys; lmrs.QuickRecommender.load({str(saved)!r}).recommend(['i1', 'zz'], k=3)"
    assert python(f"{ask}; print([m for m in ('torch', 'pyarrow.compute', 'scipy', 'rich') if m in sys.modules])") == ["[]"]


def test_the_weights_are_mapped(saved: Path) -> None:
    table = QuickRecommender.load(saved).network.table
    assert not table.flags.owndata
    assert not table.flags.writeable


def test_the_command_line_asks_it_and_prints_the_same(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # i4 has no training events; more than LENGTH items are known; one is named twice
    history = ",".join(["i4", *(f"i{at}" for at in range(10, 20)), "i10"])
    for words in (
        ["--history", history],
        ["--history", history, "--json", "-k", "4", "--exclude", "i7", "--include-seen"],
        ["--history", "", "--json"],
        ["--item", "i1", "--item", "i2"],
    ):
        with mock.patch.object(Recommender, "load", side_effect=AssertionError("the other one was asked")):
            assert run(["recommend", str(saved), *words]) == 0
        first = capsys.readouterr()
        with mock.patch.object(QuickRecommender, "load", side_effect=UserError(needed="", came="")):
            assert run(["recommend", str(saved), *words]) == 0
        second = capsys.readouterr()
        if "--json" in words:
            one, two = json.loads(first.out), json.loads(second.out)
            scores = [[each.pop("score") for each in found["items"]] for found in (one, two)]
            assert one == two
            assert scores[0] == pytest.approx(scores[1], rel=1e-5)
        else:
            assert first.out == second.out
        assert first.err == second.err
        notes = first.out + first.err
        assert ("6 older items are not read" in notes and "i4" in notes) == (history in words)


def test_the_command_line_leaves_the_rest_to_the_other(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recommend", str(saved), "--history", "Title 1,i2", "--json"]) == 0  # a title
    assert json.loads(capsys.readouterr().out)["history"] == ["i1", "i2"]
    (saved / TENSORS).unlink()
    assert run(["recommend", str(saved), "--history", "i2"]) == 1
    assert TENSORS in capsys.readouterr().err


def test_the_command_line_imports_no_torch(saved: Path) -> None:
    for words in ("", ", '--json'"):
        code = f"import sys; from lmrs.cli import run; run(['recommend', {str(saved)!r}, '--history', 'i1,i2'{words}])"
        assert python(f"{code}; print('torch' in sys.modules)")[-1] == "False"


def test_a_catalogue_that_needs_arrow_is_left_to_the_other_one(tmp_path: Path) -> None:
    """Titles as a dictionary: answering with ids instead of titles would be another answer."""
    known = vocab()
    assert known.catalogue is not None
    at = known.catalogue.column_names.index("title")
    coded = known.catalogue.set_column(at, "title", known.catalogue.column("title").dictionary_encode())
    wanted = sasrec(dim=8, max_len=LENGTH)
    made = Recommender(wanted, known, wanted.model.build(known), wanted.stages[0].objective, items=coded, name="made")
    with pytest.raises(UserError, match="columns that cannot be read without Arrow"):
        QuickRecommender.load(made.save(tmp_path / "model"))


def test_it_needs_no_arrow(saved: Path) -> None:
    code = f"from lmrs import QuickRecommender; print(QuickRecommender.load({str(saved)!r}).recommend(['i1']).ids)"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; assert not {{'pyarrow', 'torch'}} & set(sys.modules)"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_folder_of_before_is_left_to_the_other_one(saved: Path) -> None:
    redescribed(saved, lambda about: about.pop("columns"))
    assert Recommender.load(saved).recommend(["i1"]).ids
    with pytest.raises(UserError, match="columns that cannot be read without Arrow"):
        QuickRecommender.load(saved)
