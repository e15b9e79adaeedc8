"""implicit: alternating least squares of 64 factors; a history is a row of the user-item matrix."""

from __future__ import annotations

import time
import warnings

warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
from clock import histories, result, task  # noqa: E402
from implicit.cpu.als import AlternatingLeastSquares  # noqa: E402
from scipy.sparse import csr_matrix  # noqa: E402

ASKED = task()


def rows(given):
    sizes = [len(set(history)) for history in given]
    flat = np.concatenate([sorted(set(history)) for history in given])
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return csr_matrix((np.ones(len(flat), np.float32), flat, offsets), shape=(len(given), ASKED["items"]))


def save():
    model = AlternatingLeastSquares(factors=64, iterations=1, num_threads=1, random_state=0)
    model.fit(rows(histories(ASKED["items"], 1024)), show_progress=False)
    model.save(ASKED["folder"] + ".npz")
    result({}, "implicit")


def serve():
    model = AlternatingLeastSquares.load(ASKED["folder"] + ".npz")
    found, _ = model.recommend(0, rows(histories(ASKED["items"], 1)), N=10, recalculate_user=True)
    cold = time.process_time()
    given = histories(ASKED["items"], 1024)
    assert len(found) == 10
    each = []
    for history in given[1 : ASKED["warm"] + 1]:
        begin = time.process_time()
        model.recommend(0, rows([history]), N=10, recalculate_user=True)
        each.append(time.process_time() - begin)
    begin = time.process_time()
    model.recommend(np.arange(len(given)), rows(given), N=10, recalculate_user=True)
    rate = len(given) / (time.process_time() - begin)
    result({"cold": cold, "warm": sorted(each), "batch": rate}, "implicit", "numpy", "scipy")


if __name__ == "__main__":
    {"save": save, "serve": serve}[ASKED["task"]]()
