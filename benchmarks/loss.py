"""Exact cross-entropy over a large catalogue: lmrs.losses.FullSoftmax beside `cross_entropy(h @ E.T)`, forward and backward.

    python benchmarks/loss.py [--rows 1600] [--dim 64] [--items 12000 50000 200000] [--rounds 3]

Each variant runs in a fresh process, which reports CPU seconds of a repetition and its own peak memory. Equality first: loss and
gradients against fp64, relative to the largest gradient. One thread.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time


def once(kind: str, rows: int, dim: int, items: int, rounds: int) -> dict[str, float]:
    import torch
    import torch.nn.functional as F

    from lmrs.losses import FullSoftmax, Output

    torch.set_num_threads(1)
    torch.manual_seed(0)
    states = torch.randn(rows, dim, requires_grad=True)
    table = (torch.randn(items, dim) * 0.1).requires_grad_()
    target = torch.randint(items, (rows,))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def run() -> torch.Tensor:
        states.grad = table.grad = None
        if kind == "plain":
            loss = F.cross_entropy(states @ table.T, target, reduction="sum")
        else:
            loss = FullSoftmax().charge(states, Output(table, None), target)
        loss.backward()
        return loss.detach()

    run()
    seconds = []
    for _ in range(rounds):
        begin = time.process_time()
        loss = run()
        seconds.append(time.process_time() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    error = 0.0
    if items * rows <= 2e8:  # the fp64 reference would not fit above
        a, b = states.detach().double().requires_grad_(), table.detach().double().requires_grad_()
        exact = F.cross_entropy(a @ b.T, target, reduction="sum")
        exact.backward()
        pairs = ((states.grad, a.grad), (table.grad, b.grad), (loss, exact.detach()))
        error = max(float((x.double() - y).abs().max() / y.abs().max()) for x, y in pairs)
    return {"cpu_seconds": statistics.median(seconds), "extra_memory_mb": peak / 1024, "relative_error_to_fp64": error}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1600)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--items", type=int, nargs="+", default=[12000, 50000, 200000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--once", choices=("plain", "lmrs"), help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.once:
        print(json.dumps(once(a.once, a.rows, a.dim, a.items[0], a.rounds)))
        return
    for items in a.items:
        found = {}
        for kind in ("plain", "lmrs"):
            words = ["--once", kind, "--rows", a.rows, "--dim", a.dim, "--items", items, "--rounds", a.rounds]
            out = subprocess.run([sys.executable, __file__, *map(str, words)], check=True, capture_output=True, text=True)
            found[kind] = json.loads(out.stdout)
        ratio = found["plain"]["cpu_seconds"] / found["lmrs"]["cpu_seconds"]
        print(json.dumps({"items": items, **found, "time_ratio": round(ratio, 2)}), flush=True)


if __name__ == "__main__":
    main()
