"""Time to quality: processor seconds of training until lmrs has the validation NDCG@10 that a peer ends with.

    python -m benchmarks.quality --data-root FOLDER [--sets ml-100k] [--systems sasrec bert4rec sampled] [--rounds 1]

Both sides: hidden 64, 2 layers, 2 heads, dropout 0.2, Adam 1e-3, one thread, histories up to the last two events; the event after
them is asked, the ten best unseen items of the whole catalogue. "sampled" is SASRec with 256 negatives, shared by a batch and
log-Q corrected in lmrs, drawn for each position in RecTools. A peer trains as it does by itself for so many epochs; its final
quality is the best of its last three validations. lmrs learns with its own settings (studies/quality.py: windows of whole
histories, 32 rows an update) until it has that; training alone counts, validation is left out on every side. Ratio: the peer's
seconds to its final quality over those of lmrs to the same. A side that never gets there is told so.
"""

from __future__ import annotations

import argparse
import json
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
LIMIT = 3600.0  # seconds of one side: RecBole trains one target a row and takes long
OURS = ("lmrs", "lmrs once")  # the second reads overlapping windows
EPOCHS = {  # (epochs, validations every so many of them) by system and side
    "sasrec": {
        "lmrs": (40, 1),
        "lmrs once": (16, 1),
        "rectools": (60, 4),
        "replay": (60, 4),
        "rectools 32": (40, 4),
        "replay 32": (40, 4),
        "recbole": (8, 1),
    },
    "bert4rec": {"lmrs": (160, 4), "rectools": (160, 8), "replay": (160, 8), "recbole": (40, 4)},
    "sampled": {"lmrs": (80, 1), "rectools": (60, 4)},
}


def lmrs(asked: dict) -> dict:
    import importlib
    import time

    import torch

    from lmrs.hardware import keep_memory
    from lmrs.systems.bert4rec import bert4rec
    from lmrs.systems.sasrec import sasrec

    module = importlib.import_module("lmrs.fit")
    torch.set_num_threads(1)
    keep_memory()
    split = histories.split(Path(asked["data"]))
    window = {"max_len": asked["max_len"], "stride": asked["max_len"], "jitter": True}
    if asked["once"]:
        window |= {"stride": asked["max_len"] // 5, "once": True}
    rest = {"epochs": asked["epochs"], "every": asked["every"], "patience": None, "dropout": 0.2}
    if asked["system"] == "bert4rec":
        system = bert4rec(**window, **rest, dim=64, layers=2, heads=2, batch_size=asked["batch"])
    else:
        system = sasrec(
            **window, **rest, batch_size=asked["batch"], loss="sampled" if asked["system"] == "sampled" else "softmax"
        )
    curve: list[list[float]] = []
    plain, state = module._Run._end_epoch, {"begun": None, "out": 0.0}
    train = module._Run._train

    def begins(self, *given):
        state["begun"] = time.process_time()
        return train(self, *given)

    def ends(self, *given):
        now = time.process_time()
        answer = plain(self, *given)
        if valid := self.journal.log[-1].get("valid"):
            curve.append([now - state["begun"] - state["out"], valid["NDCG@10"]])
        state["out"] += time.process_time() - now
        return answer

    module._Run._train, module._Run._end_epoch = begins, ends
    module.fit(system, split, execution=module.Execution(device="cpu"))
    return {"curve": curve}


def final(curve: list[list[float]]) -> tuple[float, float]:
    """(quality, seconds): the best of the last three validations, and when a side first had it."""
    quality = max(value for _, value in curve[-3:])
    return quality, reached(curve, quality) or curve[-1][0]


def reached(curve: list[list[float]], quality: float) -> float | None:
    """Seconds until a curve first has a quality, or None."""
    return next((seconds for seconds, value in curve if value >= quality), None)


def rows(reports: beside.Reports) -> dict[str, Any]:
    """For each peer: its final quality, its seconds and those of lmrs to it, by the quicker of its ways, and the ratio, of the
    rounds in which all ran."""
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
        times = [
            {side: reached(one["curve"], quality) for side, one in zip(ours, mine, strict=True)}
            for (_, *mine), (quality, _) in zip(good, ends, strict=True)
        ]
        there = [{side: seconds for side, seconds in each.items() if seconds} for each in times]
        found[name] = {
            "quality": beside.middle(quality for quality, _ in ends),
            "peer_seconds": beside.middle(seconds for _, seconds in ends),
            "lmrs_best": beside.middle(max(value for one in mine for _, value in one["curve"]) for _, *mine in good),
            "versions": good[0][0]["versions"],
        }
        if all(there):
            best = [min(each.values()) for each in there]
            found[name]["lmrs_seconds"] = beside.middle(best)
            found[name]["lmrs_side"] = ", ".join(dict.fromkeys(min(each, key=lambda side: each[side]) for each in there))
            found[name]["ratio"] = beside.middle(theirs / own for (_, theirs), own in zip(ends, best, strict=True))
    return found


def command(side: str, name: str, system: str, data: Path) -> list[str]:
    epochs, every = EPOCHS[system][side]
    asked = {"task": "learn", "data": str(data), "max_len": histories.LENGTH[name], "system": system, "epochs": epochs}
    asked |= {"every": every, "batch": 32 if side in ("lmrs", *BY_32) else 128, "loss": "softmax"}
    asked["once"] = side == "lmrs once"
    if side in OURS:
        asked["batch"] = 16 if asked["once"] else 32
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
                    curves = {side: each[0].get("curve") for side, each in reports.items() if each}
                    beside.write(
                        f"quality-{system}-{name}",
                        {"what": what, "data": {"set": name}, "rounds": done, "reached": rows(reports), "curves": curves},
                    )

                sides = [
                    *(side for side in OURS if side in EPOCHS[system]),
                    *(side for side in PEERS[system] if not given.peers or side in given.peers),
                ]
                commands = {side: command(side, name, system, data) for side in sides}
                beside.in_turn(commands, rounds=given.rounds, limit=LIMIT, after=keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
