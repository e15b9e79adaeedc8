"""How time and memory of training and of ranking grow with items, users, length and width: curves beside what arithmetic says.

    python -m benchmarks.growth [--axes items users length width] [--rounds 3]

SASRec with full softmax on drawn histories, one thread, a fresh process a point. One number moves, the others stay: 10,000 items,
4,000 users, rows of 50, width 64. train: processor milliseconds of an update of 64 rows (median). rank: processor milliseconds of
scoring 256 users against the whole catalogue and keeping the ten best unseen. memory: peak of the process beyond what it held
before the network was made. Expected: operations of the update as benchmarks/rate.py counts them, scaled to the middle point.
"""

from __future__ import annotations

import argparse
import json
import statistics

from benchmarks import beside
from benchmarks.rate import operations

MIDDLE = {"items": 10_000, "users": 4_000, "length": 50, "width": 64}
POINTS = {
    "items": (1_000, 10_000, 100_000, 1_000_000),
    "users": (1_000, 4_000, 16_000, 64_000),
    "length": (25, 50, 100, 200, 400),
    "width": (32, 64, 128, 256),
}


def side(asked: dict) -> dict:
    import time
    from contextlib import suppress
    from dataclasses import replace

    import numpy as np
    import pyarrow as pa
    import torch

    from benchmarks.peers.clock import Laps, peak_mib
    from lmrs.dataset import Dataset
    from lmrs.fit import Execution, fit
    from lmrs.hardware import keep_memory
    from lmrs.judge import judge
    from lmrs.progress import Reporter
    from lmrs.split import fewer, leave_one_out
    from lmrs.systems.sasrec import sasrec
    from lmrs.vocab import Vocab

    torch.set_num_threads(1)
    keep_memory()
    rng, each = np.random.default_rng(0), asked["length"] + 3
    vocab = Vocab(pa.array([str(item) for item in range(asked["items"])], pa.large_string()))
    item = rng.integers(0, asked["items"], asked["users"] * each).astype(np.int32)
    split = leave_one_out(Dataset("drawn", vocab, item, np.arange(asked["users"] + 1) * each))
    laps, before = Laps(2), peak_mib()

    class Enough(Exception):
        pass

    class Watch(Reporter):
        def step(self, note="", *, by=1):
            laps.mark()
            if len(laps.laps) == asked["steps"] + 2:
                raise Enough

    system = sasrec(dim=asked["width"], heads=2, max_len=asked["length"], batch_size=64, epochs=1000, every=1000, patience=None)
    with suppress(Enough):
        fit(system, split, execution=Execution(device="cpu", compile="off"), reporter=Watch(quiet=True))
    train = statistics.median(lap[0] for lap in laps.laps[2:])
    torch.manual_seed(0)
    network = system.model.build(replace(vocab, counts=split.train.counts()))
    asking = fewer(split, test=256).test
    spent = []
    for _ in range(3):
        begin = time.process_time()
        judge(network, system.stages[0].objective, system.task, asking, vocab, k=10, seed=0)
        spent.append(time.process_time() - begin)
    return {"train": 1e3 * train, "rank": 1e3 * min(spent), "memory": peak_mib() - before}


def expected(at: dict[str, int]) -> float:
    """Operations of an update of 64 full rows."""
    targets = 64 * at["length"]
    return targets * operations(items=at["items"], width=at["width"], layers=2, attended=(at["length"] + 1) / 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", default=list(POINTS), choices=list(POINTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        from benchmarks.peers.clock import result

        result(side(json.loads(given.side)), "lmrs", "torch", "numpy")
        return
    for axis in given.axes:
        places = {str(point): MIDDLE | {axis: point} for point in POINTS[axis]}
        commands = {
            name: beside.own("benchmarks.growth", "--side", json.dumps(at | {"steps": 3 if expected(at) > 4e11 else 8}))
            for name, at in places.items()
        }

        def keep(reports: beside.Reports, axis: str = axis, places: dict = places) -> None:
            points = []
            for name, found in reports.items():
                good = [report for report in found if "failed" not in report]
                if good:
                    values = {what: beside.middle(report[what] for report in good) for what in ("train", "rank", "memory")}
                    points.append({"at": int(name), "expected": expected(places[name]), **values})
            if points:
                held = next((point for point in points if point["at"] == MIDDLE[axis]), points[0])
                scale = held["train"][0] / held["expected"]
                for point in points:
                    point["expected"] = float(f"{scale * point['expected']:.4g}")
            done = max(len(found) for found in reports.values())
            fixed = {name: value for name, value in MIDDLE.items() if name != axis}
            beside.write(f"growth-{axis}", {"what": f"growth with {axis}", "data": fixed, "rounds": done, "curve": points})

        beside.in_turn(commands, rounds=given.rounds, after=keep)


if __name__ == "__main__":
    main()
