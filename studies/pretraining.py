"""Does S3-Rec's pre-training pay, and for whom? The same encoder with and without it, users grouped by how much is known.

    python -m studies.pretraining --data-root FOLDER [--seeds N] [--pretrain-epochs N]

FOLDER holds amazon-beauty. Protocol as in studies.quality. Both arms share encoder, fine-tuning and stopping rule; they differ
in stage one alone. Differences are paired by user: bootstrap interval and randomisation test, Holm-corrected over the groups.
Result: studies/results/pretraining.{json,md}. A run that is stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from lmrs import __version__, sources
from lmrs.fit import fit
from lmrs.judge import judge
from lmrs.measures import NDCG
from lmrs.progress import Reporter
from lmrs.split import leave_one_out
from lmrs.statistics import holm, seeds_difference, sign_flip_test
from lmrs.systems.s3rec import s3rec

RESULTS = Path(__file__).parent / "results"
GROUPS = ((3, 3), (4, 5), (6, 10), (11, 10**9))  # training events of a user


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--pretrain-epochs", type=int, default=15)
    a = parser.parse_args()
    split = leave_one_out(sources.load(a.data_root / "amazon-beauty"))
    options = {"pretrain_epochs": a.pretrain_epochs, "dropout": 0.5, "every": 2, "patience": 10}
    arms: dict[str, list[np.ndarray]] = {"pre-trained": [], "from scratch": []}
    costs: dict[str, list[float]] = {name: [] for name in arms}
    for seed in range(a.seeds):
        for name in arms:
            kept = a.runs / "pretraining" / f"{name.replace(' ', '-')}-{seed}"
            scores = kept.with_suffix(".npy")
            if not scores.exists():
                with Reporter() as reporter:
                    system = s3rec(pretrain=name == "pre-trained", **options)
                    fitted = fit(system, split, out=kept, seed=seed, resume=True, reporter=reporter)
                    judged = judge(fitted.scorer, fitted.objective, system.task, split.test, fitted.vocab, k=1, seed=seed)
                np.save(scores, np.append(NDCG(10)(judged.ranks), fitted.cpu_seconds), allow_pickle=False)
            values = np.load(scores, allow_pickle=False)
            arms[name].append(values[:-1])
            costs[name].append(float(values[-1]))
    known = split.test.stop - split.test.start - 1  # the history without the validation event is what was trained on
    with_, without = (np.stack(arms[name]) for name in arms)
    rows = []
    for low, high in (*GROUPS, (0, 10**9)):
        here = (known >= low) & (known <= high)
        gain = seeds_difference(with_[:, here], without[:, here], seed=0)
        rows.append(
            {
                "training_events": [low, None if high == 10**9 else high],
                "users": int(here.sum()),
                "pre-trained": float(with_[:, here].mean()),
                "from scratch": float(without[:, here].mean()),
                "gain": [gain.mean, gain.low, gain.high],
                "p": sign_flip_test(with_[:, here].mean(0), without[:, here].mean(0), seed=0),
            }
        )
    for row, p in zip(rows, holm(np.array([row["p"] for row in rows])), strict=True):
        row["p_holm"] = float(p)
    found = {
        "data": "amazon-beauty",
        "measure": "NDCG@10",
        "options": options,
        "seeds": a.seeds,
        "fit_cpu_seconds": {name: float(np.mean(values)) for name, values in costs.items()},
        "groups": rows,
        "version": __version__,
    }
    (RESULTS / "pretraining.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = [
        "# S3-Rec's pre-training on amazon-beauty",
        "",
        "NDCG@10 on the test part by the number of a user's training events; gain with 95 % interval, p of the paired",
        "randomisation test, Holm-corrected.",
        "Made by `python -m studies.pretraining`.",
        "",
        "| training events | users | pre-trained | from scratch | gain | p (Holm) |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["training_events"]
        group = (
            "all"
            if (low, high) == (0, None)
            else f"{low} and more"
            if high is None
            else f"{low}"
            if low == high
            else f"{low} to {high}"
        )
        mean, down, up = row["gain"]
        lines.append(
            f"| {group} | {row['users']:,} | {row['pre-trained']:.4f} | {row['from scratch']:.4f} "
            f"| {mean:+.4f} [{down:+.4f}, {up:+.4f}] | {row['p_holm']:.4f} |"
        )
    lines += [
        "",
        f"Seeds: {a.seeds}. CPU seconds of a fit: "
        + ", ".join(f"{k} {v:,.0f}" for k, v in found["fit_cpu_seconds"].items())
        + ".",
    ]
    (RESULTS / "pretraining.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
