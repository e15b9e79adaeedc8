"""Evaluation: the numbers are those of a written-out loop, items are matched by id, and what is not comparable is said."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lmrs.cards import Cost, Protocol
from lmrs.dataset import Dataset
from lmrs.errors import ContractError, DataError, SealedError, UserError
from lmrs.evaluate import MEASURES, evaluate, match
from lmrs.fit import Fitted, fit
from lmrs.measures import HR, NDCG
from lmrs.models import ControlScorer
from lmrs.recommender import Recommender
from lmrs.split import Queries, by_time, leave_one_out, sealed
from lmrs.statistics import bootstrap_mean
from lmrs.systems import bert4rec, caser, sasrec
from lmrs.testing import tiny


@cache
def fitted() -> Fitted:
    return fit(sasrec(dim=8, layers=1, heads=2, max_len=6, epochs=2), tiny.split(), seed=5)


def naive(split_queries: Queries, recommender: Recommender) -> dict[str, list[float]]:
    """One query at a time, one item at a time; every item is asked through `recommend`."""
    out: dict[str, list[float]] = {"HR@3": [], "NDCG@3": [], "MRR@3": []}
    for query in range(len(split_queries)):
        history = split_queries.dataset.vocab.item_ids(split_queries.history(query))
        truth = split_queries.dataset.vocab.item_ids(split_queries.truth(query))
        ranked = recommender.recommend(history, k=100, exclude_seen=False).ids
        left = [item for item in ranked if item not in history or item in truth]
        hits = [place for place, item in enumerate(left[:3], 1) if item in truth]
        ideal = sum(1 / math.log2(place + 1) for place in range(1, min(3, len(set(truth))) + 1))
        out["HR@3"].append(float(bool(hits)))
        out["NDCG@3"].append(sum(1 / math.log2(place + 1) for place in hits) / ideal)
        out["MRR@3"].append(1 / hits[0] if hits else 0.0)
    return out


@pytest.mark.parametrize("part", ["test", "valid"])
def test_the_numbers_are_those_of_a_written_out_loop(part: str) -> None:
    split = tiny.split()
    found = evaluate(fitted(), split, measures=["HR@3", "NDCG@3", "MRR@3"], part=part)
    wanted = naive(split.test if part == "test" else split.valid, Recommender.of(fitted()))
    for name, values in wanted.items():
        assert found.table[name].to_pylist() == pytest.approx(values, abs=1e-12)
        assert found.measures[name] == pytest.approx(np.mean(values), abs=1e-12)
        interval = bootstrap_mean(np.array(values), seed=0)
        assert found.intervals[name] == pytest.approx((interval.low, interval.high))
    assert 0 < found.measures["HR@3"] < 1


def test_several_true_items_and_users_without_history() -> None:
    data = tiny.dataset()
    split = by_time(data, valid_from=0.5, test_from=0.7)
    assert not split.test.single
    trained = fit(bert4rec(dim=8, layers=1, heads=2, max_len=6, epochs=1), split, seed=1)
    found = evaluate(trained, split, measures=["NDCG@3", "HR@3", "MRR@3"])
    wanted = naive(split.test, Recommender.of(trained))
    empty = split.test.stop == split.test.start
    for name, values in wanted.items():  # popularity has ties, which `recommend` breaks in its own order
        assert found.table[name].to_numpy()[~empty] == pytest.approx(np.array(values)[~empty], abs=1e-12)
    assert found.facts["without_history"] == empty.sum()


def test_a_recommender_and_a_fitted_get_the_same(tmp_path: Path) -> None:
    a = evaluate(fitted(), tiny.split())
    loaded = Recommender.load(Recommender.of(fitted()).save(tmp_path / "m"))
    b = evaluate(loaded, tiny.split(), cost=a.cost)
    assert (a.measures, a.intervals, a.protocol, a.facts) == (b.measures, b.intervals, b.protocol, b.facts)
    assert list(a.measures) == list(MEASURES)
    assert a.cost.fit is not None
    assert a.cost.targets == fitted().targets > 0
    assert b.cost.evaluate is not None
    assert a.table.equals(b.table)


def test_reports_are_json_and_read_back(tmp_path: Path) -> None:
    found = evaluate(fitted(), tiny.split())
    folder = found.save(tmp_path)
    report = json.loads((folder / "report.json").read_text())
    assert Protocol.from_dict(report["protocol"]) == found.protocol
    assert Cost.from_dict(report["cost"]) == found.cost
    assert report["measures"] == found.measures
    table = pq.read_table(folder / "queries.parquet")
    assert table.column_names[:3] == ["query", "user", "targets"]
    assert "Coverage@10" not in table.column_names  # one number, not one a user
    assert table["user"].to_pylist()[0] == "u2"  # the first with three events
    assert found.protocol.data_hash == tiny.dataset().fingerprint
    assert found.protocol.seeds == (5,)
    assert found.protocol.negatives == ""
    assert "NextItem(loss=FullSoftmax" in found.protocol.objective


def shuffled(data: Dataset, order: list[int], extra: int = 0) -> Dataset:
    """The same events with items numbered in another order (and some that nobody used)."""
    place = np.argsort(order)
    items = pa.concat_arrays(
        [data.vocab.items.take(pa.array(order)), pa.array([f"x{n}" for n in range(extra)], pa.large_string())]
    )
    return replace(
        data, vocab=replace(data.vocab, items=items, attributes={}), item=place[data.item].astype(np.int32), items=None
    )


def test_items_are_matched_by_id() -> None:
    own = evaluate(fitted(), tiny.split(), measures=["HR@3", "NDCG@3"])
    data = shuffled(tiny.dataset(), [*range(5, 13), *range(5)])
    other = evaluate(fitted(), leave_one_out(data), measures=["HR@3", "NDCG@3"])
    assert other.measures == own.measures
    assert other.facts["unknown_items"] == 0
    assert other.protocol.data_hash != own.protocol.data_hash


def test_users_of_other_data_are_strangers() -> None:
    """A user vector belongs to a person of the training data, not to whoever has that number elsewhere."""
    data = tiny.dataset()
    trained = fit(caser(dim=8, window=3, max_len=6, epochs=3, users=True, lr=0.05), leave_one_out(data), seed=2)
    own = evaluate(trained, leave_one_out(data), measures=["AUC"])
    renamed = replace(data, rating=None)  # the same events, but not the same data
    elsewhere = evaluate(trained, leave_one_out(renamed), measures=["AUC"])
    assert elsewhere.measures != own.measures
    scorer = trained.scorer
    with torch.no_grad():
        scorer.user_own.weight.zero_()  # type: ignore[union-attr, operator]
    assert evaluate(trained, leave_one_out(data), measures=["AUC"]).measures == pytest.approx(elsewhere.measures)


def test_unknown_items_to_be_found_are_misses_and_in_histories_ignored() -> None:
    data = tiny.dataset()
    odd = replace(data, vocab=replace(data.vocab, items=pa.array([f"new{n}" if n % 3 == 0 else f"i{n}" for n in range(13)])))
    split = leave_one_out(odd)
    found = evaluate(fitted(), split, measures=["HR@3", "NDCG@3", "AUC", "Novelty@10"])
    numbers = [n for n in range(13) if n % 3 == 0]
    test = split.test
    targets = np.array([test.truth(query)[0] in numbers for query in range(len(test))])
    assert found.facts["unknown_items"] == len(numbers)
    assert found.facts["unknown_targets"] == targets.sum() > 0
    assert found.facts["unknown_history_events"] == sum(np.isin(test.history(query), numbers).sum() for query in range(len(test)))
    values = found.table["HR@3"].to_numpy()
    assert not values[targets].any()
    wanted = naive(test, Recommender.of(fitted()))
    known = found.table["NDCG@3"].to_numpy()
    full = np.array([any(item not in numbers for item in test.history(query)) for query in range(len(test))])
    assert known[full] == pytest.approx(np.array(wanted["NDCG@3"])[full])


def test_nothing_in_common_is_refused() -> None:
    data = tiny.dataset()
    strange = replace(data, vocab=replace(data.vocab, items=pa.array([f"q{n}" for n in range(13)])))
    with pytest.raises(DataError, match=r"none of the 13 items of tiny among its 13; evaluate on the catalogue"):
        evaluate(fitted(), leave_one_out(strange))
    none = tiny.split().test.take(np.zeros(0, np.int64))
    with pytest.raises(DataError, match="at least one query"):
        match(none, Recommender.of(fitted()))


def test_sampled_measures_are_other_measures() -> None:
    found = evaluate(fitted(), tiny.split(), measures=["NDCG@3", "NDCG@3/4neg", "HR@3/2popneg", "HR@3/4neg"])
    assert list(found.measures) == ["NDCG@3", "NDCG@3/4neg", "HR@3/2popneg", "HR@3/4neg"]
    assert found.measures["NDCG@3/4neg"] > found.measures["NDCG@3"]  # fewer to beat
    assert found.measures["HR@3/2popneg"] == 1.0  # three places for three candidates
    alone = evaluate(fitted(), tiny.split(), measures=["NDCG@3/4neg", "HR@3/2popneg"])  # nothing but the drawn items is scored
    assert alone.measures == {name: found.measures[name] for name in alone.measures}
    assert alone.table["NDCG@3/4neg"].to_pylist() == found.table["NDCG@3/4neg"].to_pylist()
    data = replace(
        tiny.dataset(), vocab=replace(tiny.dataset().vocab, items=pa.array([f"j{n}" if n < 3 else f"i{n}" for n in range(13)]))
    )
    with pytest.raises(ContractError, match="knows all items to be found, for sampled measures, got 3 unknown ones"):
        evaluate(fitted(), leave_one_out(data), measures=["NDCG@3/4neg"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"measures": []}, "at least one measure"),
        ({"measures": ["NDCG"]}, None),
        ({"measures": ["NDGC@10"]}, "did you mean NDCG"),
        ({"measures": ["MAE"]}, "a measure of predicted ratings"),
        ({"part": "train"}, "the part 'test' or 'valid', got 'train'"),
    ],
)
def test_wrong_questions(arguments: dict[str, Any], message: str | None) -> None:
    if message is None:
        assert evaluate(fitted(), tiny.split(), **arguments).measures
        return
    with pytest.raises(UserError, match=message):
        evaluate(fitted(), tiny.split(), **arguments)


def test_the_test_part_stays_sealed_in_a_fit() -> None:
    with sealed(), pytest.raises(SealedError):
        evaluate(fitted(), tiny.split())
    with sealed():
        assert evaluate(fitted(), tiny.split(), part="valid").measures


class Constant(ControlScorer):
    n_items = 200

    def estimate(self, train: Any) -> None: ...

    def score(self, batch: Any, visible: Any) -> torch.Tensor:
        return torch.ones(batch.n_rows, self.n_items)


def test_a_constant_model_scores_chance() -> None:
    data = tiny.dataset(users=600, items=200)
    split = leave_one_out(data)
    vocab = replace(data.vocab, counts=split.train.counts())
    constant = replace(Recommender.of(fitted()), scorer=Constant(), objective=None, vocab=vocab)
    found = evaluate(constant, split, measures=[HR(20), NDCG(20), "AUC"])
    low, high = found.intervals["HR@20"]
    assert low < 20 / 197 < high
    assert found.measures["AUC"] == pytest.approx(0.5)


def test_the_seed_breaks_ties_and_nothing_else() -> None:
    first, second, other = (evaluate(fitted(), tiny.split(), measures=["NDCG@3"], seed=seed) for seed in (1, 1, 2))
    assert first.to_dict()["intervals"] == second.to_dict()["intervals"]
    assert first.measures == other.measures  # a network has no ties here
