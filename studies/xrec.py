"""Explanations that a language model wrote, where nearly every user and item is seen once: what can ids do?

    python -m studies.xrec --data-root FOLDER [--table yelp]

FOLDER holds xrec-explanations: 3,000 pairs a table, whose explanations were written by a large model from real reviews (targets
to be imitated, no human explanations). Split: by review; most users and items have one pair, so few can be held out. Arms: PETER;
PEPLER with a small causal model that is pre-trained in stage zero on the summaries of users and items (studies/explanation.py),
tuned by its prompt alone or in sequence; the most frequent explanation, one drawn from training, one drawn from those of the
item. Differences are paired by pair: log p a token, ROUGE-1; sign-flip test, Holm. Result: studies/results/xrec.{json,md}.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from lmrs import __version__, sources
from lmrs.fit import Execution, fit
from lmrs.measures import BLEU, ROUGE, USR, Distinct, Texts
from lmrs.measures.words import WORDS
from lmrs.progress import Reporter
from lmrs.split import Split, by_review
from lmrs.statistics import holm, paired_interval, sign_flip_test
from lmrs.system import System
from lmrs.systems.pepler import pepler
from lmrs.systems.peter import peter
from studies.explanation import RESULTS, backbone, judged

LONGEST = 50
MEASURES = (BLEU(1), BLEU(4), ROUGE(1), ROUGE("L"), USR(), Distinct(2))
TESTS = (
    ("PEPLER sequential", "PETER", "ROUGE-1"),
    ("PEPLER sequential", "random", "ROUGE-1"),
    ("PETER", "random", "ROUGE-1"),
    ("PEPLER sequential", "PEPLER prompt only", "ROUGE-1"),
    ("PEPLER sequential", "PEPLER prompt only", "log p a token"),
)


def plain(split: Split) -> dict[str, dict]:
    """Explanations that need no model."""
    view = peter(longest=LONGEST).task.view
    train, test = view.rows(split.train, ahead=0, rng=np.random.default_rng(0)), view.held_out(split.test)
    said, wanted = view.collate(train).texts["explanation"], view.collate(test).texts["explanation"]
    rng = np.random.default_rng(0)
    counts: dict[str, int] = {}
    for text in said:
        counts[text] = counts.get(text, 0) + 1
    top = max(sorted(counts), key=lambda text: counts[text])
    anyone = [said[at] for at in rng.integers(0, len(said), len(test))]
    own = [np.flatnonzero(train.item == item) for item in test.item.tolist()]
    of_item = [said[int(rng.choice(each))] if len(each) else other for each, other in zip(own, anyone, strict=True)]
    found = {}
    for name, written in (("most frequent", [top] * len(test)), ("random", anyone), ("random of the item", of_item)):
        texts = Texts(*(tuple(" ".join(WORDS["words"](text)) for text in each) for each in (written, wanted)))
        values = {str(each): each(texts) for each in MEASURES}
        rouge = np.asarray(values["ROUGE-1"], float).tolist()
        found[name] = {
            "measures": {key: float(np.mean(value)) for key, value in values.items()},
            "rouge": rouge,
            "written": written,
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--table", default="yelp", choices=["yelp", "amazon-books", "google-local"])
    parser.add_argument("--runs", type=Path, default=Path("runs/studies/xrec"))
    a = parser.parse_args()
    dataset = sources.load(f"reviews:{a.data_root / 'xrec-explanations' / f'{a.table}.parquet'}")
    split = by_review(dataset)
    summaries = [text for side in (dataset.users, dataset.items) for text in side.column("summary").to_pylist() if text]
    name = str(backbone(summaries, a.runs / f"{a.table}-backbone").resolve())
    common = {"longest": LONGEST, "patience": 1, "batch_size": 32, "lr": 2e-3}
    arms: dict[str, System] = {
        "PETER": peter(**common, dim=96, words=2000, epochs=10),
        "PEPLER prompt only": pepler(**common, backbone=name, tuned="prompt", epochs=6),
        "PEPLER sequential": pepler(**common, backbone=name, epochs=6),
    }
    found = plain(split)
    for arm, system in arms.items():
        kept = a.runs / f"{a.table}-{arm.lower().replace(' ', '-')}"
        done = kept.with_suffix(".json")
        if not done.exists():
            with Reporter() as reporter:
                reporter.say(arm)
                fitted = fit(system, split, out=kept, resume=True, execution=Execution(device="cpu"), reporter=reporter)
            done.write_text(json.dumps(judged(fitted, split)))
        found[arm] = json.loads(done.read_text())
    report(found, len(split.test), a.table)


def report(found: dict[str, dict], count: int, table: str) -> None:
    """Writes the tables."""
    rows = []
    for one, two, what in TESTS:
        x, y = (np.array(found[arm]["rouge" if what == "ROUGE-1" else "log_p"]) for arm in (one, two))
        gain = paired_interval(x, y, seed=0)
        rows.append([one, two, what, [gain.mean, gain.low, gain.high], sign_flip_test(x, y, seed=0)])
    corrected = holm(np.array([row[4] for row in rows])).tolist()
    names = ("PPL", *(str(each) for each in MEASURES))
    lines = [
        f"# Explanations of xrec-explanations, {table}",
        "",
        f"{count} pairs asked, one seed; targets are by a large language model. PPL compares within a system alone. Made by",
        "`python -m studies.xrec`.",
        "",
        "| arm | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for arm, each in found.items():
        cells = [f"{each['measures'][name]:.3f}" if name in each["measures"] else "-" for name in names]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    lines += ["", "| difference | measure | gain (95 %) | p (Holm) |", "|---|---|---|---|"]
    for (one, two, what, (mean, low, high), _), p in zip(rows, corrected, strict=True):
        lines.append(f"| {one} - {two} | {what} | {mean:+.3f} [{low:+.3f}, {high:+.3f}] | {p:.4f} |")
    out = {
        "data": table, "pairs": count, "version": __version__, "tests": rows, "p_holm": corrected,
        "arms": {arm: {"measures": each["measures"], "examples": each["written"][:3]} for arm, each in found.items()},
    }  # fmt: skip
    (RESULTS / "xrec.json").write_text(json.dumps(out, indent=1) + "\n")
    (RESULTS / "xrec.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
