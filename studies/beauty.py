"""A part of amazon-beauty that a study on one processor core can afford."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from lmrs.dataset import Dataset
from lmrs.split import k_core


def some_users(data: Dataset, users: int, *, seed: int = 0) -> Dataset:
    """Users drawn by `seed`, and what is left of them with five events a user and three an item."""
    chosen = np.sort(np.random.default_rng(seed).choice(data.n_users, users, replace=False))
    size = data.lengths[chosen]
    offsets = np.concatenate([[0], np.cumsum(size)])
    place = np.arange(offsets[-1]) + np.repeat(data.offsets[chosen] - offsets[:-1], size)
    part = replace(
        data,
        vocab=replace(data.vocab, users=data.vocab.users.take(pa.array(chosen))),
        item=data.item[place],
        offsets=offsets,
        time=None if data.time is None else data.time[place],
        rating=None if data.rating is None else data.rating[place],
        type=None if data.type is None else data.type[place],
        users=None if data.users is None else data.users.take(pa.array(chosen)),
    )
    return k_core(part, users=5, items=3)
