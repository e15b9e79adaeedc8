"""What UniCRS says on ReDial, with and without the prompt of words and items, with and without its pre-training.

    python -m studies.responses --data-root FOLDER [--dialogues 100] [--asked 150] [--arm NAME]

FOLDER holds redial. Whole dialogues are held out as in studies.dialogue; of the training dialogues the first `--dialogues`
train, and of the held-out turns of the recommender `--asked` are answered, drawn once for all arms. UniCRS is a frozen SmolLM2
(135 M) with prompts, KBRD a small transformer from scratch; all write greedily. Differences are paired by response: the
log-likelihood (only between arms of the same tokens) and BLEU by a sign-flip test, Distinct-n, which is of all responses at once,
by exchanging the responses of two arms at random; Holm-corrected together. `--arm` fits some arms alone; the table is of those
named, if a pair is among them. What is fitted is kept in `--runs`. Result: studies/results/responses.{json,md}.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lmrs import __version__
from lmrs.fit import fit
from lmrs.measures import PPL, Distinct, ItemRatio, Likelihoods, SentenceBLEU, Texts
from lmrs.progress import Reporter
from lmrs.records import SLOT
from lmrs.split import Split
from lmrs.statistics import holm, seeds_difference, sign_flip_test
from lmrs.system import System
from lmrs.systems.kbrd import kbrd
from lmrs.systems.unicrs import unicrs
from lmrs.tasks import Responding, Talking
from studies.dialogue import divided

RESULTS = Path(__file__).parent / "results"
OPTIONS: dict[str, Any] = {
    "answers": "responses", "backbone": "smollm2", "precision": "bf16", "dim": 64, "least": 100, "max_len": 9, "context": 40,
    "speech": 10, "said": 32, "most": 24, "batch_size": 8, "pretrain_epochs": 1, "pretrain_lr": 3e-3, "converse_epochs": 1,
    "converse_lr": 3e-3, "converse_batch_size": 4,
}  # fmt: skip
KBRD: dict[str, Any] = {
    "answers": "both", "dim": 64, "least": 100, "max_len": 9, "epochs": 15, "dropout": 0.3, "weight_decay": 0.3, "batch_size": 64,
    "speech_dim": 128, "context": 100, "said": 32, "most": 24, "converse_epochs": 15, "converse_batch_size": 16,
    "patience": 2,
}  # fmt: skip
ARMS: dict[str, System] = {
    "UniCRS": unicrs(**OPTIONS),
    "UniCRS without fused prompts": unicrs(**OPTIONS, fuse=False, pretrain=False),
    "UniCRS without pre-training": unicrs(**OPTIONS, pretrain=False),
    "KBRD": kbrd(**KBRD),
    "KBRD without word bias": kbrd(**KBRD, word_bias=False),
}
PAIRS = (
    ("UniCRS", "UniCRS without fused prompts"), ("UniCRS", "UniCRS without pre-training"), ("UniCRS", "KBRD"),
    ("KBRD", "KBRD without word bias"),
)  # fmt: skip
VARIETY = (Distinct(2, "responses"), Distinct(3, "responses"), Distinct(4, "responses"))
BLEUS = (SentenceBLEU(2), SentenceBLEU(3))
SWAPS = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/studies/responses"))
    parser.add_argument("--dialogues", type=int, default=100)
    parser.add_argument("--asked", type=int, default=150)
    parser.add_argument("--arm", choices=list(ARMS), action="append")
    a = parser.parse_args()
    split = divided(a.data_root, a.dialogues, valid=10)
    found = {
        name: answered(name, split, a.runs / f"{a.dialogues}-{a.asked}-{name.replace(' ', '-')}", a.asked)
        for name in a.arm or ARMS
    }
    if not any(set(pair) <= set(found) for pair in PAIRS):
        return
    first = next(iter(found.values()))
    report = {
        "data": split.dataset.name,
        "training_dialogues": int((split.train.lengths > 0).sum()),
        "training_turns": len(Responding().view.rows(split.train, ahead=0, rng=np.random.default_rng(0))),
        "responses": first.num_rows,
        "options": {"UniCRS": OPTIONS, "KBRD": KBRD},
        "measures": {name: measured(table) for name, table in found.items()},
        "references": {str(m): m(Texts(texts(first, "reference"))) for m in VARIETY}
        | {"ItemRatio": float(ItemRatio()(Texts(texts(first, "reference"))).mean())},
        "pairs": compared(found),
        "fit_cpu_seconds": {name: table["cpu_seconds"][0].as_py() for name, table in found.items()},
        "examples": {name: table["generated"].to_pylist()[:8] for name, table in found.items()}
        | {"reference": first["reference"].to_pylist()[:8]},
        "version": __version__,
    }
    (RESULTS / "responses.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / "responses.md").write_text(shown(report))


def answered(name: str, split: Split, kept: Path, asked: int) -> pa.Table:
    """What one arm says, beside what was said; from the file if it is there."""
    file = kept.with_suffix(".parquet")
    if not file.exists():
        system = ARMS[name]
        task = system.task
        task = task.responses if isinstance(task, Talking) else task
        assert isinstance(task, Responding)
        with Reporter() as reporter:
            fitted = fit(system, split, out=kept, seed=0, resume=True, reporter=reporter)
            rows = task.rows(split.test)
            rows = rows.take(np.sort(np.random.default_rng(0).permutation(len(rows))[:asked]))
            judged = task.judge(
                fitted.scorer, fitted.objective, rows, fitted.vocab, measures=[PPL(), *BLEUS], seed=0, reporter=reporter
            )
        seconds = pa.array(np.full(len(rows), fitted.cpu_seconds))
        pq.write_table(pa.table({"user": judged.user, **judged.columns, "cpu_seconds": seconds}), file)
    return pq.read_table(file)


def texts(table: pa.Table, column: str) -> tuple[str, ...]:
    """With the one character for an item, as it was before it was written down."""
    return tuple(text.replace("<item>", SLOT) for text in table[column].to_pylist())


def measured(table: pa.Table) -> dict[str, float]:
    both = Texts(texts(table, "generated"), texts(table, "reference"))
    total, tokens = table["log_likelihood"].to_numpy(), table["tokens"].to_numpy()
    values = {"PPL": PPL()(Likelihoods(total, tokens))}
    values |= {str(m): float(np.mean(m(both))) for m in (*VARIETY, *BLEUS, ItemRatio())}
    return values


def compared(found: dict[str, pa.Table]) -> list[dict[str, Any]]:
    """The pairs of arms that are there."""
    rows: list[dict[str, Any]] = []
    for name, over in PAIRS:
        if not {name, over} <= set(found):
            continue
        both = one, other = found[name], found[over]
        wanted = texts(one, "reference")
        assert one["reference"].equals(other["reference"])
        said = [texts(table, "generated") for table in both]
        values = {str(m): [np.asarray(m(Texts(each, wanted))) for each in said] for m in BLEUS}
        if one["tokens"].equals(other["tokens"]):
            values = {"log-likelihood": [table["log_likelihood"].to_numpy() for table in both]} | values
        for measure, (a, b) in values.items():
            gain = seeds_difference(a[None], b[None], seed=0)
            p = sign_flip_test(a, b, seed=0)
            rows.append({"of": name, "over": over, "measure": measure, "gain": [gain.mean, gain.low, gain.high], "p": p})
        for m in VARIETY:
            difference, p = exchanged(m, *said)
            rows.append({"of": name, "over": over, "measure": str(m), "gain": [difference, None, None], "p": p})
    for row, p in zip(rows, holm(np.array([row["p"] for row in rows])), strict=True):
        row["p_holm"] = float(p)
    return rows


def exchanged(measure: Distinct, one: Sequence[str], other: Sequence[str]) -> tuple[float, float]:
    """(difference, two-sided p) of a measure of all texts at once, by exchanging the two texts of questions at random."""
    rng = np.random.default_rng(0)

    def gain(swap: np.ndarray) -> float:
        a = tuple(y if s else x for x, y, s in zip(one, other, swap, strict=True))
        b = tuple(x if s else y for x, y, s in zip(one, other, swap, strict=True))
        return measure(Texts(a)) - measure(Texts(b))

    seen = gain(np.zeros(len(one), bool))
    drawn = np.array([gain(rng.random(len(one)) < 0.5) for _ in range(SWAPS)])
    return seen, float((1 + (np.abs(drawn) >= abs(seen) - 1e-12).sum()) / (1 + SWAPS))


def shown(report: dict[str, Any]) -> str:
    names = list(next(iter(report["measures"].values())))
    lines = [
        "# Responses: UniCRS (a frozen SmolLM2) and KBRD on ReDial",
        "",
        f"{report['training_dialogues']:,} training dialogues ({report['training_turns']:,} turns),",
        f"{report['responses']} held-out turns of the recommender answered, one seed. Made by `python -m studies.responses`.",
        "",
        "| arm | " + " | ".join(names) + " | CPU s of the fit |",
        "|---|" + "---|" * (len(names) + 1),
    ]
    for name, values in report["measures"].items():
        cells = " | ".join(f"{values[each]:.3f}" for each in names)
        lines.append(f"| {name} | {cells} | {report['fit_cpu_seconds'][name]:.0f} |")
    cells = " | ".join(f"{report['references'][each]:.3f}" if each in report["references"] else "" for each in names)
    lines += [
        f"| (the references) | {cells} | |",
        "",
        "| of | over | measure | gain | p | p (Holm) |",
        "|---|---|---|---|---|---|",
    ]
    for row in report["pairs"]:
        mean, low, high = row["gain"]
        bounds = "" if low is None else f" [{low:+.3f}, {high:+.3f}]"
        lines.append(
            f"| {row['of']} | {row['over']} | {row['measure']} | {mean:+.3f}{bounds} | {row['p']:.4f} | {row['p_holm']:.4f} |"
        )
    lines += ["", "What is said to the first questions:", ""]
    for at, reference in enumerate(report["examples"]["reference"]):
        lines.append(f"- reference: {reference}")
        lines += [f"  - {name}: {report['examples'][name][at]}" for name in report["measures"]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
