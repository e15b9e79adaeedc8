"""What checkpoints cost: the share of wall time that a save every 200 updates takes.

    python benchmarks/checkpoint.py [--steps 600]

Times the updates of a SASRec on made data with and without saves, and one save of its state.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.training import made
from lmrs.fit import Execution, fit
from lmrs.split import leave_one_out
from lmrs.systems.sasrec import sasrec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    a = parser.parse_args()
    torch.set_num_threads(1)
    split = leave_one_out(made(12_800, 12_000, 6, 50))
    system = sasrec(epochs=max(1, a.steps // 100), patience=None, every=10_000)
    seconds = {}
    for every in (200, 10**9):
        with tempfile.TemporaryDirectory() as folder:
            begin = time.perf_counter()
            fitted = fit(system, replace(split), out=Path(folder) / "run", execution=Execution(checkpoint_every=every))
            seconds[every] = time.perf_counter() - begin
    with_saves, without = seconds[200], seconds[10**9]
    print(
        json.dumps(
            {
                "updates": fitted.steps,
                "seconds_with_saves": round(with_saves, 2),
                "seconds_without": round(without, 2),
                "share": round((with_saves - without) / without, 4),
            }
        )
    )


if __name__ == "__main__":
    main()
