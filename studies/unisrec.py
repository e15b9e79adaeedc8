"""UniSRec: does pre-training over other domains pay on a new one, and are items recommended that nobody had?

    python -m studies.unisrec --data-root FOLDER [--target ml-1m] [--seeds N] [--few USERS]

FOLDER holds amazon-beauty, amazon-sports, amazon-toys (sources) and online-retail or ml-1m (target). Texts: the short text of an
Amazon item, the title of a retail one or a film, read by a frozen minilm. Subsampled to stay within minutes: the 1,500 items with
most events of each source and 3,000 of its users, 1,000 users of the target; 64 wide, histories of 20.
One: leave one out on the target, the whole catalogue ranked; the adaptor tuned on a pre-trained body, all trained from scratch,
the adaptor tuned on a random body, and SASRec by ids. Two: a tenth of the items taken out of training; where they are ranked.
With --few USERS: one again, but only so many users of the target train, all are asked, and the pre-trained model is also asked
untuned. Differences are paired by user, Holm-corrected. Result: studies/results/unisrec.{json,md}, unisrec-few.{json,md},
unisrec-ml-1m.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from lmrs import __version__, models, sources, systems, tuning
from lmrs.dataset import Dataset
from lmrs.fit import Fitted, fit
from lmrs.judge import judge
from lmrs.measures import NDCG, Recall
from lmrs.new_items import without_items
from lmrs.progress import Reporter
from lmrs.recommender import Recommender
from lmrs.split import Split, fewer, k_core, leave_one_out
from lmrs.statistics import holm, seeds_difference, sign_flip_test
from lmrs.system import Stage, System

RESULTS = Path(__file__).parent / "results"
SOURCES = ("amazon-beauty", "amazon-sports", "amazon-toys")
SIZES = {"dim": 64, "layers": 2, "heads": 2, "max_len": 20, "dropout": 0.2, "texts": ("title",)}
FIT = {"epochs": 12, "every": 3, "batch_size": 64, "lr": 1e-3, "patience": None}


def subsample(data: Dataset, *, items: int | None, users: int, seed: int) -> Dataset:
    """The most taken items and some users, each with three events and more; one text an item, called title."""
    assert data.items is not None
    text = "text_id" if "text_id" in data.items.column_names else "title"
    counts = np.bincount(data.item, minlength=data.n_items)
    kept = np.zeros(data.n_items, bool)
    kept[np.argsort(-counts, kind="stable")[: items or data.n_items]] = True
    drawn = np.zeros(data.n_users, bool)
    drawn[np.random.default_rng(seed).choice(data.n_users, min(users, data.n_users), replace=False)] = True
    owner = np.repeat(np.arange(data.n_users), data.lengths)
    keep = kept[data.item] & drawn[owner]
    table = pa.table({"item_id": data.vocab.items, "title": data.items.column(text)})
    some = Dataset(
        data.name,
        replace(data.vocab, attributes={}),
        data.item[keep],
        np.concatenate([[0], np.cumsum(np.bincount(owner[keep], minlength=data.n_users))]).astype(np.int64),
        items=table,
    )
    return k_core(some, users=3, items=1)


def frozen_body(system: System) -> System:
    """The second stage alone, on a body that nobody trained: what tuning the adaptor reaches by itself."""
    last = system.stages[-1]
    assert isinstance(last, Stage)
    return replace(system, stages=(replace(last, tuning=tuning.Part(("adaptor.*",))),))


def measured(system: System, split: Split, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """(NDCG@10, Recall@20, share of the catalogue above the true item: each [users]; CPU seconds)."""
    with Reporter() as reporter:
        fitted = fit(system, split, seed=seed, reporter=reporter)
    ranks = judge(fitted.scorer, fitted.objective, system.task, split.test, fitted.vocab, k=1, seed=seed).ranks
    return NDCG(10)(ranks), Recall(20)(ranks), (ranks.rank - 1) / ranks.n_candidates, fitted.cpu_seconds


def compared(values: dict[str, np.ndarray], asked: list[tuple[str, str]]) -> list[dict]:
    rows = []
    for one, two in asked:
        gap = seeds_difference(values[one], values[two], seed=0)
        p = sign_flip_test(values[one].mean(0), values[two].mean(0), seed=0)
        rows.append({"one": one, "less": two, "difference": [gap.mean, gap.low, gap.high], "p": p})
    for row, p in zip(rows, holm(np.array([row["p"] for row in rows])), strict=True):
        row["p_holm"] = float(p)
    return rows


def pretrained(pre: Split, epochs: int, seed: int, run: Path) -> Fitted:
    """The first stage on the sources, saved in `run`."""
    made = systems.unisrec(**SIZES, pretrain_epochs=epochs, pretrain_batch_size=512, every=epochs, epochs=1)  # type: ignore[arg-type]
    with Reporter() as reporter:
        first = fit(replace(made, stages=made.stages[:1]), pre, seed=seed, reporter=reporter)
    Recommender.of(first).save(run / "model")
    return first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--pretrain-epochs", type=int, default=8)
    parser.add_argument("--few", type=int, help="with online-retail alone")
    parser.add_argument("--target", default="online-retail", choices=["online-retail", "ml-1m"])
    a = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.process_time()
    domains = [subsample(sources.load(a.data_root / name), items=1500, users=3000, seed=1) for name in SOURCES]
    pre = fewer(leave_one_out(sources.union(domains)), valid=500)
    target = subsample(sources.load(a.data_root / a.target), items=None, users=1000, seed=2)
    split = fewer(leave_one_out(target), valid=300)
    if a.few is not None:
        if a.target != "online-retail":
            parser.error("--few is with online-retail alone")
        few(pre, split, a.few, a.pretrain_epochs)
        return
    new = fewer(without_items(target, share=0.1, seed=0), valid=300)
    options = {**SIZES, **FIT}
    arms: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray, float]]] = {}
    fresh: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray, float]]] = {}
    costs = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(a.seeds):
            run = Path(folder) / str(seed)
            costs += pretrained(pre, a.pretrain_epochs, seed, run).cpu_seconds
            scratch = systems.unisrec(**options, pretrain=False)  # type: ignore[arg-type]
            ids = systems.sasrec(dim=64, max_len=20, dropout=0.2, **FIT)  # type: ignore[arg-type]
            wanted = {
                "pre-trained body, adaptor tuned": systems.unisrec(**options, start=str(run)),  # type: ignore[arg-type]
                "random body, adaptor tuned": frozen_body(scratch),
                "from scratch, all trained": scratch,
                "ids (SASRec)": ids,
            }
            for name, system in wanted.items():
                arms.setdefault(name, []).append(measured(system, split, seed))
            for name in ("pre-trained body, adaptor tuned", "from scratch, all trained", "ids (SASRec)"):
                fresh.setdefault(name, []).append(measured(wanted[name], new, seed))
    ndcg = {name: np.stack([each[0] for each in runs]) for name, runs in arms.items()}
    above = {name: np.stack([each[2] for each in runs]) for name, runs in fresh.items()}
    above["chance"] = np.full_like(above["ids (SASRec)"], 0.5)
    best, scratch_name, by_ids = "pre-trained body, adaptor tuned", "from scratch, all trained", "ids (SASRec)"
    found = {
        "sources": {each.name: [each.n_users, each.n_items, each.n_events] for each in domains},
        "target": {"name": a.target, "users": target.n_users, "items": target.n_items, "events": target.n_events},
        "options": {**options, "texts": list(SIZES["texts"])},  # type: ignore[call-overload]
        "pretrain_epochs": a.pretrain_epochs,
        "seeds": a.seeds,
        "warm": {
            name: {
                "NDCG@10": float(ndcg[name].mean()),
                "Recall@20": float(np.mean([each[1] for each in runs])),
                "fit_cpu_seconds": float(np.mean([each[3] for each in runs])),
            }
            for name, runs in arms.items()
        },
        "users": len(split.test),
        "tests": compared(
            ndcg, [(best, scratch_name), (best, "random body, adaptor tuned"), (best, by_ids), (scratch_name, by_ids)]
        ),
        "new": {
            name: {
                "share above": float(values.mean()),
                "Recall@20": float(np.mean([each[1] for each in fresh[name]])) if name in fresh else 20 / target.n_items,
            }
            for name, values in above.items()
        },
        "new_users": len(new.test),
        "new_tests": compared(above, [(best, "chance"), (best, by_ids), (best, scratch_name), (by_ids, "chance")]),
        "pretrain_cpu_seconds": costs / a.seeds,
        "cpu_seconds": time.process_time() - begun,
        "version": __version__,
    }
    name = "unisrec" if a.target == "online-retail" else f"unisrec-{a.target}"
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text("\n".join(report(found)) + "\n")


def few(pre: Split, split: Split, users: int, epochs: int) -> None:
    """The arms again where the target has few users to learn from; as many steps as there are with 1,000."""
    begun = time.process_time()
    stop = split.dataset.offsets[:-1].copy()
    drawn = np.random.default_rng(3).permutation(np.flatnonzero(split.train.lengths > 2))[:users]
    stop[drawn] = split.train.stop[drawn]
    small = replace(split, train=replace(split.train, stop=stop))
    longer = {**FIT, "epochs": 60, "every": 20, "batch_size": min(users, 64)}
    arms: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        pretrained(pre, epochs, 0, run)
        start = systems.unisrec(**SIZES, **longer, start=str(run))  # type: ignore[arg-type]
        scratch = systems.unisrec(**SIZES, **longer, pretrain=False)  # type: ignore[arg-type]
        wanted = {
            "pre-trained body, adaptor tuned": start,
            "random body, adaptor tuned": frozen_body(scratch),
            "from scratch, all trained": scratch,
            "ids (SASRec)": systems.sasrec(dim=64, max_len=20, dropout=0.2, **longer),  # type: ignore[arg-type]
        }
        for name, system in wanted.items():
            arms[name] = measured(system, small, 0)[0]
        assert isinstance(start.model, models.TextItems)
        vocab = replace(split.dataset.vocab, counts=small.train.counts(), catalogue=split.dataset.items)
        vocab = replace(vocab, prepared=start.model.prepare(small.train, seed=0))
        last = start.stages[-1]
        assert isinstance(last, Stage)
        judged = judge(start.model.build(vocab), last.objective, start.task, split.test, vocab, k=1, seed=0)
        arms["pre-trained, not tuned"] = NDCG(10)(judged.ranks)
    arms["chance"] = np.full(len(split.test), sum(1 / np.log2(1 + rank) for rank in range(1, 11)) / split.dataset.n_items)
    best = "pre-trained body, adaptor tuned"
    asked = [(best, "from scratch, all trained"), (best, "random body, adaptor tuned"), ("pre-trained, not tuned", "chance")]
    found = {
        "training_users": users,
        "users": len(split.test),
        "NDCG@10": {name: float(values.mean()) for name, values in arms.items()},
        "tests": compared({name: values[None] for name, values in arms.items()}, asked),
        "cpu_seconds": time.process_time() - begun,
        "version": __version__,
    }
    (RESULTS / "unisrec-few.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = [
        f"# UniSRec over domains: {users} users of online-retail train, {len(split.test)} are asked",
        "",
        f"Made by `python -m studies.unisrec --few {users}`; {found['cpu_seconds']:,.0f} CPU seconds.",
        "",
        "| arm | NDCG@10 |",
        "|---|---|",
        *(f"| {name} | {value:.4f} |" for name, value in found["NDCG@10"].items()),  # type: ignore[attr-defined]
        "",
        *table(found["tests"]),  # type: ignore[arg-type]
    ]
    (RESULTS / "unisrec-few.md").write_text("\n".join(lines) + "\n")


def table(rows: list[dict]) -> list[str]:
    lines = ["| | less | difference | p (Holm) |", "|---|---|---|---|"]
    for row in rows:
        mean, low, high = row["difference"]
        lines.append(f"| {row['one']} | {row['less']} | {mean:+.4f} [{low:+.4f}, {high:+.4f}] | {row['p_holm']:.4f} |")
    return [*lines, ""]


def report(found: dict) -> list[str]:
    lines = [
        f"# UniSRec over domains, on {found['target']['name']}",
        "",
        f"Made by `python -m studies.unisrec`; {found['cpu_seconds']:,.0f} CPU seconds, {found['seeds']} seed(s), "
        f"{found['pretrain_epochs']} epochs of pre-training ({found['pretrain_cpu_seconds']:,.0f} CPU seconds).",
        "",
        f"## Next item, the whole catalogue ranked, {found['users']} users",
        "",
        "| arm | NDCG@10 | Recall@20 | CPU seconds of fit |",
        "|---|---|---|---|",
    ]
    for name, row in found["warm"].items():
        lines.append(f"| {name} | {row['NDCG@10']:.4f} | {row['Recall@20']:.4f} | {row['fit_cpu_seconds']:,.0f} |")
    lines += ["", *table(found["tests"]), f"## Items that nobody had in training, {found['new_users']} users", ""]
    lines += ["| arm | share of the catalogue above the true item (chance .5) | Recall@20 |", "|---|---|---|"]
    lines += [f"| {name} | {row['share above']:.3f} | {row['Recall@20']:.4f} |" for name, row in found["new"].items()]
    return [*lines, "", "Differences of the share above; less is better.", "", *table(found["new_tests"])]


if __name__ == "__main__":
    main()
