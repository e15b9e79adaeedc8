"""Items nobody had in training, data sets put together, and a model that starts from another one's weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from lmrs import models, sources, systems, taxonomy
from lmrs.dataset import Dataset
from lmrs.errors import CheckpointError, DataError, UserError
from lmrs.fit import Execution, fit
from lmrs.judge import judge
from lmrs.language import Backbone
from lmrs.measures import NDCG
from lmrs.new_items import without_items
from lmrs.recommender import Recommender
from lmrs.split import Split, leave_one_out
from lmrs.system import System
from lmrs.testing import tiny
from lmrs.vocab import Vocab

SMALL = {"backbone": "tiny-encoder", "experts": 2, "dim": 16, "layers": 1, "heads": 2, "max_len": 6, "dropout": 0.1}
CPU = Execution(device="cpu")


def told(*, users: int = 150, kinds: int = 4, each: int = 10, seed: int = 0, name: str = "told") -> Dataset:
    """Users stay with one kind of film, and a title says of which kind it is: ids alone cannot tell for a new film."""
    rng = np.random.default_rng(seed)
    words = ("drama", "comedy", "horror", "western")
    kind = np.arange(kinds * each) % kinds
    own = rng.integers(0, kinds, users)
    item = np.concatenate([rng.choice(np.flatnonzero(kind == k), 7, replace=False) for k in own]).astype(np.int32)
    ids = [f"i{i}" for i in range(len(kind))]
    return Dataset(
        name,
        Vocab(pa.array(ids, pa.large_string()), pa.array([f"u{u}" for u in range(users)], pa.large_string())),
        item,
        np.arange(users + 1, dtype=np.int64) * 7,
        items=pa.table({"item_id": ids, "title": [f"{words[k]} {words[k]} {words[k]}" for k in kind]}),
    )


# -- the split -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_drawn_items_are_asked_for_and_nothing_else(share: float) -> None:
    data = tiny.dataset(users=60, items=30, longest=9)
    split = without_items(data, share=share, seed=3)
    train, test, valid = split.train, split.test, split.valid
    counts = train.counts()
    asked = {int(test.truth(q)[0]) for q in range(len(test))}
    assert asked
    assert not counts[sorted(asked)].any()
    assert all(counts[int(valid.truth(q)[0])] > 0 or int(valid.truth(q)[0]) not in asked for q in range(len(valid)))
    dropped = np.setdiff1d(np.unique(data.item), np.flatnonzero(counts))
    for query in range(len(test)):
        assert not set(test.history(query).tolist()) & asked
        user = int(test.user[query])
        kept = [item for item in data.history(user)[:-1].tolist() if item not in set(dropped.tolist())]
        ours = test.history(query).tolist()
        assert ours == [item for item in data.history(user)[:-1].tolist() if item in ours] or set(ours) <= set(kept)
        assert int(test.truth(query)[0]) == int(data.history(user)[-1])
    assert split.dataset.n_items == data.n_items
    assert split.dataset.rating is not None
    assert len(split.dataset.rating) == split.dataset.n_events


def test_the_same_seed_draws_the_same_items() -> None:
    data = tiny.dataset(users=60, items=30, longest=9)
    one, two, other = (without_items(data, share=0.3, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.dataset.item, two.dataset.item)
    assert not np.array_equal(one.dataset.item, other.dataset.item)
    with pytest.raises(DataError, match="a share of the items above 0 and below 1, got 1"):
        without_items(data, share=1.0)


def place_of_truth(system: System, split: Split) -> float:
    """Mean share of the catalogue that stands above the true item: .5 by chance."""
    fitted = fit(system, split, seed=0, execution=CPU)
    judged = judge(fitted.scorer, fitted.objective, system.task, split.test, fitted.vocab, k=1, seed=0)
    return float(np.mean((judged.ranks.rank - 1) / split.dataset.n_items))


def test_texts_recommend_what_nobody_had_and_ids_cannot() -> None:
    split = without_items(told(users=80), share=0.2, seed=0)
    text = systems.unisrec(**SMALL, pretrain=False, epochs=6, every=6, batch_size=16, lr=0.01, patience=None)
    ids = systems.sasrec(dim=16, layers=1, heads=2, max_len=6, epochs=6, every=6, batch_size=16, lr=0.01, patience=None)
    assert place_of_truth(text, split) < 0.25
    assert place_of_truth(ids, split) > 0.4


# -- several data sets as one ------------------------------------------------------------------------------------------------


def test_a_union_keeps_every_history_and_every_text() -> None:
    one, two = tiny.dataset().renamed("films"), told(users=9)
    both = sources.union([one, two])
    assert (both.name, both.n_users, both.n_items) == ("films+told", one.n_users + two.n_users, one.n_items + two.n_items)
    for data, users in ((one, range(one.n_users)), (two, range(two.n_users))):
        for user in users:
            number = int(both.vocab.user_numbers([f"{data.name}:u{user}"])[0])
            wanted = [f"{data.name}:{each}" for each in data.vocab.item_ids(data.history(user))]
            assert both.vocab.item_ids(both.history(number)) == wanted
            assert both.titles(both.history(number)) == data.titles(data.history(user))
    assert both.time is None, "one of the two has no times"
    assert both.rating is None
    assert both.vocab.attributes["genres"].of(1) == one.vocab.attributes["genres"].of(1)
    assert both.vocab.attributes["genres"].of(one.n_items + 1) == []
    assert sources.union([one, two.renamed("x")]).fingerprint != both.fingerprint
    again = sources.union([one])
    assert np.array_equal(again.time, one.time)  # type: ignore[arg-type]


def test_columns_of_other_types_become_text_and_missing_ones_are_empty() -> None:
    one, two = tiny.dataset().renamed("a"), tiny.dataset().renamed("b")
    assert one.items is not None
    one = replace(one, items=one.items.append_column("year", [pa.array(range(one.n_items))]))
    two = replace(two, items=one.items.drop_columns("title").append_column("brand", [pa.array(["x"] * two.n_items)]))
    two = replace(two, items=two.items.set_column(two.items.column_names.index("year"), "year", [[["p", "q"]] * two.n_items]))
    table = sources.union([one, two]).items
    assert table is not None
    assert table.column("year").to_pylist() == [*map(str, range(one.n_items)), *["p, q"] * two.n_items]
    assert table.column("brand").to_pylist() == [None] * one.n_items + ["x"] * two.n_items
    assert table.column("title").to_pylist()[one.n_items :] == [None] * two.n_items
    with pytest.raises(DataError, match="data sets with different names, got a, a; rename one"):
        sources.union([one, one])


# -- starting from another run -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """UniSRec pre-trained on two other data sets, saved."""
    split = leave_one_out(sources.union([told(users=12, seed=1, name="one"), told(users=12, seed=2, name="two")]))
    fitted = fit(systems.unisrec(**SMALL, pretrain_epochs=1, epochs=1), split, seed=1, execution=CPU)
    folder = tmp_path_factory.mktemp("run")
    Recommender.of(fitted).save(folder / "model")
    return folder


def test_a_run_starts_from_anothers_weights_and_tunes_the_adaptor(run: Path, tmp_path: Path) -> None:
    system = systems.unisrec(**SMALL, start=str(run), epochs=1, ids=True)
    assert taxonomy.cell(system) == taxonomy.PART
    assert [stage.name for stage in system.stages] == ["finetune"]  # type: ignore[union-attr]
    before = Recommender.load(run / "model").scorer.state_dict()
    fitted = fit(system, leave_one_out(told()), seed=0, execution=CPU)
    after = fitted.scorer.state_dict()
    body = [name for name in before if not name.startswith("adaptor.")]
    assert len(body) > 8
    for name in body:
        assert torch.equal(before[name], after[name]), name
    assert not torch.equal(before["adaptor.weight"], after["adaptor.weight"])
    assert after["ids.weight"].any()
    # The saved model needs the other run no more.
    Recommender.of(fitted).save(tmp_path / "model")
    text = (tmp_path / "model" / "model.json").read_text()
    assert str(run) in text
    moved = run.with_name("elsewhere")
    run.rename(moved)
    try:
        loaded = Recommender.load(tmp_path / "model")
    finally:
        moved.rename(run)
    history = ["i0", "i4", "i8"]
    assert loaded.recommend(history, k=5).ids == Recommender.of(fitted).recommend(history, k=5).ids


def test_what_does_not_fit_is_refused(run: Path, tmp_path: Path) -> None:
    split = leave_one_out(told(users=9))
    with pytest.raises(UserError, match=r"needed a run or a saved recommender in .*nowhere, got no tensors.safetensors"):
        fit(systems.unisrec(**SMALL, start=str(tmp_path / "nowhere"), epochs=1), split)
    with pytest.raises(CheckpointError, match=r"'adaptor.gate.weight' of shape \[3, 32\] .*got \[2, 32\]; give the sizes"):
        fit(systems.unisrec(**{**SMALL, "experts": 3}, start=str(run), epochs=1), split)
    with pytest.raises(CheckpointError, match=r"the tensor 'blocks.1.* got none"):
        fit(systems.unisrec(**{**SMALL, "layers": 2}, start=str(run), epochs=1), split)
    Recommender.of(fit(systems.popularity(), split)).save(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"needed tensors adaptor\., .*; name a run of this system"):
        fit(systems.unisrec(**SMALL, start=str(tmp_path), epochs=1), split)
    model = models.TextItems(models.TextItems().encoder, start=str(run))
    with pytest.raises((UserError, CheckpointError)):  # other text vectors, or the reader is not on this machine
        model.prepare(split.train, seed=0)
    assert model.encoder.backbone == Backbone("minilm")
    (tmp_path / "model" / "tensors.safetensors").write_bytes(b"not tensors")
    with pytest.raises(CheckpointError, match="needed a whole recommender"):
        fit(systems.unisrec(**SMALL, start=str(tmp_path), epochs=1), split)


def test_a_higher_score_after_training_on_like_domains(run: Path) -> None:
    """Pre-trained on films whose titles mean the same, the ranking is better than with random weights."""
    split = leave_one_out(told(users=60, seed=5))
    pre = leave_one_out(sources.union([told(users=80, seed=1, name="one"), told(users=80, seed=2, name="two")]))
    options = {**SMALL, "pretrain_epochs": 8, "pretrain_batch_size": 64, "lr": 0.01, "epochs": 1}
    fitted = fit(systems.unisrec(**options), pre, seed=0, execution=CPU)
    folder = run / "longer"
    Recommender.of(fitted).save(folder / "model")

    def ndcg(system: System) -> float:
        vocab = replace(split.dataset.vocab, counts=split.train.counts(), catalogue=split.dataset.items)
        assert isinstance(system.model, models.TextItems)
        vocab = replace(vocab, prepared=system.model.prepare(split.train, seed=0))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = system.model.build(vocab)
        stage = system.stages[-1]
        return float(np.mean(NDCG(10)(judge(network, stage.objective, system.task, split.valid, vocab, k=1, seed=0).ranks)))  # type: ignore[union-attr]

    assert ndcg(systems.unisrec(**SMALL, start=str(folder))) > ndcg(systems.unisrec(**SMALL)) + 0.1
