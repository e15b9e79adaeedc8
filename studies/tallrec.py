"""TALLRec with few examples: does a small language model learn to tell likes from dislikes, as the paper's 7 B one does?

    python -m studies.tallrec --data-root FOLDER [--set ml-1m] [--shots N] [--questions N] [--epochs N]

FOLDER holds ml-100k or ml-1m (titles cleaned as in studies.zero_shot). smollm2 (135 M) with LoRA on the query and value maps; one
example a user: the last training event of some users, asked after the five events before it, liked means rated above 3 (paper).
Test: the last event of other users. AUC over all questions: untuned, tuned, and two counts that know all training ratings.
The interval is a bootstrap over users. p: each liked item's share of disliked ones below it, paired, randomisation test, Holm.
Result: studies/results/tallrec.{json,md}, or tallrec-ml-1m.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lmrs import __version__, models, objectives, sources, systems, tasks
from lmrs.fit import fit
from lmrs.measures import AUC
from lmrs.progress import Reporter
from lmrs.split import Split, fewer, leave_one_out
from lmrs.statistics import holm, sign_flip_test
from lmrs.system import Stage
from lmrs.tasks.liking import RatedRows
from studies.zero_shot import RESULTS, with_titles

RESAMPLES = 2000
PROMPT = (
    "Given the user's preference and unpreference, identify whether the user will like the target movie by answering Yes or No.\n"
    "User preference: {list liked}\nUser unpreference: {list disliked}\n"
    "Whether the user will like the target movie {candidate}?\nAnswer:"
)


def shots(split: Split, count: int, rng: np.random.Generator) -> tuple[Split, np.ndarray]:
    """(the split in which `count` users train, those users)."""
    rating = split.dataset.rating
    assert rating is not None
    users = np.flatnonzero(split.train.lengths > 5)
    last = rating[split.train.stop[users] - 1] > 3
    half = count // 2
    drawn = np.concatenate([rng.permutation(users[last])[:half], rng.permutation(users[~last])[: count - half]])
    stop = split.dataset.offsets[:-1].copy()
    stop[drawn] = split.train.stop[drawn]
    return replace(split, train=replace(split.train, stop=stop)), drawn


def below(score: np.ndarray, liked: np.ndarray) -> np.ndarray:
    """float64[liked]: the share of disliked questions that a liked one is scored above, ties 1/2; their mean is AUC."""
    other = score[~liked]
    return np.array([((own > other) + (own == other) / 2).mean() for own in score[liked]])


def bounds(score: np.ndarray, liked: np.ndarray, against: np.ndarray | None = None) -> list[float]:
    """[AUC (less that of `against`), low, high]: 95 % bootstrap over the questions."""
    rng = np.random.default_rng(0)

    def value(which: np.ndarray) -> float:
        one = below(score[which], liked[which]).mean()
        return float(one if against is None else one - below(against[which], liked[which]).mean())

    drawn = [rng.integers(0, len(score), len(score)) for _ in range(RESAMPLES)]
    found = [value(which) for which in drawn if 0 < liked[which].sum() < len(which)]
    return [value(np.arange(len(score))), *map(float, np.percentile(found, [2.5, 97.5]))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--set", default="ml-100k", choices=["ml-100k", "ml-1m"])
    parser.add_argument("--shots", type=int, default=64)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=2)
    a = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    data = with_titles(sources.load(a.data_root / a.set))
    whole = leave_one_out(data)
    split, drawn = shots(whole, a.shots, rng)
    free = np.flatnonzero(~np.isin(split.sealed_test.user, drawn))
    asked = split.sealed_test.take(np.sort(rng.permutation(free)[: a.questions]))
    split = fewer(split, valid=10)
    options = {"rating": 3.0, "prompt": PROMPT, "max_len": 5, "epochs": a.epochs, "every": a.epochs, "batch_size": 8, "lr": 1e-3}
    system = systems.tallrec(**options, patience=None)  # type: ignore[arg-type]
    stage = system.stages[0]
    assert isinstance(stage, Stage)
    assert isinstance(system.model, models.Prompted)
    system = replace(system, stages=(replace(stage, objective=objectives.Liking(places="last")),))
    task = system.task
    assert isinstance(task, tasks.Liked)
    rows = task.rows(asked)
    vocab = replace(data.vocab, counts=whole.train.counts(), catalogue=data.items)
    assert data.rating is not None
    liked = np.asarray(data.rating[rows.place] > 3)
    scores = {"item popularity": counted(whole, rows)[0], "item mean rating": counted(whole, rows)[1]}

    def ask(network: models.Network) -> np.ndarray:
        found = task.judge(network, objectives.Liking(), rows, vocab, measures=[AUC()], seed=0)
        return np.array(found.columns["score"].to_pylist())

    scores["smollm2, untuned"] = ask(system.model.build(vocab))
    with Reporter() as reporter:
        fitted = fit(system, split, seed=0, reporter=reporter)
    tuned = f"smollm2, LoRA on {a.shots} examples"
    assert isinstance(fitted.scorer, models.Network)
    scores[tuned] = ask(fitted.scorer)
    pairs = [(tuned, "smollm2, untuned"), (tuned, "item mean rating"), (tuned, "item popularity")]
    tests = []
    for one, two in pairs:
        p = sign_flip_test(below(scores[one], liked), below(scores[two], liked), seed=0)
        tests.append({"one": one, "less": two, "difference": bounds(scores[one], liked, scores[two]), "p": p})
    for row, p in zip(tests, holm(np.array([row["p"] for row in tests])), strict=True):
        row["p_holm"] = float(p)
    name = "tallrec" if a.set == "ml-100k" else f"tallrec-{a.set}"
    found = {
        "shots": a.shots,
        "questions": len(rows),
        "liked": float(liked.mean()),
        "options": options,
        "parameters_tuned": fitted.trained,
        "AUC": {name: bounds(score, liked) for name, score in scores.items()},
        "tests": tests,
        "fit_cpu_seconds": fitted.cpu_seconds,
        "cpu_seconds": time.process_time(),
        "version": __version__,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = [
        f"# TALLRec on {a.set} with few examples",
        "",
        f"Made by `python -m studies.tallrec`; {found['cpu_seconds']:,.0f} CPU seconds; {len(rows)} questions, "
        f"{100 * liked.mean():.0f} % liked; {fitted.trained:,} parameters tuned.",
        "",
        "| | AUC |",
        "|---|---|",
        *(f"| {arm} | {mean:.3f} [{low:.3f}, {high:.3f}] |" for arm, (mean, low, high) in found["AUC"].items()),
        "",
        "| | less | difference | p (Holm) |",
        "|---|---|---|---|",
    ]
    for row in tests:
        mean, low, high = row["difference"]
        lines.append(f"| {row['one']} | {row['less']} | {mean:+.3f} [{low:+.3f}, {high:+.3f}] | {row['p_holm']:.4f} |")
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n")


def counted(split: Split, rows: RatedRows) -> tuple[np.ndarray, np.ndarray]:
    """(training events, mean training rating) of the item of each question."""
    data = split.dataset
    assert data.rating is not None
    place = split.train.events()[1]
    item, rating = data.item[place], data.rating[place]
    count = np.bincount(item, minlength=data.n_items)
    mean = (np.bincount(item, rating, data.n_items) + 3.5) / (count + 1)
    asked = data.item[rows.place]
    return count[asked].astype(float), mean[asked]


if __name__ == "__main__":
    main()
