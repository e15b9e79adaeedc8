"""The trie beside one made of dictionaries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmrs.errors import ContractError
from lmrs.indexing.trie import Trie

END = 9


def built(codes: list[tuple[int, ...]]) -> Trie:
    offsets = np.cumsum([0, *map(len, codes)])
    return Trie.build(offsets, np.asarray([token for code in codes for token in code], np.int64))


def dictionary(codes: list[tuple[int, ...]]) -> dict:
    root: dict = {}
    for item, code in enumerate(codes):
        node = root
        for token in code[:-1]:
            node = node.setdefault(token, {})
        node[code[-1]] = item
    return root


# A last token that occurs nowhere else makes any set of sequences free of prefixes.
catalogues = st.lists(
    st.lists(st.integers(0, 4), max_size=4).map(lambda code: (*code, END)), min_size=1, max_size=30, unique=True
)


@given(catalogues, st.data())
def test_it_is_the_dictionary_trie(codes: list[tuple[int, ...]], data: st.DataObject) -> None:
    trie, wanted = built(codes), set(data.draw(st.sets(st.integers(0, len(codes) - 1))))
    open_ = trie.only(np.asarray(sorted(wanted), np.int64))

    def items(node: dict | int) -> set[int]:
        return {node} if isinstance(node, int) else set().union(*map(items, node.values()))

    pairs = [(0, dictionary(codes))]
    met = 0
    while pairs:
        node, branch = pairs.pop()
        met += 1
        assert open_[node] == bool(items(branch) & wanted)
        if isinstance(branch, int):
            assert trie.item[node] == branch
            assert trie.leaf[branch] == node
            assert len(trie.allowed(np.asarray([node]))[1]) == 0
            continue
        assert trie.item[node] == -1
        assert trie.allowed(np.asarray([node]))[1].tolist() == sorted(branch)
        still = [token for token in sorted(branch) if items(branch[token]) & wanted]
        assert trie.allowed(np.asarray([node]), open_)[1].tolist() == still
        tokens = np.arange(-1, END + 2)
        below = trie.step(np.full(len(tokens), node), tokens)
        assert [token for token, to in zip(tokens.tolist(), below.tolist()) if to >= 0] == sorted(branch)
        for token, to in zip(tokens.tolist(), below.tolist()):
            if to >= 0:
                assert trie.parent[to] == node
                pairs.append((to, branch[token]))
    assert met == trie.n_nodes
    assert trie.depth == max(map(len, codes))


@given(catalogues)
def test_every_code_leads_to_its_item_and_no_other_does(codes: list[tuple[int, ...]]) -> None:
    trie = built(codes)
    for item, code in enumerate(codes):
        assert trie.walk(np.asarray(code)) == item
        assert trie.walk(np.asarray(code[:-1])) == -1
        assert trie.walk(np.asarray([*code, 0])) == -1


@given(catalogues, st.data())
def test_many_nodes_at_once_are_each_node_alone(codes: list[tuple[int, ...]], data: st.DataObject) -> None:
    trie = built(codes)
    nodes = np.asarray(data.draw(st.lists(st.integers(0, trie.n_nodes - 1), max_size=8)), np.int64)
    offsets, tokens = trie.allowed(nodes)
    alone = [trie.allowed(np.asarray([node]))[1].tolist() for node in nodes]
    assert [row.tolist() for row in np.split(tokens, offsets[1:-1])][: len(nodes)] == alone


@given(catalogues, st.data())
def test_openings_of_rows_are_those_of_each_row(codes: list[tuple[int, ...]], data: st.DataObject) -> None:
    trie = built(codes)
    wanted = np.asarray(
        data.draw(st.lists(st.lists(st.booleans(), min_size=len(codes), max_size=len(codes)), min_size=1, max_size=3))
    )
    found = trie.openings(wanted)
    for row, mask in zip(found, wanted):
        assert row.tolist() == trie.only(np.flatnonzero(mask)).tolist()


def test_from_nowhere_nothing_leads_on() -> None:
    assert built([(1, 2), (3,)]).step(np.asarray([-1, -1]), np.asarray([1, 3])).tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([(1, 2), (0,), (1, 2)], "items 0 and 2 with the same code"),
        ([(1, 2), (1,)], "item 1, whose code begins another one"),
        ([(1, 2), (1, 2, 3), (1, 1)], "item 0, whose code begins another one"),
        ([(1, 2), ()], "an empty code"),
        ([], "an empty code"),
    ],
)
def test_codes_that_do_not_tell_items_apart_are_refused(codes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        built(codes)
