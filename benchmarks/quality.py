"""Time to quality: processor seconds of training until lmrs has the validation NDCG@10 that a peer ends with.

    python -m benchmarks.quality --data-root FOLDER [--sets ml-100k] [--systems sasrec bert4rec sampled] [--peers recbole]

Both sides: hidden 64, 2 layers, 2 heads, dropout 0.2, Adam 1e-3, one thread, histories up to the last two events; the event after
them is asked, the ten best unseen items of the whole catalogue. "sampled" is SASRec with 256 negatives, shared by a batch and
log-Q corrected in lmrs, drawn for each position in RecTools. A peer trains as it does by itself for so many epochs; its final
quality is the best of its last three validations. lmrs learns with its own settings (studies/quality.py: windows of whole
histories, 32 rows an update) until it has that; training alone counts, validation is left out on every side. "lmrs averaged"
is judged by a moving average of the weights (Budget.average) and learns at a higher rate; SASRec drops out attention weights as
well, as RecBole is told to here, and takes 16 rows an update, BERT4Rec hides .3 of a history. That was chosen by validation with
other seeds than those measured here, of which there are five and three: the median counts, and a seed that never gets there
counts as infinitely long. Ratio: the peer's seconds to
its final quality over those of lmrs to the same, by the side of lmrs with the smaller median. Sides that never get there are told
so. With --peers the result has their names in its own.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import beside, histories, peers

PEERS = {
    "sasrec": ("rectools", "replay", "rectools 32", "replay 32", "recbole"),
    "bert4rec": ("rectools", "replay", "recbole"),
    "sampled": ("rectools",),
}
BY_32 = ("rectools 32", "replay 32")  # 32 rows an update, which serves lmrs best here; by themselves peers take 128
LIMIT = 7200.0  # seconds of one side: RecBole trains one target a row and takes long
OURS = ("lmrs", "lmrs averaged")
# What "lmrs averaged" is, and its seeds, by system.
AVERAGED: dict[str, dict[str, Any]] = {
    "sasrec": {"batch_size": 16, "lr": 2e-3, "attention_dropout": 0.2, "average": 0.995},
    "bert4rec": {"batch_size": 32, "lr": 3e-3, "hide": 0.3, "average": 0.995},
}
SEEDS = {"sasrec": (10, 11, 12, 13, 14), "bert4rec": (10, 11, 12)}
EPOCHS = {  # (epochs, validations every so many of them) by system and side
    "sasrec": {
        "lmrs": (40, 1),
        "lmrs averaged": (30, 1),
        "rectools": (60, 4),
        "replay": (60, 4),
        "rectools 32": (40, 4),
        "replay 32": (40, 4),
        "recbole": (8, 1),
    },
    "bert4rec": {"lmrs": (160, 4), "lmrs averaged": (160, 4), "rectools": (160, 8), "replay": (160, 8), "recbole": (24, 1)},
    "sampled": {"lmrs": (80, 1), "rectools": (60, 4)},
}


def lmrs(asked: dict) -> dict:
    import torch

    from lmrs.hardware import keep_memory
    from lmrs.systems.bert4rec import bert4rec
    from lmrs.systems.sasrec import sasrec

    torch.set_num_threads(1)
    keep_memory()
    split = histories.split(Path(asked["data"]))
    options = {"max_len": asked["max_len"], "stride": asked["max_len"], "jitter": True, "batch_size": asked["batch"]}
    options |= {"epochs": asked["epochs"], "every": asked["every"], "patience": None, "dropout": 0.2}
    if asked["averaged"]:
        options |= AVERAGED[asked["system"]]
    if asked["system"] == "bert4rec":
        system = bert4rec(**options, dim=64, layers=2, heads=2)
    else:
        system = sasrec(**options, loss="sampled" if asked["system"] == "sampled" else "softmax")
    return {"curves": [learned(system, split, seed) for seed in asked["seeds"]], "seeds": asked["seeds"]}


def learned(system: Any, split: Any, seed: int) -> list[list[float]]:
    """[processor seconds of training, validation NDCG@10] after every validation of one fit."""
    import importlib
    import time

    module = importlib.import_module("lmrs.fit")
    curve: list[list[float]] = []
    train, plain = module._Run._train, module._Run._end_epoch
    begun = out = 0.0

    def begins(self, *given):
        nonlocal begun
        begun = time.process_time()
        return train(self, *given)

    def ends(self, *given):
        nonlocal out
        now = time.process_time()
        answer = plain(self, *given)
        if valid := self.journal.log[-1].get("valid"):
            curve.append([now - begun - out, valid["NDCG@10"]])
        out += time.process_time() - now
        return answer

    module._Run._train, module._Run._end_epoch = begins, ends
    try:
        module.fit(system, split, seed=seed, execution=module.Execution(device="cpu"))
    finally:
        module._Run._train, module._Run._end_epoch = train, plain
    return curve


def final(curve: list[list[float]]) -> tuple[float, float]:
    """(quality, seconds): the best of the last three validations, and when a side first had it."""
    quality = max(value for _, value in curve[-3:])
    return quality, reached(curve, quality) or curve[-1][0]


def reached(curve: list[list[float]], quality: float) -> float | None:
    """Seconds until a curve first has a quality, or None."""
    return next((seconds for seconds, value in curve if value >= quality), None)


def rows(reports: beside.Reports) -> dict[str, Any]:
    """For each peer: its final quality, its seconds and those of lmrs to it (None: never), by that of its ways with the smaller
    median over rounds and seeds, and the ratio (0: never), of the rounds in which all ran."""
    found: dict[str, Any] = {}
    ours = [side for side in OURS if side in reports]
    for name, each in reports.items():
        if name in OURS:
            continue
        together = zip(each, *(reports[side] for side in ours), strict=False)
        good = [group for group in together if not any("failed" in one for one in group)]
        if not good:
            found[name] = {"missing": each[-1]["failed"] if each else "not run"}
            continue
        ends = [final(theirs["curve"]) for theirs, *_ in good]
        ways = {  # of each side: (the peer's seconds, its own, its best) by round and seed
            side: [
                (theirs, reached(curve, quality) or math.inf, max(value for _, value in curve))
                for (quality, theirs), (_, *mine) in zip(ends, good, strict=True)
                for curve in mine[at]["curves"]
            ]
            for at, side in enumerate(ours)
        }
        middles = {side: statistics.median(own for _, own, _ in each) for side, each in ways.items()}
        side = min(ours, key=lambda side: middles[side])
        found[name] = {
            "quality": beside.middle(quality for quality, _ in ends),
            "peer_seconds": beside.middle(seconds for _, seconds in ends),
            "lmrs_best": beside.middle(best for _, _, best in ways[side]),
            "versions": good[0][0]["versions"],
        }
        if middles[side] < math.inf:
            times = [own for _, own, _ in ways[side]]
            found[name]["lmrs_seconds"] = [value if value < math.inf else None for value in beside.middle(times)]
            found[name]["lmrs_side"] = side
            found[name]["reached_by"] = [sum(own < math.inf for own in times), len(times)]
            found[name]["ratio"] = beside.middle(theirs / own for theirs, own, _ in ways[side])
    return found


def kept(reports: beside.Reports) -> dict[str, list[list[float]] | None]:
    """The curves of the first round, by side, and by seed where a side has several."""
    found: dict[str, list[list[float]] | None] = {}
    for side, each in reports.items():
        if each:
            curves = each[0].get("curves", [each[0].get("curve")])
            names = [side] if len(curves) == 1 else [f"{side}, seed {seed}" for seed in each[0]["seeds"]]
            found |= dict(zip(names, curves, strict=True))
    return found


def processes(reports: beside.Reports) -> dict[str, str]:
    """Of each side what it was asked for, and the seconds of the first round's whole process, validation included."""
    good = {side: each[0] for side, each in reports.items() if each and "failed" not in each[0]}
    return {
        side: f"{each['asked']} ({each['process']['wall']:.0f} wall, {each['process']['processor']:.0f} processor seconds)"
        for side, each in good.items()
    }


def command(side: str, name: str, system: str, data: Path) -> list[str]:
    epochs, every = EPOCHS[system][side]
    asked = {"task": "learn", "data": str(data), "max_len": histories.LENGTH[name], "system": system, "epochs": epochs}
    asked |= {"every": every, "batch": 32 if side in BY_32 else 128, "loss": "softmax"}
    if side in OURS:
        averaged = side == "lmrs averaged"
        asked |= {"batch": 32, "averaged": averaged, "seeds": SEEDS[system] if averaged else (0,)}
        return beside.own("benchmarks.quality", "--side", "lmrs", json.dumps(asked))
    if system == "sampled":
        asked |= {"loss": "sampled_softmax", "negatives": 256}
    return peers.side(side.split()[0], json.dumps(asked))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--sets", nargs="+", default=["ml-100k"], choices=list(histories.LENGTH))
    parser.add_argument("--systems", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--peers", nargs="+", help="those alone")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--side", nargs=2, metavar=("NAME", "TASK"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        from benchmarks.peers.clock import result

        result(lmrs(json.loads(given.side[1])), "lmrs", "torch", "numpy")
        return 0
    if given.data_root is None:
        print("quality: needs --data-root with ml-100k: not measured", file=sys.stderr)
        return 0
    for name in given.sets:
        with tempfile.TemporaryDirectory() as folder:
            data = histories.file(given.data_root, name, Path(folder))
            for system in given.systems:

                def keep(reports: beside.Reports, name: str = name, system: str = system) -> None:
                    what = f"processor seconds of training to the final validation NDCG@10 of a peer, {system}"
                    done = max(len(each) for each in reports.values())
                    alone = [peer.replace(" ", "-") for peer in given.peers or ()]
                    report = {"what": what, "data": {"set": name}, "rounds": done, "reached": rows(reports)}
                    report |= {"processes": processes(reports), "curves": kept(reports)}
                    beside.write("-".join(["quality", system, name, *alone]), report)

                sides = [
                    *(side for side in OURS if side in EPOCHS[system]),
                    *(side for side in PEERS[system] if not given.peers or side in given.peers),
                ]
                commands = {side: command(side, name, system, data) for side in sides}
                beside.in_turn(commands, rounds=given.rounds, limit=LIMIT, after=keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
