"""UniCRS, KBRD and popularity on ReDial: what the recommender names next, and what two of UniCRS's parts bring.

    python -m studies.dialogue --data-root FOLDER [--dialogues 400] [--seeds N] [--arm NAME]

FOLDER holds redial. Whole dialogues are held out (split.by_user, 10 % for validation, 20 % for the test); of the
training dialogues the first `--dialogues` train (0: all), of the held-out ones 40 are validated on and 150 asked, each at every
turn of the recommender. Ranked are all films. Every arm learns from the same dialogues. Differences are paired by question:
bootstrap interval, randomisation test, Holm-corrected. `--arm` fits one arm alone, so that several can run at once; what is
fitted is kept in `--runs`, and the table is written once all arms are there. Result: studies/results/dialogue.{json,md}.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lmrs import __version__, sources
from lmrs.fit import fit
from lmrs.measures import MRR, NDCG, Recall
from lmrs.progress import Reporter
from lmrs.split import Split, Train, by_user, fewer
from lmrs.statistics import holm, seeds_difference, sign_flip_test
from lmrs.system import System
from lmrs.systems.kbrd import kbrd
from lmrs.systems.popularity import popularity
from lmrs.systems.unicrs import unicrs
from lmrs.tasks import Conversing

RESULTS = Path(__file__).parent / "results"
MEASURES = (Recall(1), Recall(10), Recall(50), NDCG(10), MRR(10))
GRAPH: dict[str, Any] = {"dim": 64, "least": 100}
KBRD: dict[str, Any] = {**GRAPH, "epochs": 20, "dropout": 0.3, "weight_decay": 0.3, "batch_size": 64}
UNICRS: dict[str, Any] = {
    **GRAPH, "precision": "bf16", "context": 40, "batch_size": 16, "pretrain_epochs": 1, "pretrain_lr": 3e-3, "epochs": 2,
    "lr": 3e-3,
}  # fmt: skip
ARMS: dict[str, System] = {
    "popularity": replace(popularity(), task=Conversing()),
    "KBRD": kbrd(**KBRD),
    "UniCRS": unicrs(**UNICRS),
    "UniCRS without fused prompts": unicrs(**UNICRS, fuse=False),
    "UniCRS without pre-training": unicrs(**UNICRS, pretrain=False),
}
PAIRS = (
    ("KBRD", "popularity"), ("UniCRS", "KBRD"), ("UniCRS", "popularity"), ("UniCRS", "UniCRS without fused prompts"),
    ("UniCRS", "UniCRS without pre-training"),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/studies/dialogue"))
    parser.add_argument("--dialogues", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--arm", choices=list(ARMS), action="append")
    a = parser.parse_args()
    split = divided(a.data_root, a.dialogues)
    arms: dict[str, list[np.ndarray]] = {}
    seconds: dict[str, float] = {}
    for name in a.arm or ARMS:
        for seed in range(a.seeds):
            kept = measured(name, split, a.runs / f"{a.dialogues}-{name.replace(' ', '-')}-{seed}", seed)
            arms.setdefault(name, []).append(kept[:, :-1])
            seconds[name] = float(kept[0, -1])
    if len(arms) < len(ARMS):
        return
    found = {name: np.stack(values) for name, values in arms.items()}  # [S, Q, measures]
    rows = Conversing().rows(split.test)
    report = {
        "data": split.dataset.name,
        "training_dialogues": int((split.train.lengths > 0).sum()),
        "questions": len(rows),
        "asked_dialogues": len(np.unique(rows.user)),
        "seeds": a.seeds,
        "options": {"KBRD": KBRD, "UniCRS": UNICRS},
        "measures": {n: {str(m): float(v[..., at].mean()) for at, m in enumerate(MEASURES)} for n, v in found.items()},
        "pairs": compared(found),
        "fit_cpu_seconds": seconds,
        "version": __version__,
    }
    (RESULTS / "dialogue.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / "dialogue.md").write_text(table(report))


def divided(root: Path, dialogues: int, *, valid: int = 40) -> Split:
    """Whole dialogues held out, the first so many of the others to train on."""
    split = fewer(by_user(sources.load(root / "redial"), valid=0.1, test=0.2), valid=valid, test=150)
    if not dialogues:
        return split
    stop = split.train.stop.copy()
    late = np.flatnonzero(split.train.lengths)[dialogues:]
    stop[late] = split.train.start[late]
    return replace(split, train=Train(split.dataset, stop), about=split.about | {"training_dialogues": dialogues})


def measured(name: str, split: Split, kept: Path, seed: int) -> np.ndarray:
    """[Q, measures + 1]: the values of every question, and the CPU seconds of the fit; from the file if it is there."""
    scores = kept.with_suffix(".npy")
    if not scores.exists():
        system = ARMS[name]
        with Reporter() as reporter:
            fitted = fit(system, split, out=kept, seed=seed, resume=True, reporter=reporter)
            rows = system.task.rows(split.test)  # type: ignore[union-attr]
            judged = system.task.judge(  # type: ignore[union-attr]
                fitted.scorer, fitted.objective, rows, fitted.vocab, measures=MEASURES, seed=seed, reporter=reporter
            )
        columns = [np.asarray(judged.values[str(each)]) for each in MEASURES]
        np.save(scores, np.stack([*columns, np.full(len(rows), fitted.cpu_seconds)], 1), allow_pickle=False)
    return np.load(scores, allow_pickle=False)


def compared(found: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """The pairs of arms at Recall@10 and Recall@50."""
    rows: list[dict[str, Any]] = []
    for one, other in PAIRS:
        for at in (1, 2):
            a, b = found[one][..., at], found[other][..., at]
            gain = seeds_difference(a, b, seed=0)
            p = sign_flip_test(a.mean(0), b.mean(0), seed=0)
            rows.append(
                {"of": one, "over": other, "measure": str(MEASURES[at]), "gain": [gain.mean, gain.low, gain.high], "p": p}
            )
    for row, p in zip(rows, holm(np.array([row["p"] for row in rows])), strict=True):
        row["p_holm"] = float(p)
    return rows


def table(report: dict[str, Any]) -> str:
    lines = [
        "# Dialogues: UniCRS, KBRD, popularity on ReDial",
        "",
        f"{report['training_dialogues']:,} training dialogues, {report['asked_dialogues']} held-out ones asked at every turn of",
        f"the recommender ({report['questions']} questions), all films ranked, {report['seeds']} seed(s).",
        "Made by `python -m studies.dialogue`.",
        "",
        "| arm | " + " | ".join(str(each) for each in MEASURES) + " | CPU s of the fit |",
        "|---|" + "---|" * (len(MEASURES) + 1),
    ]
    for name, values in report["measures"].items():
        cells = " | ".join(f"{values[str(each)]:.4f}" for each in MEASURES)
        lines.append(f"| {name} | {cells} | {report['fit_cpu_seconds'][name]:.0f} |")
    lines += ["", "| of | over | measure | gain | p (Holm) |", "|---|---|---|---|---|"]
    for row in report["pairs"]:
        mean, low, high = row["gain"]
        lines.append(
            f"| {row['of']} | {row['over']} | {row['measure']} | {mean:+.4f} [{low:+.4f}, {high:+.4f}] | {row['p_holm']:.4f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
