"""Small synthetic dialogues, divided by whole dialogues, for the tests of parts that read them."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from lmrs import sources
from lmrs.dataset import Dataset
from lmrs.split import Split, Train, by_user


def data(dialogues: int = 60, **law: float) -> Dataset:
    """24 films of 4 genres."""
    return sources.synthetic_dialogues(dialogues=dialogues, **{"films": 24, "genres": 4, **law})  # type: ignore[arg-type]


def split(dialogues: int = 60) -> Split:
    return by_user(data(dialogues))


def changed(split: Split) -> Train:
    """The same training part over data whose held-out dialogues say and name something else."""
    data = split.dataset
    held = split.train.lengths == 0
    rows = data.records["dialogues"].to_pylist()
    item = data.item.copy()
    for row in rows:
        if held[row["dialogue"]]:
            row["text"], row["items"] = f"Never {row['text']}", [(each + 1) % data.n_items for each in row["items"]]
            item[row["event"] : row["event"] + len(row["items"])] = row["items"]
    table = pa.Table.from_pylist(rows, schema=data.records["dialogues"].schema)
    return Train(replace(data, item=item, records={"dialogues": table}), split.train.stop)
