"""Records: tables that name events by place, kept by the store, seen by the fingerprint, split with the events."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmrs import records, store
from lmrs.dataset import Dataset
from lmrs.errors import DataError
from lmrs.records import COLUMNS, Impressions
from lmrs.split import k_core, leave_one_out
from lmrs.vocab import Vocab


def table(name: str, rows: list[dict]) -> pa.Table:
    schema = pa.schema(list(COLUMNS[name].items()))
    return pa.Table.from_pylist([{column: row.get(column) for column in schema.names} for row in rows], schema=schema)


IMPRESSIONS = [  # user 0 has events 0..3, user 1 has 4..6
    {"key": "a", "user": 0, "time": 10, "history": [1, 2], "shown": [0, 3], "clicked": [True, False], "start": 2, "stop": 3},
    {"key": "b", "user": 0, "time": 20, "history": [1, 2], "shown": [3, 1, 2], "clicked": [False, True, False], "start": 3,
     "stop": 4},
    {"key": "c", "user": 1, "time": 20, "history": [], "shown": [2], "clicked": [False], "start": 5, "stop": 5},
    {"key": "d", "user": 1, "time": 30, "history": [], "shown": [2, 0], "clicked": None, "start": 6, "stop": 6},
]  # fmt: skip
REVIEWS = [{"user": 1, "item": 2, "event": 5, "text": "Crisp “strings”", "feature": "strings"}]


def dataset(**tables: pa.Table) -> Dataset:
    return Dataset(
        name="small",
        vocab=Vocab(items=pa.array(list("wxyz"), pa.large_string()), users=pa.array(["u", "v"], pa.large_string())),
        item=np.array([1, 2, 0, 1, 0, 2, 3], np.int32),
        offsets=np.array([0, 4, 7]),
        records=tables,
    )


FULL = {"impressions": table("impressions", IMPRESSIONS), "reviews": table("reviews", REVIEWS)}


def test_the_store_gives_records_back(tmp_path):
    made = dataset(**FULL)
    back = store.open(store.write(made, tmp_path / "s"))
    assert {name: found.to_pylist() for name, found in back.records.items()} == {"impressions": IMPRESSIONS} | {
        "reviews": FULL["reviews"].to_pylist()
    }
    assert back.fingerprint == made.fingerprint
    again = store.open(store.write(dataset(), tmp_path / "s"))  # an older store of that name leaves nothing behind
    assert again.records == {}


def test_the_fingerprint_sees_every_value_but_not_the_layout_in_memory():
    prints = {dataset().fingerprint, dataset(**FULL).fingerprint}
    for name, rows, column, value in [
        ("impressions", IMPRESSIONS, "clicked", [False, False]),
        ("impressions", IMPRESSIONS, "clicked", None),
        ("impressions", IMPRESSIONS, "shown", [0, 2]),
        ("impressions", IMPRESSIONS, "history", [1]),
        ("impressions", IMPRESSIONS, "time", 11),
        ("impressions", IMPRESSIONS, "key", ""),
        ("reviews", REVIEWS, "text", "Crisp 'strings'"),
        ("reviews", REVIEWS, "text", None),
        ("reviews", REVIEWS, "opinion", ""),
    ]:
        prints.add(dataset(**FULL | {name: table(name, [rows[0] | {column: value}, *rows[1:]])}).fingerprint)
    assert len(prints) == 11
    pair = [REVIEWS[0] | {"opinion": None}, REVIEWS[0] | {"opinion": "crisp"}]
    one, other = (dataset(reviews=table("reviews", rows)).fingerprint for rows in (pair, pair[::-1]))
    assert one != other  # where the nulls are
    doubled = pa.concat_tables([FULL["impressions"], FULL["impressions"]]).combine_chunks()
    chunked = pa.concat_tables([doubled.slice(4, 1), doubled.slice(1, 3)])
    assert dataset(**FULL | {"impressions": chunked}).fingerprint == dataset(**FULL).fingerprint


def test_impressions_as_arrays():
    log = Impressions.of(FULL["impressions"])
    assert len(log) == 4
    assert [array.tolist() for array in log.row(1)] == [[1, 2], [3, 1, 2], [False, True, False]]
    assert [array.tolist() for array in log.row(3)] == [[], [2, 0], [False, False]]
    assert log.clicks().tolist() == [1, 1, 0, 0]
    assert log.told.tolist() == [True, True, True, False]
    sliced = Impressions.of(FULL["impressions"].slice(1, 2))
    assert [array.tolist() for array in sliced.row(0)] == [[1, 2], [3, 1, 2], [False, True, False]]


def test_a_split_of_the_events_splits_the_impressions():
    made = dataset(**FULL)
    log, split = Impressions.of(made.records["impressions"]), leave_one_out(made)
    assert split.train.stop.tolist() == [2, 5]
    assert log.known(split.train.stop).tolist() == [False] * 4  # c: nothing of user 1 is known to come after it
    assert log.known(np.array([3, 6])).tolist() == [True, False, True, False]
    assert log.known(made.offsets[1:]).tolist() == [True, True, True, False]
    assert log.within(np.array([2, 4]), np.array([3, 7])).tolist() == [True, False, False, False]
    assert log.within(np.array([3, 4]), np.array([4, 7])).tolist() == [False, True, False, False]
    for at in (0, 1):  # what was clicked are the events [start, stop)
        _, shown, clicked = log.row(at)
        assert made.item[log.start[at] : log.stop[at]].tolist() == shown[clicked].tolist()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_impression_is_both_known_and_asked_about(data):
    """Whatever the moment a split cuts at, learning and asking never share an impression, and no click is lost."""
    n = data.draw(st.integers(1, 8))
    sizes = [data.draw(st.integers(0, 2)) for _ in range(n)]  # clicks of each impression of one user, in order of time
    ends = np.cumsum(sizes)
    rows = [
        {"key": "", "user": 0, "time": at, "history": [], "shown": [0, 1], "clicked": [i < sizes[at] for i in range(2)],
         "start": int(ends[at] - sizes[at]), "stop": int(ends[at])}
        for at in range(n)
    ]  # fmt: skip
    log = Impressions.of(table("impressions", rows))
    cut = data.draw(st.sampled_from([0, *ends.tolist()]))
    known = log.known(np.array([cut]))
    asked = log.within(np.array([cut]), np.array([ends[-1]]))
    assert not (known & asked).any()
    assert ((known | asked) == (np.array(sizes) > 0))[np.array(sizes) > 0].all()
    later = log.time[asked].min(initial=n)
    assert (log.time[known] < later).all()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("impressions", {"user": 2}, r"impressions\.user from 0 to 1, got 0 to 2"),
        ("impressions", {"shown": [0, 4]}, r"impressions\.shown from 0 to 3"),
        ("impressions", {"history": [-1]}, r"impressions\.history from 0 to 3"),
        ("impressions", {"history": None}, "a history in every row of impressions"),
        ("impressions", {"clicked": [True]}, "one flag for each item shown, got 1 for 2 in impression 0"),
        ("impressions", {"clicked": [True, True]}, "as many events in .* as clicks"),
        ("impressions", {"stop": 9, "start": 8}, "start <= stop <= 7"),
        ("reviews", {"event": 7}, r"reviews\.event from 0 to 6"),
        ("reviews", {"item": None}, "an? item in every row of reviews"),
    ],
)
def test_values_that_do_not_fit_are_refused(name, change, message):
    rows = {"impressions": IMPRESSIONS, "reviews": REVIEWS}[name]
    records.check_values(FULL, users=2, items=4, events=7)
    broken = {name: table(name, [rows[0] | change, *rows[1:]])}
    with pytest.raises(DataError, match=message):
        records.check_values(broken, users=2, items=4, events=7)


def test_tables_of_another_shape_are_refused():
    with pytest.raises(DataError, match="records named impressions or reviews or dialogues, got 'sessions'"):
        dataset(sessions=FULL["reviews"])
    with pytest.raises(DataError, match="records reviews with user int32"):
        dataset(reviews=FULL["reviews"].drop_columns(["feature"]))


def test_a_k_core_does_not_leave_records_pointing_nowhere():
    with pytest.raises(DataError, match="without records for a k-core, got small with impressions, reviews"):
        k_core(dataset(**FULL), users=1, items=1)
    assert k_core(replace(dataset(**FULL), records={}), users=1, items=1).n_events == 7


def test_the_digest_is_of_the_values_however_they_are_laid_out():
    texts, lists = ["a", None, "bé", ""], [["x"], [], None, ["y", None]]
    kinds = (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()))
    found = {records.digest(pa.table({"text": pa.array(texts).cast(kind)})) for kind in kinds}
    found.add(records.digest(pa.table({"text": pa.chunked_array([texts[:1], texts[1:]], pa.string())})))
    found.add(records.digest(pa.table({"text": pa.array(["z", *texts])}).slice(1)))
    assert len(found) == 1
    same = [pa.table({"lists": pa.array(lists, kind)}) for kind in (pa.list_(pa.string()), pa.large_list(pa.large_string()))]
    assert records.digest(same[0]) == records.digest(same[1])
    others = [["a", None, "b", "é"], ["a", "", "bé", None], ["ab", None, "é", ""]]
    assert len({records.digest(pa.table({"text": each})) for each in (texts, *others)}) == 4
    # The bytes are those that fingerprints of stored data sets were made of.
    assert records.digest(pa.table({"text": pa.array(texts, pa.large_string())})).hex()[:16] == "0a444df11b115427"
    with pytest.raises(DataError, match="columns of numbers, texts, flags or lists of these, got struct"):
        records.digest(pa.table({"odd": [{"a": 1}]}))
