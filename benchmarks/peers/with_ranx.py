"""ranx: ten measures of many lists, from the inputs that its kernels take (building them is not counted)."""

from __future__ import annotations

import time
import warnings
from itertools import pairwise

warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import ranx  # noqa: E402
from clock import result, task  # noqa: E402
from numba.typed import List  # noqa: E402

from benchmarks.lists import TEN, lists  # noqa: E402


def main():
    asked = task()
    top, offsets, items = lists(asked["users"], asked["items"], np.random.default_rng(0))
    truth = List([np.stack([items[a:b], np.ones(b - a)], axis=1).astype(np.float64) for a, b in pairwise(offsets)])
    scores = np.arange(100, 0, -1, dtype=np.float64)
    given = List([np.stack([row, scores], axis=1) for row in top.astype(np.float64)])
    found = ranx.evaluate(truth, given, list(TEN.values()))  # compiles, too
    begin = time.process_time()
    ranx.evaluate(truth, given, list(TEN.values()))
    seconds = time.process_time() - begin
    result({"cpu_seconds": seconds, "means": [float(found[name]) for name in TEN.values()]}, "ranx", "numpy", "numba")


if __name__ == "__main__":
    main()
