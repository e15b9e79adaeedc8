"""Train, valid and a sealed test part, with the protocol that made them.

Queries are spans of the Dataset's arrays: nothing is copied, and what a model may know when it is asked is written down as
`[start, stop)` of the user's events.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lmrs.dataset import TIE_RULE, Dataset
from lmrs.errors import DataError, SealedError

_sealed: ContextVar[bool] = ContextVar("lmrs_test_sealed", default=False)


@contextmanager
def sealed() -> Iterator[None]:
    """Within this block, reading `split.test` raises SealedError. `fit` runs in it."""
    token = _sealed.set(True)
    try:
        yield
    finally:
        _sealed.reset(token)


@dataclass(frozen=True, eq=False)
class Train:
    """The events a model may learn from: a prefix of every user's history.

    dataset: where the events are. stop: int64[U]; user u's training events are `item[offsets[u]:stop[u]]`.
    """

    dataset: Dataset
    stop: np.ndarray

    @property
    def start(self) -> np.ndarray:
        return self.dataset.offsets[:-1]

    @property
    def lengths(self) -> np.ndarray:
        """int64[U]: training events of each user."""
        return self.stop - self.start

    @property
    def n_events(self) -> int:
        return int(self.lengths.sum())

    def events(self) -> tuple[np.ndarray, np.ndarray]:
        """(user int64[n], place int64[n]) of all training events; `item[place]` is what was chosen."""
        users = np.repeat(np.arange(len(self.stop)), self.lengths)
        first = np.cumsum(self.lengths) - self.lengths
        places = np.arange(len(users)) - np.repeat(first, self.lengths) + np.repeat(self.start, self.lengths)
        return users, places

    def counts(self) -> np.ndarray:
        """int64[V]: training events of each item."""
        return np.bincount(self.dataset.item[self.events()[1]], minlength=self.dataset.n_items)


@dataclass(frozen=True, eq=False)
class Queries:
    """Questions with known answers.

    dataset: where the events are.
    user: int64[Q] user of each query.
    stop: int64[Q]; the history known at the question is `item[offsets[user]:stop]`.
    target: int64[Q] end of the truth: the true items are `item[stop:target]` (at least one each).
    unseen: int64[Q] from where on the user's events were kept from training, None: from `stop` on. Where whole users are held
    out that is their first event; tasks whose questions are records may then ask about all of them.
    """

    dataset: Dataset
    user: np.ndarray
    stop: np.ndarray
    target: np.ndarray
    unseen: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.user)

    @property
    def start(self) -> np.ndarray:
        return self.dataset.offsets[self.user]

    @property
    def single(self) -> bool:
        """Every query has exactly one true item."""
        return bool((self.target - self.stop == 1).all())

    def take(self, which: np.ndarray) -> Queries:
        unseen = None if self.unseen is None else self.unseen[which]
        return Queries(self.dataset, self.user[which], self.stop[which], self.target[which], unseen)

    def truth(self, query: int) -> np.ndarray:
        return self.dataset.item[self.stop[query] : self.target[query]]

    def history(self, query: int) -> np.ndarray:
        return self.dataset.item[self.start[query] : self.stop[query]]


@dataclass(frozen=True, eq=False)
class Split:
    """Three parts of one Dataset. `about` states how they were made (JSON values): it becomes part of the protocol card."""

    dataset: Dataset
    train: Train
    valid: Queries
    sealed_test: Queries = field(repr=False)
    about: dict = field(default_factory=dict)

    @property
    def test(self) -> Queries:
        """The test queries. Raises SealedError during fit."""
        if _sealed.get():
            raise SealedError("the test part is sealed during fit: choose models by split.valid")
        return self.sealed_test


def leave_one_out(dataset: Dataset, *, max_valid: int | None = None) -> Split:
    """Last event of every user is the test, the one before it validation, the rest training (E-full protocol).

    Users with fewer than three events only train. max_valid: keep at most so many validation queries (evenly
    spaced over users; None: all). Raises DataError if no user has three events.
    """
    lengths, start = dataset.lengths, dataset.offsets[:-1]
    users = np.flatnonzero(lengths >= 3)
    if not len(users):
        raise DataError(
            needed="at least one user with three events for leave-one-out",
            came=f"{dataset.n_users:,} users with at most {int(lengths.max(initial=0))}",
            remedy="use split.by_time or more data",
        )
    end = dataset.offsets[1:]
    stop = np.where(lengths >= 3, end - 2, end)
    chosen = users
    if max_valid is not None and len(users) > max_valid:
        chosen = users[np.linspace(0, len(users) - 1, max_valid).astype(np.int64)]
    return Split(
        dataset=dataset,
        train=Train(dataset, stop),
        valid=Queries(dataset, chosen, start[chosen] + lengths[chosen] - 2, start[chosen] + lengths[chosen] - 1),
        sealed_test=Queries(dataset, users, end[users] - 1, end[users]),
        about={"split": "leave-one-out", "ties": TIE_RULE, "max_valid": max_valid, "short_users": int((lengths < 3).sum())},
    )


def by_time(dataset: Dataset, *, valid_from: float, test_from: float, next_only: bool = False) -> Split:
    """Global time: every event from `test_from` on is test, from `valid_from` on validation, earlier ones training.

    One query a user and part: the user's events of that part are the truth, everything of the user before it is the history
    (possibly nothing: a user who is new). Times within a tie fall on one side, so max(train times) < min(valid times) <
    min(test times): no model is fitted on anything that happened after a question was asked.

    valid_from, test_from: microseconds since the epoch, or fractions in (0, 1) of the events in order of time (0.8 and 0.9: the
        last tenth is test; ties make the parts a little larger or smaller). valid_from < test_from.
    next_only: the truth is only the first event of the part; otherwise all of them.

    Raises DataError for a dataset without times, or if a part is empty.
    """
    if not dataset.n_events:
        raise DataError(needed="events to split", came=f"none in {dataset.name}", remedy="use other data")
    if dataset.time is None:
        raise DataError(
            needed="times for a split by time",
            came=f"{dataset.name}, which knows only the order",
            remedy="use split.leave_one_out",
        )
    given = {"valid_from": valid_from, "test_from": test_from}
    moments = {}
    for name, value in given.items():
        if 0 < value < 1:
            at = min(int(value * dataset.n_events), dataset.n_events - 1)
            moments[name] = int(np.partition(dataset.time, at)[at])
        elif value >= 1:
            moments[name] = int(value)
        else:
            raise DataError(needed=f"{name} as a fraction in (0, 1) or microseconds", came=str(value), remedy="such as 0.8")
    if moments["valid_from"] >= moments["test_from"]:
        raise DataError(
            needed="valid_from before test_from",
            came=f"{moments['valid_from']} and {moments['test_from']}",
            remedy="move them apart; where many events bear one time (histories of MIND), give dates",
        )
    stop = _before(dataset, moments["valid_from"])
    middle = _before(dataset, moments["test_from"])
    end = dataset.offsets[1:]
    parts = {
        "training": int((stop - dataset.offsets[:-1]).sum()),
        "validation": int((middle - stop).sum()),
        "test": int((end - middle).sum()),
    }
    for name, events in parts.items():
        if not events:
            low, high = int(dataset.time.min()), int(dataset.time.max())
            raise DataError(
                needed=f"events in the {name} part", came=f"none; times reach from {low} to {high}", remedy="move the moments"
            )
    return Split(
        dataset=dataset,
        train=Train(dataset, stop),
        valid=_spans(dataset, stop, middle, next_only=next_only),
        sealed_test=_spans(dataset, middle, end, next_only=next_only),
        about={"split": "global time", "ties": TIE_RULE, "given": given, **moments, "next_only": next_only, "events": parts},
    )


def _before(dataset: Dataset, moment: int) -> np.ndarray:
    """int64[U]: end of each user's events before a moment (a user's times rise, so counting is enough)."""
    assert dataset.time is not None
    early = np.concatenate([[0], np.cumsum(dataset.time < moment)])
    return dataset.offsets[:-1] + early[dataset.offsets[1:]] - early[dataset.offsets[:-1]]


def _spans(dataset: Dataset, start: np.ndarray, end: np.ndarray, *, next_only: bool) -> Queries:
    users = np.flatnonzero(end > start)
    return Queries(dataset, users, start[users], start[users] + 1 if next_only else end[users])


def by_user(dataset: Dataset, *, valid: float = 0.1, test: float = 0.1, seed: int = 0) -> Split:
    """Whole users are held out: a model is asked about people it never saw, the last event of each given the ones before it.

    valid, test: shares of the users with at least two events, drawn by `seed`; both > 0, their sum < 1. All other users
    train with all their events. Raises DataError if a part would be empty.
    """
    if not (valid > 0 and test > 0 and valid + test < 1):
        raise DataError(
            needed="shares valid > 0, test > 0 with a sum below 1", came=f"{valid} and {test}", remedy="such as 0.1 and 0.1"
        )
    users = np.random.default_rng([seed, 3]).permutation(np.flatnonzero(dataset.lengths >= 2))
    n_valid, n_test = round(valid * len(users)), round(test * len(users))
    if not (n_valid and n_test and n_valid + n_test < len(users)):
        raise DataError(
            needed="users enough for three parts", came=f"{len(users)} with two events or more", remedy="use more data"
        )
    held = np.sort(users[:n_test]), np.sort(users[n_test : n_test + n_valid])
    stop, end = dataset.offsets[1:].copy(), dataset.offsets[1:]
    for group in held:
        stop[group] = dataset.offsets[group]
    return Split(
        dataset=dataset,
        train=Train(dataset, stop),
        valid=Queries(dataset, held[1], end[held[1]] - 1, end[held[1]], unseen=stop[held[1]]),
        sealed_test=Queries(dataset, held[0], end[held[0]] - 1, end[held[0]], unseen=stop[held[0]]),
        about={"split": "by user", "ties": TIE_RULE, "valid": valid, "test": test, "seed": seed},
    )


def by_review(dataset: Dataset, *, valid: float = 0.1, test: float = 0.1, seed: int = 0) -> Split:
    """Single events are held out at random, whenever they happened: the protocol of explanations and of predicted ratings.

    Every user and every item keeps at least one training event (the first that the draw meets); where that leaves too few to hold
    out, the two parts shrink alike. A Split names training events as the beginning of each user's: the Dataset of this one
    therefore has each user's events in the order training, validation, test, within a part as they were, and no times any more.
    Records of reviews follow their events.

    valid, test: shares of all events, > 0, with a sum below 1. Raises DataError if a part would be empty, and for a dataset with
    impressions: they name runs of events that are torn apart.
    """
    if not (valid > 0 and test > 0 and valid + test < 1):
        raise DataError(
            needed="shares valid > 0, test > 0 with a sum below 1", came=f"{valid} and {test}", remedy="such as 0.1 and 0.1"
        )
    if set(dataset.records) - {"reviews"}:
        raise DataError(
            needed="a dataset without records but reviews for a split by review",
            came=f"{dataset.name} with {', '.join(dataset.records)}",
            remedy="use split.by_time",
        )
    n, owner = dataset.n_events, np.repeat(np.arange(dataset.n_users), dataset.lengths)
    drawn = np.random.default_rng([seed, 4]).permutation(n)
    kept = np.zeros(n, bool)  # by place in the draw
    for group in (owner, dataset.item):
        kept[np.unique(group[drawn], return_index=True)[1]] = True
    free = drawn[~kept]
    scale = min(1.0, len(free) / max(1.0, (valid + test) * n))
    n_valid, n_test = (int(share * n * scale + 0.5) for share in (valid, test))
    n_valid = min(n_valid, len(free) - n_test)
    if n_valid < 1 or n_test < 1:
        raise DataError(
            needed="events that can be held out while every user and item keeps one",
            came=f"{len(free):,} of {n:,} in {dataset.name}",
            remedy="use more data, or users and items with more events (split.k_core)",
        )
    part = np.zeros(n, np.int8)
    part[free[:n_test]], part[free[n_test : n_test + n_valid]] = 2, 1
    order = np.lexsort((part, owner))  # stable: what came first stays first within a part
    place = np.empty(n, np.int64)
    place[order] = np.arange(n)
    records = dict(dataset.records)
    if "reviews" in records:
        table = records["reviews"]
        moved = pa.array(place[table.column("event").to_numpy()], pa.int64())
        records["reviews"] = table.set_column(table.column_names.index("event"), "event", moved)
    arranged = replace(
        dataset,
        item=dataset.item[order],
        time=None,
        rating=None if dataset.rating is None else dataset.rating[order],
        type=None if dataset.type is None else dataset.type[order],
        records=records,
    )
    ends = [dataset.offsets[:-1] + np.bincount(owner[part <= last], minlength=dataset.n_users) for last in (0, 1, 2)]
    about = {
        "valid": valid,
        "test": test,
        "seed": seed,
        "events": {"training": n - n_valid - n_test, "validation": n_valid, "test": n_test},
    }
    return Split(
        dataset=arranged,
        train=Train(arranged, ends[0]),
        valid=_spans(arranged, ends[0], ends[1], next_only=False),
        sealed_test=_spans(arranged, ends[1], ends[2], next_only=False),
        about={"split": "by review", "ties": TIE_RULE, **about},
    )


def fewer(split: Split, *, valid: int | None = None, test: int | None = None) -> Split:
    """The same split with at most so many queries of a part, evenly spaced over it: for scorers that take long to ask.

    valid, test: >= 1, or None for all. Written into `about` where a part got smaller: runs that ask other queries do not compare.
    Raises DataError for numbers below 1.
    """
    about = dict(split.about)

    def some(queries: Queries, name: str, most: int | None) -> Queries:
        if most is not None and most < 1:
            raise DataError(needed="at least one query", came=str(most))
        if most is None or most >= len(queries):
            return queries
        about[name] = most
        return queries.take(np.linspace(0, len(queries) - 1, most).astype(np.int64))

    valid_, test_ = some(split.valid, "valid_queries", valid), some(split.sealed_test, "test_queries", test)
    return replace(split, valid=valid_, sealed_test=test_, about=about)


def k_core(dataset: Dataset, *, users: int = 5, items: int = 5) -> Dataset:
    """The largest part in which every user has `users` events and every item `items`, found by removing until nothing changes.

    Order, ties and repeats stay; the vocabulary, the item and user tables, attributes and edges shrink with it (edges keep all
    rows; ends that are no longer items lose their number). Counting looks at all events, so a k-core knows of the test part: it
    defines the data, it is no model. Raises DataError if nothing is left, and for a dataset with records: they name events that
    would be gone.
    """
    if dataset.records:
        raise DataError(
            needed="a dataset without records for a k-core",
            came=f"{dataset.name} with {', '.join(dataset.records)}",
            remedy="use it whole, or drop them with dataclasses.replace(dataset, records={})",
        )
    owner = np.repeat(np.arange(dataset.n_users), dataset.lengths)
    keep = np.arange(dataset.n_events)
    while True:
        few = np.bincount(owner[keep], minlength=dataset.n_users) < users
        rare = np.bincount(dataset.item[keep], minlength=dataset.n_items) < items
        good = ~few[owner[keep]] & ~rare[dataset.item[keep]]
        if good.all():
            break
        keep = keep[good]
    if not len(keep):
        raise DataError(needed=f"a {users},{items}-core of {dataset.name}", came="nothing", remedy="ask for fewer events")
    kept_users, kept_items = np.flatnonzero(~few), np.flatnonzero(~rare)
    number = np.full(dataset.n_items, -1, np.int32)
    number[kept_items] = np.arange(len(kept_items))
    ids, vocab = pa.array(kept_items), dataset.vocab
    counts = np.bincount(owner[keep], minlength=dataset.n_users)[kept_users]

    def pick(array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else array[keep]

    return replace(
        dataset,
        vocab=replace(
            vocab,
            items=vocab.items.take(ids),
            users=vocab.users.take(pa.array(kept_users)),
            attributes={name: attribute.take(kept_items) for name, attribute in vocab.attributes.items()},
        ),
        item=number[dataset.item[keep]],
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        time=pick(dataset.time),
        rating=pick(dataset.rating),
        type=pick(dataset.type),
        items=None if dataset.items is None else dataset.items.take(ids),
        users=None if dataset.users is None else dataset.users.take(pa.array(kept_users)),
        edges=None if dataset.edges is None else _renumbered(dataset.edges, number),
        about=dataset.about
        | {
            "k_core": {
                "users": users,
                "items": items,
                "events_removed": dataset.n_events - len(keep),
                "users_removed": dataset.n_users - len(kept_users),
                "items_removed": dataset.n_items - len(kept_items),
            }
        },
    )


def _renumbered(edges: pa.Table, number: np.ndarray) -> pa.Table:
    """Edges with their item numbers mapped (null stays null, a number that is gone becomes null)."""
    for end in ("head_item", "tail_item"):
        if end in edges.column_names:
            old = edges.column(end).combine_chunks()
            new = number[pc.fill_null(old, 0).to_numpy(zero_copy_only=False)]
            gone = pc.is_null(old).to_numpy(zero_copy_only=False) | (new < 0)
            edges = edges.set_column(edges.column_names.index(end), end, pa.array(new, pa.int32(), mask=gone))
    return edges
