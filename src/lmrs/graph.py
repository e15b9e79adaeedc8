"""A graph of items, entities and users with typed edges both ways: what paths are walked over and checked against.

Nodes are numbered: items 0..V-1 as in the vocabulary, then entities, then users. Relations come in pairs: 2 k reads forwards,
2 k + 1 backwards, so `relation ^ 1` turns an edge round. Relation 0 is "chose" (a user, an item of the training events).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from lmrs.errors import CheckpointError, ContractError, DataError, did_you_mean
from lmrs.files import write_atomic
from lmrs.split import Train
from lmrs.vocab import Vocab

CHOSE, CHOSEN_BY = 0, 1
FILE = "graph.arrow"


@dataclass(frozen=True)
class Knowledge:
    """What a graph is made of; `of(train)` makes it, from the training events and what is known of items.

    edges: the knowledge graph of the data, where it has one. attributes: item attributes as edges to their values: None for all,
    () for none, else their names. users: the training events as edges between users and items (paths may then lead over other
    users). least: an entity with fewer neighbours leads nowhere new and is left out, >= 1 (1 keeps all).
    """

    edges: bool = True
    attributes: tuple[str, ...] | None = None
    users: bool = True
    least: int = 2

    def __post_init__(self) -> None:
        if self.least < 1:
            raise ContractError(needed="least of at least 1", came=f"least={self.least}")

    def of(self, train: Train) -> Graph:
        """The graph, made once for one Train. Raises DataError for an attribute that the items do not have, or without edges."""
        kept = _made.setdefault(train, {})
        if self not in kept:
            kept[self] = _make(self, train)
        return kept[self]


_made: WeakKeyDictionary[Train, dict[Knowledge, Graph]] = WeakKeyDictionary()


class Edges(NamedTuple):
    """Edges that leave some nodes. owner: int64[M], which of the nodes asked for; relation, tail: int64[M]."""

    owner: np.ndarray
    relation: np.ndarray
    tail: np.ndarray


@dataclass(frozen=True, eq=False)
class Graph:
    """Typed edges, sorted by (head, relation, tail), each with its reverse, none twice.

    n_items, n_users: V and U. entities: names of the nodes between them. relations: names of the forward relations; edges carry
    2 k or 2 k + 1 for name k. head, relation, tail: int64[M]. left_out: entities that led nowhere new. start: vectors to begin
    with, of nodes [n, D] and of relations [R, D], or None; they are not saved.
    """

    n_items: int
    n_users: int
    entities: pa.Array
    relations: tuple[str, ...]
    head: np.ndarray
    relation: np.ndarray
    tail: np.ndarray
    left_out: int = 0
    start: tuple[np.ndarray, np.ndarray] | None = field(default=None, repr=False)

    @property
    def n_nodes(self) -> int:
        return self.n_items + len(self.entities) + self.n_users

    @property
    def n_relations(self) -> int:
        """Both directions counted."""
        return 2 * len(self.relations)

    @property
    def first_user(self) -> int:
        """The node of user 0."""
        return self.n_items + len(self.entities)

    @property
    def size(self) -> torch.Tensor:
        """int64[3]: nodes, relations, edges: what tells two graphs apart."""
        return torch.tensor([self.n_nodes, self.n_relations, len(self.head)])

    # -- edges -----------------------------------------------------------------------------------------------------------

    @cached_property
    def _keys(self) -> np.ndarray:
        return _key(self.head, self.relation, self.tail, self.n_relations, self.n_nodes)

    def has(self, head: np.ndarray, relation: np.ndarray, tail: np.ndarray) -> np.ndarray:
        """bool of the same shape: is this an edge?"""
        wanted = _key(head, relation, tail, self.n_relations, self.n_nodes)
        at = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        return self._keys[at] == wanted

    @cached_property
    def _starts(self) -> np.ndarray:
        """int64[n + 1]: edges of node h are [_starts[h], _starts[h + 1])."""
        return np.searchsorted(self.head, np.arange(self.n_nodes + 1))

    @cached_property
    def _groups(self) -> tuple[np.ndarray, np.ndarray]:
        """(first edge of each (head, relation), first group of each node): both with the end appended."""
        pair = self.head * self.n_relations + self.relation
        first = np.flatnonzero(np.concatenate([[True], pair[1:] != pair[:-1]]))
        return np.append(first, len(pair)), np.searchsorted(self.head[first], np.arange(self.n_nodes + 1))

    def out_of(self, nodes: np.ndarray, relations: np.ndarray | None = None) -> Edges:
        """The edges that leave nodes (int64[P]), all or those of one relation each (int64[P])."""
        if relations is None:
            low, high = self._starts[nodes], self._starts[nodes + 1]
        else:
            pair = nodes * self.n_relations + relations
            low = np.searchsorted(self._keys, pair * self.n_nodes)
            high = np.searchsorted(self._keys, (pair + 1) * self.n_nodes)
        size = high - low
        owner = np.repeat(np.arange(len(nodes)), size)
        at = np.arange(len(owner)) - np.repeat(np.cumsum(size) - size, size) + np.repeat(low, size)
        return Edges(owner, self.relation[at], self.tail[at])

    @cached_property
    def leads(self) -> np.ndarray:
        """bool[n, R]: does an edge of this relation leave this node?"""
        found = np.zeros((self.n_nodes, self.n_relations), bool)
        found[self.head, self.relation] = True
        return found

    # -- walks -----------------------------------------------------------------------------------------------------------

    def walk(self, start: np.ndarray, steps: int, rng: np.random.Generator, *, by_users: float = 0.5) -> np.ndarray:
        """int64[n, 2 steps]: relation, node, relation, node, ... of a random walk from each node of `start` (int64[n]).

        A step draws a relation of the node, all alike, and then one of its tails; from an item it goes to a user with probability
        `by_users` where it can do both. A node without edges ends the walk: -1 from there on.
        """
        groups, first = self._groups
        if not len(self.head):
            return np.full((len(start), 2 * steps), -1)
        path = np.empty((len(start), 2 * steps), np.int64)
        node = start.copy()
        for step in range(steps):
            at = np.maximum(node, 0)
            low, count = first[at], first[at + 1] - first[at]
            dead = (node < 0) | (count == 0)
            low = np.minimum(low, len(groups) - 2)
            roll, draw = rng.random(len(node)), rng.random(len(node))
            over = (at < self.n_items) & (self.relation[groups[low]] == CHOSEN_BY) & (count > 1)
            rest = np.clip((roll - by_users) / max(1 - by_users, 1e-12), 0, 1 - 1e-12)
            pick = np.where(over, np.where(roll < by_users, 0, 1 + (rest * (count - 1)).astype(np.int64)), roll * count)
            group = np.minimum(low + pick.astype(np.int64), len(groups) - 2)
            edge = groups[group] + (draw * (groups[group + 1] - groups[group])).astype(np.int64)
            path[:, 2 * step] = np.where(dead, -1, self.relation[edge])
            path[:, 2 * step + 1] = node = np.where(dead, -1, self.tail[edge])
        return path

    def chances(self, *, by_users: float = 0.5) -> np.ndarray:
        """float64[M]: with what probability a step of `walk` takes each edge, standing at its head."""
        groups, first = self._groups
        size = np.diff(groups)
        owner = self.head[groups[:-1]]
        count = (first[1:] - first[:-1])[owner]
        users = self.relation[groups[:-1]] == CHOSEN_BY
        over = (users & (owner < self.n_items) & (count > 1)).astype(np.int64)
        both = np.bincount(owner, over, self.n_nodes)[owner] > 0
        share = np.where(both, np.where(users, by_users, (1 - by_users) / np.maximum(count - 1, 1)), 1 / count)
        return np.repeat(share / size, size)

    # -- words -----------------------------------------------------------------------------------------------------------

    def name(self, node: int, vocab: Vocab) -> str:
        """A node as a person reads it; other users stay unnamed."""
        if node < self.n_items:
            return vocab.titles(np.array([node]))[0]
        return "another user" if node >= self.first_user else str(self.entities[node - self.n_items])

    def text(self, path: np.ndarray, vocab: Vocab) -> str:
        """node, relation, node, ...: "user - chose -> A - directed by -> B <- directed by - C"."""
        said = f"user - {self.relations[0]} -> {self.name(int(path[0]), vocab)}"
        for relation, node in zip(path[1::2].tolist(), path[2::2].tolist(), strict=True):
            word = self.relations[relation // 2]
            said += f" <- {word} - " if relation % 2 else f" - {word} -> "
            said += self.name(node, vocab)
        return said

    def __str__(self) -> str:
        return (
            f"a graph of {self.n_items:,} items, {len(self.entities):,} entities (without {self.left_out:,} that lead nowhere), "
            f"{self.n_users:,} users, {len(self.head) // 2:,} edges of {len(self.relations)} kinds"
        )

    # -- files -----------------------------------------------------------------------------------------------------------

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of nodes, relations and edges (not of `start`, which follows from them and a seed)."""
        digest = hashlib.sha256(json.dumps([self.n_items, self.n_users, *self.relations, *self.entities.to_pylist()]).encode())
        digest.update(np.ascontiguousarray(self._keys).tobytes())
        return digest.hexdigest()

    def save(self, folder: Path) -> Path:
        """Writes graph.arrow: one row a forward edge, names in its metadata. Raises StorageError."""
        forward = self.relation % 2 == 0
        columns = {"head": self.head, "relation": self.relation, "tail": self.tail}
        about = {"items": self.n_items, "users": self.n_users, "relations": self.relations, "left_out": self.left_out}
        about["entities"] = self.entities.to_pylist()
        table = pa.table({name: pa.array(values[forward], pa.int32()) for name, values in columns.items()})
        table = table.replace_schema_metadata({"lmrs": json.dumps(about)})

        def content(sink) -> None:
            with pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)

        return write_atomic(folder / FILE, content)

    @classmethod
    def load(cls, folder: Path) -> Graph:
        """What `save` wrote. Raises CheckpointError."""
        try:
            with pa.OSFile(str(folder / FILE)) as source:
                table = pa.ipc.open_file(source).read_all()
            about = json.loads(table.schema.metadata[b"lmrs"])
            head, relation, tail = (table.column(name).to_numpy().astype(np.int64) for name in ("head", "relation", "tail"))
            return _sorted(
                about["items"], about["users"], pa.array(about["entities"], pa.large_string()), tuple(about["relations"]),
                (head, relation // 2, tail), about["left_out"],
            )  # fmt: skip
        except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                needed=f"a graph in {folder / FILE}", came=type(error).__name__, remedy="fit or save the recommender again"
            ) from error


def _key(head: np.ndarray, relation: np.ndarray, tail: np.ndarray, n_relations: int, n_nodes: int) -> np.ndarray:
    return (head * n_relations + relation) * n_nodes + tail


def _sorted(
    n_items: int,
    n_users: int,
    entities: pa.Array,
    relations: tuple[str, ...],
    triples: tuple[np.ndarray, np.ndarray, np.ndarray],
    left_out: int,
) -> Graph:
    """The graph of forward triples (head, place in `relations`, tail), with their reverses."""
    head, kind, tail = triples
    n_nodes, n_relations = n_items + len(entities) + n_users, 2 * len(relations)
    both = _key(np.append(head, tail), np.append(2 * kind, 2 * kind + 1), np.append(tail, head), n_relations, n_nodes)
    keys = np.unique(both)
    pair, tails = np.divmod(keys, n_nodes)
    heads, kinds = np.divmod(pair, n_relations)
    return Graph(n_items, n_users, entities, relations, heads, kinds, tails, left_out)


def _make(about: Knowledge, train: Train) -> Graph:
    """Entities are numbered by their names, so that neither the order of events nor that of the edge file matters."""
    data = train.dataset
    names: list[str] = ["chose"]
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    entities: list[str] = []
    if about.edges and data.edges is not None and data.edges.num_rows:
        ends = []
        for end in ("head", "tail"):
            item = pc.fill_null(data.edges.column(f"{end}_item"), -1).to_numpy().astype(np.int64)
            ends.append((item, data.edges.column(end).combine_chunks()))
        outside = pa.concat_arrays([text.filter(pa.array(item < 0)) for item, text in ends])
        entities = sorted(outside.unique().to_pylist())
        known = pa.array(entities, pa.large_string())
        nodes = []
        for item, text in ends:
            place = pc.fill_null(pc.index_in(text.cast(pa.large_string()), value_set=known), 0).to_numpy().astype(np.int64)
            nodes.append(np.where(item >= 0, item, data.n_items + place))
        kinds = data.edges.column("relation").combine_chunks()
        told = sorted(kinds.unique().to_pylist())
        parts.append((nodes[0], len(names) + pc.index_in(kinds, value_set=pa.array(told, kinds.type)).to_numpy(), nodes[1]))
        names += told
    for name in _attributes(about, data.vocab):
        values = data.vocab.attributes[name]
        order = np.argsort(np.array(values.names.to_pylist(), object).astype(str), kind="stable")
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        owner = np.repeat(np.arange(data.n_items), np.diff(values.offsets))
        parts.append((owner, np.full(len(owner), len(names)), data.n_items + len(entities) + place[values.values]))
        entities += [str(values.names[int(at)]) for at in order]
        names.append(name)
    head, kind, tail = (np.concatenate([part[at] for part in parts] or [np.zeros(0, np.int64)]) for at in range(3))
    # Neighbours of each entity, each counted once, decide whether it leads anywhere.
    n = data.n_items + len(entities)
    pairs = np.unique(np.append(head * n + tail, tail * n + head))
    keep = np.bincount(pairs // n, minlength=n) >= about.least
    keep[: data.n_items] = True
    number = np.cumsum(keep) - 1
    good = keep[head] & keep[tail] & (head != tail)
    n_users = data.n_users if about.users else 0
    user, place = train.events() if about.users else (np.zeros(0, np.int64), np.zeros(0, np.int64))
    n = int(keep.sum())
    triples = (
        np.append(number[head[good]], n + user),
        np.append(kind[good], np.zeros(len(user), np.int64)),
        np.append(number[tail[good]], data.item[place].astype(np.int64)),
    )
    if not len(triples[0]):
        raise DataError(
            needed="edges to walk over", came=f"none in {data.name}", remedy="add edges, item attributes or users to Knowledge"
        )
    kept = pa.array([name for name, here in zip(entities, keep[data.n_items :].tolist(), strict=True) if here], pa.large_string())
    return _sorted(data.n_items, n_users, kept, tuple(names), triples, len(entities) - len(kept))


def _attributes(about: Knowledge, vocab: Vocab) -> tuple[str, ...]:
    if about.attributes is None:
        return tuple(sorted(vocab.attributes))
    for name in about.attributes:
        if name not in vocab.attributes:
            raise DataError(needed=f"the item attribute {name!r}", came="none", remedy=did_you_mean(name, vocab.attributes))
    return about.attributes
