"""Real histories as plain arrays that every side can read: `items` int64[N], 0..V-1, `offsets` int64[U+1], `n_items`.

    python -m benchmarks.histories --data-root FOLDER ml-1m OUT.npz

FOLDER holds ml-100k, ml-1m and amazon-beauty as tables that `lmrs.sources.load` reads; those of MADE are drawn: "skewed" has
20,000 users, 3,400 items and log-normal lengths with median 8; "50k-items" and "1m-items" have 2,048 users of median 20 and then
some who have every item once, so that every side knows all of them. Ties in time keep the file order, so the histories are the
same for all. The last two events of a user are left out of training by every side.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

LENGTH = {"ml-100k": 50, "ml-1m": 200, "amazon-beauty": 50, "skewed": 200, "50k-items": 50, "1m-items": 50}
CATALOGUE = {"50k-items": 50_000, "1m-items": 1_000_000}
MADE = ("skewed", *CATALOGUE)


def make(root: Path | None, name: str, out: Path) -> None:
    import numpy as np

    from lmrs import sources

    if name in CATALOGUE:
        rng, count = np.random.default_rng(0), CATALOGUE[name]
        sizes = np.clip(np.exp(rng.normal(np.log(20), 0.7, 2048)).astype(np.int64), 3, 200)
        every = rng.permutation(count)
        items = np.concatenate([rng.integers(0, count, sizes.sum()), every])
        offsets = np.concatenate([[0], np.cumsum(np.concatenate([sizes, np.full(count // 50, 50)]))])
        np.savez(out, items=items, offsets=offsets, n_items=count)
        return
    if name in MADE:
        from benchmarks.training import made

        dataset = made(20_000, 3_400, 8, LENGTH[name], spread=1.0)
    else:
        dataset = sources.load(root / name)
    kept = np.flatnonzero(np.diff(dataset.offsets) >= 3)
    spans = [np.arange(dataset.offsets[user], dataset.offsets[user + 1]) for user in kept]
    items = np.asarray(dataset.item)[np.concatenate(spans)].astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum([len(span) for span in spans])])
    np.savez(out, items=items, offsets=offsets, n_items=dataset.vocab.n_items)


def file(root: Path | None, name: str, folder: Path) -> Path:
    """The arrays of a data set, made in a process of its own: this one stays small."""
    out = folder / f"{name}.npz"
    folder_of = ["--data-root", str(root)] if root else []
    subprocess.run([sys.executable, "-m", "benchmarks.histories", *folder_of, name, str(out)], check=True)
    return out


def split(path: Path):
    """The Split that lmrs makes of such a file."""
    import numpy as np
    import pyarrow as pa

    from lmrs.dataset import Dataset
    from lmrs.split import leave_one_out
    from lmrs.vocab import Vocab

    data = np.load(path)
    vocab = Vocab(pa.array([str(item) for item in range(int(data["n_items"]))], pa.large_string()))
    return leave_one_out(Dataset(path.stem, vocab, data["items"].astype(np.int32), data["offsets"]))


if __name__ == "__main__":
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--data-root", type=Path)
    ask.add_argument("name")
    ask.add_argument("out", type=Path)
    given = ask.parse_args()
    make(given.data_root, given.name, given.out)
