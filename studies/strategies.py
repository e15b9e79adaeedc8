"""The survey's eight training strategies on one language model and few users: quality, time and memory of each.

    python -m studies.strategies --data-root FOLDER [--backbone NAME] [--users N] [--queries N] [--epochs N]

FOLDER holds ml-100k; the backbone is fetched by `lmrs models get`. Every strategy reads the same histories of the same few users
(every 943 / N-th of them), takes the same number of steps, and is asked the same leave-one-out questions against the same 99
drawn films; beside them stand popularity and chance. Differences are to tuning-free prompting, paired by user: bootstrap interval
and randomisation test, Holm-corrected. Result: studies/results/strategies.{json,md}. A run that is stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from lmrs import __version__, sources, split
from lmrs.dataset import Dataset
from lmrs.fit import fit
from lmrs.judge import judge_among
from lmrs.language.memory import memory
from lmrs.measures import NDCG, Sampling
from lmrs.models.network import Network
from lmrs.progress import Reporter
from lmrs.statistics import bootstrap_mean, holm, seeds_difference, sign_flip_test
from lmrs.system import System
from lmrs.systems.language import language
from lmrs.systems.popularity import popularity
from lmrs.tuning import STRATEGIES, TUNING_FREE

RESULTS = Path(__file__).parent / "results"
SAMPLING = Sampling(99)


def some_users(data: Dataset, n: int) -> Dataset:
    """The dataset with the events of n users alone, evenly spaced; the catalogue stays whole."""
    kept = np.linspace(0, data.n_users - 1, n).astype(np.int64)
    place = np.concatenate([np.arange(data.offsets[user], data.offsets[user + 1]) for user in kept])

    def pick(array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else array[place]

    return replace(
        data,
        vocab=replace(data.vocab, users=data.vocab.users.take(pa.array(kept))),
        item=data.item[place],
        offsets=np.concatenate([[0], np.cumsum(data.lengths[kept])]),
        time=pick(data.time),
        rating=pick(data.rating),
        type=pick(data.type),
        users=None if data.users is None else data.users.take(pa.array(kept)),
        about=data.about | {"users_kept": n},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"))
    parser.add_argument("--backbone", default="smollm2")
    parser.add_argument("--users", type=int, default=160)
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--max-len", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=8)
    a = parser.parse_args()
    data = some_users(sources.load(a.data_root / "ml-100k"), a.users)
    part = split.fewer(split.leave_one_out(data), valid=1, test=a.queries)
    options = {"backbone": a.backbone, "max_len": a.max_len, "epochs": a.epochs, "batch_size": a.batch_size, "patience": None}
    arms: dict[str, System] = {name: language(strategy=name, **options) for name in STRATEGIES}
    arms["popularity"] = popularity()
    kept = a.runs / f"strategies-{a.backbone}-{a.users}-{a.queries}-{a.epochs}-{a.max_len}-{a.batch_size}"
    found = {name: _one(name, system, part, kept) for name, system in arms.items()}
    base = np.array(found[TUNING_FREE]["values"])
    others = [name for name in found if name != TUNING_FREE]
    p = [sign_flip_test(np.array(found[name]["values"]), base, seed=0) for name in others]
    corrected = dict(zip(others, holm(np.array(p)).tolist(), strict=True))
    chance = float(np.mean(1 / np.log2(np.arange(2, 12)))) * 10 / (SAMPLING.n + 1)
    rows = []
    for name, each in found.items():
        values = np.array(each["values"])
        mean = bootstrap_mean(values, seed=0)
        gain = seeds_difference(values[None], base[None], seed=0)
        rows.append(
            {
                "strategy": name,
                "mean": [mean.mean, mean.low, mean.high],
                "gain": None if name == TUNING_FREE else [gain.mean, gain.low, gain.high],
                "p_holm": corrected.get(name),
                **{key: value for key, value in each.items() if key != "values"},
            }
        )
    kept = {"data": "ml-100k", "measure": f"NDCG@10/{SAMPLING}", "users": a.users, "queries": len(base), "chance": chance}
    report = {**kept, "options": options, "rows": rows, "version": __version__}
    (RESULTS / "strategies.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / "strategies.md").write_text(_table(report))


def _one(name: str, system: System, part: split.Split, folder: Path) -> dict:
    """What one strategy gave and took; read back if it was done before."""
    kept = folder / f"{name.replace(' ', '-').replace('+', 'and')}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    with Reporter() as reporter:
        reporter.say(name)
        fitted = fit(system, part, seed=0, reporter=reporter)
        ranks, _ = judge_among(
            fitted.scorer, fitted.objective, system.task, part.test, fitted.vocab, sampling=SAMPLING, seed=0, reporter=reporter
        )
    cost = memory(fitted.scorer) if isinstance(fitted.scorer, Network) else None  # of what the last stage tuned
    found = {
        "values": NDCG(10)(replace(ranks, sampling=None)).tolist(),
        "steps": fitted.steps,
        "cpu_seconds": fitted.cpu_seconds,
        "trained": fitted.trained,
        "parameters": fitted.parameters,
        "bytes": None if cost is None else cost.all,
    }
    folder.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(found))
    return found


def _table(found: dict) -> str:
    lines = [
        "# Eight training strategies, one language model",
        "",
        f"{found['options']['backbone']}, {found['data']}, {found['users']} users, {found['queries']} questions,",
        f"{found['measure']}; chance is {found['chance']:.3f}. Gain over tuning-free prompting with 95 % interval, p of",
        "the paired randomisation test, Holm-corrected. Memory: weights, gradients and Adam's moments, counted.",
        "Made by `python -m studies.strategies`.",
        "",
        "| strategy | NDCG@10 | gain | p (Holm) | trained parameters | memory | steps | CPU s of the fit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        mean, low, high = row["mean"]
        gain = "-" if row["gain"] is None else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*row["gain"])
        size = "-" if row["bytes"] is None else f"{row['bytes'] / 2**20:,.0f} MiB"
        p = "-" if row["p_holm"] is None else f"{row['p_holm']:.3f}"
        lines.append(
            f"| {row['strategy']} | {mean:.3f} [{low:.3f}, {high:.3f}] | {gain} | {p} | {row['trained']:,} | {size} "
            f"| {row['steps']} | {row['cpu_seconds']:,.0f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
