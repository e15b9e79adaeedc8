"""Exact cross-entropy over a large catalogue: lmrs.losses.FullSoftmax beside `cross_entropy(h @ E.T)`, forward and backward.

    python -m benchmarks.loss [--sizes 12000x1600 50000x1600 200000x512 1000000x256] [--dim 64] [--rounds 5]

A size is items x rows: the plain form holds three matrices of that size. Each side runs in a fresh process, in turn, which
reports the processor seconds of a repetition and the memory it took beyond its inputs. Equality first: loss and gradients
against fp64, relative to the largest gradient, on the first 128 rows (16 of a million items). One thread, fp32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

from benchmarks import beside


def side(kind: str, *, items: int, rows: int, dim: int) -> dict[str, float]:
    import torch
    import torch.nn.functional as F

    from benchmarks.peers.clock import peak_mib
    from lmrs.kernels import fastest
    from lmrs.losses import FullSoftmax, Output
    from lmrs.native import by_kernel

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    chosen = fastest() if kind == "lmrs" else (None, ())
    rng = torch.Generator().manual_seed(0)
    states = torch.randn(rows, dim, generator=rng, requires_grad=True)
    table = (torch.randn(items, dim, generator=rng) * 0.1).requires_grad_()
    target = torch.randint(items, (rows,), generator=rng)

    def run(count: int) -> torch.Tensor:
        states.grad = table.grad = None
        if kind == "plain":
            loss = F.cross_entropy(states[:count] @ table.T, target[:count], reduction="sum")
        else:
            with by_kernel(*chosen):
                loss = FullSoftmax().charge(states[:count], Output(table, None), target[:count])
        loss.backward()
        return loss.detach()

    before = peak_mib()
    run(rows)
    seconds = []
    for _ in range(2):
        begin = time.process_time()
        run(rows)
        seconds.append(time.process_time() - begin)
    extra = peak_mib() - before
    error = 0.0
    few = 128 if items <= 200_000 else 16
    loss = run(few)
    assert states.grad is not None
    assert table.grad is not None
    a, b = states.detach()[:few].double().requires_grad_(), table.detach().double().requires_grad_()
    exact = F.cross_entropy(a @ b.T, target[:few], reduction="sum")
    exact.backward()
    for x, y in ((states.grad[:few], a.grad), (table.grad, b.grad), (loss, exact.detach())):
        assert y is not None
        error = max(error, float((x.double() - y).abs().max() / y.abs().max()))
    return {"cpu_seconds": statistics.median(seconds), "extra_mib": extra, "error": error}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["12000x1600", "50000x1600", "200000x512", "1000000x256"])
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        from benchmarks.peers.clock import result

        result(side(given.side[0], **json.loads(given.side[1])), "lmrs", "torch")
        return
    for size in given.sizes:
        items, rows = map(int, size.split("x"))
        words = json.dumps({"items": items, "rows": rows, "dim": given.dim})
        sides = {kind: beside.own("benchmarks.loss", "--side", kind, words) for kind in ("lmrs", "lmrs torch", "plain")}

        def keep(reports: beside.Reports, items: int = items, rows: int = rows) -> None:
            parts = {
                "processor seconds": beside.summary(reports, lambda report: report["cpu_seconds"], higher=False),
                "memory beyond inputs, MiB": beside.summary(reports, lambda report: report["extra_mib"], higher=False),
            }
            errors = {name: found[0].get("error") for name, found in reports.items()}
            data = {"items": items, "rows": rows, "relative_error_to_fp64": errors}
            what = "exact cross-entropy, forward and backward"
            done = max(len(each) for each in reports.values())
            beside.write(f"loss-{items}", {"what": what, "data": data, "rounds": done, "parts": parts})

        beside.in_turn(sides, rounds=given.rounds, after=keep)


if __name__ == "__main__":
    main()
