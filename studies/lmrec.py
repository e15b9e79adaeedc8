"""Does LMRec gain from pre-trained weights, and does tuning reduce its biases? The same encoder trained, from scratch, untrained.

    python -m studies.lmrec --data-root FOLDER [--epochs N] [--sentences N] [--untuned]

FOLDER holds ml-100k (titles cleaned as in studies.zero_shot), leave one out, the whole catalogue ranked. No encoder with a
trained word head is at hand: minilm (22 M) gets a new one over its word vectors, and all weights are tuned by the softmax over
the catalogue or by the hinge loss; the arm from scratch has random weights of the same shape and the same steps. Whole
sentences are scored by smollm2 without training, on a few users and among 99 drawn items, since it reads every title.
Biases: lmrs.biases on 200 users (sentences: 24). Differences are paired by user, Holm-corrected. --untuned trains nothing:
sentences and counts alone, for more users. Result: studies/results/lmrec.{json,md}, lmrec-untuned.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lmrs import __version__, biases, models, sources, systems
from lmrs.fit import Fitted, fit
from lmrs.judge import judge, judge_among
from lmrs.measures import NDCG, Recall, Sampling, parse
from lmrs.progress import Reporter
from lmrs.split import Split, fewer, leave_one_out
from lmrs.system import System
from studies.zero_shot import RESULTS, compared, tests, with_titles

SEEN = 200  # users whose biases are measured
LENGTH = 3
COUNTS = ("popularity", "item-knn")
PAIRS = (("softmax", "softmax, from scratch"), ("softmax", "hinge"), ("softmax", "popularity"), ("item-knn", "softmax"))
AMONG = parse("NDCG@10/99neg")


def arms(epochs: int) -> dict[str, System]:
    """The systems by name."""
    tuned = {
        "backbone": "minilm", "scorer": "masks", "head": "new", "masks": 6, "padding": "exclude", "max_len": LENGTH, "lr": 1e-4,
        "epochs": epochs, "batch_size": 16, "patience": None,
    }  # fmt: skip
    softmax = systems.lmrec(loss="softmax", **tuned)  # type: ignore[arg-type]
    model = softmax.model
    assert isinstance(model, models.Prompted)
    return {
        "popularity": systems.popularity(),
        "item-knn": systems.item_knn(),
        "softmax": softmax,
        "softmax, from scratch": replace(softmax, model=replace(model, fresh=True)),
        "hinge": systems.lmrec(loss="hinge", **tuned),  # type: ignore[arg-type]
    }


def habits(fitted: Fitted, split: Split, users: int) -> dict[str, np.ndarray]:
    view = fitted.system.task.serving
    assert view is not None
    queries = split.test.take(np.arange(min(users, len(split.test))))
    return biases.measure(fitted.scorer, fitted.objective, view, queries, fitted.vocab, seed=0).values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--sentences", type=int, default=24)
    parser.add_argument("--untuned", action="store_true")
    a = parser.parse_args()
    torch.set_num_threads(1)
    split = fewer(leave_one_out(with_titles(sources.load(a.data_root / "ml-100k"))), valid=150)
    full: dict[str, np.ndarray] = {}
    recall: dict[str, float] = {}
    seen: dict[str, dict[str, np.ndarray]] = {}
    sampled: dict[str, np.ndarray] = {}
    costs: dict[str, float] = {}
    few = split.test.take(np.arange(a.sentences))
    asked_arms = {name: system for name, system in arms(a.epochs).items() if not a.untuned or name in COUNTS}
    for name, system in asked_arms.items():
        with Reporter() as reporter:
            fitted = fit(system, split, seed=0, reporter=reporter)
        judged = judge(fitted.scorer, fitted.objective, system.task, split.test, fitted.vocab, k=1, seed=0)
        full[name], recall[name] = NDCG(10)(judged.ranks), float(np.mean(Recall(20)(judged.ranks)))
        seen[name], costs[name] = habits(fitted, split, SEEN), fitted.cpu_seconds
        ranks, _ = judge_among(
            fitted.scorer, fitted.objective, system.task, few, fitted.vocab, sampling=Sampling(99), seed=0
        )  # fmt: skip
        sampled[name] = AMONG(ranks)
    system = systems.lmrec(max_len=LENGTH)
    fitted = asked(system, split)
    name = "smollm2, whole sentence, untrained"
    ranks, _ = judge_among(fitted.scorer, fitted.objective, system.task, few, fitted.vocab, sampling=Sampling(99), seed=0)
    sampled[name], seen[name] = AMONG(ranks), habits(fitted, split, min(a.sentences, 24))
    chance = sum(1 / np.log2(1 + rank) for rank in range(1, 11)) / 100
    sampled["chance"] = np.full(len(few), chance)
    found = {
        "users": len(split.test),
        "options": repr(arms(a.epochs)["softmax"].model),
        "epochs": a.epochs,
        "NDCG@10": {name: float(values.mean()) for name, values in full.items()},
        "Recall@20": recall,
        "tests": compared(
            full,
            [(one, two) for one, two in PAIRS if one in full and two in full],
        ),
        "sentences": {"users": len(few), "NDCG@10/99neg": {name: float(values.mean()) for name, values in sampled.items()}},
        "sentence_tests": compared(sampled, [(name, "chance"), *((one, name) for one in ("softmax", *COUNTS) if one in sampled)]),
        "biases": {name: biases.Biases(values, "tokens", 99).means() for name, values in seen.items()},
        "fit_cpu_seconds": costs,
        "cpu_seconds": time.process_time(),
        "version": __version__,
    }
    file = "lmrec-untuned" if a.untuned else "lmrec"
    (RESULTS / f"{file}.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / f"{file}.md").write_text("\n".join(report(found)) + "\n")


def asked(system: System, split: Split) -> Fitted:
    """A system that trains nothing, without the validation that `fit` makes of it."""
    vocab = replace(split.dataset.vocab, counts=split.train.counts(), catalogue=split.dataset.items)
    assert isinstance(system.model, models.Prompted)
    network = system.model.build(vocab)
    return Fitted(
        system, split, vocab, network, system.stages[0].objective, [], [], 0, 0, 0, 0, 0.0, 0.0,  # type: ignore[union-attr]
    )  # fmt: skip


def report(found: dict) -> list[str]:
    lines = [
        "# LMRec on ml-100k",
        "",
        f"Made by `python -m studies.lmrec`; {found['cpu_seconds']:,.0f} CPU seconds, {found['epochs']} epochs, "
        f"{found['users']} users, the whole catalogue.",
        "",
        "| arm | NDCG@10 | Recall@20 | CPU seconds of fit |",
        "|---|---|---|---|",
    ]
    for name, value in found["NDCG@10"].items():
        lines.append(f"| {name} | {value:.4f} | {found['Recall@20'][name]:.4f} | {found['fit_cpu_seconds'][name]:,.0f} |")
    lines += ["", *tests(found["tests"]), f"Among 99 drawn items, {found['sentences']['users']} users, NDCG@10:", ""]
    lines += ["| arm | NDCG@10 |", "|---|---|"]
    lines += [f"| {name} | {value:.3f} |" for name, value in found["sentences"]["NDCG@10/99neg"].items()]
    lines += ["", *tests(found["sentence_tests"]), "Biases (rank correlations; first: share of first places kept):", ""]
    lines += ["| arm | " + " | ".join(biases.ABOUT) + " |", "|---|" + "---|" * len(biases.ABOUT)]
    for name, values in found["biases"].items():
        cells = [f"{values[k][0]:+.2f} [{values[k][1]:+.2f}, {values[k][2]:+.2f}]" if k in values else "" for k in biases.ABOUT]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    main()
