"""PTM4Tag: which part of a post tells its tags, and does a tower for each part beat one for all?

    python -m studies.ptm4tag --data-root FOLDER [--only ARM ...]

FOLDER holds stackexchange-mini (888 questions about beer and coffee; their bodies have no code, so there is no code tower). Tags
of fewer than five posts are dropped. Split by time: 70 % of the events train, 10 % validate, the last 20 % are asked. Backbone:
minilm (22 million parameters; paper: CodeBERT).

Frozen arms (the layers on top alone learn; 64 tokens of each part, three seeds): title and text, either alone, both as one text.
Tuned arms (the whole backbone, one seed, few epochs): own towers, a shared one; their table is ptm4tag-tuned.{json,md}.
Differences in TagF1@5 are paired by post: randomisation test on the means over seeds, Holm over all. Result:
studies/results/ptm4tag.{json,md}. An arm that is done is kept in the folder of runs, and the tables tell of those that are.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from lmrs import __version__, sources
from lmrs.fit import Execution, fit
from lmrs.judge import judge
from lmrs.measures import parse
from lmrs.split import Split, by_time, k_core
from lmrs.statistics import holm, seeds_difference, sign_flip_test
from lmrs.system import System
from lmrs.systems.popularity import popularity
from lmrs.systems.ptm4tag import ptm4tag

RESULTS = Path(__file__).parent / "results"
MEASURES = ("Precision@5", "TagRecall@5", "TagF1@5")
SEEDS = 3
FROZEN = {"tuned": False, "towers": "shared", "max_tokens": 64, "lr": 2e-3, "epochs": 40, "batch_size": 32, "patience": 8}
TUNED = {"max_tokens": 64, "lr": 2e-4, "epochs": 6, "batch_size": 8}
BOTH = ("title", "text")
ARMS: dict[str, tuple[int, System]] = {
    "popularity": (1, popularity()),
    "title and text": (SEEDS, ptm4tag(parts=BOTH, **FROZEN)),
    "title alone": (SEEDS, ptm4tag(parts=("title",), **FROZEN)),
    "text alone": (SEEDS, ptm4tag(parts=("text",), **FROZEN)),
    "one text": (SEEDS, ptm4tag(parts=BOTH, **{**FROZEN, "towers": "joined"})),
    "tuned, own towers": (1, ptm4tag(parts=BOTH, **TUNED, towers="own")),
    "tuned, one shared": (1, ptm4tag(parts=BOTH, **TUNED, towers="shared")),
}
PAIRS = (
    ("title and text", "popularity"), ("title and text", "title alone"), ("title and text", "text alone"),
    ("title alone", "text alone"), ("title and text", "one text"), ("tuned, own towers", "tuned, one shared"),
)  # fmt: skip


def asked(system: System, split: Split, seed: int) -> tuple[dict[str, np.ndarray], float]:
    """(each measure for every test post, CPU seconds of the fit). Popularity cannot read a post: it is the same list for all."""
    fitted = fit(system, split, seed=seed, execution=Execution(device="cpu"))
    judged = judge(fitted.scorer, fitted.objective, fitted.system.task, split.test, fitted.vocab, k=5, seed=seed)
    return {name: parse(name)(judged.ranks) for name in MEASURES}, fitted.cpu_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"))
    parser.add_argument("--only", nargs="*", choices=list(ARMS), help="arms to run; the tables tell of all that are done")
    a = parser.parse_args()
    data = k_core(sources.load(a.data_root / "stackexchange-mini"), users=1, items=5)
    split = by_time(data, valid_from=0.7, test_from=0.8)
    found: dict[str, dict[str, np.ndarray]] = {}
    seconds: dict[str, float] = {}
    for name, (seeds, system) in ARMS.items():
        kept = a.runs / "ptm4tag" / f"{name.replace(' ', '-')}.npz"
        if not kept.exists():
            if a.only and name not in a.only:
                continue
            runs = [asked(system, split, seed) for seed in range(seeds)]
            kept.parent.mkdir(parents=True, exist_ok=True)
            values = {measure: np.stack([each[measure] for each, _ in runs]) for measure in MEASURES}
            np.savez(kept, seconds=np.mean([cpu for _, cpu in runs]), **values)
        with np.load(kept, allow_pickle=False) as file:
            found[name], seconds[name] = {measure: file[measure] for measure in MEASURES}, float(file["seconds"])
        print(name, {measure: float(values.mean()) for measure, values in found[name].items()}, seconds[name], flush=True)
    rows = []
    for one, two in PAIRS:
        if not {one, two} <= found.keys():
            continue
        x, y = (found[name]["TagF1@5"] for name in (one, two))
        n = min(len(x), len(y))
        gain = seeds_difference(x[:n], y[:n], seed=0)
        p = sign_flip_test(x.mean(0), y.mean(0), seed=0)
        rows.append({"a": one, "b": two, "gain": [gain.mean, gain.low, gain.high], "p": p})
    for row, p in zip(rows, holm(np.array([row["p"] for row in rows])), strict=True):
        row["p_holm"] = float(p)
    means = {name: {measure: float(values.mean()) for measure, values in each.items()} for name, each in found.items()}
    facts = {
        "data": "stackexchange-mini", "posts": data.n_users, "tags": data.n_items, "asked": len(split.test),
        "frozen": FROZEN, "tuned": TUNED, "arms": means, "fit_cpu_seconds": seconds, "pairs": rows, "version": __version__,
    }  # fmt: skip
    (RESULTS / "ptm4tag.json").write_text(json.dumps(facts, indent=1) + "\n")
    lines = [
        "# PTM4Tag on stackexchange-mini",
        "",
        f"{data.n_users} posts with {data.n_items} tags, {len(split.test)} asked (the last in time). Made by",
        "`python -m studies.ptm4tag`.",
        "",
        "| arm | seeds | Precision@5 | TagRecall@5 | TagF1@5 | CPU seconds of a fit |",
        "|---|---|---|---|---|---|",
    ]
    for name, each in means.items():
        told = " | ".join(f"{each[measure]:.4f}" for measure in MEASURES)
        lines.append(f"| {name} | {ARMS[name][0]} | {told} | {seconds[name]:.0f} |")
    lines += ["", "| TagF1@5 of | against | gain with 95 % interval | p (Holm) |", "|---|---|---|---|"]
    for row in rows:
        mean, low, high = row["gain"]
        lines.append(f"| {row['a']} | {row['b']} | {mean:+.4f} [{low:+.4f}, {high:+.4f}] | {row['p_holm']:.4f} |")
    (RESULTS / "ptm4tag.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
