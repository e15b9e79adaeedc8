"""What every source must keep to: the same events each time, sorted, with ids that are text."""

from __future__ import annotations

import numpy as np

from lmrs.dataset import Dataset


class SourceTests:
    """Subclass, name it Test..., define `load`: it loads the data set."""

    def load(self) -> Dataset:
        raise NotImplementedError("define load")

    def test_loading_twice_gives_the_same_events(self) -> None:
        one, two = self.load(), self.load()
        assert one.fingerprint == two.fingerprint

    def test_offsets_cover_every_event(self) -> None:
        data = self.load()
        assert data.offsets[0] == 0
        assert (np.diff(data.offsets) >= 0).all()
        for name in ("item", "time", "rating", "type"):
            values = getattr(data, name)
            assert values is None or len(values) == data.n_events, f"{name} has {len(values)} values for {data.n_events:,} events"

    def test_a_user_s_events_are_sorted_by_time(self) -> None:
        data = self.load()
        if data.time is None:
            return
        user = np.repeat(np.arange(data.n_users), data.lengths)
        back = (np.diff(data.time) < 0) & (np.diff(user) == 0)
        assert not back.any(), f"{int(back.sum()):,} steps back in time"

    def test_item_numbers_are_in_the_vocabulary(self) -> None:
        data = self.load()
        assert data.item.dtype == np.int32
        assert data.item.min(initial=0) >= 0
        assert data.item.max(initial=0) < data.n_items
        ids = data.vocab.items.to_pylist()
        assert all(isinstance(text, str) and text for text in ids)
        assert len(set(ids)) == len(ids), "two numbers for one id"

    def test_tables_are_in_the_order_of_the_vocabulary(self) -> None:
        data = self.load()
        if data.items is not None:
            assert data.items.column("item_id").to_pylist() == data.vocab.items.to_pylist()
        for name, values in data.vocab.attributes.items():
            assert len(values.offsets) == data.n_items + 1, f"attribute {name!r}"

    def test_the_source_says_where_it_came_from(self) -> None:
        assert self.load().about, "`about` is empty: name the source, and what was done to it"
