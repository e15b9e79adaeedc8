"""Validation as a share of training: what `lmrs fit` takes to rank the catalogue for all users after an epoch, over that epoch.

    python -m benchmarks.validating --data-root FOLDER [--sets ml-1m] [--rounds 3]

SASRec of hidden 64, 2 layers, 2 heads, full softmax, defaults of `lmrs fit` on one thread: two epochs with a validation after
each, of which the second of both counts (the first fills memory and probes the machine). Processor seconds. "lmrs" trains and
ranks by the kernels in C, "lmrs torch" does without. A faster epoch makes the share larger: seconds of both are in the file. That
the lists are those of a dense mask and `topk` is checked by benchmarks/ranking.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks import beside, histories

SIDES = {"lmrs": "auto", "lmrs torch": "torch"}


def lmrs(asked: dict) -> dict:
    import importlib
    import time

    import torch

    from benchmarks.peers.clock import peak_mib
    from lmrs.hardware import keep_memory
    from lmrs.systems.sasrec import sasrec

    module = importlib.import_module("lmrs.fit")  # the package has a function of that name
    torch.set_num_threads(1)
    keep_memory()  # as the command line does
    split = histories.split(Path(asked["data"]))
    marks: list[tuple[str, float]] = []
    ends, validates = module._Run._end_epoch, module._Run._validate

    def timed_end(self, *given):
        marks.append(("epoch ends", time.process_time()))
        answer = ends(self, *given)
        marks.append(("epoch begins", time.process_time()))
        return answer

    def timed_validation(self, *given):
        begin = time.process_time()
        answer = validates(self, *given)
        marks.append(("validation", time.process_time() - begin))
        return answer

    module._Run._end_epoch, module._Run._validate = timed_end, timed_validation
    system = sasrec(max_len=asked["max_len"], epochs=2, every=1, patience=None)
    module.fit(system, split, execution=module.Execution(device="cpu", kernels=asked["softmax"]))
    found = {name: [value for kind, value in marks if kind == name] for name, _ in marks}
    epoch, validation = found["epoch ends"][1] - found["epoch begins"][0], found["validation"][1]
    rest = {
        "share": 100 * validation / epoch,
        "epoch_seconds": epoch,
        "validation_seconds": validation,
        "users": len(split.valid),
    }
    return rest | {"peak_mib": peak_mib()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--sets", nargs="+", default=["ml-1m"], choices=list(histories.LENGTH))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", nargs=2, metavar=("NAME", "TASK"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        from benchmarks.peers.clock import result

        result(lmrs(json.loads(given.side[1])), "lmrs", "torch", "numpy")
        return 0
    for name in given.sets:
        if given.data_root is None and name not in histories.MADE:
            print(f"validating: {name} needs --data-root: not measured", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as folder:
            data = histories.file(given.data_root, name, Path(folder))
            commands = {
                side: beside.own(
                    "benchmarks.validating",
                    *("--side", "lmrs", json.dumps({"data": str(data), "max_len": histories.LENGTH[name], "softmax": softmax})),
                )
                for side, softmax in SIDES.items()
            }

            def keep(reports: beside.Reports, name: str = name) -> None:
                good = [report for report in reports["lmrs"] if "failed" not in report]
                facts = {"length": histories.LENGTH[name]}
                facts |= (
                    {key: round(good[-1][key], 2) for key in ("users", "epoch_seconds", "validation_seconds")} if good else {}
                )
                what = "validation of all users, % of an epoch's processor time; seconds are those of lmrs in the last round"
                rounds = max(len(each) for each in reports.values())
                sides = beside.summary(reports, lambda report: report["share"], higher=False)
                beside.write(f"validating-{name}", {"what": what, "data": facts, "rounds": rounds, "sides": sides})

            beside.in_turn(commands, rounds=given.rounds, after=keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
