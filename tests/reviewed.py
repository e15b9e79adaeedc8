"""The tiny data set with a review for every event: what is said follows from the user and the item, so it can be learned."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import torch

from lmrs.dataset import Dataset
from lmrs.models import Model
from lmrs.models.explainer import Explainer
from lmrs.records import COLUMNS
from lmrs.split import Split, Train, by_review
from lmrs.testing import tiny

FEATURES = ("strings", "sound quality", "price")
OPINIONS = ("good", "bad")


def reviewed(data: Dataset | None = None, *, explained: float = 1.0) -> Dataset:
    """Item i is spoken of by feature i mod 3, user u says "good" or "bad" by u mod 2; the first events are explained."""
    data = data or tiny.dataset()
    rows = []
    for user in range(data.n_users):
        for event in range(int(data.offsets[user]), int(data.offsets[user + 1])):
            item = int(data.item[event])
            feature, opinion = FEATURES[item % 3], OPINIONS[user % 2]
            told = event < explained * data.n_events
            rows.append(
                {
                    "user": user, "item": item, "event": event, "title": f"Number {item}", "text": "So so.",
                    "feature": feature if told else None, "opinion": opinion if told else None,
                    "explanation": f"The {feature} is {opinion}!" if told else None,
                }
            )  # fmt: skip
    kinds = COLUMNS["reviews"]
    return replace(data, records={"reviews": pa.Table.from_pylist(rows, schema=pa.schema(list(kinds.items())))})


def split() -> Split:
    """A random split of the reviews."""
    return by_review(reviewed(), valid=0.15, test=0.15)


def changed(split: Split) -> Train:
    """The same training part over data in which every other review says something else."""
    table = split.dataset.records["reviews"]
    late = table.column("event").to_numpy() >= split.train.stop[table.column("user").to_numpy()]
    for name in ("explanation", "feature"):
        texts = ["Never heard" if later else text for later, text in zip(late, table.column(name).to_pylist(), strict=True)]
        table = table.set_column(table.column_names.index(name), name, pa.array(texts, pa.large_string()))
    return replace(split.train, dataset=replace(split.dataset, records={"reviews": table}))


def network(model: Model, *, seed: int = 1) -> Explainer:
    """The network in fp64 with weights drawn from `seed`."""
    data = split()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = model.build(replace(tiny.vocab(data.train), prepared=model.prepare(data.train, seed=0)))
    assert isinstance(found, Explainer)
    return found.double()
