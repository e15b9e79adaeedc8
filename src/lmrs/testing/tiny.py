"""A data set of a few dozen users with every oddity that a part must survive. Made in memory, the same every time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import torch

from lmrs.batch import Batch
from lmrs.dataset import Dataset
from lmrs.split import Split, Train, by_time, leave_one_out
from lmrs.views import ItemSequence, Rows, View
from lmrs.vocab import Attributes, Vocab

DAY = 86_400_000_000  # microseconds
GENRES: tuple[list[str], ...] = (["drama"], ["comedy", "drama"], [], ["comedy"], ["horror", "drama", "comedy"])


def dataset(*, users: int = 24, items: int = 13, longest: int = 12, seed: int = 7) -> Dataset:
    """Users u0, u1, ... with 1, 2, 3, ... `longest`, 1, 2, ... events, items i0, i1, ...

    Among the oddities: users with one and two events, repeated items, tied times, an item without any event (the last one), an
    item that only the last event of a user has (the one before), items without attribute values. Attributes: "genres" and, the
    same again, "attributes".
    """
    rng = np.random.default_rng(seed)
    length = 1 + np.arange(users) % longest
    offsets = np.concatenate([[0], np.cumsum(length)])
    item = rng.integers(0, items - 2, offsets[-1]).astype(np.int32)
    item[offsets[longest] - 1] = items - 2
    time = np.concatenate([np.cumsum(rng.integers(0, 3, n)) for n in length]) * DAY + 20_000 * DAY
    values = Attributes.from_lists(pa.array([GENRES[at % len(GENRES)] for at in range(items)], pa.list_(pa.string())))
    ids = [f"i{at}" for at in range(items)]
    return Dataset(
        name="tiny",
        vocab=Vocab(
            pa.array(ids, pa.large_string()),
            pa.array([f"u{at}" for at in range(users)], pa.large_string()),
            {"genres": values, "attributes": values},
        ),
        item=item,
        offsets=offsets,
        time=time,
        rating=rng.integers(1, 6, offsets[-1]).astype(np.float32),
        items=pa.table({"item_id": ids, "title": [f"Title {at}" for at in range(items)]}),
    )


def split(data: Dataset | None = None) -> Split:
    """Leave-one-out of the tiny data set (or of the one given)."""
    return leave_one_out(data or dataset())


def with_users(data: Dataset) -> Dataset:
    """The data set with a table of its users: age and gender, a height that is no category, u1 of whom nothing is known."""
    age = pa.array([None if at == 1 else (25, 35, 50)[at % 3] for at in range(data.n_users)], pa.int32())
    gender = pa.array([None if at in (1, 7) else "FM"[at % 2] for at in range(data.n_users)]).dictionary_encode()
    height = pa.array(np.linspace(1.5, 2, data.n_users))
    return replace(data, users=pa.table({"user_id": data.vocab.users, "age": age, "gender": gender, "height": height}))


def profiled() -> Split:
    """Leave-one-out of the tiny data set with its users."""
    return split(with_users(dataset()))


def posts(*, documents: int = 40, seed: int = 0) -> Split:
    """Documents split by time: a word of the title stands for one of the tags 0 to 3, one of the text for one of 4 to 7, and one
    of the code, which every other document has, for tag 8. Nobody has tag 9; document 1 has no text but its title, 2 a blank
    one."""
    rng = np.random.default_rng(seed)
    topics, places = ("brew", "grind", "roast", "pour"), ("kitchen", "garden", "cellar", "office")
    tables: dict[str, list[str | None]] = {"title": [], "text": [], "code": []}
    tags, owner = [], []
    for at in range(documents):
        topic, place, coded = (int(each) for each in rng.integers(0, [4, 4, 2]))
        tables["title"].append(f"{topics[topic]} {at}")
        tables["text"].append(None if at == 1 else "  " if at == 2 else f"{places[place]} for {at} days")
        tables["code"].append(f"print({at})" if coded else None)
        found = [topic, *([4 + place] if at not in (1, 2) else []), *([8] if coded else [])]
        tags += found
        owner += [at] * len(found)
    ids = [f"d{at}" for at in range(documents)]
    data = Dataset(
        name="posts",
        vocab=Vocab(pa.array([f"t{at}" for at in range(10)], pa.large_string()), pa.array(ids, pa.large_string())),
        item=np.array(tags, np.int32),
        offsets=np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=documents))]),
        time=np.array(owner) * DAY + 20_000 * DAY,
        users=pa.table({"user_id": ids} | {name: pa.array(texts, pa.large_string()) for name, texts in tables.items()}),
    )
    return by_time(data, valid_from=0.6, test_from=0.8)


def vocab(train: Train) -> Vocab:
    """The vocabulary as `fit` hands it to a model: with training counts and the item table."""
    return replace(train.dataset.vocab, counts=train.counts(), catalogue=train.dataset.items)


def batch(train: Train, *, lengths: tuple[int, ...] = (5, 2, 8, 1, 8, 6, 3, 7, 4, 2, 1, 5), view: View | None = None) -> Batch:
    """Rows of the given lengths, one user's newest training events each, as the view reads them."""
    view = view or ItemSequence(max_len=max(lengths))
    free = list(np.argsort(-train.lengths, kind="stable"))
    found = {}
    for row in np.argsort([-n for n in lengths], kind="stable"):  # the longest rows choose first
        found[int(row)] = free.pop(0)
    user = np.array([found[row] for row in range(len(lengths))])
    stop = train.stop[user]
    rows = Rows(train.dataset, user, stop - np.array(lengths), stop)
    assert (rows.start >= train.start[user]).all(), "the tiny data set has too few long users for these lengths"
    return view.collate(rows)


def marked(read: Batch) -> Batch:
    """The batch with the last position of each row asked."""
    asked = torch.zeros(read.n_positions, dtype=torch.bool)
    asked[read.last] = True
    return read.with_channels(asked=asked)


def with_item(read: Batch, place: int, item: int) -> Batch:
    """The batch with another item at one flat place."""
    items = read.channels["item"].clone()
    items[place] = item
    return read.with_channels(item=items)


def with_future(data: Dataset, train: Train, *, shift: int = 1) -> Train:
    """The same training part over a data set in which everything after it is different."""
    item = data.item.copy()
    users = np.repeat(np.arange(data.n_users), data.lengths)
    later = np.arange(data.n_events) >= train.stop[users]
    item[later] = (item[later] + shift) % data.n_items
    return Train(replace(data, item=item), train.stop)
