"""The graph against a set of triples, walks against the chances of their steps, and the paths that a model is taught with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmrs.dataset import Dataset
from lmrs.errors import CheckpointError, ContractError, DataError
from lmrs.graph import CHOSE, CHOSEN_BY, FILE, Graph, Knowledge
from lmrs.models.transe import transe
from lmrs.split import Train, leave_one_out
from lmrs.testing import tiny
from lmrs.views.paths import Paths
from lmrs.vocab import Attributes, Vocab


def films() -> Train:
    """Three films, one unknown one, two users; a director of two films, one of one; b's director is told twice."""
    edges = [
        ("A", "by", "lynch", 0, None), ("B", "by", "lynch", 1, None), ("B", "by", "lynch", 1, None),
        ("C", "by", "varda", 2, None), ("A", "before", "B", 0, 1), ("A", "like", "A", 0, 0),
        ("lynch", "knows", "varda", None, None),
    ]  # fmt: skip
    head, relation, tail, head_item, tail_item = zip(*edges, strict=True)
    return Train(
        Dataset(
            "films",
            Vocab(
                pa.array(["a", "b", "c", "d"], pa.large_string()),
                pa.array(["u", "v"], pa.large_string()),
                {"mood": Attributes.from_lists(pa.array([["dark"], ["dark", "odd"], ["odd"], []]))},
                catalogue=pa.table({"item_id": ["a", "b", "c", "d"], "title": ["Eraserhead", "Dune", "Cleo", None]}),
            ),
            item=np.array([0, 1, 1, 2], np.int32),
            offsets=np.array([0, 2, 4]),
            edges=pa.table(
                {
                    "head": pa.array(head, pa.large_string()),
                    "relation": pa.array(relation, pa.large_string()),
                    "tail": pa.array(tail, pa.large_string()),
                    "head_item": pa.array(head_item, pa.int32()),
                    "tail_item": pa.array(tail_item, pa.int32()),
                }
            ),
        ),
        np.array([2, 4]),
    )


def triples(graph: Graph) -> set[tuple[int, int, int]]:
    return set(zip(graph.head.tolist(), graph.relation.tolist(), graph.tail.tolist(), strict=True))


def test_edges_are_those_of_the_data_both_ways_and_once() -> None:
    graph = Knowledge().of(films())
    # items 0-3, lynch 4, varda 5 (two neighbours: Cleo and lynch), dark 6, odd 7, users 8 and 9
    assert graph.entities.to_pylist() == ["lynch", "varda", "dark", "odd"]
    assert graph.relations == ("chose", "before", "by", "knows", "like", "mood")
    forward = {
        (8, 0, 0), (8, 0, 1), (9, 0, 1), (9, 0, 2), (0, 2, 1), (0, 4, 4), (1, 4, 4), (2, 4, 5), (4, 6, 5),
        (0, 10, 6), (1, 10, 6), (1, 10, 7), (2, 10, 7),
    }  # fmt: skip
    assert triples(graph) == forward | {(tail, relation + 1, head) for head, relation, tail in forward}
    assert graph.first_user == 8
    assert "13 edges" in str(graph)


def test_entities_that_lead_nowhere_new_are_left_out_and_counted() -> None:
    graph = Knowledge(attributes=(), users=False, least=3).of(films())
    assert graph.entities.to_pylist() == ["lynch"], "varda has two neighbours"
    assert graph.left_out == 1
    assert triples(graph) == {(0, 2, 1), (1, 3, 0), (0, 4, 4), (1, 4, 4), (4, 5, 0), (4, 5, 1)}


def test_the_order_of_the_edge_file_does_not_matter() -> None:
    train = films()
    turned = replace(train.dataset, edges=train.dataset.edges.take(pa.array([6, 3, 1, 5, 0, 4, 2])))
    assert Knowledge().of(Train(turned, train.stop)).fingerprint == Knowledge().of(train).fingerprint


def test_only_training_events_are_edges() -> None:
    data = tiny.dataset()
    train = tiny.split(data).train
    one, two = Knowledge().of(train), Knowledge().of(tiny.with_future(data, train))
    assert one.fingerprint == two.fingerprint
    chosen = {(u, i) for u in range(data.n_users) for i in data.item[train.start[u] : train.stop[u]].tolist()}
    here = one.relation == CHOSE
    assert set(zip((one.head[here] - one.first_user).tolist(), one.tail[here].tolist(), strict=True)) == chosen


def test_what_the_items_lack_is_told() -> None:
    with pytest.raises(DataError, match="needed the item attribute 'moods', got none; did you mean mood"):
        Knowledge(attributes=("moods",)).of(films())
    with pytest.raises(DataError, match="needed edges to walk over, got none"):
        Knowledge(edges=False, attributes=(), users=False).of(films())
    with pytest.raises(ContractError, match="least of at least 1"):
        Knowledge(least=0)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2), st.integers(0, 9)), min_size=1, max_size=40), st.integers(0, 99))
def test_a_graph_is_a_set_of_triples(told: list[tuple[int, int, int]], seed: int) -> None:
    from lmrs.graph import _sorted

    head, kind, tail = (np.array(column, np.int64) for column in zip(*told, strict=True))
    graph = _sorted(4, 3, pa.array(["x", "y", "z"], pa.large_string()), ("p", "q", "r"), (head, kind, tail), 0)
    wanted = {(h, 2 * k, t) for h, k, t in told} | {(t, 2 * k + 1, h) for h, k, t in told}
    assert triples(graph) == wanted
    assert len(graph.head) == len(wanted)
    asked = np.random.default_rng(seed).integers(0, [10, 6, 10], (50, 3))
    assert graph.has(*asked.T).tolist() == [tuple(row) in wanted for row in asked.tolist()]
    out = graph.out_of(asked[:, 0], asked[:, 1])
    for at, (node, relation, _) in enumerate(asked.tolist()):
        assert sorted(out.tail[out.owner == at].tolist()) == sorted(t for h, r, t in wanted if (h, r) == (node, relation))
        assert (graph.leads[node, relation]) == any((h, r) == (node, relation) for h, r, _ in wanted)
    every = graph.out_of(asked[:, 0])
    assert all(tuple(row) in wanted for row in zip(asked[every.owner, 0], every.relation, every.tail, strict=True))
    assert len(every.owner) == sum(sum(h == node for h, _, _ in wanted) for node in asked[:, 0])


# -- walks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_users", [0.0, 0.3, 1.0])
def test_walks_take_edges_with_the_stated_chances(by_users: float) -> None:
    graph = Knowledge().of(films())
    chances = graph.chances(by_users=by_users)
    leaving = np.unique(graph.head)
    assert np.allclose(np.bincount(graph.head, chances, graph.n_nodes)[leaving], 1)
    start = np.repeat(leaving, 4000)
    path = graph.walk(start, 1, np.random.default_rng(0), by_users=by_users)
    for h, r, t, p in zip(graph.head, graph.relation, graph.tail, chances, strict=True):
        share = ((path[:, 0] == r) & (path[:, 1] == t))[start == h].mean()
        assert abs(share - p) < 5 * np.sqrt(max(p * (1 - p), 1e-9) / 4000) + 1e-9, f"{(h, r, t)}: {share}, not {p}"
        if h < 4 and r == CHOSEN_BY:
            others = (graph.head == h) & (graph.relation != CHOSEN_BY)
            users = (graph.head == h) & (graph.relation == CHOSEN_BY)
            assert np.isclose(p, (by_users if others.any() else 1) / users.sum())


def test_a_walk_follows_edges_and_ends_where_there_are_none() -> None:
    graph = Knowledge().of(films())
    start = np.repeat(np.arange(graph.n_nodes), 50)
    path = graph.walk(start, 4, np.random.default_rng(1))
    assert (path[start == 3] == -1).all(), "nothing leads on from the unknown film"
    good = start != 3
    nodes = np.concatenate([start[:, None], path[:, 1::2]], 1)[good]
    for step in range(4):
        assert graph.has(nodes[:, step], path[good, 2 * step], nodes[:, step + 1]).all()
    assert np.array_equal(path, graph.walk(start, 4, np.random.default_rng(1)))


def test_a_path_reads_as_a_sentence() -> None:
    train = films()
    graph = Knowledge().of(train)
    vocab = train.dataset.vocab
    assert graph.text(np.array([0, 4, 4, 5, 1]), vocab) == "user - chose -> Eraserhead - by -> lynch <- by - Dune"
    assert graph.text(np.array([1, 1, 9, 0, 3]), vocab) == "user - chose -> Dune <- chose - another user - chose -> d"


def test_a_graph_survives_saving(tmp_path: Path) -> None:
    graph = Knowledge().of(films())
    graph.save(tmp_path)
    found = Graph.load(tmp_path)
    assert found.fingerprint == graph.fingerprint
    assert triples(found) == triples(graph)
    assert found.left_out == graph.left_out
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"needed a graph in .*graph\.arrow"):
        Graph.load(tmp_path)


# -- paths ---------------------------------------------------------------------------------------------------------------


def paths(train: Train, **options):
    return Paths(**{"max_len": 4, "per_user": 6, **options}).rows(train, ahead=0, rng=np.random.default_rng(0))


def crowd() -> Train:
    """Users enough that walks end well."""
    rng = np.random.default_rng(5)
    data = tiny.dataset(users=40, items=10, longest=9)
    return leave_one_out(replace(data, item=rng.integers(0, 10, data.n_events).astype(np.int32))).train


@pytest.mark.parametrize("hops", [2, 3, 5])
def test_a_path_leads_from_the_past_to_what_came_after(hops: int) -> None:
    train = crowd()
    data = replace(train.dataset, edges=films().dataset.edges)  # item-item edges, for paths of two hops
    train = Train(data, train.stop)
    graph = Knowledge().of(train)
    rows = paths(train, hops=hops)
    assert len(rows) > (20 if hops > 2 else 2)
    assert rows.path.shape[1] == 2 * hops - 1
    for user, start, stop, path in zip(rows.user, rows.start, rows.stop, rows.path.tolist(), strict=True):
        assert train.start[user] <= start < stop < train.stop[user]
        assert stop - start <= 4
        assert path[0] in data.item[start:stop]
        before, after = data.item[train.start[user] : stop], data.item[stop : train.stop[user]]
        assert path[-1] in after
        assert path[-1] not in before, "the target is known already"
        assert graph.first_user + user not in path[0::2], "a path over the user's own events gives the answer away"
        assert all(graph.has(*(np.array([each]) for each in path[at : at + 3]))[0] for at in range(0, len(path) - 2, 2))


def test_the_horizon_bounds_how_far_ahead_a_path_ends() -> None:
    train = crowd()
    rows = paths(train, horizon=1, per_user=20)
    assert len(rows) > 20
    assert np.array_equal(rows.path[:, -1], train.dataset.item[rows.stop])
    assert not np.array_equal(*(paths(train).path[:20, -1], train.dataset.item[paths(train).stop[:20]]))


def test_users_get_as_many_paths_as_asked_and_in_order() -> None:
    train = crowd()
    rows = paths(train, per_user=3)
    count = np.bincount(rows.user, minlength=len(train.stop))
    assert count.max() == 3
    assert (count[train.lengths >= 6] == 3).mean() > 0.8
    assert (count[train.lengths < 2] == 0).all()
    assert (np.diff(rows.user) >= 0).all()


def test_nothing_behind_the_training_part_is_walked() -> None:
    data = tiny.dataset()
    train = tiny.split(data).train
    one, two = paths(train), paths(tiny.with_future(data, train))
    assert np.array_equal(one.path, two.path)


def test_collated_rows_keep_their_paths() -> None:
    rows = paths(crowd())
    view = Paths(max_len=4)
    batch = view.collate(rows)
    for row, example in enumerate(batch.rows["example"].tolist()):
        assert batch.rows["path"][row].tolist() == rows.path[example].tolist()
        assert int(batch.rows["user"][row]) == rows.user[example]


@pytest.mark.parametrize("wrong", [{"hops": 1}, {"per_user": 0}, {"by_users": 1.5}, {"horizon": 0}, {"max_len": 0}])
def test_impossible_walks_are_refused(wrong: dict) -> None:
    with pytest.raises(ContractError, match=next(iter(wrong))):
        Paths(**wrong)


# -- TransE --------------------------------------------------------------------------------------------------------------


def test_transe_brings_edges_closer_than_other_pairs() -> None:
    import torch

    graph = Knowledge().of(tiny.split().train)
    state = torch.get_rng_state()
    nodes, relations = transe(graph, dim=8, epochs=60, rng=torch.Generator().manual_seed(0))
    again, _ = transe(graph, dim=8, epochs=60, rng=torch.Generator().manual_seed(0))
    assert np.array_equal(nodes, again)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.allclose(np.linalg.norm(nodes, axis=1), 1, atol=1e-5)

    def length(head: np.ndarray, relation: np.ndarray, tail: np.ndarray) -> np.ndarray:
        return np.linalg.norm(nodes[head] + relations[relation] - nodes[tail], axis=1)

    rng = np.random.default_rng(0)
    true, other = length(graph.head, graph.relation, graph.tail), rng.integers(0, graph.n_nodes, len(graph.head))
    assert (true < length(graph.head, graph.relation, other)).mean() > 0.7
