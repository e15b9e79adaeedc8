"""What checkpoints cost: the share of time that a save every 200 updates takes.

    python -m benchmarks.checkpoint [--steps 600] [--rounds 3]

A SASRec (hidden 64, 2 layers, 12,000 items) is trained on made histories; the seconds inside the saves are counted apart from
the rest, so that a busy machine hurts both alike. Waiting for the disk counts in the wall seconds. One thread.
"""

from __future__ import annotations

import argparse
import json

from benchmarks import beside


def once(steps: int) -> dict[str, float]:
    import importlib
    import tempfile
    import time
    from pathlib import Path

    import torch

    from benchmarks.training import made
    from lmrs.split import leave_one_out
    from lmrs.systems.sasrec import sasrec

    module = importlib.import_module("lmrs.fit")
    torch.set_num_threads(1)
    split = leave_one_out(made(12_800, 12_000, 6, 50))
    spent = {"wall": 0.0, "cpu": 0.0, "saves": 0.0}
    plain = module._Run._save

    def timed(self, *given):
        begin = time.perf_counter(), time.process_time()
        plain(self, *given)
        spent["wall"] += time.perf_counter() - begin[0]
        spent["cpu"] += time.process_time() - begin[1]
        spent["saves"] += 1

    module._Run._save = timed
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter(), time.process_time()
        system = sasrec(epochs=max(1, steps // 100), patience=None, every=10_000)
        fitted = module.fit(system, split, out=Path(folder) / "run", execution=module.Execution("cpu", checkpoint_every=200))
        wall, cpu = time.perf_counter() - begin[0], time.process_time() - begin[1]
    return {
        "wall_share": spent["wall"] / (wall - spent["wall"]),
        "cpu_share": spent["cpu"] / (cpu - spent["cpu"]),
        "saves": spent["saves"],
        "updates": fitted.steps,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        from benchmarks.peers.clock import result

        result(once(given.steps), "lmrs", "torch")
        return

    def keep(reports: beside.Reports) -> None:
        good = [report for report in reports["lmrs"] if "failed" not in report]
        if not good:
            return
        data = {"updates": good[0]["updates"], "saves": good[0]["saves"]}
        parts = {
            "wall seconds of saves : of the rest": beside.summary(reports, lambda report: report["wall_share"]),
            "processor seconds of saves : of the rest": beside.summary(reports, lambda report: report["cpu_share"]),
        }
        what = "a checkpoint every 200 updates (and the last one)"
        beside.write("checkpoint", {"what": what, "data": data, "rounds": len(good), "parts": parts})
        print(json.dumps(parts))

    side = {"lmrs": beside.own("benchmarks.checkpoint", "--side", "once", "--steps", given.steps)}
    beside.in_turn(side, rounds=given.rounds, after=keep)


if __name__ == "__main__":
    main()
