"""A tiny log of impressions that several test files share."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pyarrow as pa
import torch

from lmrs.batch import Batch
from lmrs.dataset import Dataset
from lmrs.records import COLUMNS, Impressions
from lmrs.sources import synthetic_news
from lmrs.split import Split, Train, by_time


@cache
def dataset() -> Dataset:
    """14 readers, four impressions of four news each; the first has no history."""
    made = synthetic_news(readers=14, articles=26, impressions=4, history=4, fresh=10, shown=4, topics=3, likes=1, seed=1)
    log = made.records["impressions"]
    past = log.column("history").to_pylist()
    past[0] = []
    return with_log(made, history=past)


def news() -> Split:
    return by_time(dataset(), valid_from=0.6, test_from=0.8)


def with_log(data: Dataset, **columns: list) -> Dataset:
    """The data with other values in some columns of its impressions."""
    log = data.records["impressions"]
    for name, values in columns.items():
        log = log.set_column(log.column_names.index(name), name, pa.array(values, COLUMNS["impressions"][name]))
    return replace(data, records={**data.records, "impressions": log})


def changed(split: Split) -> Train:
    """The same training part where every impression that is not to be learnt from says something else."""
    table = split.dataset.records["impressions"]
    known = Impressions.of(table).known(split.train.stop)
    assert 0 < known.sum() < len(known)
    columns = {name: table.column(name).to_pylist() for name in ("history", "shown", "clicked")}
    for at in np.flatnonzero(~known):
        for name in ("history", "shown"):
            columns[name][at] = [(item + 1) % split.dataset.n_items for item in columns[name][at]]
        columns["clicked"][at] = columns["clicked"][at][1:] + columns["clicked"][at][:1]
    return Train(with_log(split.dataset, **columns), split.train.stop)


def with_candidates(batch: Batch, items: int, *, shown: int = 3) -> Batch:
    """A batch of histories with `shown` items a row, one of them clicked, and a column of padding."""
    rng = np.random.default_rng(5)
    candidates = np.stack([rng.permutation(items)[:shown] for _ in range(batch.n_rows)])
    clicked = np.arange(shown) == rng.integers(0, shown, batch.n_rows)[:, None]
    rows = {
        "candidates": torch.from_numpy(np.pad(candidates, ((0, 0), (0, 1)), constant_values=-1)),
        "clicked": torch.from_numpy(np.pad(clicked, ((0, 0), (0, 1)))),
    }
    return replace(batch, rows={**batch.rows, **rows})
