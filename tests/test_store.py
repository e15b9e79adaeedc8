"""The sorted store: bounded sort against a plain one, round trips, damage."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmrs import sorting, store
from lmrs.dataset import Dataset
from lmrs.errors import DataError, StorageError
from lmrs.sources import synthetic
from lmrs.vocab import Attributes


def sort_on_disk(user: np.ndarray, item: np.ndarray, time: np.ndarray | None, *, n_users: int, chunk: int, drop: bool = False):
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "store"
        with store.building(folder) as work:
            columns = ("item",) if time is None else ("item", "time")
            with sorting.EventWriter(work, columns=columns) as writer:
                for lo in range(0, len(user), chunk):
                    piece = slice(lo, lo + chunk)
                    writer.add(user[piece], {"item": item[piece]} | ({} if time is None else {"time": time[piece]}))
                found = writer.finish(n_users=n_users, drop_duplicates=drop)
            assert sorted(path.name for path in work.iterdir()) == ["events.arrow", "offsets.arrow"]
            ids = pa.array([str(n) for n in range(max(n_users, 9))], pa.large_string())
            store.seal(
                work,
                name="x",
                items=pa.table({"item_id": ids}),
                users=pa.table({"user_id": ids[:n_users]}),
                attributes={},
                edges=None,
                types=(),
                about={},
            )
        opened = store.open(folder)
        time_back = None if opened.time is None else opened.time.copy()
        return found, opened.item.copy(), time_back, opened.offsets.copy()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=60),
    st.integers(1, 9),
    st.integers(1, 13),
    st.booleans(),
    st.booleans(),
)
def test_bounded_sort_equals_a_plain_stable_sort(rows: list, bucket: int, piece: int, timed: bool, drop: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorting, "BUCKET", bucket)
        patch.setattr(sorting, "PIECE", piece)
        user, item, time = (np.asarray(column) for column in zip(*rows, strict=True))
        found, items, times, offsets = sort_on_disk(user, item, time if timed else None, n_users=8, chunk=piece, drop=drop)
    seen: set = set()
    kept, duplicates = [], 0
    for at, row in enumerate(rows):
        key = row if timed else row[:2]
        duplicates += key in seen
        if not (drop and key in seen):
            kept.append(at)
        seen.add(key)
    kept.sort(key=lambda at: (rows[at][0], rows[at][2] if timed else 0))  # Python's sort is stable: ties stay in file order
    assert items.tolist() == [rows[at][1] for at in kept]
    assert times is None or times.tolist() == [rows[at][2] for at in kept]
    assert np.diff(offsets).tolist() == [sum(rows[at][0] == u for at in kept) for u in range(8)]
    assert (found.events, found.duplicates, found.dropped) == (len(kept), duplicates, duplicates if drop else 0)


@pytest.fixture
def made() -> Dataset:
    plain = synthetic(users=7, items=6, length=5)
    edges = pa.table({"head": ["a"], "relation": ["r"], "tail": ["b"], "head_item": pa.array([0], pa.int32())})
    n = plain.n_events
    return Dataset(
        name="made",
        vocab=plain.vocab,
        item=plain.item,
        offsets=plain.offsets,
        time=plain.time,
        rating=np.linspace(1, 5, n).astype(np.float32),
        type=np.arange(n, dtype=np.int32) % 2,
        types=("view", "buy"),
        items=plain.items,
        users=pa.table({"user_id": plain.vocab.users, "age": pa.array(range(7))}),
        edges=edges,
        about={"notes": ["é"]},
    )


def test_round_trip(made: Dataset, tmp_path: Path) -> None:
    back = store.open(store.write(made, tmp_path / "s"))
    assert back.fingerprint == made.fingerprint
    assert (back.name, back.types, back.about) == (made.name, made.types, made.about)
    assert back.items.to_pylist() == made.items.to_pylist()
    assert back.users.to_pylist() == made.users.to_pylist()
    assert back.edges.to_pylist() == made.edges.to_pylist()
    assert [back.vocab.attributes["group"].of(i) for i in range(6)] == [made.vocab.attributes["group"].of(i) for i in range(6)]
    assert not back.item.flags.writeable
    store.write(made.renamed("again"), tmp_path / "s")
    assert store.open(tmp_path / "s").name == "again"


def test_attributes_may_be_empty(made: Dataset, tmp_path: Path) -> None:
    made.vocab.attributes["none"] = Attributes.from_lists(pa.array([None] * 6, pa.list_(pa.string())))
    back = store.open(store.write(made, tmp_path / "s"))
    assert back.vocab.attributes["none"].count == 0
    assert back.vocab.attributes["none"].of(3) == []


def test_a_folder_with_something_else_is_left_alone(made: Dataset, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="something else"):
        store.write(made, tmp_path / "s")
    assert (tmp_path / "s" / "thesis.txt").read_text() == "mine"


def test_every_cut_and_every_flipped_byte_is_found(made: Dataset, tmp_path: Path) -> None:
    folder = store.write(made, tmp_path / "s")
    rng = np.random.default_rng(0)
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for at in rng.integers(0, len(whole), 25):
            path.write_bytes(whole[:at])
            with pytest.raises(DataError, match=path.name):
                store.open(folder)
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << int(rng.integers(8))]) + whole[at + 1 :])
            if path.name != "manifest.json" or json.loads(whole) != _loads(path):
                with pytest.raises(DataError, match=path.name):
                    store.open(folder)
        path.write_bytes(whole)
    assert store.open(folder, verify=True).fingerprint == made.fingerprint
    (folder / "items.arrow").unlink()
    with pytest.raises(DataError, match=r"items\.arrow.*no such file"):
        store.open(folder)


def _loads(path: Path) -> object:
    """What the manifest says now: a flipped blank between tokens says the same."""
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None


def test_another_format_is_refused(made: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = store.write(made, tmp_path / "s")
    monkeypatch.setattr(store, "FORMAT", 2)
    with pytest.raises(DataError, match=r"needed store format 2 .* got format 1"):
        store.open(folder)


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def build() -> None:
        with store.building(tmp_path / "s") as work:
            (work / "half").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        build()
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_dead_processes_go_and_those_of_live_ones_stay(tmp_path: Path) -> None:
    dead, alive = tmp_path / ".building-999999999-ab", tmp_path / ".building-1-cd"
    dead.mkdir()
    alive.mkdir()
    with store.building(tmp_path / "s") as work:
        (work / "manifest.json").write_text("{}")
    assert not dead.exists()
    assert alive.exists()


def test_a_store_that_another_process_made_meanwhile_stays(tmp_path: Path) -> None:
    with store.building(tmp_path / "s") as work:
        (work / "manifest.json").write_text("mine")
        (tmp_path / "s").mkdir()
        (tmp_path / "s" / "manifest.json").write_text("theirs")
    assert (tmp_path / "s" / "manifest.json").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_disk_full_names_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Dataset) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match=r"attributes\.arrow.*No space left on device; free some space"):
        store.write(made, tmp_path / "s")
    assert list(tmp_path.iterdir()) == []
