"""Two processes under torchrun, one thread each, beside one process with two threads and one with one: targets a wall second.

    python -m benchmarks.processes [--rounds 3] [--items 12000]

SASRec with full softmax on drawn histories (log-normal lengths around 8, the longest 200), 128 rows an update over all processes.
Equality first: tests/test_torchrun.py holds the weights of two processes to those of one. Wall seconds, because the question is
what a second processor buys: this figure needs a machine with two free ones.
"""

from __future__ import annotations

import argparse
import json
import sys

from benchmarks import beside

SIDES = {"two processes": (2, 1), "one process, two threads": (1, 2), "one process, one thread": (1, 1)}


def side(asked: dict) -> dict:
    import os
    from contextlib import suppress
    from dataclasses import dataclass, replace

    import torch

    from benchmarks.peers.clock import Laps
    from benchmarks.training import made
    from lmrs.fit import Execution, fit
    from lmrs.hardware import keep_memory
    from lmrs.objectives import NextItem
    from lmrs.progress import Reporter
    from lmrs.split import leave_one_out
    from lmrs.systems.sasrec import sasrec

    torch.set_num_threads(asked["threads"])
    keep_memory()
    laps, counted = Laps(4), []

    class Enough(Exception):
        pass

    @dataclass(frozen=True)
    class Counting(NextItem):
        def counts(self, prepared):
            counted.append(super().counts(prepared)["next"])
            if len(counted) > 1:
                laps.mark(counted[-2])
            if len(laps.laps) == asked["steps"] + 4:
                raise Enough
            return {"next": counted[-1]}

    system = sasrec(max_len=200, epochs=1000, every=1000, patience=None)
    system = replace(system, stages=(replace(system.stages[0], objective=Counting()),))
    split = leave_one_out(made(20_000, asked["items"], 8, 200, spread=1.0))
    with suppress(Enough):
        fit(system, split, execution=Execution(device="cpu", compile="off"), reporter=Reporter(quiet=True))
    found = laps.found()
    if int(os.environ.get("RANK", "0")):
        sys.exit(0)
    return found | {"wall_rate": found["targets"] / found["wall_seconds"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--items", type=int, default=12_000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        from benchmarks.peers.clock import result

        result(side(json.loads(given.side)), "lmrs", "torch", "numpy")
        return
    commands = {}
    for name, (processes, threads) in SIDES.items():
        asked = json.dumps({"threads": threads, "items": given.items, "steps": given.steps})
        command = beside.own("benchmarks.processes", "--side", asked)
        if processes > 1:
            start = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
            command = [*beside.own(start[0], *start[1:]), *command[2:]]
        commands[name] = command

    def keep(reports: beside.Reports) -> None:
        found = beside.summary(reports, lambda report: report["wall_rate"], ours="two processes")
        what = "targets a wall second of two processes under torchrun; ratios are those of two processes to the others"
        done = max(len(each) for each in reports.values())
        beside.write("processes", {"what": what, "data": {"items": given.items, "length": 200}, "rounds": done, "sides": found})

    beside.in_turn(commands, rounds=given.rounds, after=keep)


if __name__ == "__main__":
    main()
