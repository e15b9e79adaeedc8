"""Does rounding the products of the full softmax to bf16 change how good SASRec gets, and what does it save?

    python -m studies.precision --data-root FOLDER

FOLDER holds amazon-beauty; MovieLens-100K comes from the package index. The settings of studies.quality; on amazon-beauty full
softmax for a fixed number of epochs. Both precisions see the same rows, draws and initial weights of each seed. Difference of
NDCG@10 with a bootstrap interval over users and seeds, and the randomisation test on the means over seeds. Processor seconds are
of the fits, which a busy machine stretches. Result: studies/results/precision.{json,md}. A run that is stopped goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from lmrs import __version__, sources
from lmrs.fit import Execution, fit
from lmrs.judge import judge
from lmrs.measures import NDCG
from lmrs.progress import Reporter
from lmrs.split import Split, leave_one_out
from lmrs.statistics import seeds_difference, sign_flip_test
from lmrs.system import System
from lmrs.systems.sasrec import sasrec
from studies.quality import BEAUTY, ML100K, RESULTS

ARMS = ("fp32", "bf16-loss")
SETTINGS: dict[str, tuple[int, System]] = {
    "ml-100k": (3, sasrec(**ML100K, patience=15)),
    "amazon-beauty": (1, sasrec(**BEAUTY, epochs=16, every=4, patience=None)),
}


def one(split: Split, system: System, precision: str, seed: int, folder: Path) -> tuple[np.ndarray, float]:
    """NDCG@10 of each user, processor seconds of the fit."""
    done = folder / precision / f"seed-{seed}.npz"
    if not done.exists():
        with Reporter() as reporter:
            reporter.say(f"{folder.name}, {precision}, seed {seed}")
            execution = Execution(device="cpu", precision=precision)
            fitted = fit(system, split, out=done.with_suffix(""), seed=seed, resume=True, execution=execution, reporter=reporter)
            judged = judge(fitted.scorer, fitted.objective, system.task, split.test, fitted.vocab, k=10, seed=seed)
        np.savez(done, values=NDCG(10)(judged.ranks), seconds=fitted.cpu_seconds)
    kept = np.load(done, allow_pickle=False)
    return kept["values"], float(kept["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"))
    a = parser.parse_args()
    rows, lines = (
        {},
        ["| data | seeds | NDCG@10 fp32 | bf16-loss | difference | p | CPU s of the fits |", "|---|---|---|---|---|---|---|"],
    )
    for name in a.sets:
        seeds, system = SETTINGS[name]
        split = leave_one_out(sources.load("movielens-100k" if name == "ml-100k" else a.data_root / name))
        found = {arm: [one(split, system, arm, seed, a.runs / "precision" / name) for seed in range(seeds)] for arm in ARMS}
        exact, rounded = (np.stack([values for values, _ in found[arm]]) for arm in ARMS)
        apart = seeds_difference(rounded, exact, seed=0)
        p = sign_flip_test(rounded.mean(0), exact.mean(0), seed=0)
        seconds = [round(sum(each for _, each in found[arm])) for arm in ARMS]
        rows[name] = {
            "seeds": seeds, "fp32": exact.mean(), "bf16-loss": rounded.mean(), "difference": [apart.mean, apart.low, apart.high],
            "p": p, "cpu_seconds": seconds,
        }  # fmt: skip
        lines.append(
            f"| {name} | {seeds} | {exact.mean():.4f} | {rounded.mean():.4f} "
            f"| {apart.mean:+.4f} [{apart.low:+.4f}, {apart.high:+.4f}] | {p:.2f} | {seconds[0]} / {seconds[1]} |"
        )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "precision.json").write_text(json.dumps({"lmrs": __version__, "sets": rows}, indent=1) + "\n")
    (RESULTS / "precision.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
