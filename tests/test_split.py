"""Splits: hand-made tables, partitions, what is visible when, the seal; k-core against plain removal."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmrs import split
from lmrs.dataset import Dataset
from lmrs.errors import DataError, SealedError
from lmrs.records import COLUMNS
from lmrs.sources import synthetic
from lmrs.vocab import Attributes, Vocab


def made(histories: list[list[int]], times: list[list[int]] | None = None, *, items: int = 5) -> Dataset:
    lengths = [len(history) for history in histories]
    ids = pa.array([f"i{i}" for i in range(items)], pa.large_string())
    return Dataset(
        name="made",
        vocab=Vocab(
            items=ids,
            users=pa.array([f"u{u}" for u in range(len(histories))], pa.large_string()),
            attributes={"parity": Attributes.from_lists(pa.array([[str(i % 2)] for i in range(items)]))},
        ),
        item=np.asarray([i for history in histories for i in history], np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        time=None if times is None else np.asarray([t for row in times for t in row], np.int64),
        items=pa.table({"item_id": ids, "title": ids}),
        edges=pa.table(
            {
                "head": ["a"] * items,
                "head_item": pa.array(range(items), pa.int32()),
                "tail_item": pa.array([None] * items, pa.int32()),
            }
        ),
        about={"source": "test"},
    )


HISTORIES = st.lists(st.lists(st.tuples(st.integers(0, 4), st.integers(2, 9)), max_size=7), min_size=1, max_size=8)


def dataset_of(rows: list) -> Dataset:
    ordered = [sorted(row, key=lambda event: event[1]) for row in rows]
    return made([[i for i, _ in row] for row in ordered], [[t for _, t in row] for row in ordered])


def test_leave_one_out_by_hand() -> None:
    found = split.leave_one_out(made([[0, 1, 2, 3], [4, 4], [1, 2, 1]]))
    assert found.train.lengths.tolist() == [2, 2, 1]
    assert found.train.counts().tolist() == [1, 2, 0, 0, 2]
    assert [
        (q.user.tolist(), q.truth(0).tolist(), q.history(0).tolist(), q.truth(1).tolist()) for q in (found.valid, found.test)
    ] == [
        ([0, 2], [2], [0, 1], [2]),
        ([0, 2], [3], [0, 1, 2], [1]),
    ]
    assert found.test.single
    with pytest.raises(DataError, match="one user with three events"):
        split.leave_one_out(made([[0, 1], [1]]))


def test_time_by_hand() -> None:
    data = made([[0, 1, 2, 3], [4, 4], [1]], [[1, 2, 3, 9], [4, 5], [9]])
    found = split.by_time(data, valid_from=3, test_from=5)
    assert found.train.stop.tolist() == [2, 4, 6]
    assert [(q, found.valid.history(q).tolist(), found.valid.truth(q).tolist()) for q in range(2)] == [
        (0, [0, 1], [2]),
        (1, [], [4]),
    ]
    assert [found.test.truth(q).tolist() for q in range(3)] == [[3], [4], [1]]
    assert [found.test.history(q).tolist() for q in range(3)] == [[0, 1, 2], [4], []]
    assert found.about["events"] == {"training": 2, "validation": 2, "test": 3}


@settings(max_examples=80, deadline=None)
@given(HISTORIES, st.integers(2, 8), st.integers(1, 4), st.booleans())
def test_time_parts_partition_the_events_and_never_look_ahead(rows: list, first: int, gap: int, next_only: bool) -> None:
    data = dataset_of(rows)
    try:
        found = split.by_time(data, valid_from=first, test_from=first + gap, next_only=next_only)
    except DataError:
        times = data.time
        assert not ((times < first).any() and ((times >= first) & (times < first + gap)).any() and (times >= first + gap).any())
        return
    train = found.train.events()[1]
    spans = [np.concatenate([np.arange(a, b) for a, b in zip(q.stop, q.target, strict=True)]) for q in (found.valid, found.test)]
    assert data.time[train].max() < first <= data.time[spans[0]].min()
    assert data.time[spans[0]].max() < first + gap <= data.time[spans[1]].min()
    assert found.train.counts().tolist() == np.bincount(data.item[data.time < first], minlength=data.n_items).tolist()
    if next_only:
        assert found.test.single
    else:
        assert sorted(np.concatenate([train, *spans]).tolist()) == list(range(data.n_events))
    for queries, moment in ((found.valid, first), (found.test, first + gap)):
        for at in range(len(queries)):
            assert (data.time[queries.start[at] : queries.stop[at]] < moment).all()
            assert queries.target[at] <= data.offsets[queries.user[at] + 1]


def test_fractions_are_of_the_events_in_order_of_time() -> None:
    data = made([[0] * 5, [1] * 5], [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]])
    found = split.by_time(data, valid_from=0.5, test_from=0.9)
    assert (found.about["valid_from"], found.about["test_from"]) == (5, 9)
    assert found.about["given"] == {"valid_from": 0.5, "test_from": 0.9}


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"valid_from": 5, "test_from": 5}, "valid_from before test_from"),
        ({"valid_from": -1, "test_from": 5}, "valid_from as a fraction"),
        ({"valid_from": 4, "test_from": 50}, "events in the test part, got none; times reach from 0 to 9"),
        ({"valid_from": 40, "test_from": 50}, "events in the validation part"),
    ],
)
def test_time_needs_sensible_moments(given_: dict, message: str) -> None:
    data = made([[0] * 5, [1] * 5], [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]])
    with pytest.raises(DataError, match=message):
        split.by_time(data, **given_)


def test_time_needs_times() -> None:
    with pytest.raises(DataError, match="needed times for a split by time, got made, which knows only the order"):
        split.by_time(made([[0, 1, 2]]), valid_from=0.5, test_from=0.9)


def test_a_planted_future_item_is_invisible_to_training() -> None:
    data = made([[0, 1, 4], [1, 0, 4], [0, 1]], [[1, 2, 30], [1, 2, 31], [20, 21]])
    found = split.by_time(data, valid_from=20, test_from=30)
    assert found.train.counts()[4] == 0
    assert data.n_items == 5  # it stays in the catalogue


@settings(max_examples=50, deadline=None)
@given(HISTORIES, st.integers(0, 5))
def test_by_user_holds_whole_users_out(rows: list, seed: int) -> None:
    data = dataset_of(rows)
    if (data.lengths >= 2).sum() < 4:
        with pytest.raises(DataError, match="users enough"):
            split.by_user(data, valid=0.01, test=0.01, seed=seed)
        return
    found = split.by_user(data, valid=0.25, test=0.25, seed=seed)
    training, held = set(np.flatnonzero(found.train.lengths).tolist()), [set(q.user.tolist()) for q in (found.valid, found.test)]
    assert not training & held[0]
    assert not training & held[1]
    assert not held[0] & held[1]
    assert training | held[0] | held[1] == set(np.flatnonzero(data.lengths).tolist())
    assert found.test.single
    assert (found.test.target == data.offsets[found.test.user + 1]).all()
    again = split.by_user(data, valid=0.25, test=0.25, seed=seed)
    assert again.test.user.tolist() == found.test.user.tolist()


def test_by_user_shares() -> None:
    data = synthetic(users=100, items=5, length=4)
    found = split.by_user(data, valid=0.2, test=0.1)
    assert (len(found.valid), len(found.test)) == (20, 10)
    assert split.by_user(data, valid=0.2, test=0.1, seed=1).test.user.tolist() != found.test.user.tolist()
    with pytest.raises(DataError, match="a sum below 1"):
        split.by_user(data, valid=0.5, test=0.5)


@settings(max_examples=50, deadline=None)
@given(HISTORIES, st.integers(0, 5))
def test_by_review_holds_single_events_out(rows: list, seed: int) -> None:
    """Every event is in one part; everybody and everything that there is keeps a training event; an item keeps its company."""
    data = dataset_of(rows)
    try:
        found = split.by_review(data, valid=0.2, test=0.2, seed=seed)
    except DataError as error:
        assert "while every user and item keeps one" in str(error)  # noqa: PT017 - few histories have events to spare
        return
    assert found.train.dataset is found.dataset is found.valid.dataset
    assert (found.train.lengths[data.lengths > 0] > 0).all()
    assert (found.train.counts()[np.bincount(data.item, minlength=data.n_items) > 0] > 0).all()
    assert np.array_equal(found.dataset.offsets, data.offsets)
    for user in range(data.n_users):
        assert sorted(found.dataset.history(user).tolist()) == sorted(data.history(user).tolist())
    sizes = [int((part.target - part.stop).sum()) for part in (found.valid, found.test)]
    assert found.about["events"] == {
        "training": found.train.n_events, "validation": sizes[0], "test": sizes[1],
    }  # fmt: skip
    assert found.train.n_events + sum(sizes) == data.n_events
    assert abs(sizes[0] - sizes[1]) <= 1
    assert max(sizes) <= 0.2 * data.n_events + 0.5
    covered = np.zeros(data.n_events, int)
    for part in (found.valid, found.test):
        for stop, target in zip(part.stop, part.target, strict=True):
            covered[stop:target] += 1
    owner = np.repeat(np.arange(data.n_users), data.lengths)
    covered += np.arange(data.n_events) < found.train.stop[owner]
    assert (covered == 1).all()
    again = split.by_review(data, valid=0.2, test=0.2, seed=seed)
    assert np.array_equal(again.dataset.item, found.dataset.item)


def test_by_review_takes_ratings_and_reviews_along() -> None:
    data = synthetic(users=30, items=6, length=8)
    data = replace(data, rating=(np.arange(data.n_events) % 5 + 1).astype(np.float32))
    owner = np.repeat(np.arange(data.n_users), data.lengths)
    nothing = pa.nulls(data.n_events, pa.large_string())
    told = pa.array([f"{item}:{rate}" for item, rate in zip(data.item, data.rating, strict=True)], pa.large_string())
    columns = [owner.astype(np.int32), data.item, np.arange(data.n_events), nothing, told, nothing, nothing, nothing]
    data = replace(data, records={"reviews": pa.table(dict(zip(COLUMNS["reviews"], columns, strict=True)))})
    found = split.by_review(data, valid=0.25, test=0.25)
    assert [found.about["events"][part] for part in ("validation", "test")] == [60, 60]
    table = found.dataset.records["reviews"]
    event = table.column("event").to_numpy()
    assert sorted(event.tolist()) == list(range(data.n_events))
    for at, text in zip(event, table.column("text").to_pylist(), strict=True):
        assert text == f"{found.dataset.item[at]}:{found.dataset.rating[at]}"
    assert np.array_equal(owner[event], table.column("user").to_numpy())
    assert found.dataset.time is None
    other = split.by_review(data, valid=0.25, test=0.25, seed=1)
    assert not np.array_equal(other.dataset.item, found.dataset.item)
    for shares in ((0.0, 0.1), (0.5, 0.5)):
        with pytest.raises(DataError, match="a sum below 1"):
            split.by_review(data, valid=shares[0], test=shares[1])
    torn = replace(data, records={"impressions": pa.table({k: pa.array([], t) for k, t in COLUMNS["impressions"].items()})})
    with pytest.raises(DataError, match="without records but reviews"):
        split.by_review(torn)


def test_fewer_queries_are_spread_out_and_recorded() -> None:
    whole = split.leave_one_out(synthetic(users=11, items=9, length=5))
    few = split.fewer(whole, valid=3, test=2)
    assert few.valid.user.tolist() == [whole.valid.user[0], whole.valid.user[(len(whole.valid) - 1) // 2], whole.valid.user[-1]]
    assert few.test.user.tolist() == whole.test.user[[0, -1]].tolist()
    assert [few.test.truth(0).tolist(), few.test.history(1).tolist()] == [
        whole.test.truth(0).tolist(), whole.test.history(len(whole.test) - 1).tolist(),
    ]  # fmt: skip
    assert few.about == {**whole.about, "valid_queries": 3, "test_queries": 2}
    assert few.train is whole.train
    assert split.fewer(whole, valid=10**6).about == whole.about
    with pytest.raises(DataError, match="needed at least one query, got 0"):
        split.fewer(whole, test=0)


def test_the_test_part_is_sealed() -> None:
    found = split.leave_one_out(made([[0, 1, 2]]))
    with split.sealed():
        assert len(found.valid) == 1
        with pytest.raises(SealedError, match="sealed during fit"):
            found.test
    assert len(found.test) == 1


def plain_core(events: list[tuple[int, int]], users: int, items: int) -> list[int]:
    """Places of the events that stay, by removing one thing at a time."""
    left = list(range(len(events)))
    while True:
        by_user, by_item = Counter(events[at][0] for at in left), Counter(events[at][1] for at in left)
        bad = next((at for at in left if by_user[events[at][0]] < users or by_item[events[at][1]] < items), None)
        if bad is None:
            return left
        left.remove(bad)


@settings(max_examples=80, deadline=None)
@given(HISTORIES, st.integers(1, 4), st.integers(1, 4))
def test_k_core_equals_removing_one_event_at_a_time(rows: list, users: int, items: int) -> None:
    data = dataset_of(rows)
    owner = np.repeat(np.arange(data.n_users), data.lengths)
    left = plain_core(list(zip(owner.tolist(), data.item.tolist(), strict=True)), users, items)
    if not left:
        with pytest.raises(DataError, match="core of made, got nothing"):
            split.k_core(data, users=users, items=items)
        return
    core = split.k_core(data, users=users, items=items)
    owner_after = np.repeat(np.arange(core.n_users), core.lengths)
    assert core.vocab.item_ids(core.item) == data.vocab.item_ids(data.item[left])
    assert core.vocab.users.take(pa.array(owner_after)).to_pylist() == [f"u{u}" for u in owner[left]]
    assert core.time.tolist() == data.time[left].tolist()
    assert core.items.column("item_id").to_pylist() == core.vocab.items.to_pylist()
    assert [core.vocab.attributes["parity"].of(i) for i in range(core.n_items)] == [
        [str(int(t[1]) % 2)] for t in core.vocab.items.to_pylist()
    ]
    number = {text: at for at, text in enumerate(core.vocab.items.to_pylist())}
    assert core.edges.column("head_item").to_pylist() == [number.get(f"i{i}") for i in range(5)]
    assert core.about["k_core"]["events_removed"] == data.n_events - len(left)
    assert data.about == {"source": "test"}
