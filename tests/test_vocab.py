"""Ids, numbering in order of first appearance, attributes."""

from __future__ import annotations

import hashlib
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmrs import columns, numbering, vocab
from lmrs.numbering import Numbering
from lmrs.vocab import Attributes, Vocab


def numbered(values: list, sizes: list[int], kind: pa.DataType) -> tuple[list[int], list[str]]:
    given, found, at = Numbering(), [], 0
    for size in [*sizes, len(values)]:
        found += given.add(pa.array(values[at : at + size], kind)).tolist()
        at += size
    assert len(given) == len(set(values))
    return found, given.text().to_pylist()


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3)), st.lists(st.integers(0, 5)))
def test_integers_are_numbered_by_first_appearance_whatever_the_chunks(values: list[int], sizes: list[int]) -> None:
    places = {value: at for at, value in enumerate(dict.fromkeys(values))}
    found, text = numbered(values, sizes, pa.int64())
    assert found == [places[value] for value in values]
    assert text == [str(value) for value in places]


@given(st.lists(st.text(alphabet="01aé́😀 ", max_size=3)), st.lists(st.integers(0, 5)))
def test_texts_are_numbered_by_first_appearance_byte_for_byte(values: list[str], sizes: list[int]) -> None:
    places = {value: at for at, value in enumerate(dict.fromkeys(values))}
    found, text = numbered(values, sizes, pa.large_string())
    assert found == [places[value] for value in values]
    assert text == list(places)


ROWS = st.lists(st.none() | st.lists(st.none() | st.sampled_from(["a", "b", "", "c d"]), max_size=5), max_size=8)


@given(ROWS)
def test_attributes_keep_the_order_and_drop_repeats_within_an_item(rows: list) -> None:
    found = Attributes.from_lists(pa.array(rows, pa.list_(pa.string())))
    wanted = [list(dict.fromkeys(v for v in row or [] if v is not None)) for row in rows]
    assert [found.of(item) for item in range(len(rows))] == wanted
    assert found.names.to_pylist() == list(dict.fromkeys(v for row in wanted for v in row))
    assert found.offsets.dtype == np.int64
    assert found.values.dtype == np.int32


@given(ROWS, st.data())
def test_attributes_of_some_items(rows: list, data: st.DataObject) -> None:
    full = Attributes.from_lists(pa.array(rows, pa.list_(pa.string())))
    some = data.draw(st.lists(st.integers(0, len(rows) - 1), unique=True) if rows else st.just([]))
    part = full.take(np.asarray(some, np.int64))
    assert [part.of(at) for at in range(len(some))] == [full.of(item) for item in some]
    assert set(part.names.to_pylist()) == {name for item in some for name in full.of(item)}


def test_attribute_numbers_become_text() -> None:
    assert Attributes.from_lists(pa.array([[10, 2], [2]], pa.list_(pa.int64()))).of(0) == ["10", "2"]


def test_unknown_ids_are_minus_one_and_zeros_in_front_count() -> None:
    vocab = Vocab(items=pa.array(["1", "01", "nan"], pa.large_string()))
    assert vocab.item_numbers(["01", "1", "001", "nan"]).tolist() == [1, 0, -1, 2]
    assert vocab.item_ids(np.array([2, 0])) == ["nan", "1"]
    assert (vocab.n_items, vocab.mask, vocab.n_symbols) == (3, 3, 4)


def test_the_fingerprint_sees_order_and_boundaries() -> None:
    prints = {
        Vocab(items=pa.array(ids, pa.large_string())).fingerprint
        for ids in (["ab", "c"], ["a", "bc"], ["c", "ab"], ["ab", "c", ""])
    }
    assert len(prints) == 4


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_the_fingerprint_is_that_of_lengths_and_bytes(kind: pa.DataType, monkeypatch) -> None:
    monkeypatch.setattr(vocab, "PART", 3)
    items = pa.array(["left out", "a", "", "01", "ü€\N{CLAPPER BOARD}", "b" * 300, "1", "2"], kind).slice(1)
    texts = [text.encode() for text in items.to_pylist()]
    assert Vocab(items=items).fingerprint == _print(texts)
    assert Vocab(items=items.slice(0, 0)).fingerprint == _print([])


def _print(texts: list[bytes]) -> str:
    sizes = b"".join(len(text).to_bytes(8, "little") for text in texts)
    return hashlib.sha256(hashlib.sha256(sizes).digest() + hashlib.sha256(b"".join(texts)).digest()).hexdigest()


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_few_ids_are_found_as_many_are(kind: pa.DataType) -> None:
    ids = [f"item {n}" for n in range(500)]
    made = Vocab(items=pa.array(ids, kind))
    asked = [*ids[::7], "item 500", "", *ids[::7]]
    wanted = [ids.index(text) if text in ids else -1 for text in asked]
    assert made.item_numbers(asked).tolist() == wanted
    assert [int(made.item_numbers([text])[0]) for text in asked] == wanted
    assert made.item_numbers(pa.array([None, "item 3"], pa.large_string())).tolist() == [-1, 3]
    assert made.item_numbers([]).tolist() == []


def test_few_titles_are_read_as_many_are() -> None:
    titles = [None if n % 3 == 0 else "" if n % 3 == 1 else f"Title {n}" for n in range(200)]
    made = Vocab(
        items=pa.array([str(n) for n in range(200)], pa.large_string()),
        catalogue=pa.table({"title": pa.chunked_array([titles[:90], titles[90:]], pa.large_string())}),
    )
    wanted = [title or str(n) for n, title in enumerate(titles)]
    assert made.titles(np.arange(200)) == wanted
    assert made.titles(np.array([100, 2, 0])) == [wanted[100], wanted[2], "0"]
    for numbers in (np.array([-1]), np.array([200]), np.full(300, -1)):
        with pytest.raises((pa.ArrowException, IndexError)):
            made.item_ids(numbers)


def test_texts_that_share_a_hash_are_told_apart(monkeypatch) -> None:
    plain, first = numbering.hashes, numbering.FACTOR
    monkeypatch.setattr(numbering, "hashes", lambda texts, factor: plain(texts, factor) % (7 if factor == first else 2**63 - 1))
    values = [f"item {n % 40}" for n in range(100)]
    found, text = numbered(values, [3, 50], pa.large_string())
    assert found == [n % 40 for n in range(100)]
    assert text == list(dict.fromkeys(values))


@given(st.lists(st.text(alphabet="ab1é", max_size=4), unique=True), st.lists(st.none() | st.text(alphabet="ab1é", max_size=4)))
def test_items_are_found_by_their_ids(items: list[str], asked: list[str | None]) -> None:
    known = Vocab(pa.array(items, pa.large_string()))
    wanted = [items.index(each) if each in items else -1 for each in asked]
    assert known.item_numbers(asked).tolist() == wanted
    assert known.item_numbers(pa.array(asked, pa.string())).tolist() == wanted


def by_hand(text: bytes, factor: int) -> int:
    """The hash of a text, in whole numbers of Python."""
    found = len(text) * factor % 2**64
    for at in range(0, len(text), 8):
        found = (found ^ int.from_bytes(text[at : at + 8], "little")) * factor % 2**64
        found ^= found >> 32
    return found - 2**64 * (found >= 2**63)


@given(st.lists(st.text(max_size=30) | st.sampled_from(["a" * 8, "b" * 256])), st.integers(0, 3), st.booleans())
def test_the_hash_of_a_text(texts: list[str], skip: int, even: bool) -> None:
    texts = [f"{text.encode().hex()[:13]:0>13}" for text in texts] if even else texts  # even: all of one length
    array = pa.array(texts, pa.large_string()).slice(skip)
    assert numbering.hashes(array, 2**63 + 5).tolist() == [by_hand(text.encode(), 2**63 + 5) for text in texts[skip:]]
    with mock.patch.object(columns, "PART", 3):  # as of more texts than are hashed at once
        assert numbering.hashes(array, 2**63 + 5).tolist() == [by_hand(text.encode(), 2**63 + 5) for text in texts[skip:]]


def test_long_texts_that_differ_in_their_last_byte_are_told_apart() -> None:
    assert numbered(["x" * 300 + end for end in "abab"] + ["x" * 300], [], pa.large_string())[0] == [0, 1, 0, 1, 2]


@pytest.mark.parametrize("kind", [pa.int64(), pa.large_string()], ids=str)
def test_the_table_grows_and_probes(kind: pa.DataType) -> None:
    rng = np.random.default_rng(0)
    values = (rng.integers(0, 60_000, 150_000) << 32).tolist()  # keys that meet in the lower bits
    values = values if kind == pa.int64() else [str(value) for value in values]
    places = {value: at for at, value in enumerate(dict.fromkeys(values))}
    found, text = numbered(values, [1, 700, 50_000], kind)
    assert found == [places[value] for value in values]
    assert text == [str(value) for value in places]


def test_texts_can_be_read_between_two_chunks() -> None:
    given = Numbering()
    given.add(pa.array(["b", "a"], pa.large_string()))
    before = given.text()
    assert given.add(pa.array(["c", "a"], pa.large_string())).tolist() == [2, 1]
    assert (before.to_pylist(), given.text().to_pylist()) == (["b", "a"], ["b", "a", "c"])


def test_items_whose_ids_share_a_hash_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocab, "hashes", lambda texts: numbering.hashes(texts) % 3)
    known = Vocab(pa.array([f"i{n}" for n in range(20)], pa.large_string()))
    assert known.item_numbers(["i7", "i0", "no", "i19"]).tolist() == [7, 0, -1, 19]
