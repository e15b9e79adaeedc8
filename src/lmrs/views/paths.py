"""Paths over a graph: from an item of a user's past, over what is known of it, to an item that the user came to later."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from lmrs.batch import Batch
from lmrs.errors import ContractError
from lmrs.graph import Graph, Knowledge
from lmrs.split import Train
from lmrs.views.sequence import ItemSequence, Rows

DRAWS = 8  # walks begun for each path that is wanted, in a round
ROUNDS = 8


@dataclass(frozen=True, eq=False)
class PathRows(Rows):
    """Rows with a path each. path: int64[R, 2 hops - 1]: an own item, then relation and node in turn, as `graph` numbers them."""

    path: np.ndarray
    graph: Graph

    def take(self, which: np.ndarray) -> PathRows:
        return PathRows(self.dataset, self.user[which], self.start[which], self.stop[which], self.path[which], self.graph)

    def __repr__(self) -> str:
        return f"<PathRows: {len(self):,} paths of {self.dataset.name}>"


@dataclass(frozen=True)
class Paths:
    """Random walks user -> item -> ... -> item of `hops` hops that end well, each with the past that it starts from.

    For each path one moment of a training history is drawn. The walk leaves from one of the last max_len items before it, and is
    kept if it ends in an item that the user first met after it (among the next `horizon` events; None: at any time) and does not
    lead over the user's own node. Training events and the graph made of them are all that is read.

    knowledge: what the graph is made of. per_user: paths of a user in an epoch (250 to 3,000 in all in the released code); users
    whose walks rarely end well get fewer. by_users: share of the steps from an item that go to another user who chose it.
    """

    knowledge: Knowledge = Knowledge()  # noqa: RUF009 - a frozen value
    hops: int = 3
    max_len: int = 50
    per_user: int = 50
    by_users: float = 0.5
    horizon: int | None = None

    gives = ("item", "position", "path")

    def __post_init__(self) -> None:
        for name, least in (("hops", 2), ("max_len", 1), ("per_user", 1), ("horizon", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ContractError(needed=f"{name} of at least {least}", came=f"{name}={value}")
        if not 0 <= self.by_users <= 1:
            raise ContractError(needed="by_users in [0, 1]", came=f"by_users={self.by_users}")

    @property
    def _histories(self) -> ItemSequence:
        return ItemSequence(max_len=self.max_len)

    def rows(self, train: Train, *, ahead: int, rng: np.random.Generator) -> PathRows:
        """The paths of one epoch, in user order; `ahead` is no matter, as the end of a path is its target."""
        graph = self.knowledge.of(train)
        users = np.flatnonzero(train.lengths >= 2)
        first = _First(train)
        wanted = np.full(len(users), self.per_user)
        found: list[PathRows] = []
        for _ in range(ROUNDS):
            open_ = np.repeat(np.arange(len(users)), wanted * DRAWS)
            if not len(open_):
                break
            tried = self._tried(graph, train, users[open_], first, rng)
            # Of each user the first walks that ended well, as many as are still wanted.
            owner = np.searchsorted(users, tried.user)
            nth = np.arange(len(owner)) - np.searchsorted(owner, owner)
            kept = nth < wanted[owner]
            found.append(tried.take(np.flatnonzero(kept)))
            wanted = wanted - np.bincount(owner[kept], minlength=len(users))
        whole = _joined(found, train, graph, self.hops)
        return whole.take(np.argsort(whole.user, kind="stable"))

    def _tried(self, graph: Graph, train: Train, user: np.ndarray, first: _First, rng: np.random.Generator) -> PathRows:
        """One walk for each of `user` (rising); those that ended well, in the same order."""
        moment = train.start[user] + 1 + (rng.random(len(user)) * (train.lengths[user] - 1)).astype(np.int64)
        start = np.maximum(train.start[user], moment - self.max_len)
        begun = train.dataset.item[start + (rng.random(len(user)) * (moment - start)).astype(np.int64)].astype(np.int64)
        walked = graph.walk(begun, self.hops - 1, rng, by_users=self.by_users)
        end, nodes = walked[:, -1], walked[:, 1::2]
        good = (end >= 0) & (end < graph.n_items) & ~(nodes == (graph.first_user + user)[:, None]).any(1)
        met = first.met(user, np.where(good, end, 0))
        good &= met >= moment
        if self.horizon is not None:
            good &= met < moment + self.horizon
        path = np.concatenate([begun[:, None], walked], 1)[good]
        return PathRows(train.dataset, user[good], start[good], moment[good], path, graph)

    def collate(self, rows: Rows) -> Batch:
        """The pasts as `item` and `position`, with `user` and (if the rows have them) `path` int64[B, 2 hops - 1] beside, and in
        `extra` the size of the `graph`."""
        batch = self._histories.collate(rows)
        if not isinstance(rows, PathRows):
            return batch
        path = torch.from_numpy(rows.path)[batch.rows["example"]]
        return replace(batch, rows=batch.rows | {"path": path}, extra=batch.extra | {"graph": rows.graph.size})

    def asked(self, rows: Rows, *, asks: int) -> Rows:
        return self._histories.asked(rows, asks=asks)

    def known(self, rows: Rows) -> np.ndarray:
        return self._histories.known(rows)


class _First:
    """Where each user first met each item, among the training events."""

    def __init__(self, train: Train) -> None:
        user, place = train.events()
        self.n_items = train.dataset.n_items
        self.keys, at = np.unique(user * self.n_items + train.dataset.item[place], return_index=True)
        self.places = place[at]

    def met(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """int64: the place of the first such event, -1 if there is none."""
        wanted = user * self.n_items + item
        at = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where(self.keys[at] == wanted, self.places[at], -1)


def _joined(parts: list[PathRows], train: Train, graph: Graph, hops: int) -> PathRows:
    none = np.zeros(0, np.int64)
    parts = [PathRows(train.dataset, none, none, none, np.zeros((0, 2 * hops - 1), np.int64), graph), *parts]
    user, start, stop, path = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("user", "start", "stop", "path")
    )
    return PathRows(train.dataset, user, start, stop, path, graph)
