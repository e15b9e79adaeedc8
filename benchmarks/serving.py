"""Recommending for one history: a cold process, warm answers one by one, a batch of 1,024; lmrs, RecTools, implicit.

    python -m benchmarks.serving [--items 12000 1000000] [--rounds 5]

Models of width 64 with weights that were hardly trained, on a made catalogue; histories of 1 to 50 items; ten best unseen items;
one thread. lmrs and RecTools run SASRec (2 layers), implicit solves one user of a factorisation: less work, and no sequence.
cold: processor seconds of a fresh process from its start to its first answer, imports and reading the model included. warm:
processor milliseconds of an answer, [median, 99th percentile of 300]. batch: answers a processor second, 1,024 at a time.
Equality first: the batch gives lmrs the lists of one by one. RecTools cannot be fitted to a million items here (its training
holds rows x length x items scores), and has no call for a bare history: it is given a data set of that one user.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks import beside, peers


def make(folder: Path, items: int) -> None:
    """The saved recommender."""
    from dataclasses import replace

    import numpy as np
    import pyarrow as pa
    import torch

    from lmrs.recommender import Recommender
    from lmrs.systems.sasrec import sasrec
    from lmrs.vocab import Vocab

    vocab = Vocab(pa.array([f"i{item}" for item in range(items)], pa.large_string()))
    vocab = replace(vocab, counts=np.ones(items, np.int64))
    system = sasrec()
    torch.manual_seed(0)
    network = system.model.build(vocab)
    Recommender(system, vocab, network, system.stages[0].objective, name="sasrec").save(folder)


def serve(asked: dict) -> dict:
    import time

    import torch

    from benchmarks.peers.clock import histories
    from lmrs.recommender import Recommender

    torch.set_num_threads(1)
    given = [[f"i{item}" for item in history] for history in histories(asked["items"], 1024)]
    recommender = Recommender.load(asked["folder"])
    first = recommender.recommend(given[0])
    cold = time.process_time()
    assert len(first) == 10
    each = []
    for history in given[1 : asked["warm"] + 1]:
        begin = time.process_time()
        recommender.recommend(history)
        each.append(time.process_time() - begin)
    begin = time.process_time()
    batch = recommender.recommend_batch(given)
    rate = len(given) / (time.process_time() - begin)
    assert batch[0].ids == first.ids, "a batch gives another list than one by one"
    return {"cold": cold, "warm": sorted(each), "batch": rate}


def numbers(report: dict) -> dict:
    each = report["warm"]
    return {"p50": 1000 * each[len(each) // 2], "p99": 1000 * each[int(len(each) * 0.99)]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[12_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", nargs=2, metavar=("NAME", "TASK"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        from benchmarks.peers.clock import result

        asked = json.loads(given.side[1])
        if given.side[0] == "make":
            make(Path(asked["folder"]), asked["items"])
            result({}, "lmrs")
        else:
            result(serve(asked), "lmrs", "torch", "numpy")
        return 0
    for items in given.items:
        measure(items, given.rounds)
    return 0


def measure(items: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as work:
        sides = {}
        for side in ("lmrs", "rectools", "implicit"):
            if side == "rectools" and items > 100_000:
                continue
            asked = {"items": items, "folder": f"{work}/{side}", "max_len": 50, "warm": 300, "steps": 1}
            own = side == "lmrs"
            save = {**asked, "task": "save", "warm": 0}
            made = beside.call(
                beside.own("benchmarks.serving", "--side", "make", json.dumps(asked))
                if own
                else peers.side(side, json.dumps(save))
            )
            if "failed" in made:
                print(f"  {side}: {made['failed']}")
            words = json.dumps({**asked, "task": "serve"})
            sides[side] = beside.own("benchmarks.serving", "--side", "serve", words) if own else peers.side(side, words)

        def keep(reports: beside.Reports) -> None:
            parts = {}
            for name, value, higher in (
                ("cold seconds", lambda report: report["cold"], False),
                ("warm p50 ms", lambda report: numbers(report)["p50"], False),
                ("warm p99 ms", lambda report: numbers(report)["p99"], False),
                ("batch answers a second", lambda report: report["batch"], True),
            ):
                parts[name] = beside.summary(reports, value, higher=higher)
            rounds = max(len(each) for each in reports.values())
            what = "recommending for one history"
            beside.write(f"serving-{items}", {"what": what, "data": {"items": items}, "rounds": rounds, "parts": parts})

        beside.in_turn(sides, rounds=rounds, after=keep)


if __name__ == "__main__":
    sys.exit(main())
