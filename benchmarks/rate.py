"""Training rate on real histories: SASRec with full softmax in lmrs, RecTools, RePlay, RecBole and a plain padded loop.

    python -m benchmarks.rate --data-root FOLDER [--sets ml-100k amazon-beauty ml-1m skewed] [--rounds 5]

Hidden 64, 2 layers, 2 heads, dropout 0.2, 128 rows a step, Adam 1e-3, fp32, one thread; length 50 (ml-1m and "skewed": 200; the
latter is drawn, with log-normal lengths around 8). What is counted are real targets a processor second, loading of batches
included: each side trains some steps through its own training loop, and the first ones are left out. Equality first: lmrs and the
padded loop give the same loss and gradients for the same weights (benchmarks/training.py asserts it), and every side but RecBole
reads the same targets (RecBole: one row a prefix, one target a row). "lmrs" takes the softmax's kernel in C, as a fit does where
a compiler is there; "lmrs torch" does without. "lmrs bf16-loss" and "replay bf16" (Lightning's bf16-mixed) round products: a
table of their own has them beside all others. Another one has the sampled softmax with 256 negatives, which lmrs draws once a
batch and corrects by log-Q, RecTools for each place. A table is written if it has two sides or more.
Roofline: operations a target, counted below, at the rate of an fp32 matrix product measured in the same process.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import beside, histories, peers

STEPS = {  # side: (steps timed, steps before) by data set; slow sides take few
    "lmrs": {"ml-100k": (20, 4), "amazon-beauty": (40, 5), "ml-1m": (10, 2), "skewed": (20, 4)},
    "lmrs torch": {"ml-100k": (20, 4), "amazon-beauty": (40, 5), "ml-1m": (10, 2), "skewed": (20, 4)},
    "lmrs bf16-loss": {"ml-100k": (20, 4), "amazon-beauty": (40, 5), "ml-1m": (10, 2), "skewed": (20, 4)},
    "lmrs sampled": {"ml-100k": (20, 4), "amazon-beauty": (40, 5), "ml-1m": (10, 2), "skewed": (20, 4)},
    "padded": {"ml-100k": (10, 2), "amazon-beauty": (4, 1), "ml-1m": (3, 1), "skewed": (4, 1)},
    "rectools": {"ml-100k": (10, 2), "amazon-beauty": (3, 1), "ml-1m": (2, 1), "skewed": (2, 1)},
    "replay": {"ml-100k": (10, 2), "amazon-beauty": (4, 1), "ml-1m": (2, 1), "skewed": (3, 1)},
    "replay bf16": {"ml-100k": (10, 2), "amazon-beauty": (4, 1), "ml-1m": (2, 1), "skewed": (3, 1)},
    "recbole": {"ml-100k": (10, 2), "amazon-beauty": (6, 1), "ml-1m": (2, 1), "skewed": (3, 1)},
    "rectools sampled": {"ml-100k": (4, 1), "amazon-beauty": (4, 1), "ml-1m": (2, 1), "skewed": (3, 1)},
}


def operations(*, items: int, width: int, layers: int, attended: float) -> float:
    """Multiplications and additions of a target, forward and backward (three times forward): the least that must be done.

    A layer: queries, keys, values, output and the two feed-forward products, 6 D^2 of them, and 2 D `attended` for attention;
    then V D for the scores. Times 2 (multiply, add).
    """
    return 3 * 2 * (layers * (6 * width**2 + 2 * width * attended) + items * width)


def lmrs(asked: dict) -> dict:
    import torch

    from benchmarks.peers.clock import Laps
    from lmrs.fit import Execution, fit
    from lmrs.hardware import keep_memory
    from lmrs.objectives import NextItem
    from lmrs.progress import Reporter
    from lmrs.systems.sasrec import sasrec

    torch.set_num_threads(1)
    keep_memory()  # as the command line does
    laps, counted = Laps(asked["warm"]), []

    class Enough(Exception):
        pass

    @dataclass(frozen=True)
    class Counting(NextItem):
        def counts(self, prepared):
            counted.append(super().counts(prepared)["next"])
            return {"next": counted[-1]}

    class Watch(Reporter):
        def step(self, note="", *, by=1):
            laps.mark(counted[-1])
            if len(laps.laps) == asked["steps"] + asked["warm"]:
                raise Enough

    system = sasrec(max_len=asked["max_len"], loss=asked["loss"], epochs=1000, every=1000, patience=None)
    stage = system.stages[0]
    system = replace(system, stages=(replace(stage, objective=Counting(stage.objective.loss)),))
    with suppress(Enough):
        execution = Execution(device="cpu", precision=asked["precision"], kernels=asked["softmax"], compile="off")
        fit(system, histories.split(Path(asked["data"])), execution=execution, reporter=Watch(quiet=True))
    return laps.found() | {"gemm_gflops": gemm()}


def gemm() -> float:
    """GFLOP/s of fp32 matrix products of 1024 x 1024, by processor time: the best of some."""
    import time

    import torch

    square, best = torch.ones(1024, 1024), 0.0
    for _ in range(12):
        begin = time.process_time()
        torch.mm(square, square)
        best = max(best, 2 * 1024**3 / (time.process_time() - begin) / 1e9)
    return round(best, 1)


def padded(asked: dict) -> dict:
    """The loop that most people write, of benchmarks/training.py, with Adam as it comes."""
    import numpy as np
    import torch

    from benchmarks.peers.clock import Laps
    from benchmarks.training import padded_loss
    from lmrs.seeding import generator, numpy_generator
    from lmrs.systems.sasrec import sasrec

    torch.set_num_threads(1)
    split = histories.split(Path(asked["data"]))
    system = sasrec(max_len=asked["max_len"])
    stage, vocab = system.stages[0], split.dataset.vocab
    rows = stage.view.rows(split.train, ahead=1, rng=numpy_generator(0))
    torch.manual_seed(0)
    network = system.model.build(vocab)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    laps, order = Laps(asked["warm"]), np.random.default_rng(0).permutation(len(rows))
    laps.mark()
    for step in range(asked["steps"] + asked["warm"]):
        which = order[np.arange(step * 128, (step + 1) * 128) % len(order)]
        batch = stage.objective.corrupt(stage.view.collate(rows.take(which)), vocab, generator(0, step))
        count = stage.objective.counts(batch)["next"]
        optimizer.zero_grad(set_to_none=True)
        (padded_loss(network, batch, asked["max_len"], True) / count).backward()
        optimizer.step()
        laps.mark(count)
    return laps.found()


def command(side: str, name: str, data: Path) -> list[str]:
    steps, warm = STEPS[side][name]
    asked = {"task": "train", "data": str(data), "max_len": histories.LENGTH[name], "steps": steps, "warm": warm}
    if side.split()[0] in ("lmrs", "padded"):
        asked |= {"precision": "bf16-loss" if "bf16" in side else "fp32", "loss": "sampled" if "sampled" in side else "softmax"}
        asked["softmax"] = "torch" if "torch" in side else "auto"
        return beside.own("benchmarks.rate", "--side", side.split()[0], json.dumps(asked))
    if side == "replay bf16":
        asked["precision"] = "bf16-mixed"
    if side == "rectools sampled":
        asked |= {"loss": "sampled_softmax", "negatives": 256}
    if side == "recbole" and name in ("ml-1m", "skewed"):
        asked["most"] = 600  # users: all prefixes of all would take 6 GB, and the rate is the same
    return peers.side(side.split()[0], json.dumps(asked))


def tables(sides: list[str]) -> dict[str, tuple[str, str, list[str]]]:
    """What is compared with what, by the end of the file's name: (our side, how it trains, all sides of the table)."""
    full = [side for side in sides if "sampled" not in side]
    rate = "real targets a processor second"
    return {
        "": ("lmrs", f"full softmax: {rate}", [side for side in full if "bf16" not in side]),
        "-bf16": ("lmrs bf16-loss", f"full softmax: {rate}, products of the softmax in bf16", full),
        "-sampled": (
            "lmrs sampled",
            f"softmax over 256 sampled negatives (lmrs: full softmax, for comparison): {rate}",
            [side for side in sides if "sampled" in side or side == "lmrs"],
        ),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument(
        "--sets", nargs="+", default=[n for n in histories.LENGTH if n not in histories.CATALOGUE], choices=list(histories.LENGTH)
    )
    parser.add_argument("--sides", nargs="+", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", nargs=2, metavar=("NAME", "TASK"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        from benchmarks.peers.clock import result

        result({"lmrs": lmrs, "padded": padded}[given.side[0]](json.loads(given.side[1])), "lmrs", "torch", "numpy")
        return 0
    for name in given.sets:
        if given.data_root is None and name not in histories.MADE:
            print(f"rate: {name} needs --data-root with a folder of that name: not measured", file=sys.stderr)
            continue
        measure(name, given.data_root, given.sides, given.rounds)
    return 0


def measure(name: str, root: Path | None, sides: list[str], rounds: int) -> None:
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        data = histories.file(root, name, Path(folder))
        arrays = np.load(data)
        targets = np.minimum(np.diff(arrays["offsets"]) - 3, histories.LENGTH[name])  # of each row
        facts = {
            "users": len(targets),
            "items": int(arrays["n_items"]),
            "targets_a_pass": int(targets.sum()),
            "length": histories.LENGTH[name],
        }
        attended = float((targets * (targets + 1) / 2).sum() / targets.sum())
        least = operations(items=facts["items"], width=64, layers=2, attended=attended)

        def keep(reports: beside.Reports) -> None:
            good = [report for side in exact for report in reports.get(side, []) if "gemm_gflops" in report]
            limit, roof = {}, 0.0
            if good:
                best = max(report["gemm_gflops"] for report in good)
                roof = best * 1e9 / least
                limit = {"megaflop_a_target": round(least / 1e6, 3), "fp32_gflops": best, "targets_a_second": round(roof)}
            done = max(len(each) for each in reports.values())
            for end, (ours, how, chosen) in tables(sides).items():
                if not reports.get(ours) or len(chosen) < 2:
                    continue
                found = beside.summary({side: reports[side] for side in chosen}, lambda report: report["rate"], ours=ours)
                report = {"what": f"training SASRec, {how}", "data": facts, "rounds": done, "sides": found}
                if end != "-sampled":  # which does not make the products that are counted
                    report["roofline"] = limit
                    for side in found.values():
                        if roof and "value" in side:
                            side["share_of_roofline"] = round(side["value"][0] / roof, 3)
                beside.write(f"rate-{name}{end}", report)

        exact = tables(sides)[""][2]
        beside.in_turn({side: command(side, name, data) for side in sides}, rounds=rounds, after=keep)


if __name__ == "__main__":
    sys.exit(main())
