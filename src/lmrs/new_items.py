"""A split that asks for items nobody had in training: who can recommend what is new?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lmrs.dataset import Dataset
from lmrs.errors import DataError
from lmrs.split import Split, leave_one_out


def without_items(dataset: Dataset, *, share: float = 0.1, seed: int = 0) -> Split:
    """A share of the catalogue, drawn at random, is taken out of training and validation and asked for in the test.

    Leave-one-out of the data in which every event with a drawn item is dropped, unless it is the last of its user; the test keeps
    the queries whose item was drawn. The items stay in the catalogue, with what it says of them. Times, ratings and types follow
    their events; records do not (they name events that may be gone).
    share: of the items with events, in (0, 1). Raises DataError if nothing is left to ask.
    """
    if not 0 < share < 1:
        raise DataError(needed="a share of the items above 0 and below 1", came=f"{share}")
    known = np.unique(dataset.item)
    count = max(1, round(share * len(known)))
    new = np.zeros(dataset.n_items, bool)
    new[np.random.default_rng([seed, 7]).choice(known, count, replace=False)] = True
    keep = ~new[dataset.item]
    keep[dataset.offsets[1:][dataset.lengths > 0] - 1] = True
    owner = np.repeat(np.arange(dataset.n_users), dataset.lengths)

    def pick(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else np.asarray(values)[keep]

    left = replace(
        dataset,
        item=np.asarray(dataset.item)[keep],
        offsets=np.concatenate([[0], np.cumsum(np.bincount(owner[keep], minlength=dataset.n_users))]).astype(np.int64),
        time=pick(dataset.time),
        rating=pick(dataset.rating),
        type=pick(dataset.type),
        records={},
        about={**dataset.about, "without_items": {"share": share, "seed": seed, "items": count}},
    )
    split = leave_one_out(left)
    # A user with fewer than three events only trains, so a drawn item would be learned there.
    short = np.flatnonzero((left.lengths < 3) & (left.lengths > 0))
    last = left.offsets[1:][short] - 1
    stop = np.array(split.train.stop)
    stop[short] -= new[left.item[last]]
    asked = split.sealed_test
    chosen = np.flatnonzero(new[left.item[asked.stop]])
    if not len(chosen):
        raise DataError(needed="a user whose last item was drawn", came="none", remedy="use a larger share or more data")
    return replace(
        split,
        train=replace(split.train, stop=stop),
        sealed_test=asked.take(chosen),
        about={**split.about, "split": "leave one out, new items", "share": share, "seed": seed},
    )
