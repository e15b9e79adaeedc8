"""What torch.compile gives a fit: SASRec's updates with its blocks compiled beside the plain ones, and what starting takes.

    python -m benchmarks.compiled --data-root FOLDER [--sets ml-100k amazon-beauty] [--rounds 2]

The setting of benchmarks/rate.py. `lmrs fit --compile on` beside `--compile off`, with an empty cache of compiled code, as on the
first run on a machine. The first eight updates are the start and are not in the rate; what is compiled later, for shapes that had
not come before, is.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks import beside, histories

WARM = 8


def side(asked: dict, cache: str) -> dict:
    import os
    from contextlib import suppress
    from dataclasses import dataclass, replace

    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache

    import torch

    from benchmarks.peers.clock import Laps
    from lmrs.fit import Execution, fit
    from lmrs.hardware import keep_memory
    from lmrs.objectives import NextItem
    from lmrs.progress import Reporter
    from lmrs.systems.sasrec import sasrec

    torch.set_num_threads(1)
    keep_memory()
    laps, counted = Laps(WARM), []

    class Enough(Exception):
        pass

    @dataclass(frozen=True)
    class Counting(NextItem):
        def counts(self, prepared):
            counted.append(super().counts(prepared)["next"])
            if len(counted) == 1:
                laps.mark()
            return {"next": counted[-1]}

    class Watch(Reporter):
        def step(self, note="", *, by=1):
            laps.mark(counted[-1])
            if len(laps.laps) == asked["steps"] + WARM:
                raise Enough

    system = sasrec(max_len=asked["max_len"], epochs=1000, every=1000, patience=None)
    system = replace(system, stages=(replace(system.stages[0], objective=Counting()),))
    execution = Execution(device="cpu", compile="on" if asked["compiled"] else "off")
    with suppress(Enough):
        fit(system, histories.split(Path(asked["data"])), execution=execution, reporter=Watch(quiet=True))
    return laps.found() | {"start": sum(wall for _, wall, _ in laps.laps[:WARM])}


def measure(name: str, root: Path | None, rounds: int, steps: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asked = {"data": str(histories.file(root, name, Path(folder))), "max_len": histories.LENGTH[name], "steps": steps}
        commands = {
            kind: beside.own("benchmarks.compiled", "--side", json.dumps(asked | {"compiled": kind == "compiled blocks"}))
            for kind in ("lmrs", "compiled blocks")
        }

        def keep(reports: beside.Reports) -> None:
            parts = {
                "targets a processor second": beside.summary(reports, lambda report: report["rate"]),
                f"wall seconds of the first {WARM} updates": beside.summary(
                    reports, lambda report: report["start"], higher=False
                ),
            }
            what = "torch.compile on the blocks of SASRec, beside lmrs without it"
            facts = {"length": asked["max_len"], "updates": steps}
            done = max(len(each) for each in reports.values())
            beside.write(f"compiled-{name}", {"what": what, "data": facts, "rounds": done, "parts": parts})

        beside.in_turn(commands, rounds=rounds, after=keep)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--sets", nargs="+", default=["ml-100k", "amazon-beauty"], choices=list(histories.LENGTH))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        from benchmarks.peers.clock import result

        with tempfile.TemporaryDirectory() as cache:
            found = side(json.loads(given.side), cache)
        result(found, "lmrs", "torch", "numpy")
        return
    for name in given.sets:
        measure(name, given.data_root, given.rounds, given.steps)


if __name__ == "__main__":
    sys.exit(main())
