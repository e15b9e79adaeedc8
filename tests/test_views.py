"""Views: which events become targets how often, and that nothing beyond the training part is ever read."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmrs.dataset import Dataset
from lmrs.errors import ContractError
from lmrs.objectives import NextItem
from lmrs.split import Train
from lmrs.views import ItemSequence, Rows
from lmrs.vocab import Vocab

fast = settings(max_examples=50, deadline=None)


def train_of(lengths, held=None, time=True):
    """Users with `lengths` events, numbered through (event n is item n), the last `held` of which are no training events."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    total = int(offsets[-1])
    words = Vocab(pa.array([f"i{i}" for i in range(total)], pa.large_string()), pa.array([f"u{u}" for u in range(len(lengths))]))
    data = Dataset("made", words, np.arange(total, dtype=np.int32), offsets, np.arange(total) * 1000 if time else None)
    return Train(data, offsets[1:] - np.asarray(held if held is not None else np.zeros(len(lengths), np.int64)))


LENGTHS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3)), min_size=1, max_size=8)
WINDOW = st.integers(1, 9)


def users_of(pairs):
    return train_of([a + b for a, b in pairs], [b for _, b in pairs])


def spans(view, train, ahead, seed=0):
    rows = view.rows(train, ahead=ahead, rng=np.random.default_rng(seed))
    return rows, list(zip(rows.user.tolist(), rows.start.tolist(), rows.stop.tolist(), strict=True))


def targets(train, found, ahead):
    """How often each event is a target: with ahead 1 all but the first of a span, with ahead 0 all of it."""
    times = np.zeros(train.dataset.n_events, np.int64)
    for _, start, stop in found:
        times[start + ahead : stop] += 1
    return times


def within(train, view, found, ahead):
    for user, start, stop in found:
        assert train.start[user] <= start < stop <= train.stop[user]
        assert 2 <= stop - start <= view.max_len + ahead
    assert [user for user, _, _ in found] == sorted(user for user, _, _ in found)


@fast
@given(LENGTHS, WINDOW, st.sampled_from([0, 1]))
def test_the_last_window_alone(pairs, max_len, ahead):
    if max_len + ahead < 2:
        return
    train, view = users_of(pairs), ItemSequence(max_len=max_len)
    _, found = spans(view, train, ahead)
    within(train, view, found, ahead)
    wanted = [
        (u, max(int(train.start[u]), int(train.stop[u]) - max_len - ahead), int(train.stop[u]))
        for u in range(len(pairs))
        if train.lengths[u] >= 2
    ]
    assert found == wanted


@fast
@given(LENGTHS, WINDOW, st.booleans(), st.integers(0, 5))
def test_cut_into_pieces_every_event_but_the_first_is_a_target_exactly_once(pairs, max_len, jitter, seed):
    jitter = jitter and max_len > 1
    train, view = users_of(pairs), ItemSequence(max_len=max_len, stride=max_len, jitter=jitter)
    _, found = spans(view, train, 1, seed)
    within(train, view, found, 1)
    times = targets(train, found, 1)
    for u in range(len(pairs)):
        start, stop = int(train.start[u]), int(train.stop[u])
        assert (times[start + 1 : stop] == 1).all()
        assert not times[start : min(start + 1, stop)].any()
        assert not times[stop : train.dataset.offsets[u + 1]].any()


@fast
@given(LENGTHS, st.integers(2, 9), st.booleans(), st.integers(0, 5))
def test_cut_into_pieces_without_looking_ahead_an_event_is_read_at_most_once(pairs, max_len, jitter, seed):
    """A left-over piece of one event is dropped: at most two events of a user (both ends) are not read."""
    train, view = users_of(pairs), ItemSequence(max_len=max_len, stride=max_len, jitter=jitter)
    _, found = spans(view, train, 0, seed)
    within(train, view, found, 0)
    times = targets(train, found, 0)
    assert times.max(initial=0) <= 1
    for u in range(len(pairs)):
        mine = times[train.start[u] : train.stop[u]]
        assert (mine == 0).sum() <= (2 if jitter else 1) or len(mine) < 2


@fast
@given(LENGTHS, WINDOW, st.integers(1, 14), st.booleans(), st.integers(0, 5), st.sampled_from([0, 1]))
def test_any_stride_stays_inside_the_training_part(pairs, max_len, stride, jitter, seed, ahead):
    if max_len + ahead < 2:
        return
    train, view = users_of(pairs), ItemSequence(max_len=max_len, stride=stride, jitter=jitter and stride > 1)
    _, found = spans(view, train, ahead, seed)
    within(train, view, found, ahead)
    times = targets(train, found, ahead)
    if ahead and stride <= max_len:  # windows overlap or touch: nothing but the first event is left out
        for u in range(len(pairs)):
            assert (times[train.start[u] + 1 : train.stop[u]] >= 1).all()


@fast
@given(LENGTHS, st.integers(2, 9), st.integers(1, 8), st.booleans(), st.integers(0, 5))
def test_once_predicts_each_event_in_the_window_with_the_longest_context(pairs, max_len, stride, jitter, seed):
    stride = min(stride, max_len - 1)
    train, view = users_of(pairs), ItemSequence(max_len=max_len, stride=stride, jitter=jitter and stride > 1, once=True)
    rows = view.rows(train, ahead=1, rng=np.random.default_rng(seed))
    within(train, view, list(zip(rows.user.tolist(), rows.start.tolist(), rows.stop.tolist(), strict=True)), 1)
    prepared = NextItem().corrupt(view.collate(rows), train.dataset.vocab, torch.Generator())
    times = np.zeros(len(train.dataset.item), int)
    order = prepared.rows["example"].tolist()
    for place, row in enumerate(order):
        inputs = slice(int(prepared.offsets[place]), int(prepared.offsets[place + 1]))
        target = prepared.channels["target"][inputs].numpy()
        for at in np.flatnonzero(target >= 0):
            event = int(rows.start[row]) + 1 + at
            assert target[at] == train.dataset.item[event]
            times[event] += 1
            assert at + 1 >= min(max_len - stride + 1, event - int(train.start[rows.user[row]]))
    for u in range(len(pairs)):
        assert (times[train.start[u] + 1 : train.stop[u]] == 1).all()
    assert times.sum() == np.maximum(train.stop - train.start - 1, 0).sum()
    some = rows.take(np.arange(len(rows))[::2])
    np.testing.assert_array_equal(some.fresh, rows.fresh[::2])


@fast
@given(LENGTHS, WINDOW)
def test_prefixes_are_every_prefix_of_the_last_window(pairs, max_len):
    train, view = users_of(pairs), ItemSequence(max_len=max_len, prefixes=True)
    _, found = spans(view, train, 0)
    within(train, view, found, 0)
    wanted = []
    for u in range(len(pairs)):
        start = max(int(train.start[u]), int(train.stop[u]) - max_len)
        wanted += [(u, start, stop) for stop in range(start + 2, int(train.stop[u]) + 1)] if train.lengths[u] >= 2 else []
    assert found == wanted


def test_jitter_is_a_function_of_the_generator_and_moves_the_cuts():
    train, view = train_of([40, 40, 40]), ItemSequence(max_len=7, stride=7, jitter=True)
    assert spans(view, train, 1, seed=3)[1] == spans(view, train, 1, seed=3)[1]
    assert len({str(spans(view, train, 1, seed=s)[1]) for s in range(5)}) == 5


@fast
@given(LENGTHS, WINDOW)
def test_collate_reads_the_spans_and_nothing_else(pairs, max_len):
    train, view = users_of(pairs), ItemSequence(max_len=max_len)
    rows, found = spans(view, train, 1)
    batch = view.collate(rows)
    edges = batch.offsets.tolist()
    for at, example in enumerate(batch.rows["example"].tolist()):
        user, start, stop = found[example]
        mine = slice(edges[at], edges[at + 1])
        assert batch.channels["item"][mine].tolist() == list(range(start, stop))
        assert batch.channels["time"][mine].tolist() == [1000 * e for e in range(start, stop)]
        assert batch.channels["position"][mine].tolist() == list(range(stop - start))
        assert int(batch.rows["user"][at]) == user
    assert batch.channels["item"].dtype == torch.int64


def test_collate_gives_no_time_where_only_the_order_is_known():
    train, view = train_of([3], time=False), ItemSequence(max_len=5)
    assert "time" not in view.collate(view.rows(train, ahead=1, rng=np.random.default_rng(0))).channels


@pytest.mark.parametrize(("asks", "start"), [(0, 4), (1, 5)])
def test_asked_histories_leave_room_for_the_question(asks, start):
    data = train_of([12]).dataset
    rows = Rows(data, np.array([0, 0]), np.array([0, 0]), np.array([9, 3]))
    short = ItemSequence(max_len=5).asked(rows, asks=asks)
    assert short.start.tolist() == [start, 0]
    assert short.stop.tolist() == [9, 3]


def test_a_row_shows_itself_to_a_person():
    data = train_of([3, 4]).dataset
    rows = Rows(data, np.array([1]), np.array([4]), np.array([7]))
    assert rows.show(0) == "user u1: i4 > i5 > i6"
    assert repr(rows) == "<Rows: 1 rows of made, 3 events>"
    assert rows.take(np.array([0, 0])).user.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_len": 0}, "max_len of at least 1, got max_len=0"),
        ({"stride": 0}, "stride of at least 1"),
        ({"jitter": True}, "stride of at least 2 for jitter"),
        ({"stride": 1, "jitter": True}, "stride of at least 2 for jitter"),
        ({"stride": 3, "prefixes": True}, "stride=None for prefixes"),
        ({"once": True}, "stride below max_len for once, got stride=None, max_len=50; try a fifth of max_len"),
        ({"stride": 50, "once": True}, "stride below max_len for once"),
    ],
)
def test_views_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ContractError, match=message):
        ItemSequence(**wrong)


@fast
@given(st.integers(1, 99), st.one_of(st.none(), st.integers(2, 99)), st.booleans())
def test_repr_evaluates_back(max_len, stride, jitter):
    view = ItemSequence(max_len=max_len, stride=stride, jitter=jitter and stride is not None)
    assert eval(repr(view)) == view
