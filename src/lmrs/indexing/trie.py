"""All code sequences of a catalogue as one tree in flat arrays: which token may follow, and which item a path ends in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lmrs.answers import Jagged
from lmrs.errors import ContractError


@dataclass(frozen=True, eq=False)
class Trie:
    """A prefix tree over V sequences of tokens in compressed rows.

    Nodes are numbered level by level from the root, 0, and the children of a node stand together by rising token. Every node but
    the root hangs on exactly one edge, so edge e leads to node e + 1 and no array of targets is needed.

    first: int64[nodes + 1]; the edges of node n are `first[n]` to `first[n + 1] - 1`, none at a leaf.
    token: int64[nodes - 1], the token of each edge.
    item: int64[nodes], the item that ends at a node, -1 at inner ones.
    levels: int64[depth + 2]; the nodes of level d are `levels[d]` to `levels[d + 1] - 1`.
    n_items: V.
    """

    first: np.ndarray
    token: np.ndarray
    item: np.ndarray
    levels: np.ndarray
    n_items: int

    @classmethod
    def build(cls, offsets: np.ndarray, tokens: np.ndarray) -> Trie:
        """From jagged sequences: item i is written `tokens[offsets[i]:offsets[i+1]]`, tokens >= 0.

        Raises ContractError for an empty sequence, for two items with the same one, and where one begins another: then no node
        could say whether the item ends there.
        """
        offsets, tokens = np.asarray(offsets, np.int64), np.asarray(tokens, np.int64)
        lengths = np.diff(offsets)
        if not len(lengths) or not lengths.all():
            raise ContractError(needed="at least one token for every item", came="an empty code", remedy="index the items again")
        depth, n_items = int(lengths.max()), len(lengths)
        table = np.full((n_items, depth), -1, np.int64)  # V x depth, -1 behind the end
        table[np.arange(depth) < lengths[:, None]] = tokens
        order = np.lexsort(table.T[::-1])
        table, lengths = table[order], lengths[order]
        place = np.zeros(n_items, np.int64)  # the node each item has come to
        differs = np.zeros(n_items, bool)  # from the item sorted before it, in the tokens read so far
        first, token, item, levels = [], [], np.full(1, -1, np.int64), [0, 1]
        for level in range(depth):
            reach = lengths > level
            fresh = reach & (differs | np.concatenate([[True], table[1:, level] != table[:-1, level]]))
            token.append(table[fresh, level])
            parent = place[fresh]
            here = np.arange(levels[-2], levels[-1])
            first.append(levels[-1] - 1 + np.searchsorted(parent, here))
            place = np.where(reach, levels[-1] - 1 + np.cumsum(fresh), place)
            found = np.full(int(fresh.sum()), -1, np.int64)
            ends = np.flatnonzero(lengths == level + 1)
            found[place[ends] - levels[-1]] = order[ends]
            item = np.concatenate([item, found])
            levels.append(levels[-1] + len(found))
            differs = differs | fresh
        starts = np.concatenate([*first, np.full(levels[-1] - levels[-2] + 1, levels[-1] - 1)])
        if ((item >= 0) & (np.diff(starts) > 0)).any() or int((item >= 0).sum()) != n_items:
            raise ContractError(
                needed="codes of which none is equal to another or its beginning",
                came=_clash(place, item, starts, order),
                remedy="add a token that ends a code, or one that tells equal codes apart",
            )
        return cls(starts, np.concatenate(token), item, np.asarray(levels), n_items)

    @property
    def n_nodes(self) -> int:
        return len(self.item)

    @property
    def depth(self) -> int:
        """Tokens of the longest code."""
        return len(self.levels) - 2

    @cached_property
    def parent(self) -> np.ndarray:
        """int64[nodes]: the node above; -1 at the root."""
        above = np.repeat(np.arange(self.n_nodes), np.diff(self.first))
        return np.concatenate([[-1], above])

    @cached_property
    def ends(self) -> np.ndarray:
        """bool[depth + 1]: some item ends after so many tokens."""
        return np.logical_or.reduceat(self.item >= 0, self.levels[:-1])

    @cached_property
    def leaf(self) -> np.ndarray:
        """int64[V]: the node each item ends at."""
        found = np.flatnonzero(self.item >= 0)
        out = np.empty(self.n_items, np.int64)
        out[self.item[found]] = found
        return out

    @cached_property
    def _width(self) -> int:
        return int(self.token.max(initial=0)) + 1

    @cached_property
    def _keys(self) -> np.ndarray:
        """int64[edges], rising: parent * width + token."""
        return self.parent[1:] * self._width + self.token

    def edges(self, nodes: np.ndarray) -> Jagged:
        """(offsets int64[B+1], edges): the edges below each node, by rising token; edge e carries `token[e]` to node e + 1."""
        start = self.first[nodes]
        counts = self.first[np.asarray(nodes) + 1] - start
        offsets = np.concatenate([[0], np.cumsum(counts)])
        return offsets, np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], counts)

    def allowed(self, nodes: np.ndarray, open_: np.ndarray | None = None) -> Jagged:
        """(offsets int64[B+1], tokens): what may follow at each node (0..nodes-1), by rising token; nothing at a leaf.

        open_: bool[nodes] (see `only`): paths to other items are left out.
        """
        offsets, edges = self.edges(nodes)
        if open_ is not None:
            keep = open_[edges + 1]
            offsets = np.concatenate([[0], np.cumsum(keep)])[offsets]
            edges = edges[keep]
        return offsets, self.token[edges]

    def step(self, nodes: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """int64[B]: where each node comes to by a token; -1 if it cannot go there (and from -1 nothing can)."""
        nodes, tokens = np.asarray(nodes, np.int64), np.asarray(tokens, np.int64)
        if not len(self._keys):
            return np.full(nodes.shape, -1)
        key = nodes * self._width + tokens
        at = np.minimum(np.searchsorted(self._keys, key), len(self._keys) - 1)
        good = (nodes >= 0) & (tokens >= 0) & (tokens < self._width) & (self._keys[at] == key)
        return np.where(good, at + 1, -1)

    def walk(self, tokens: np.ndarray) -> int:
        """The item that a sequence of tokens spells, or -1."""
        node = np.zeros(1, np.int64)
        for each in np.asarray(tokens, np.int64):
            node = self.step(node, np.asarray([each]))
        return int(self.item[node[0]]) if node[0] >= 0 else -1

    def only(self, items: np.ndarray) -> np.ndarray:
        """bool[nodes]: the nodes from which one of the given items can be reached."""
        mask = np.zeros((1, self.n_items), bool)
        mask[0, np.asarray(items, np.int64)] = True
        return self.openings(mask)[0]

    def openings(self, wanted: np.ndarray) -> np.ndarray:
        """bool[B, nodes] from bool[B, V]: for each row, the nodes from which a wanted item can be reached.

        Memory: B times the nodes, in bytes.
        """
        out = np.zeros((len(wanted), self.n_nodes), bool)
        out[:, self.leaf] = wanted
        for level in range(self.depth - 1, -1, -1):
            here = np.arange(self.levels[level], self.levels[level + 1])
            inner = here[self.first[here + 1] > self.first[here]]
            stop = int(self.levels[level + 2])
            out[:, inner] = np.logical_or.reduceat(out[:, :stop], self.first[inner] + 1, axis=1)
        return out


def _clash(place: np.ndarray, item: np.ndarray, first: np.ndarray, order: np.ndarray) -> str:
    """Which items cannot be told apart, in words (at most one pair)."""
    ends, many = np.unique(place, return_counts=True)
    if (many > 1).any():
        node = ends[many > 1][0]
        pair = order[place == node][:2]
        return f"items {pair[0]} and {pair[1]} with the same code"
    node = ends[first[ends + 1] > first[ends]][0]
    return f"item {order[place == node][0]}, whose code begins another one"
