"""Sampled softmax alone: lmrs.losses.SampledSoftmax beside RecTools' own code on the same states, forward and backward.

    python -m benchmarks.sampled --data-root FOLDER [--rounds 3]

128 rows of amazon-beauty, length 50, width 64, 256 negatives; gradients for states and item table. RecTools scores 256 negatives
of each of the 6,400 places, drawn by its own sampler; lmrs scores 256 that all places share, at real targets alone. So that the
two can be told apart, the same again with a target at every place. "plain" is what lmrs charges, written with torch's own
functions. Drawing negatives is left out on all sides. One thread, fp32.

Equality first: with the same negatives for all places, none of them a target (lmrs leaves those out, RecTools does not), and no
log-Q, RecTools' code gives the loss of lmrs within 1e-5; so does its formula in plain torch, with gradients within 1e-5 of the
largest, on the first 512 targets.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import beside, histories, peers

ROWS, WIDTH, NEGATIVES = 128, 64, 256
SET, FEW = "amazon-beauty", 512
SHAPES = {"real histories": "real", "a target at every place": "full"}
STEPS = {"lmrs": 60, "plain": 60, "rectools": 3}


def make(source: Path, out: Path, *, full: bool) -> dict[str, int]:
    """States [B, T, D], table [V, D], target [B, T] (-1: padded, at the left) and negatives as a file; how many of what.

    full: all places have a target, drawn uniformly, instead of those of real histories.
    """
    import numpy as np

    data, rng, length = np.load(source), np.random.default_rng(0), histories.LENGTH[SET]
    items, start, stop = data["items"], data["offsets"][:-1], data["offsets"][1:] - 2
    count = int(data["n_items"])
    target = np.full((ROWS, length), -1)
    for row, user in enumerate(rng.choice(len(start), ROWS, replace=False)):
        own = items[max(start[user] + 1, stop[user] - length) : stop[user]]
        target[row, length - len(own) :] = own
    if full:
        target = rng.integers(0, count, target.shape)
    np.savez(
        out,
        states=rng.standard_normal((ROWS, length, WIDTH), np.float32),
        table=0.1 * rng.standard_normal((count, WIDTH), np.float32),
        target=target,
        negatives=rng.integers(0, count, NEGATIVES),
        no_targets=rng.choice(np.setdiff1d(np.arange(count), target), NEGATIVES),
    )
    return {"places": target.size, "targets": int((target >= 0).sum()), "items": count}


def side(kind: str, asked: dict) -> dict[str, float]:
    import numpy as np
    import torch
    import torch.nn.functional as F

    from lmrs.losses import Output, SampledSoftmax
    from lmrs.negatives import Drawn

    data = np.load(asked["data"])
    real = data["target"] >= 0
    states, table = (torch.from_numpy(each).requires_grad_() for each in (data["states"][real], data["table"]))
    target, drawn, others = (torch.from_numpy(each) for each in (data["target"][real], data["negatives"], data["no_targets"]))

    def plainly(few: int, negatives: torch.Tensor, log_expected: float) -> torch.Tensor:
        positive = (states[:few] * table[target[:few]]).sum(1, keepdim=True)
        negative = F.linear(states[:few], table[negatives]) - log_expected
        negative = negative.masked_fill(negatives == target[:few, None], -torch.inf)
        return F.cross_entropy(torch.cat([positive, negative], 1), torch.zeros(len(positive), dtype=torch.int64), reduction="sum")

    def gradients(cost: torch.Tensor) -> list[torch.Tensor]:
        states.grad = table.grad = None
        cost.backward()
        return [each.grad for each in (states, table) if each.grad is not None]

    def charge(few: int, negatives: torch.Tensor, *, logq: bool) -> torch.Tensor:
        given = Drawn(negatives, None, len(negatives), len(table))
        return SampledSoftmax(logq=logq).charge(states[:few], Output(table, None), target[:few], given)

    everything = len(target)
    log_expected = float(np.log(len(drawn) / len(table)))
    run = {"lmrs": lambda: charge(everything, drawn, logq=True), "plain": lambda: plainly(everything, drawn, log_expected)}[kind]
    seconds = []
    for _ in range(STEPS[kind] + 5):
        begin = time.process_time()
        gradients(run())
        seconds.append(time.process_time() - begin)
    # RecTools' formula: a softmax over the target and the negatives of a place, each gathered for itself.
    few = min(FEW, everything)
    rows = table[torch.cat([target[:few, None], others.expand(few, -1)], 1)]
    theirs = F.cross_entropy(torch.einsum("mke,me->mk", rows, states[:few]), torch.zeros(few, dtype=torch.int64), reduction="sum")
    ours = charge(few, others, logq=False)
    assert abs(float(ours.detach() / theirs.detach()) - 1) < 1e-5, (ours, theirs)
    for mine, wanted in zip(gradients(ours), gradients(theirs), strict=True):
        assert float((mine - wanted).abs().max() / wanted.abs().max()) < 1e-5
    loss = float(charge(everything, others, logq=False).detach()) / everything
    return {"cpu_seconds": statistics.median(seconds[5:]), "loss": loss}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", nargs=2, metavar=("NAME", "TASK"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        import torch

        from benchmarks.peers.clock import result
        from lmrs.hardware import keep_memory

        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        keep_memory()  # as the command line does
        result(side(given.side[0], json.loads(given.side[1])), "lmrs", "torch", "numpy")
        return 0
    if given.data_root is None:
        print(f"sampled: needs --data-root with {SET}: not measured", file=sys.stderr)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        source = histories.file(given.data_root, SET, Path(folder))
        sides, facts = {}, {}
        for shape, short in SHAPES.items():
            data = Path(folder) / f"{short}.npz"
            facts[shape] = make(source, data, full=short == "full")
            for name, steps in STEPS.items():
                asked = json.dumps({"task": "loss", "data": str(data), "steps": steps})
                own = name != "rectools"
                sides[f"{name} {short}"] = (
                    beside.own("benchmarks.sampled", "--side", name, asked) if own else peers.side(name, asked)
                )

        def keep(reports: beside.Reports) -> None:
            parts, apart = {}, {}
            for shape, short in SHAPES.items():
                found = {name: reports[f"{name} {short}"] for name in STEPS}
                parts[f"{shape}: processor seconds"] = beside.summary(found, lambda report: report["cpu_seconds"], higher=False)
                losses = [[report["loss"] for report in each if "loss" in report] for each in found.values()]
                if all(losses):
                    apart[shape] = max(abs(mine[0] / losses[0][0] - 1) for mine in losses)
                    assert apart[shape] < 1e-5, losses
            what = f"sampled softmax, forward and backward, {NEGATIVES} negatives, width {WIDTH}"
            done = max(len(each) for each in reports.values())
            beside.write(
                "sampled-loss",
                {"what": what, "data": {**facts, "relative_loss_difference": apart}, "rounds": done, "parts": parts},
            )

        beside.in_turn(sides, rounds=given.rounds, after=keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
