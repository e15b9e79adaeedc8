"""What every View must keep to: it reads training events only, says the same thing twice, and keeps to its lengths."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch

from lmrs.batch import Batch
from lmrs.split import Split, Train
from lmrs.testing import tiny
from lmrs.testing.values import check_repr
from lmrs.views import Rows, View


class ViewTests:
    """Subclass, name it Test..., set `part` to the view (with a max_len below 10, so that long rows are cut)."""

    part: ClassVar[View]
    aheads: ClassVar[tuple[int, ...]] = (0, 1)

    def rows(self, train: Train, *, ahead: int, seed: int = 0) -> Rows:
        return self.part.rows(train, ahead=ahead, rng=np.random.default_rng(seed))

    def test_repr_evaluates_to_an_equal_value(self) -> None:
        check_repr(self.part)

    def test_the_same_rng_reads_the_same_rows(self) -> None:
        train = tiny.split().train
        for ahead in self.aheads:
            one, two = self.rows(train, ahead=ahead), self.rows(train, ahead=ahead)
            for name in ("user", "start", "stop"):
                assert np.array_equal(getattr(one, name), getattr(two, name)), name

    def test_rows_stay_inside_the_training_events_of_their_user(self) -> None:
        train = tiny.split().train
        for ahead in self.aheads:
            for seed in range(5):
                rows = self.rows(train, ahead=ahead, seed=seed)
                assert len(rows), "no rows at all"
                assert (rows.start >= train.start[rows.user]).all(), "a row begins before its user's events"
                assert (rows.stop <= train.stop[rows.user]).all(), "a row reads beyond the training part"

    def test_lengths_are_respected(self) -> None:
        train = tiny.split().train
        for ahead in self.aheads:
            size = self.rows(train, ahead=ahead).stop - self.rows(train, ahead=ahead).start
            assert size.min() >= 2, "a row of fewer than two events teaches nothing"
            assert size.max() <= self.part.max_len + ahead, f"a row of {size.max()} events"

    def test_every_user_with_two_events_is_read(self) -> None:
        train = tiny.split().train
        found = np.unique(self.rows(train, ahead=1).user)
        assert np.array_equal(found, np.flatnonzero(train.lengths >= 2))

    def test_batches_hold_what_the_rows_say(self) -> None:
        data = tiny.dataset()
        rows = self.rows(tiny.split(data).train, ahead=1)
        batch = self.part.collate(rows)
        assert batch.n_rows == len(rows)
        assert sorted(batch.rows["example"].tolist()) == list(range(len(rows)))
        assert (batch.lengths.diff() <= 0).all(), "rows are not sorted by falling length"
        for row, example in enumerate(batch.rows["example"].tolist()):
            here = slice(int(batch.offsets[row]), int(batch.offsets[row + 1]))
            span = slice(int(rows.start[example]), int(rows.stop[example]))
            assert np.array_equal(batch.channels["item"][here].numpy(), data.item[span]), f"row {row} holds other items"
            assert batch.channels["position"][here].tolist() == list(range(span.stop - span.start)), f"positions of row {row}"

    def test_it_gives_what_it_says(self) -> None:
        """`gives` names channels; `time` may be missing only where the data has none."""
        batch = self.part.collate(self.rows(tiny.split().train, ahead=0))
        given = {*batch.channels, *batch.rows, *batch.texts}
        assert set(self.part.gives) <= given, f"missing: {set(self.part.gives) - given}"
        for name, values in batch.channels.items():
            assert len(values) == batch.n_positions, f"{name} has {len(values)} values for {batch.n_positions} positions"

    def test_nothing_behind_the_training_part_is_read(self) -> None:
        data = tiny.dataset()
        train = tiny.split(data).train
        for ahead in self.aheads:
            one, two = (self.part.collate(self.rows(part, ahead=ahead)) for part in (train, tiny.with_future(data, train)))
            for name, values in one.channels.items():
                assert torch.equal(values, two.channels[name]), f"channel {name!r} knows the future"

    def test_histories_leave_room_for_the_question(self) -> None:
        train = tiny.split().train
        user = np.flatnonzero(train.lengths >= 2)
        rows = Rows(train.dataset, user, train.start[user], train.stop[user])
        for asks in (0, 1):
            short = self.part.asked(rows, asks=asks)
            size = short.stop - short.start
            assert np.array_equal(short.stop, rows.stop), "the newest events must stay"
            assert np.array_equal(size, np.minimum(rows.stop - rows.start, self.part.max_len - asks)), (
                "cut too much or too little"
            )


class RecordViewTests:
    """The same for a View of records, such as impressions. Subclass, name it Test..., set `part`, override `data`, `changed`."""

    part: ClassVar[View]

    @staticmethod
    def data() -> Split:
        """A Split of data with the records that the view reads."""
        raise NotImplementedError

    def changed(self, split: Split) -> Train:
        """The same training part over data in which every other record says something else."""
        raise NotImplementedError

    def rows(self, train: Train, *, seed: int = 0) -> Any:
        return self.part.rows(train, ahead=0, rng=np.random.default_rng(seed))

    def test_repr_evaluates_to_an_equal_value(self) -> None:
        check_repr(self.part)

    def test_the_same_rng_reads_the_same_rows(self) -> None:
        train = self.data().train
        assert_alike(*(self.part.collate(self.rows(train)) for _ in range(2)))

    def test_nothing_behind_the_training_part_is_read(self) -> None:
        split = self.data()
        assert_alike(*(self.part.collate(self.rows(train)) for train in (split.train, self.changed(split))))

    def test_batches_are_sorted_and_numbered(self) -> None:
        rows = self.rows(self.data().train)
        batch = self.part.collate(rows)
        assert len(rows), "no rows at all"
        assert sorted(batch.rows["example"].tolist()) == list(range(len(rows)))
        assert (batch.lengths.diff() <= 0).all(), "rows are not sorted by falling length"
        known = {*batch.channels, *batch.rows, *batch.texts}
        assert set(self.part.gives) <= known, f"the view promises {sorted(set(self.part.gives) - known)}"

    def test_a_row_alone_is_the_row_in_a_batch(self) -> None:
        rows = self.rows(self.data().train)
        batch = self.part.collate(rows)
        for place, example in enumerate(batch.rows["example"].tolist()):
            whole = batch.take(torch.tensor([place]))
            alone = self.part.collate(rows.take(np.array([example])))
            assert_alike(replace(whole, rows=whole.rows | {"example": torch.zeros(1, dtype=torch.int64)}), alone)

    def test_histories_leave_room_for_the_question(self) -> None:
        rows = self.rows(self.data().train)
        for asks in (0, 1):
            found = self.part.collate(self.part.asked(rows, asks=asks)).lengths
            assert int(found.max()) <= self.part.max_len - asks, "cut too little"


def assert_alike(one: Batch, two: Batch) -> None:
    """Raises AssertionError unless two batches say the same."""
    assert torch.equal(one.offsets, two.offsets), "rows of other lengths"
    assert one.texts == two.texts, "other texts"
    for kind, (first, second) in {"channel": (one.channels, two.channels), "row": (one.rows, two.rows)}.items():
        assert first.keys() == second.keys()
        for name, values in first.items():
            assert torch.equal(values, second[name]), f"{kind} {name!r} differs"
