"""The quality study: how good each system gets on public benchmark cuts, under one protocol.

    python -m studies.quality --data-root FOLDER [ENTRY ...] [--seeds N]   run entries (all by default) and rewrite the table
    python -m studies.quality --table                                     rewrite the table from the results at hand

FOLDER holds the data sets by name (ml-1m, amazon-beauty, ...); MovieLens-100K comes from the package index. Protocol:
leave-one-out, the whole catalogue ranked, items of the history left out, ties in time by file order; the best epoch is chosen by
validation NDCG@10, and the test is asked once. A run that is stopped goes on where it was when the command is given again.
Results: studies/results/<entry>.json; table: studies/results/quality.md.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmrs import __version__, sources
from lmrs.fit import fit
from lmrs.judge import judge
from lmrs.measures import HR, NDCG
from lmrs.progress import Reporter
from lmrs.split import leave_one_out
from lmrs.statistics import bootstrap_mean, seeds_interval
from lmrs.system import System
from lmrs.systems.bert4rec import bert4rec
from lmrs.systems.ease import ease
from lmrs.systems.item_knn import item_knn
from lmrs.systems.markov import markov
from lmrs.systems.popularity import popularity
from lmrs.systems.recent_popularity import recent_popularity
from lmrs.systems.sasrec import sasrec

RESULTS = Path(__file__).parent / "results"
MEASURES = (HR(10), NDCG(10))
SYSTEMS = {
    "sasrec": sasrec,
    "bert4rec": bert4rec,
    "popularity": popularity,
    "recent-popularity": recent_popularity,
    "markov": markov,
    "item-knn": item_knn,
    "ease": ease,
}


@dataclass(frozen=True)
class Entry:
    """One row of the table. options: keywords of the system; seeds: how many; must, aim: (HR@10, NDCG@10) to reach, or None."""

    data: str
    system: str
    options: dict[str, Any]
    seeds: int = 1
    must: tuple[float, float] | None = None
    aim: tuple[float, float] | None = None

    def make(self) -> System:
        return SYSTEMS[self.system](**self.options)


ML1M = {"max_len": 200, "stride": 200, "jitter": True, "every": 2}
ML100K = {"max_len": 50, "stride": 50, "jitter": True}
BEAUTY = {"max_len": 50, "stride": 50, "jitter": True, "dropout": 0.5}
ENTRIES = {
    "ml-100k-sasrec": Entry("ml-100k", "sasrec", {**ML100K, "patience": 15}, 5, (0.185, 0.095), (0.20, 0.105)),
    "ml-100k-bert4rec": Entry(
        "ml-100k", "bert4rec", {**ML100K, "batch_size": 32, "every": 4, "patience": 8}, 5, (0.185, 0.095), (0.20, 0.105)
    ),
    "ml-1m-sasrec": Entry("ml-1m", "sasrec", {**ML1M, "epochs": 52, "patience": 5}, 1, (0.300, 0.172), (0.313, 0.178)),
    "ml-1m-bert4rec": Entry(
        "ml-1m",
        "bert4rec",
        {**ML1M, "hide": 0.4, "batch_size": 32, "lr": 0.002, "decay": True, "epochs": 100, "patience": 50},
        1,
        (0.282, 0.152),
        (0.292, 0.162),
    ),
    "beauty-sasrec": Entry(
        "amazon-beauty",
        "sasrec",
        {**BEAUTY, "loss": "sampled", "epochs": 200, "every": 2, "patience": 8},
        3,
        (0.083, 0.045),
        (0.092, 0.053),
    ),
}
for _data in ("ml-100k", "ml-1m", "amazon-beauty"):
    for _control in ("popularity", "recent-popularity", "markov", "item-knn", "ease"):
        ENTRIES[f"{_data.removeprefix('amazon-')}-{_control}"] = Entry(_data, _control, {})


def run(name: str, root: Path | None, runs: Path, seeds: int | None) -> None:
    """Fit and judge the seeds of one entry that are not there yet, and write its result."""
    entry = ENTRIES[name]
    dataset = sources.load("movielens-100k" if entry.data == "ml-100k" else _folder(root) / entry.data)
    split = leave_one_out(dataset)
    values: list[np.ndarray] = []
    rows: list[dict[str, Any]] = []
    for seed in range(seeds or entry.seeds):
        done = runs / name / f"seed-{seed}.json"
        scores = done.with_suffix(".npy")
        if not done.exists():
            with Reporter() as reporter:
                reporter.say(f"{name}, seed {seed}")
                fitted = fit(entry.make(), split, out=runs / name / f"seed-{seed}", seed=seed, resume=True, reporter=reporter)
                judged = judge(fitted.scorer, fitted.objective, fitted.system.task, split.test, fitted.vocab, k=10, seed=seed)
            table = np.stack([measure(judged.ranks) for measure in MEASURES])
            best = max(
                (line for line in fitted.log if "valid" in line), key=lambda line: max(line["valid"].values()), default=None
            )
            np.save(scores, table, allow_pickle=False)
            done.write_text(
                json.dumps(
                    {
                        "seed": seed,
                        **{str(m): float(v) for m, v in zip(MEASURES, table.mean(1), strict=True)},
                        "valid": best and best["valid"],
                        "epochs": fitted.log[-1]["epoch"] if fitted.log else 0,
                        "best_epoch": best["epoch"] if best else 0,
                        "targets": fitted.targets,
                        "parameters": fitted.parameters,
                        "fit_cpu_seconds": round(fitted.cpu_seconds, 1),
                        "threads": torch.get_num_threads(),
                    }
                )
            )
        rows.append(json.loads(done.read_text()))
        values.append(np.load(scores, allow_pickle=False))
    intervals = {}
    for at, measure in enumerate(MEASURES):
        found = np.stack([table[at] for table in values])
        interval = seeds_interval(found, seed=0) if len(found) > 1 else bootstrap_mean(found[0], seed=0)
        intervals[str(measure)] = [interval.mean, interval.low, interval.high]
    result = {
        "entry": name,
        "data": entry.data,
        "data_hash": dataset.fingerprint,
        "protocol": {**split.about, "candidates": "all", "seen": "left out", "queries": len(split.test)},
        "system": entry.system,
        "options": entry.options,
        "must": entry.must,
        "aim": entry.aim,
        "runs": rows,
        "measures": intervals,
        "version": __version__,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def table() -> str:
    """The results at hand as a Markdown table."""
    lines = [
        "# Quality",
        "",
        "Leave-one-out, all items ranked, seen items left out, file-order ties; mean and 95 % interval over users (and seeds,",
        "where there are several). Made by `python -m studies.quality`; the options of each row are in `<entry>.json`.",
        "",
        "| data | system | seeds | HR@10 | NDCG@10 | must | aim | epochs (best) | fit, CPU s a seed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in ENTRIES:
        path = RESULTS / f"{name}.json"
        if not path.exists():
            continue
        r = json.loads(path.read_text())
        hr, ndcg = (f"{m:.4f} [{low:.4f}, {high:.4f}]" for m, low, high in (r["measures"]["HR@10"], r["measures"]["NDCG@10"]))
        goal = ["-" if not r[key] else f"{r[key][0]:.3f} / {r[key][1]:.3f}" for key in ("must", "aim")]
        epochs = np.mean([run["epochs"] for run in r["runs"]])
        best = np.mean([run["best_epoch"] for run in r["runs"]])
        cpu = np.mean([run["fit_cpu_seconds"] for run in r["runs"]])
        lines.append(
            f"| {r['data']} | {r['system']} | {len(r['runs'])} | {hr} | {ndcg} | {goal[0]} | {goal[1]} "
            f"| {epochs:.0f} ({best:.0f}) | {cpu:,.0f} |"
        )
    return "\n".join(lines) + "\n"


def _folder(root: Path | None) -> Path:
    if root is None:
        raise SystemExit("this entry needs --data-root FOLDER, the folder that holds the data sets")
    return root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("entries", nargs="*", help=f"of {', '.join(ENTRIES)}")
    parser.add_argument("--data-root", type=Path, help="folder with the data sets by name")
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"), help="where runs are kept")
    parser.add_argument("--seeds", type=int, help="fewer or more seeds than the entry states")
    parser.add_argument("--table", action="store_true", help="only rewrite the table")
    arguments = parser.parse_args()
    unknown = set(arguments.entries) - set(ENTRIES)
    if unknown:
        parser.error(f"no entry {', '.join(sorted(unknown))}; there are {', '.join(ENTRIES)}")
    if not arguments.table:
        for name in arguments.entries or ENTRIES:
            run(name, arguments.data_root, arguments.runs, arguments.seeds)
    RESULTS.joinpath("quality.md").write_text(table())


if __name__ == "__main__":
    main()
