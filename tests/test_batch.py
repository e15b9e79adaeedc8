"""Batches: what from_rows, keep, take, appended and buckets promise, against plain Python lists."""

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmrs.batch import Batch, appended, from_rows

fast = settings(max_examples=50, deadline=None)
ROWS = st.lists(st.lists(st.integers(0, 99), max_size=12), min_size=1, max_size=9)
FULL_ROWS = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=12), min_size=1, max_size=9)


def made(rows):
    """A Batch of the rows with a second channel (negated) of two columns and a row channel with the place a row was given in."""
    flat = torch.tensor([item for row in rows for item in row], dtype=torch.int64)
    lengths = torch.tensor([len(row) for row in rows])
    channels = {"item": flat, "pair": torch.stack([-flat, flat], 1)}
    return from_rows(channels, lengths, {"mark": 10 * torch.arange(len(rows))}, {"said": [said(row) for row in rows]})


def said(row):
    return " ".join(map(str, row)) or None


def lists(batch, channel="item"):
    values = batch.channels[channel].tolist()
    edges = batch.offsets.tolist()
    return [values[a:b] for a, b in itertools.pairwise(edges)]


@fast
@given(ROWS)
def test_from_rows_sorts_by_falling_length_and_keeps_rows_whole(rows):
    batch = made(rows)
    order = sorted(range(len(rows)), key=lambda r: -len(rows[r]))  # stable: ties keep their order
    assert lists(batch) == [rows[r] for r in order]
    assert lists(batch, "pair") == [[[-i, i] for i in rows[r]] for r in order]
    assert lists(batch, "position") == [list(range(len(rows[r]))) for r in order]
    assert batch.rows["example"].tolist() == order
    assert batch.rows["mark"].tolist() == [10 * r for r in order]
    assert batch.texts == {"said": tuple(said(rows[r]) for r in order)}
    assert batch.lengths.tolist() == [len(rows[r]) for r in order]
    assert batch.row_of.tolist() == [at for at, r in enumerate(order) for _ in rows[r]]
    assert (batch.n_rows, batch.n_positions) == (len(rows), sum(map(len, rows)))


@fast
@given(FULL_ROWS)
def test_last_is_the_last_position_of_each_row(rows):
    batch = made(rows)
    assert batch.channels["item"][batch.last].tolist() == [row[-1] for row in lists(batch)]


@fast
@given(ROWS)
def test_buckets_cover_every_position_once_with_little_padding(rows):
    batch = made(rows)
    covered, seen_rows = [], 0
    for bucket in batch.buckets:
        assert bucket.rows.start == seen_rows
        seen_rows = bucket.rows.stop
        lengths = batch.lengths[bucket.rows].tolist()
        assert bucket.length == max(lengths)
        assert all(n >= 1 and bucket.length - n <= max(4, bucket.length / 4) for n in lengths)
        assert (bucket.flat.start, bucket.flat.stop) == (
            int(batch.offsets[bucket.rows.start]),
            int(batch.offsets[bucket.rows.stop]),
        )
        wanted = [r * bucket.length + t for r, n in enumerate(lengths) for t in range(n)]
        found = list(range(len(lengths) * bucket.length)) if bucket.cells is None else bucket.cells.tolist()
        assert found == wanted
        covered += range(bucket.flat.start, bucket.flat.stop)
    assert covered == list(range(batch.n_positions))
    assert not batch.lengths[seen_rows:].any()


@fast
@given(ROWS, st.data())
def test_take_keeps_rows_in_order_with_all_they_have(rows, data):
    batch = made(rows)
    which = [r for r in range(len(rows)) if data.draw(st.booleans())]
    part = batch.take(torch.tensor(which, dtype=torch.int64))
    for channel in ("item", "pair", "position"):
        assert lists(part, channel) == [lists(batch, channel)[r] for r in which]
    assert part.rows["example"].tolist() == batch.rows["example"][which].tolist()
    assert part.rows["mark"].tolist() == batch.rows["mark"][which].tolist()
    assert part.texts == {"said": tuple(batch.texts["said"][r] for r in which)}


def test_take_brings_the_parts_of_its_examples_along_however_they_are_ordered():
    batch = made([[1, 2, 3], [4, 5], [6]])
    part = from_rows({"item": torch.tensor([60, 61, 62, 40])}, torch.tensor([3, 1]), {"example": torch.tensor([2, 1])})
    whole = Batch(batch.channels, batch.offsets, batch.rows, {"negative": torch.tensor([7])}, {"other": part})
    taken = whole.take(torch.tensor([2]))
    assert lists(taken) == [[6]]
    assert lists(taken.parts["other"]) == [[60, 61, 62]]
    assert taken.extra["negative"].tolist() == [7]
    assert lists(whole.take(torch.tensor([0])).parts["other"]) == []


@fast
@given(FULL_ROWS)
def test_keep_without_the_last_position_of_each_row(rows):
    batch = made(rows)
    kept = torch.ones(batch.n_positions, dtype=torch.bool)
    kept[batch.last] = False
    part = batch.keep(kept)
    assert lists(part) == [row[:-1] for row in lists(batch)]
    assert lists(part, "position") == [list(range(len(row) - 1)) for row in lists(batch)]
    assert part.rows["example"].tolist() == batch.rows["example"].tolist()


@fast
@given(ROWS)
def test_appended_adds_one_position_at_the_end_of_every_row(rows):
    batch = made(rows)
    grown = appended(batch, item=777)
    assert lists(grown) == [[*row, 777] for row in lists(batch)]
    assert lists(grown, "pair") == [[*row, [0, 0]] for row in lists(batch, "pair")]
    assert lists(grown, "position") == [list(range(len(row) + 1)) for row in lists(batch)]
    assert grown.lengths.tolist() == [n + 1 for n in batch.lengths.tolist()]
    assert lists(batch) == lists(made(rows))


@fast
@given(FULL_ROWS)
def test_with_channels_leaves_the_original_alone(rows):
    batch = made(rows)
    other = batch.with_channels(item=batch.channels["item"] + 1, more=batch.row_of)
    assert lists(batch) == lists(made(rows))
    assert "more" not in batch.channels
    assert lists(other) == [[i + 1 for i in row] for row in lists(batch)]
    assert batch.to("cpu") is batch
