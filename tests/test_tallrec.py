"""TALLRec with ratings: what stands in the prompt, what is charged, and what is measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from lmrs import objectives, systems, tasks, taxonomy, views
from lmrs.dataset import Dataset
from lmrs.errors import DataError, UserError
from lmrs.evaluate import evaluate
from lmrs.fit import Execution, fit
from lmrs.measures import AUC
from lmrs.models.network import Scorer
from lmrs.recommender import Recommender
from lmrs.split import Split, leave_one_out
from lmrs.testing import tiny
from lmrs.visibility import Causal
from lmrs.vocab import Vocab

RATED = views.Rated(views.ItemSequence(max_len=6))
CPU = Execution(device="cpu")
SMALL = {"backbone": "tiny-causal", "max_len": 4, "rank": 2, "rating": 3.0}


def network(system):
    split = tiny.split()
    vocab = replace(split.dataset.vocab, counts=split.train.counts(), catalogue=split.dataset.items)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return system.model.build(vocab)


def test_the_view_tells_what_was_rated_higher() -> None:
    data = tiny.dataset()
    rows = RATED.rows(tiny.split().train, ahead=1, rng=np.random.default_rng(0))
    batch = RATED.collate(rows)
    assert data.rating is not None
    for row in range(batch.n_rows):
        begin, end = batch.offsets[row : row + 2].tolist()
        example = int(batch.rows["example"][row])
        wanted = data.rating[rows.start[example] : rows.stop[example]] > 3
        assert batch.channels["liked"][begin:end].tolist() == wanted.tolist()
    bare = replace(rows, dataset=replace(data, rating=None))
    assert "liked" not in RATED.collate(bare).channels
    with pytest.raises(DataError, match="needed ratings, got tiny, which has none; set rating=none"):
        RATED.rows(replace(tiny.split().train, dataset=replace(data, rating=None)), ahead=1, rng=np.random.default_rng(0))


def test_liked_and_disliked_titles_stand_apart_in_the_prompt() -> None:
    made = network(systems.tallrec(**SMALL))
    batch = tiny.marked(tiny.batch(tiny.split().train, lengths=(4, 2)))
    batch = batch.with_channels(liked=torch.tensor([True, False, False, True, False, False]))
    items = [made.titles[item] for item in batch.channels["item"].tolist()]
    seen = made.prompts(batch, batch.last, candidates=np.array([[1], [2]]))
    assert f"User preference: «{items[0]}»; «{items[3]}»\\u000aUser unpreference: «{items[1]}»; «{items[2]}»\\u000a" in seen.show(
        0
    )
    assert f"User preference:\\u000aUser unpreference: «{items[4]}»; «{items[5]}»\\u000a" in seen.show(1)
    assert "target item «Title 2»?" in seen.show(1)
    unrated = replace(batch, channels={name: each for name, each in batch.channels.items() if name != "liked"})
    assert made.prompts(unrated, batch.last, candidates=np.array([[1], [2]])).show(0).count("«") == 5
    assert "User unpreference:\\u000a" in made.prompts(unrated, batch.last, candidates=np.array([[1], [2]])).show(0)


def test_the_answer_to_the_next_event_is_charged_by_its_rating() -> None:
    made, split = network(systems.tallrec(**SMALL)), tiny.split()
    rule = objectives.Liking(places="last")
    rows = RATED.rows(split.train, ahead=1, rng=np.random.default_rng(0)).take(np.arange(5))
    batch = RATED.collate(rows)
    prepared = rule.corrupt(batch, split.dataset.vocab, torch.Generator().manual_seed(0))
    found = float(rule.charge(made, None, prepared, split.dataset.vocab, None)["liking"].detach())
    assert split.dataset.rating is not None
    wanted = 0.0
    for row in range(batch.n_rows):
        place = int(rows.stop[int(batch.rows["example"][row])]) - 1
        alone = prepared.take(torch.tensor([row]))
        item = torch.tensor([[int(split.dataset.item[place])]])
        odds = float(made.verdicts(alone, Causal(), alone.last, item)[0, 0].detach())
        wanted += np.log1p(np.exp(-odds if split.dataset.rating[place] > 3 else odds))
    assert found == pytest.approx(wanted, rel=1e-4)
    assert rule.counts(prepared) == {"liking": batch.n_rows}


class Oracle(Scorer):
    """Scores items by a table."""

    def __init__(self, table: np.ndarray) -> None:
        super().__init__()
        self.n_items, self.table = len(table), torch.from_numpy(table)

    def score(self, batch, visible):
        return self.table.expand(batch.n_rows, -1)


def test_auc_is_that_of_all_questions_together() -> None:
    split = tiny.split()
    task = tasks.Liked(RATED)
    rows = task.rows(split.test)
    assert split.dataset.rating is not None
    liked = split.dataset.rating[rows.place] > 3
    assert split.dataset.item[rows.place].tolist() == [int(split.test.truth(q)[0]) for q in range(len(split.test))]
    table = np.random.default_rng(1).normal(size=split.dataset.n_items)
    found = task.judge(Oracle(table), objectives.Liking(), rows, split.dataset.vocab, measures=[AUC()], seed=0)
    score = table[split.dataset.item[rows.place]].astype(np.float32)
    pairs = [(a > b) + (a == b) / 2 for a in score[liked] for b in score[~liked]]
    assert found.values["AUC"] == pytest.approx(np.mean(pairs))
    assert found.columns["liked"].to_pylist() == liked.tolist()
    assert len(found.user) == len(found.targets) == len(rows)
    same = task.judge(Oracle(table * 0), objectives.Liking(), rows, split.dataset.vocab, measures=[AUC()], seed=0)
    assert same.values["AUC"] == pytest.approx(0.5)


def test_what_cannot_be_judged_is_refused() -> None:
    split = tiny.split()
    task = tasks.Liked(views.Rated(RATED.sequence, above=9))
    with pytest.raises(DataError, match="needed questions with ratings above 9 and others, got one kind"):
        task.judge(
            Oracle(np.zeros(13)), objectives.Liking(), task.rows(split.test), split.dataset.vocab, measures=[AUC()], seed=0
        )
    with pytest.raises(UserError, match="the measure AUC for likes and dislikes, got NDCG@10"):
        tasks.Liked().measure("NDCG@10")
    with pytest.raises(DataError, match="needed ratings, got tiny"):
        tasks.Liked().rows(replace(split.test, dataset=replace(split.dataset, rating=None)))


def tastes(users: int = 40, seed: int = 0) -> Split:
    """A user likes one of two kinds and rates the other low; titles say the kind."""
    rng = np.random.default_rng(seed)
    kind = np.arange(12) % 2
    taste = rng.integers(0, 2, users)
    item = np.stack([rng.permutation(12)[:8] for _ in range(users)]).astype(np.int32)
    rating = np.where(kind[item] == taste[:, None], 5.0, 1.0).astype(np.float32)
    ids = [f"i{i}" for i in range(12)]
    titles = [("good " if k else "bad ") * 2 for k in kind]
    vocab = Vocab(pa.array(ids, pa.large_string()), pa.array([f"u{u}" for u in range(users)], pa.large_string()))
    return leave_one_out(
        Dataset(
            "tastes", vocab, item.ravel(), np.arange(users + 1, dtype=np.int64) * 8, rating=rating.ravel(),
            items=pa.table({"item_id": ids, "title": titles}),
        )
    )  # fmt: skip


def test_tuned_on_ratings_it_tells_likes_from_dislikes() -> None:
    """A random model is at chance; LoRA on it learns to compare the candidate with the two lists."""
    options = {"backbone": "tiny-causal", "max_len": 6, "rank": 8, "rating": 3.0, "lora_dropout": 0.0}
    maps = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    prompt = 'like {list liked separator=""} no {list disliked separator=""} is {candidate}? answer'
    system = systems.tallrec(**options, prompt=prompt, maps=maps, epochs=30, every=30, batch_size=20, lr=0.01, patience=None)
    assert taxonomy.cell(system) == taxonomy.FIXED_PROMPT
    split = tastes()
    found = evaluate(fit(system, split, seed=0, execution=CPU), split)
    assert set(found.measures) == {"AUC"}
    assert found.measures["AUC"] > 0.8
    assert found.answers is not None
    assert found.answers.num_rows == len(split.test)


def test_a_tuned_system_recommends_and_survives_saving(tmp_path) -> None:
    fitted = fit(systems.tallrec(**SMALL, epochs=1, batch_size=8), tiny.split(), seed=0, execution=CPU)
    one = Recommender.of(fitted)
    two = Recommender.load(one.save(tmp_path / "model"))
    assert one.recommend(["i1", "i2"], k=4).ids == two.recommend(["i1", "i2"], k=4).ids
