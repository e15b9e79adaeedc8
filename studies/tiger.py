"""Do semantic ids pay in TIGER? The same model and training with paths of text vectors and with random paths, on amazon-beauty.

    python -m studies.tiger --data-root FOLDER [--seeds N]

FOLDER holds amazon-beauty. A part of its users, drawn once, and what is left of it with five events a user and three an item; a
small T5, so that a run takes minutes of one core. Arms differ in the index alone. Differences are paired by user: bootstrap
interval and randomisation test, Holm-corrected. Nothing is chosen by the test part. Needs the backbone minilm for the texts.
Result: studies/results/tiger.{json,md}. A run that is stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lmrs import __version__, sources, systems
from lmrs.fit import Fitted, fit
from lmrs.judge import judge
from lmrs.measures import HR, NDCG
from lmrs.models.generative import GenerativeNetwork
from lmrs.models.reserved import Reserve
from lmrs.progress import Reporter
from lmrs.split import Split, fewer, leave_one_out
from lmrs.statistics import holm, seeds_difference, sign_flip_test
from lmrs.views import Rows
from studies.beauty import some_users

RESULTS = Path(__file__).parent / "results"
USERS = 4500
OPTIONS = {
    "codes": 64, "users": 500, "dim": 64, "layers": 2, "heads": 4, "head_dim": 16, "inner": 256, "max_len": 6, "batch_size": 64,
    "epochs": 8, "every": 4, "patience": None, "beams": 30, "dropout": 0.0, "reserve": 0.0,
}  # fmt: skip
ARMS = {"RQ, k-means": "rq-kmeans", "random": "random"}
BASE = "random"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"))
    parser.add_argument("--seeds", type=int, default=1)
    a = parser.parse_args()
    data = some_users(sources.load(a.data_root / "amazon-beauty"), USERS)
    split = fewer(leave_one_out(data), valid=300)
    found: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in ARMS}
    for seed in range(a.seeds):
        for name, index in ARMS.items():
            kept = a.runs / "tiger" / f"{index}-{seed}.npz"
            if not kept.exists():
                kept.parent.mkdir(parents=True, exist_ok=True)
                np.savez(kept, **arm(index, split, seed))
            found[name].append(dict(np.load(kept, allow_pickle=False)))
    write(split, found, a.seeds)


def arm(index: str, split: Split, seed: int) -> dict[str, np.ndarray]:
    """Measures of every test query under one index."""
    with Reporter() as reporter:
        fitted = fit(systems.tiger(index=index, **OPTIONS), split, seed=seed, reporter=reporter)
    judged = judge(fitted.scorer, fitted.objective, fitted.system.task, split.test, fitted.vocab, k=10, seed=seed)
    return {
        "NDCG@10": NDCG(10)(judged.ranks),
        "HR@10": HR(10)(judged.ranks),
        "cold": new_items(fitted, split, seed),
        "cold_reserved": new_items(fitted, split, seed, reserve=0.1),
        "free": unguided(fitted, split),
        "cpu_seconds": np.array([fitted.cpu_seconds]),
    }


def new_items(fitted: Fitted, split: Split, seed: int, reserve: float = 0.0) -> np.ndarray:
    """For 60 test queries whose truth has no training event: the share of all other items that it beats, by exact likelihoods."""
    assert isinstance(fitted.scorer, GenerativeNetwork)
    counts = split.train.counts()
    cold = np.flatnonzero(counts[split.test.dataset.item[split.test.stop]] == 0)[:60]
    fitted.scorer.about = replace(fitted.scorer.about, beams=None)
    fitted.scorer.reserve = Reserve.of(fitted.scorer.index, counts, reserve) if reserve else None
    judged = judge(fitted.scorer, fitted.objective, fitted.system.task, split.test.take(cold), fitted.vocab, k=10, seed=seed)
    return 1 - (np.asarray(judged.ranks.rank, np.float64) - 1) / (judged.ranks.n_candidates - 1)


@torch.no_grad()
def unguided(fitted: Fitted, split: Split, queries: int = 500) -> np.ndarray:
    """For some test queries: which of the ten best codes of a search that no trie guides are no item."""
    network, objective = fitted.scorer, fitted.objective
    assert isinstance(network, GenerativeNetwork)
    assert objective is not None
    some = split.test.take(np.linspace(0, len(split.test) - 1, queries).astype(np.int64))
    view = fitted.system.task.view
    rows = view.asked(Rows(some.dataset, some.user, some.start, some.stop), asks=0)
    batch = objective.ask(view.collate(rows), fitted.vocab)
    assert batch is not None
    beams, found = 10, []
    for _, context in network.contexts(batch, 256):
        total, codes = context.logits.log_softmax(1), torch.zeros(context.rows, 1, 0, dtype=torch.long)
        for step in range(network.index.longest):
            scores, at = total.view(len(codes), -1).topk(beams)
            parent, token = at // total.shape[-1], at % total.shape[-1]
            codes = torch.cat([codes.gather(1, parent[:, :, None].expand(-1, -1, codes.shape[2])), token[:, :, None]], 2)
            if step + 1 == network.index.longest:
                break
            flat = (torch.arange(len(parent))[:, None] * (beams if step else 1) + parent).flatten()
            logits, context = context.select(flat).read(token.flatten()[:, None])
            total = scores.flatten()[:, None] + logits[:, -1].float().log_softmax(1)
        found += [network.index.trie.walk(code) < 0 for row in codes.numpy() for code in row]
    return np.array(found, np.float64)


def write(split: Split, found: dict[str, list[dict[str, np.ndarray]]], seeds: int) -> None:
    control = fit(systems.popularity(), split)
    popular = judge(control.scorer, None, control.system.task, split.test, control.vocab, k=10, seed=0).ranks
    rows = []
    for name, runs in found.items():
        values = {each: np.stack([run[each] for run in runs]) for each in ("NDCG@10", "HR@10")}
        row = {"index": name, **{each: float(value.mean()) for each, value in values.items()}}
        for each in ("cold", "cold_reserved", "free"):
            row[each] = float(np.mean([run[each].mean() for run in runs]))
        row["cold_queries"] = len(runs[0]["cold"])
        row["cpu_seconds"] = float(np.mean([run["cpu_seconds"] for run in runs]))
        if name != BASE:
            base = np.stack([run["NDCG@10"] for run in found[BASE]])
            gain = seeds_difference(values["NDCG@10"], base, seed=0)
            row |= {
                "gain": [gain.mean, gain.low, gain.high], "p": sign_flip_test(values["NDCG@10"].mean(0), base.mean(0), seed=0)
            }  # fmt: skip
        rows.append(row)
    tested = [row for row in rows if "p" in row]
    for row, p in zip(tested, holm(np.array([row["p"] for row in tested])), strict=True):
        row["p_holm"] = float(p)
    data = split.dataset
    told = {
        "data": f"amazon-beauty, {data.n_users:,} users, {data.n_items:,} items, {data.n_events:,} events",
        "options": OPTIONS, "seeds": seeds,
        "popularity": {"NDCG@10": float(NDCG(10)(popular).mean()), "HR@10": float(HR(10)(popular).mean())},
        "arms": rows, "version": __version__,
    }  # fmt: skip
    (RESULTS / "tiger.json").write_text(json.dumps(told, indent=1) + "\n")
    lines = [
        "# TIGER: semantic ids against random ones",
        "",
        f"{told['data']}; leave-one-out, the whole catalogue ranked by a search of {OPTIONS['beams']} beams. Gain in NDCG@10",
        "over random ids with 95 % interval, p of the paired sign-flip test (Holm). New items: mean share of the catalogue that",
        "a true item without training events beats by exact likelihoods (chance .5), and with a tenth of every path reserved for",
        "such items. Free: of the ten best codes that a search without a trie finds for 500 queries, the share that spells",
        "no item; with a trie there is none. Made by `python -m studies.tiger`.",
        "",
        "| index | NDCG@10 | HR@10 | gain | p | new items | reserved | free | CPU s of a fit |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        gain = "{:+.4f} [{:+.4f}, {:+.4f}] | {:.4f}".format(*row["gain"], row["p_holm"]) if "gain" in row else " | "
        lines.append(
            f"| {row['index']} | {row['NDCG@10']:.4f} | {row['HR@10']:.4f} | {gain} | {row['cold']:.3f} ({row['cold_queries']}) "
            f"| {row['cold_reserved']:.3f} | {row['free']:.1%} | {row['cpu_seconds']:,.0f} |"
        )
    lines += ["", f"Popularity: {told['popularity']['NDCG@10']:.4f} / {told['popularity']['HR@10']:.4f}. Seeds: {seeds}."]
    (RESULTS / "tiger.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
