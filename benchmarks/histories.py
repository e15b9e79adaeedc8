"""Real histories as plain arrays that every side can read: `items` int64[N], 0..V-1, `offsets` int64[U+1], `n_items`.

    python -m benchmarks.histories --data-root FOLDER ml-1m OUT.npz

FOLDER holds ml-100k, ml-1m and amazon-beauty as tables that `lmrs.sources.load` reads; those of MADE are drawn. Ties in time keep
the file order, so the histories are the same for all. The last two events of a user are left out of training by every side.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

LENGTH = {"ml-100k": 50, "ml-1m": 200, "amazon-beauty": 50, "skewed": 200}
MADE = ("skewed",)  # log-normal lengths with median 8, drawn items: 20,000 users, 3,400 items


def make(root: Path | None, name: str, out: Path) -> None:
    import numpy as np

    from lmrs import sources

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
