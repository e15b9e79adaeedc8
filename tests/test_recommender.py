"""A recommender answers for strangers, alike in a batch and alone, and comes back from its folder or says what is wrong."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import datetime
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

from lmrs import describe, tasks, views
from lmrs.answers import rank_states
from lmrs.errors import CheckpointError, StorageError, UserError
from lmrs.fit import Fitted, fit
from lmrs.folder import FILES, MANIFEST, MODEL, TENSORS, VOCAB, told_of
from lmrs.models import Control, ControlScorer
from lmrs.models.undrawn import Undrawn
from lmrs.native import compiler_found, load
from lmrs.recommender import FALLBACK, Recommender
from lmrs.system import Estimate, Paper, System
from lmrs.systems import CATALOGUE
from lmrs.testing import tiny

SMALL: dict[str, dict[str, Any]] = {
    "gru4rec": {"dim": 8, "max_len": 6, "epochs": 1},
    "caser": {"dim": 8, "window": 3, "max_len": 6, "epochs": 1, "users": True},
    "sasrec": {"dim": 8, "layers": 1, "heads": 2, "max_len": 6, "epochs": 1},
    "bert4rec": {"dim": 8, "layers": 1, "heads": 2, "max_len": 6, "epochs": 1},
    "s3rec": {"dim": 8, "layers": 1, "heads": 2, "max_len": 6, "epochs": 1, "pretrain_epochs": 1, "attributes": "genres"},
    "transformers4rec": {
        "dim": 8, "item_dim": 8, "layers": 1, "heads": 2, "max_len": 6, "epochs": 1, "objective": "permuted",
        "features": ("genres",),
    },
    "esasrec": {"dim": 8, "layers": 1, "heads": 2, "max_len": 6, "epochs": 1, "negatives": 4},
    "unisrec": {
        "backbone": "tiny-encoder", "dim": 8, "layers": 1, "experts": 2, "max_len": 6, "epochs": 1, "pretrain_epochs": 1,
    },
    "lmrec": {"backbone": "tiny-encoder", "scorer": "masks", "loss": "softmax", "masks": 9, "max_len": 3, "epochs": 1},
    "ppr": {
        "dim": 8, "layers": 1, "heads": 2, "max_len": 6, "epochs": 1, "pretrain_epochs": 1, "few": 3, "personal": False,
    },
    "prl": {"dim": 8, "max_len": 6, "epochs": 1, "rating": 4.0},
    "tiger": {
        "backbone": "tiny-encoder", "index": "rq-kmeans", "levels": 2, "codes": 4, "dim": 8, "layers": 1, "heads": 2,
        "head_dim": 4, "inner": 8, "max_len": 6, "epochs": 1,
    },
    "zero-shot": {"backbone": "tiny-causal", "max_len": 3},
    "tallrec": {"backbone": "tiny-causal", "max_len": 3, "epochs": 1},
    "language": {"backbone": "tiny-causal", "max_len": 3, "epochs": 1, "strategy": "fixed-model prompt tuning"},
}  # fmt: skip
# Systems whose questions are records or documents need data that has them: their own conformance cases ask the same of them.
NAMES = tuple(
    name
    for name, make in CATALOGUE.items()
    if not isinstance(task := make().task, tasks.RecordTask) and not isinstance(task.view, views.Documents)
)


@cache
def fitted(name: str) -> Fitted:
    return fit(CATALOGUE[name](**SMALL.get(name, {})), tiny.split(), seed=3)


@cache
def recommender(name: str = "sasrec") -> Recommender:
    return Recommender.of(fitted(name), name=name, settings=SMALL.get(name, {}))


def histories() -> list[list[str]]:
    """Every user's whole history, and what a stranger may send."""
    data = tiny.dataset()
    users = [data.vocab.item_ids(data.history(user)) for user in range(data.n_users)]
    return [*users, [], ["nobody knows this"], ["i1", "?", "i2"], ["i3"] * 40, ["i0", "i1"] * 30]


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_gets_the_lists_that_each_alone_gets(name: str) -> None:
    asked = histories()
    together = recommender(name).recommend_batch(asked, k=6, exclude=["i4"])
    for history, found in zip(asked, together, strict=True):
        alone = recommender(name).recommend(history, k=6, exclude=["i4"])
        assert found.ids == alone.ids
        assert np.allclose(found.scores, alone.scores, rtol=1e-6, atol=1e-6)
        assert (found.unknown, found.fallback) == (alone.unknown, alone.fallback)
        assert not set(found.ids) & {*history, "i4"}
        assert list(found.scores) == sorted(found.scores, reverse=True)


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded_it_gives_the_same_answers(name: str, tmp_path: Path) -> None:
    before = recommender(name)
    folder = before.save(tmp_path / "model")
    named = json.loads((folder / MANIFEST).read_bytes())["files"]
    assert set(named) >= set(FILES)  # and what the model prepared
    assert sorted(each.name for each in folder.iterdir()) == sorted([*named, MANIFEST])
    after = Recommender.load(folder)
    assert after.system == before.system
    assert (after.name, after.settings, after.seeds, after.notes) == (
        name,
        json.loads(json.dumps(before.settings)),
        (3,),
        (),
    )
    assert after.vocab.fingerprint == before.vocab.fingerprint
    assert np.array_equal(after.vocab.counts, before.vocab.counts)  # type: ignore[arg-type]
    for key, tensor in before.scorer.state_dict().items():
        assert torch.equal(tensor, after.scorer.state_dict()[key])
    for one, two in zip(after.recommend_batch(histories(), k=5), before.recommend_batch(histories(), k=5), strict=True):
        assert replace(one, scores=()) == replace(two, scores=())
        assert one.scores == pytest.approx(
            two.scores, rel=1e-5 if name in ("lmrec", "zero-shot", "tallrec", "language") else 0, abs=0
        )


def test_attributes_keep_their_numbers(tmp_path: Path) -> None:
    """Embeddings are found by the number of an attribute value: the order of the names is part of the model."""
    before = recommender("transformers4rec")
    names = before.vocab.attributes["genres"].names
    turned = replace(before.vocab.attributes["genres"], names=names.take(pa.array([2, 0, 1])))
    odd = replace(before, vocab=replace(before.vocab, attributes={"genres": turned}))
    after = Recommender.load(odd.save(tmp_path / "model")).vocab.attributes["genres"]
    assert after.names.to_pylist() == turned.names.to_pylist()
    assert np.array_equal(after.values, turned.values)
    assert np.array_equal(after.offsets, turned.offsets)


def test_unknown_items_are_ignored_and_named() -> None:
    with_unknown = recommender().recommend(["i1", "zz", "i2", "zz", "?"], k=3)
    without = recommender().recommend(["i1", "i2"], k=3)
    assert with_unknown.unknown == ("zz", "?")
    assert with_unknown.fallback == ""
    assert (with_unknown.ids, with_unknown.scores) == (without.ids, without.scores)
    assert recommender().recommend(["i1"], exclude=["i2", "never"]).unknown_excluded == ("never",)


def test_nothing_known_means_training_popularity_and_says_so() -> None:
    counts = recommender().vocab.counts
    assert counts is not None
    for history in ([], ["zz"]):
        found = recommender().recommend(history, k=5)
        assert found.fallback == FALLBACK == "training popularity"
        assert list(found.scores) == sorted(counts.tolist(), reverse=True)[:5]


def test_only_the_newest_items_count_but_all_are_excluded() -> None:
    early, late = ["i7", "i8", "i9"], ["i0", "i1", "i2", "i3", "i4", "i5"]
    long, short = (recommender().recommend(each, k=12, exclude=early, exclude_seen=True) for each in (early + late, late))
    assert (long.ids, long.scores) == (short.ids, short.scores)
    assert not set(recommender().recommend(early + late, k=12).ids) & {*early, *late}


def test_seen_items_come_again_if_one_says_so() -> None:
    everything = recommender().recommend(["i1", "i2"], k=100, exclude_seen=False)
    assert sorted(everything.ids) == sorted(f"i{number}" for number in range(13))
    rest = recommender().recommend(["i1", "i2"], k=100)
    assert rest.ids == tuple(each for each in everything.ids if each not in ("i1", "i2"))
    assert len(recommender().recommend(["i1"], k=5, exclude=[f"i{n}" for n in range(13)])) == 0


def test_titles_come_with_the_ids() -> None:
    found = recommender().recommend(["i1"], k=2)
    assert found.titles == tuple(f"Title {each[1:]}" for each in found.ids)
    assert found.to_dict()["items"][0] == {"id": found.ids[0], "title": found.titles[0], "score": found.scores[0]}


def test_whole_numbers_are_ids() -> None:
    numbered = replace(recommender(), vocab=replace(recommender().vocab, items=pa.array([str(n) for n in range(13)])))
    assert numbered.recommend([1, np.int64(2)], k=3).ids == numbered.recommend(["1", "2"], k=3).ids


def test_times_are_read_where_a_system_reads_them() -> None:
    timed = {**SMALL["transformers4rec"], "features": (), "times": ("weekday",), "objective": "causal"}
    trained = Recommender.of(fit(CATALOGUE["transformers4rec"](**timed), tiny.split(), seed=1))
    monday, friday = (trained.recommend(["i1", "i2"], k=3, times=[day, day]) for day in ("2024-01-01", "2024-01-05"))
    assert monday.scores != friday.scores
    for same in ([datetime(2024, 1, 5)] * 2, [1_704_412_800, 1_704_412_800.0], [np.datetime64("2024-01-05")] * 2):
        assert trained.recommend(["i1", "i2"], k=3, times=same) == friday
    assert trained.recommend(["?", "i1", "i2"], k=3, times=["1999-12-31", "2024-01-05", "2024-01-05"]).scores == friday.scores
    assert recommender().recommend(["i1"], times=["2024-01-01"]) == recommender().recommend(["i1"])
    with pytest.raises(UserError, match="time"):
        trained.recommend(["i1"])
    with pytest.raises(UserError, match="2 times, one for each item of the history, got 1"):
        trained.recommend(["i1", "i2"], times=[0])
    with pytest.raises(UserError, match="seconds since the epoch, got 'teatime'"):
        trained.recommend(["i1"], times=["teatime"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k of at least 1, got k=0"),
        ({"k": 2.5}, "k of at least 1, got k=2.5"),
        ({"k": True}, "k of at least 1"),
        ({"history": [1.5]}, "item ids as text or whole numbers, got 1.5"),
        ({"history": [None]}, "item ids as text or whole numbers, got None"),
        ({"history": "i1"}, r"a list of item ids as a history, got a text; write \['id', 'id', ...\]"),
        ({"exclude": [b"i1"]}, "item ids as text or whole numbers"),
    ],
)
def test_wrong_questions(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        recommender().recommend(**{"history": ["i1"], **arguments})


@settings(max_examples=40, deadline=None)
@given(
    history=st.lists(st.sampled_from([*(f"i{n}" for n in range(13)), "x", "\U0001f600", "i01", ""]), max_size=20),
    k=st.integers(1, 20),
    excluded=st.lists(st.sampled_from([f"i{n}" for n in range(13)]), max_size=6),
)
def test_any_history_gets_a_proper_list(history: list[str], k: int, excluded: list[str]) -> None:
    found = recommender("markov").recommend(history, k=k, exclude=excluded)
    assert len(set(found.ids)) == len(found.ids) == min(k, 13 - len({*history, *excluded} & {f"i{n}" for n in range(13)}))
    assert not set(found.ids) & {*history, *excluded}
    assert all(np.isfinite(found.scores))
    assert found == recommender("markov").recommend(history, k=k, exclude=excluded)


class Wobble(ControlScorer):
    """Scores two items alike up to rounding that depends on the rows beside: what a matrix product may do."""

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.n_items = n_items

    def estimate(self, train: Any) -> None: ...

    def score(self, batch: Any, visible: Any) -> torch.Tensor:
        scores = torch.zeros(batch.n_rows, self.n_items)
        scores[:, 2], scores[:, 5] = 1.0, 1.0 + (1e-7 if batch.n_rows % 2 else -1e-7)
        return scores


def test_rounding_that_depends_on_the_batch_cannot_change_a_list() -> None:
    wobbly = replace(recommender("markov"), scorer=Wobble(13))
    alone = wobbly.recommend(["i1"], k=1)
    assert alone.ids == ("i5",)
    assert all(found.ids == alone.ids for found in wobbly.recommend_batch([["i1"]] * 2, k=1))


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return recommender().save(tmp_path / "model")


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_changed_byte_or_a_cut_is_named(saved: Path, name: str) -> None:
    file = saved / name
    content = file.read_bytes()
    flipped = [content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] for at in (0, len(content) // 2, len(content) - 2)]
    for changed in [*flipped, b"", content[:1], content[:-2]]:
        file.write_bytes(changed)
        if name == MANIFEST and json.loads(content) == _json_or_none(file):
            continue  # white space
        with pytest.raises(CheckpointError, match="in .*model/" if name == MANIFEST else name):
            Recommender.load(saved)
    file.unlink()
    with pytest.raises(CheckpointError, match=name):
        Recommender.load(saved)


def _json_or_none(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except ValueError:
        return None


def resealed(folder: Path) -> Path:
    """The manifest made anew for files that were changed: what only their content can give away."""
    files = {name: told_of(folder / name) for name in FILES}
    (folder / MANIFEST).write_text(json.dumps({"format": 2, "files": files}))
    return folder


def test_large_catalogues_are_answered_in_smaller_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, sizes = recommender().recommend_batch(histories(), k=4), []
    plain = Recommender._top

    def top(self: Recommender, rows: views.Rows, *rest: Any) -> Any:
        sizes.append(len(rows))
        return plain(self, rows, *rest)

    monkeypatch.setattr(Recommender, "_top", top)
    monkeypatch.setattr("lmrs.recommender._CELLS", 2 * tiny.dataset().n_items + 1)
    assert [each.ids for each in recommender().recommend_batch(histories(), k=4)] == [each.ids for each in wanted]
    assert max(sizes) == 2


@pytest.mark.skipif(compiler_found() is None, reason="no C compiler here")
@pytest.mark.parametrize("name", ["sasrec", "bert4rec", "gru4rec", "markov"])
@pytest.mark.parametrize("given", [{"exclude": ["i4", "i7", "i4"]}, {"exclude_seen": False}, {"k": 99}], ids=str)
def test_many_histories_get_their_lists_by_the_kernel(monkeypatch: pytest.MonkeyPatch, name: str, given: dict[str, Any]) -> None:
    known = [history for history in histories() if set(history) & set(tiny.dataset().vocab.items.to_pylist())]
    alone, calls = [recommender(name).recommend(history, **given) for history in known], []
    kernel = load()
    monkeypatch.setattr("lmrs.recommender._MANY", len(known) * tiny.dataset().n_items)
    monkeypatch.setattr("lmrs.kernels.fastest", lambda tasks: (kernel, tuple(tasks)))
    monkeypatch.setattr("lmrs.recommender.rank_states", lambda *a, **k: calls.append(len(a[1])) or rank_states(*a, **k))
    together = recommender(name).recommend_batch(known, **given)
    assert calls == ([] if name == "markov" else [len(known)])
    for one, two in zip(alone, together, strict=True):
        assert replace(one, scores=()) == replace(two, scores=())
        assert one.scores == pytest.approx(two.scores, rel=1e-5, abs=1e-5)
    strangers = [*histories(), []]  # one block with histories that nothing is known of
    assert [each.ids for each in recommender(name).recommend_batch(strangers, **given)] == [
        recommender(name).recommend(history, **given).ids for history in strangers
    ]
    calls.clear()
    recommender(name).recommend_batch(known[1:], **given)
    assert not calls


@pytest.mark.parametrize("name", ["sasrec", "caser", "s3rec"])
def test_weights_that_will_be_read_are_not_drawn(name: str, tmp_path: Path) -> None:
    given = recommender(name)
    folder, state = given.save(tmp_path / "model"), torch.get_rng_state()
    with mock.patch.object(torch.Tensor, "uniform_", side_effect=AssertionError("drawn")):
        found = Recommender.load(folder).scorer.state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    for key, value in given.scorer.state_dict().items():
        assert torch.equal(found[key], value)


def test_what_a_generator_draws_is_drawn_all_the_same() -> None:
    def drawn() -> torch.Tensor:
        rng = torch.Generator().manual_seed(1)
        return torch.cat([torch.nn.init.normal_(torch.empty(3), generator=rng), torch.empty(3).normal_(2, 1, generator=rng)])

    with Undrawn():
        inside, cut, mean = drawn(), torch.nn.init.trunc_normal_(torch.empty(99), std=3.0), torch.empty(2).normal_(5, 1)
    assert torch.equal(inside, drawn())
    assert (cut == 0).all()
    assert mean.tolist() == [5, 5]


def test_another_vocabulary_is_refused(saved: Path, tmp_path: Path) -> None:
    other = replace(
        recommender(),
        items=None,
        vocab=replace(recommender().vocab, items=recommender().vocab.items.take(pa.array([1, 0, *range(2, 13)]))),
    )
    shutil.copyfile(other.save(tmp_path / "other") / VOCAB, saved / VOCAB)
    with pytest.raises(
        CheckpointError, match=r"needed the vocabulary that the model was trained with in .*vocab.arrow, got another one"
    ):
        Recommender.load(resealed(saved))


def test_another_catalogue_is_refused(saved: Path, tmp_path: Path) -> None:
    turned = replace(recommender(), items=recommender().items.take(pa.array([1, 0, *range(2, 13)])))  # type: ignore[union-attr]
    shutil.copyfile(turned.save(tmp_path / "other") / "items.arrow", saved / "items.arrow")
    with pytest.raises(CheckpointError, match=r"catalogue of the model's vocabulary in .*items.arrow"):
        Recommender.load(resealed(saved))


def test_tensors_of_another_size_are_refused(saved: Path, tmp_path: Path) -> None:
    wider = Recommender.of(fit(CATALOGUE["sasrec"](**{**SMALL["sasrec"], "dim": 10}), tiny.split(), seed=0))
    shutil.copyfile(wider.save(tmp_path / "other") / TENSORS, saved / TENSORS)
    with pytest.raises(
        CheckpointError, match=r"the tensor 'blocks.0.down.bias' of shape \[8\] in .*tensors.safetensors, got \[10\]"
    ):
        Recommender.load(resealed(saved))


def test_what_was_never_there_or_never_finished(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        Recommender.load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"a folder without manifest.json; finish the fit"):
        Recommender.load(tmp_path)


def test_saving_replaces_a_recommender_and_nothing_else(saved: Path, tmp_path: Path) -> None:
    recommender("markov").save(saved)
    assert Recommender.load(saved).name == "markov"
    assert [each.name for each in tmp_path.iterdir()] == ["model"]  # nothing is left behind
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("x")
    with pytest.raises(StorageError, match="something that is no recommender"):
        recommender().save(tmp_path / "letters")
    assert (tmp_path / "letters" / "dear.txt").exists()


def test_a_disk_that_refuses_leaves_the_old_one(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(StorageError, match=r"tensors.safetensors, got No space left on device; free some space"):
        recommender("markov").save(saved)
    assert Recommender.load(saved).name == "sasrec"
    assert [each.name for each in saved.parent.iterdir()] == ["model"]


OWN = """
from dataclasses import dataclass
import torch
from lmrs.models import Control, ControlScorer

@dataclass(frozen=True)
class Newest(Control):
    weight: float = 1.0

    def build(self, vocab):
        return NewestScorer(vocab.n_items, self.weight)

class NewestScorer(ControlScorer):
    def __init__(self, n_items, weight):
        super().__init__()
        self.n_items, self.weight = n_items, weight
        self.register_buffer("seen", torch.zeros(0))

    def estimate(self, train):
        self.seen = torch.from_numpy(train.counts()).float()

    def score(self, batch, visible):
        return (self.weight * self.seen).expand(batch.n_rows, -1)
"""


def test_a_system_of_ones_own_is_saved_with_the_place_of_its_code(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(OWN)
    model = describe.load_file(file).Newest(weight=2.0)
    assert isinstance(model, Control)
    made = System(Paper("Mine", "me", 2024), model, (Estimate(),), tasks.Ranking(views.ItemSequence()))
    folder = Recommender.of(fit(made, tiny.split())).save(tmp_path / "model")
    back = Recommender.load(folder)
    assert back.system == made
    assert back.name == "Mine"
    assert back.notes == ()
    file.write_text(OWN + "# a remark\n")
    assert Recommender.load(folder).notes == (f"{file} has changed since this recommender was saved",)


def test_nothing_in_the_folder_is_a_pickle(saved: Path) -> None:
    for file in saved.iterdir():
        head = file.read_bytes()[:8]
        assert file.suffix in (".safetensors", ".json", ".arrow")
        assert not head.startswith((b"\x80", b"PK"))
    assert json.loads((saved / MODEL).read_bytes())["fallback"] == FALLBACK


def test_user_ids_are_not_saved(saved: Path) -> None:
    """Whoever gets the folder learns nothing about who was in the data, beyond how many."""
    assert len(Recommender.load(saved).vocab.users) == 24
    for file in saved.iterdir():
        assert b"u17" not in file.read_bytes()
