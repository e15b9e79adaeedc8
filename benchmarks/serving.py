"""Recommending for one history: a cold process, warm answers one by one, a batch of 1,024; lmrs, RecTools, implicit.

    python -m benchmarks.serving [--items 12000 1000000] [--rounds 5]

Models of width 64 with weights that were hardly trained, on a made catalogue; histories of 1 to 50 items; ten best unseen items;
one thread. lmrs and RecTools run SASRec (2 layers), implicit solves one user of a factorisation: less work, and no sequence.
"lmrs" is `Recommender`, "lmrs quick" `QuickRecommender`: the same folder asked by NumPy alone, without torch and without batches.
cold: processor seconds of a fresh process from its start to its first answer, imports and reading the model included. warm:
processor milliseconds of an answer, [median, 99th percentile of 300]. batch: answers a processor second, 1,024 at a time.
A side imports nothing but what it needs: that is what is measured. Equality first: the batch gives lmrs the lists of one by one,
and quick gives them, too. RecTools cannot be fitted to a million items here (its training holds rows x length x items scores),
and has no call for a bare history: it is given a data set of that one user.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks import beside


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


def asked_for(asked: dict, count: int = 1024) -> list[list[str]]:
    from benchmarks.peers.clock import histories

    return [[f"i{item}" for item in history] for history in histories(asked["items"], count)]


def one_by_one(recommender: Any, asked: dict) -> tuple[float, Any, list[float]]:
    """(processor seconds from the start to the first answer, that answer, seconds of each of the others, rising)."""
    import time

    first = recommender.recommend(*asked_for(asked, 1))
    cold = time.process_time()
    assert len(first) == 10
    each = []
    for history in asked_for(asked, asked["warm"] + 1)[1:]:
        begin = time.process_time()
        recommender.recommend(history)
        each.append(time.process_time() - begin)
    return cold, first, sorted(each)


def serve_quick(asked: dict) -> dict:
    from lmrs.quick import QuickRecommender

    cold, _, each = one_by_one(QuickRecommender.load(asked["folder"]), asked)
    assert "torch" not in sys.modules
    return {"cold": cold, "warm": each}


def check(asked: dict) -> dict:
    from lmrs.quick import QuickRecommender
    from lmrs.recommender import Recommender

    slow, fast = Recommender.load(asked["folder"]), QuickRecommender.load(asked["folder"])
    for history in asked_for(asked, 100):
        assert slow.recommend(history).ids == fast.recommend(history).ids, "quick gives another list than torch"
    return {}


def serve(asked: dict) -> dict:
    import time

    import torch

    from lmrs.recommender import Recommender

    torch.set_num_threads(1)
    recommender = Recommender.load(asked["folder"])
    cold, first, each = one_by_one(recommender, asked)
    given = asked_for(asked)
    begin = time.process_time()
    batch = recommender.recommend_batch(given)
    rate = len(given) / (time.process_time() - begin)
    assert batch[0].ids == first.ids, "a batch gives another list than one by one"
    return {"cold": cold, "warm": each, "batch": rate}


def numbers(report: dict) -> dict:
    each = report["warm"]
    return {"p50": 1000 * each[len(each) // 2], "p99": 1000 * each[int(len(each) * 0.99)]}


def side(name: str, task: str) -> None:
    """What one side does, in a process of its own."""
    from benchmarks.peers.clock import result

    asked = json.loads(task)
    match name:
        case "make":
            make(Path(asked["folder"]), asked["items"])
            result({}, "lmrs")
        case "check":
            result(check(asked), "lmrs")
        case "quick":
            result(serve_quick(asked), "lmrs", "numpy")
        case _:
            result(serve(asked), "lmrs", "torch", "numpy")


def main() -> int:
    if sys.argv[1:2] == ["--side"]:
        side(*sys.argv[2:])
        return 0
    import argparse

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[12_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    for items in given.items:
        measure(items, given.rounds)
    return 0


def measure(items: int, rounds: int) -> None:
    import tempfile

    from benchmarks import beside, peers

    with tempfile.TemporaryDirectory() as work:
        sides = {}
        for name in ("lmrs", "rectools", "implicit"):
            if name == "rectools" and items > 100_000:
                continue
            asked = {"items": items, "folder": f"{work}/{name}", "max_len": 50, "warm": 300, "steps": 1}
            words = json.dumps({**asked, "task": "serve"})
            if name == "lmrs":
                made = beside.call(own("make", asked))
                made = made if "failed" in made else beside.call(own("check", asked))
                sides |= {"lmrs": own("serve", asked), "lmrs quick": own("quick", asked)}
            else:
                made = beside.call(peers.side(name, json.dumps({**asked, "task": "save", "warm": 0})))
                sides[name] = peers.side(name, words)
            if "failed" in made:
                print(f"  {name}: {made['failed']}")

        def keep(reports: beside.Reports) -> None:
            parts = {}
            batches = {name: each for name, each in reports.items() if name != "lmrs quick"}
            for name, value, ours, among in (
                ("cold seconds", lambda report: report["cold"], "lmrs quick", reports),
                ("warm p50 ms", lambda report: numbers(report)["p50"], "lmrs", reports),
                ("warm p99 ms", lambda report: numbers(report)["p99"], "lmrs", reports),
                ("batch answers a second", lambda report: report["batch"], "lmrs", batches),
            ):
                parts[f"{name}: how many times better {ours} is"] = beside.summary(
                    among, value, ours=ours, higher=name.startswith("batch")
                )
            rounds = max(len(each) for each in reports.values())
            what = "recommending for one history"
            beside.write(f"serving-{items}", {"what": what, "data": {"items": items}, "rounds": rounds, "parts": parts})

        beside.in_turn(sides, rounds=rounds, after=keep)


def own(name: str, asked: dict) -> list[str]:
    from benchmarks import beside

    return beside.own("benchmarks.serving", "--side", name, json.dumps(asked))


if __name__ == "__main__":
    sys.exit(main())
