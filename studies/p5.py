"""Which index of items serves P5 best, and does a wording that training never showed still work? On a part of amazon-beauty.

    python -m studies.p5 --data-root FOLDER [--seeds N]

FOLDER holds amazon-beauty. As in studies.tiger: a part of the users, a small T5 trained from scratch,
two tasks at once. Arms differ in the index alone: numbers drawn at random, numbers in the order of training, clusters of
co-occurrence. Differences are paired by user: bootstrap interval and randomisation test, Holm-corrected.
Result: studies/results/p5.{json,md}. A run that is stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from lmrs import __version__, sources, systems
from lmrs.fit import fit
from lmrs.judge import judge
from lmrs.measures import HR, NDCG
from lmrs.models.generative import GenerativeNetwork
from lmrs.progress import Reporter
from lmrs.split import Split, fewer, leave_one_out
from lmrs.statistics import holm, seeds_difference, sign_flip_test
from studies.beauty import some_users

RESULTS = Path(__file__).parent / "results"
USERS = 3500
OPTIONS = {
    "branches": 10, "cluster": 50, "users": 500, "dim": 64, "layers": 2, "heads": 4, "max_len": 5, "batch_size": 64, "lr": 1e-2,
    "epochs": 10, "every": 5, "patience": None, "beams": 30, "dropout": 0.0,
}  # fmt: skip
ARMS = ("number", "sequential", "collaborative")
BASE = "number"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"))
    parser.add_argument("--seeds", type=int, default=1)
    a = parser.parse_args()
    split = fewer(leave_one_out(some_users(sources.load(a.data_root / "amazon-beauty"), USERS)), valid=200)
    found: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in ARMS}
    for seed in range(a.seeds):
        for name in ARMS:
            kept = a.runs / "p5" / f"{name}-{seed}.npz"
            if not kept.exists():
                kept.parent.mkdir(parents=True, exist_ok=True)
                np.savez(kept, **arm(name, split, seed))
            found[name].append(dict(np.load(kept, allow_pickle=False)))
    write(split, found, a.seeds)


def arm(index: str, split: Split, seed: int) -> dict[str, np.ndarray]:
    """Measures of every test query under one index, asked in a wording of training and in one that it never showed."""
    with Reporter() as reporter:
        fitted = fit(systems.p5(index=index, **OPTIONS), split, seed=seed, reporter=reporter)
    network = fitted.scorer
    assert isinstance(network, GenerativeNetwork)
    values = {"cpu_seconds": np.array([fitted.cpu_seconds])}
    for prompt in ("seen", "unseen"):
        network.about = systems.p5(index=index, prompt=prompt, **OPTIONS).model  # type: ignore[assignment]
        judged = judge(network, fitted.objective, fitted.system.task, split.test, fitted.vocab, k=10, seed=seed)
        values |= {f"NDCG@10 {prompt}": NDCG(10)(judged.ranks), f"HR@10 {prompt}": HR(10)(judged.ranks)}
    return values


def write(split: Split, found: dict[str, list[dict[str, np.ndarray]]], seeds: int) -> None:
    control = fit(systems.popularity(), split)
    popular = judge(control.scorer, None, control.system.task, split.test, control.vocab, k=10, seed=0).ranks
    rows = []
    for name, runs in found.items():
        values = {each: np.stack([run[each] for run in runs]) for each in runs[0] if each != "cpu_seconds"}
        row = {"index": name, **{each: float(value.mean()) for each, value in values.items()}}
        row["cpu_seconds"] = float(np.mean([run["cpu_seconds"] for run in runs]))
        prompts = seeds_difference(values["NDCG@10 unseen"], values["NDCG@10 seen"], seed=0)
        row["unseen - seen"] = [prompts.mean, prompts.low, prompts.high]
        if name != BASE:
            base = np.stack([run["NDCG@10 seen"] for run in found[BASE]])
            gain = seeds_difference(values["NDCG@10 seen"], base, seed=0)
            row["gain"] = [gain.mean, gain.low, gain.high]
            row["p"] = sign_flip_test(values["NDCG@10 seen"].mean(0), base.mean(0), seed=0)
        rows.append(row)
    tested = [row for row in rows if "p" in row]
    for row, p in zip(tested, holm(np.array([row["p"] for row in tested])), strict=True):
        row["p_holm"] = float(p)
    data = split.dataset
    told = {
        "data": f"amazon-beauty, {data.n_users:,} users, {data.n_items:,} items, {data.n_events:,} events",
        "options": OPTIONS,
        "seeds": seeds,
        "popularity": {"NDCG@10": float(NDCG(10)(popular).mean()), "HR@10": float(HR(10)(popular).mean())},
        "arms": rows,
        "version": __version__,
    }
    (RESULTS / "p5.json").write_text(json.dumps(told, indent=1) + "\n")
    lines = [
        "# P5: ways to index items",
        "",
        f"{told['data']}; leave-one-out, the whole catalogue ranked by a search of {OPTIONS['beams']} beams. Gain in NDCG@10",
        "over numbers drawn at random with 95 % interval, p of the paired sign-flip test (Holm). Unseen: asked in words that",
        "training never showed. Made by `python -m studies.p5`.",
        "",
        "| index | NDCG@10 | HR@10 | gain | p | NDCG@10 unseen | unseen - seen | CPU s of a fit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        gain = "{:+.4f} [{:+.4f}, {:+.4f}] | {:.4f}".format(*row["gain"], row["p_holm"]) if "gain" in row else " | "
        less = "{:+.4f} [{:+.4f}, {:+.4f}]".format(*row["unseen - seen"])
        lines.append(
            f"| {row['index']} | {row['NDCG@10 seen']:.4f} | {row['HR@10 seen']:.4f} | {gain} | {row['NDCG@10 unseen']:.4f} "
            f"| {less} | {row['cpu_seconds']:,.0f} |"
        )
    lines += ["", f"Popularity: {told['popularity']['NDCG@10']:.4f} / {told['popularity']['HR@10']:.4f}. Seeds: {seeds}."]
    (RESULTS / "p5.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
