"""Sequences from a Markov chain whose best possible score can be computed.

Item t+1 is drawn from a row of a fixed transition table that is chosen by the last `order` items. Nobody can rank the
next item better than that row does, so every measure has an exact ceiling (the Bayes rule), and the uniform
guess is the floor: a learner must land between the two.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from lmrs.dataset import Dataset
from lmrs.errors import DataError
from lmrs.split import Queries
from lmrs.vocab import Attributes, Vocab

_START = 1_600_000_000_000_000  # microseconds: the first event of the first user
_STEP = 3_600_000_000  # microseconds between events of a user


@dataclass(frozen=True)
class Chain:
    """A Markov chain over items "i0" .. "i{items-1}".

    items: V >= 2. concentration: > 0, of the symmetric Dirichlet each row is drawn from; small is predictable, large is
    uniform. order: how many items back the next one depends on, 1 or 2. repeats: False means an item that the user
    has had is never drawn again (the row is renormalised over the others). seed: of the table.
    """

    items: int = 50
    concentration: float = 0.05
    order: int = 1
    repeats: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.items >= 2 and self.concentration > 0 and self.order in (1, 2) and self.items**self.order <= 1_000_000):
            raise DataError(
                needed="a chain with items >= 2, concentration > 0, order 1 or 2 and items**order <= 1,000,000",
                came=repr(self),
                remedy="change the numbers",
            )


def transitions(chain: Chain) -> np.ndarray:
    """float64[V**order, V]: row (a * V + b) is the law of the item after a, b (order 2); row a that after a (order 1)."""
    rng = np.random.default_rng([chain.seed, 1])
    draws = rng.standard_gamma(chain.concentration, (chain.items**chain.order, chain.items)) + 1e-12
    return draws / draws.sum(axis=1, keepdims=True)


def synthetic(
    *,
    users: int = 500,
    items: int = 50,
    length: int = 20,
    spread: int = 0,
    concentration: float = 0.05,
    order: int = 1,
    repeats: bool = True,
    seed: int = 0,
) -> Dataset:
    """A Dataset of chains, one a user, of `length` events give or take `spread` (uniform), an hour between events.

    The first `order` items of a user are uniform. Items have titles "Item 7" and one attribute `group` (number modulo 5).
    The chain is kept in `about["chain"]`; see `chain_of`. Raises DataError for numbers that make no chain.
    """
    chain = Chain(items=items, concentration=concentration, order=order, repeats=repeats, seed=seed)
    longest = length + spread
    if not (users >= 1 and length - spread >= 1 and spread >= 0 and (repeats or longest <= items)):
        raise DataError(
            needed="users >= 1, length - spread >= 1, and length + spread <= items where repeats is false",
            came=f"users={users}, length={length}, spread={spread}, items={items}",
            remedy="change the numbers",
        )
    rng = np.random.default_rng([seed, 2])
    lengths = rng.integers(length - spread, length + spread, users, endpoint=True)
    drawn = np.empty((users, longest), np.int64)
    table = transitions(chain)
    for lo in range(0, users, 2048):
        drawn[lo : lo + 2048] = _walk(chain, table, min(2048, users - lo), longest, rng)
    flat = drawn[np.arange(longest) < lengths[:, None]]
    seen, first = np.unique(flat, return_index=True)
    numbered = np.concatenate([seen[np.argsort(first)], np.setdiff1d(np.arange(items), seen)])
    number = np.empty(items, np.int32)
    number[numbered] = np.arange(items)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    place = np.arange(len(flat)) - np.repeat(offsets[:-1], lengths)
    begin = _START + rng.integers(0, 1000, users) * _STEP // 7
    groups = pa.array([[f"group {i % 5}"] for i in numbered], pa.list_(pa.large_string()))
    ids = pa.array([f"i{i}" for i in numbered], pa.large_string())
    return Dataset(
        name="synthetic",
        vocab=Vocab(
            items=ids,
            users=pa.array([f"u{u}" for u in range(users)], pa.large_string()),
            attributes={"group": Attributes.from_lists(groups)},
        ),
        item=number[flat],
        offsets=offsets,
        time=np.repeat(begin, lengths) + place * _STEP,
        items=pa.table({"item_id": ids, "title": pa.array([f"Item {i}" for i in numbered], pa.large_string()), "group": groups}),
        about={"source": "synthetic", "chain": asdict(chain), "order": "time, then file order", "order_known": True, "notes": []},
    )


def _walk(chain: Chain, table: np.ndarray, users: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """int64[users, length] draws."""
    drawn = np.empty((users, length), np.int64)
    taken = np.zeros((users, chain.items), bool)
    everyone = np.arange(users)
    for step in range(length):
        law = np.full((users, chain.items), 1 / chain.items) if step < chain.order else table[_state(chain, drawn[:, :step])]
        if not chain.repeats:
            law = np.where(taken, 0, law)
        climb = np.cumsum(law, axis=1)
        pick = (climb <= rng.random((users, 1)) * climb[:, -1:]).sum(axis=1)
        drawn[:, step] = np.minimum(pick, chain.items - 1)
        taken[everyone, drawn[:, step]] = True
    return drawn


def _state(chain: Chain, history: np.ndarray) -> np.ndarray:
    """int64[n]: table rows of histories (each at least `order` long)."""
    state = history[:, -chain.order]
    return state if chain.order == 1 else state * chain.items + history[:, -1]


def chain_of(dataset: Dataset) -> Chain:
    """The chain that made a synthetic Dataset. Raises DataError for any other."""
    if "chain" not in dataset.about:
        raise DataError(needed="a dataset from sources.synthetic", came=dataset.name, remedy="only these have a known ceiling")
    return Chain(**dataset.about["chain"])


def next_law(chain: Chain, queries: Queries) -> np.ndarray:
    """float64[Q, V]: the true law of the event after each query's history, by item number of the dataset."""
    ids = queries.dataset.vocab.items.to_pylist()
    place = np.asarray([int(text[1:]) for text in ids])
    table = transitions(chain)
    law = np.empty((len(queries), chain.items))
    for at in range(len(queries)):
        history = place[queries.history(at)]
        if len(history) < chain.order:
            row = np.full(chain.items, 1 / chain.items)
        else:
            row = table[_state(chain, history[None, :])[0]].copy()
        if not chain.repeats:
            row[history] = 0
            row /= row.sum()
        law[at] = row[place]
    return law


def synthetic_ceiling(chain: Chain, queries: Queries, *, k: int, exclude_seen: bool) -> dict[str, np.ndarray]:
    """The best expected HR@k and NDCG@k of each query's next event, each float64[Q].

    Ranking by the true law p is optimal: HR@k = sum of the k largest p, NDCG@k = sum over ranks r <= k of p_(r) / log2(r + 1).
    exclude_seen: True where the evaluator leaves out items of the history: they cannot be ranked, and a query whose truth is one
    of them is lost for everybody (its p counts as a miss). For a chain without repeats both policies agree.
    """
    law = next_law(chain, queries)
    if exclude_seen:
        for at in range(len(queries)):
            law[at, queries.history(at)] = 0
    best = -np.sort(-law, axis=1)[:, :k]
    discount = 1 / np.log2(np.arange(2, best.shape[1] + 2))
    return {f"HR@{k}": best.sum(axis=1), f"NDCG@{k}": best @ discount}
