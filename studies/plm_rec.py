"""PLM-Rec: what does keeping to the graph cost, what do TransE vectors give, and does a language model beat the bare walk?

    python -m studies.plm_rec --data-root FOLDER [--epochs N]

FOLDER holds ml-100k with its knowledge graph. Leave-one-out, the whole catalogue ranked for all 943 test users; 300 validate.
One seed, width 64, two layers, 50 walks a user and epoch (paper and released successor: width 100, six layers, longer).

Arms: popularity; the bare random walk; a path model begun with TransE vectors and one with random ones; each of these two is
asked twice, constrained to the edges of the graph and free. Differences are paired by user (randomisation test, Holm over
all). Of the ten likeliest paths of each user is told how many keep to the graph; and what share of the catalogue walks reach
at all. Result: studies/results/plm_rec.{json,md}."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from lmrs import __version__, sources
from lmrs.fit import Execution, Fitted, fit
from lmrs.graph import Knowledge
from lmrs.judge import judge
from lmrs.measures import HR, NDCG
from lmrs.models.path_lm import PathNetwork
from lmrs.models.path_search import valid
from lmrs.models.walks import Walks
from lmrs.progress import Reporter
from lmrs.split import Split, fewer, leave_one_out
from lmrs.statistics import holm, seeds_difference, sign_flip_test
from lmrs.systems.plm_rec import plm_rec
from lmrs.systems.popularity import popularity
from lmrs.systems.walks import walks
from lmrs.views import Rows

RESULTS = Path(__file__).parent / "results"
OPTIONS = {"dim": 64, "layers": 2, "heads": 4, "lr": 2e-3}
PAIRS = (
    ("TransE, constrained", "walk"),
    ("TransE, free", "TransE, constrained"),
    ("TransE, constrained", "random, constrained"),
    ("TransE, free", "random, free"),
    ("TransE, constrained", "popularity"),
)


def asked(fitted: Fitted, split: Split, network: PathNetwork | None = None) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """(NDCG@10 and HR@10 of each test user, facts of the lists and of the paths)."""
    begun = time.process_time()
    scorer = network or fitted.scorer
    judged = judge(scorer, fitted.objective, fitted.system.task, split.test, fitted.vocab, k=10, seed=0)
    share = fitted.vocab.counts / fitted.vocab.counts.sum()
    facts = {
        "distinct items": len(np.unique(judged.items)),
        "surprise (bits)": float(-np.log2(np.maximum(share[judged.items], 1e-9)).mean()),
        "seconds": time.process_time() - begun,
    }
    if network is not None:
        view, queries = fitted.system.task.view, split.test
        exists, item, new = [], [], []
        for low in range(0, len(queries), 128):
            some = queries.take(np.arange(low, min(low + 128, len(queries))))
            batch = view.collate(view.asked(Rows(some.dataset, some.user, some.start, some.stop), asks=0))
            found = valid(network.graph, network.generate(batch, k=10), batch)
            exists.append(found.exists), item.append(found.item), new.append(found.new)
        facts |= {
            "paths in the graph": float(np.concatenate(exists).mean()),
            "ending in an item": float(np.concatenate(item).mean()),
        }
        facts |= {"in a new one": float(np.concatenate(new).mean())}
    return {"NDCG@10": NDCG(10)(judged.ranks), "HR@10": HR(10)(judged.ranks)}, facts


def reach(split: Split) -> dict[str, float]:
    """Mean share of the catalogue that walks from a user's last 50 items reach, by hops, over users and without them."""
    found = {}
    for name, knowledge in (("entities and users", Knowledge()), ("entities alone", Knowledge(users=False))):
        for hops in (3, 5):
            model = Walks(knowledge, hops=hops)
            scorer = model.build(split.dataset.vocab)
            scorer.estimate(split.train)
            system = replace(walks(hops=hops), model=model)
            fitted = Fitted(
                system, split, replace(split.dataset.vocab, counts=split.train.counts()), scorer, None, [], [], 0, 0, 0, 0, 0, 0
            )
            judged = judge(scorer, None, system.task, split.valid, fitted.vocab, k=split.dataset.n_items, seed=0)
            found[f"{name}, {hops} hops"] = float(((judged.scores > 0) & np.isfinite(judged.scores)).mean())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=6)
    a = parser.parse_args()
    split = fewer(leave_one_out(sources.load(a.data_root / "ml-100k")), valid=300)
    arms: dict[str, dict[str, np.ndarray]] = {}
    facts: dict[str, dict[str, float]] = {}
    how = Execution(device="cpu")
    for name, system in (("popularity", popularity()), ("walk", walks())):
        fitted = fit(system, split, seed=0, execution=how)
        arms[name], facts[name] = asked(fitted, split)
    for name, epochs in (("TransE", 20), ("random", 0)):
        with Reporter() as reporter:
            made = plm_rec(**OPTIONS, decoding="constrained", transe_epochs=epochs, epochs=a.epochs)
            fitted = fit(made, split, seed=0, execution=how, reporter=reporter)
        for line in fitted.log:
            print(name, line["epoch"], line["loss"], line["valid"], flush=True)
        network = fitted.scorer
        assert isinstance(network, PathNetwork)
        for decoding in ("constrained", "free"):
            network.model = replace(network.model, decoding=decoding)
            arm = f"{name}, {decoding}"
            arms[arm], facts[arm] = asked(fitted, split, network)
            facts[arm]["fit seconds"] = fitted.cpu_seconds
            print(arm, {k: v.mean() for k, v in arms[arm].items()}, facts[arm], flush=True)
    rows = []
    for one, two in PAIRS:
        x, y = arms[one]["NDCG@10"], arms[two]["NDCG@10"]
        gain = seeds_difference(x[None], y[None], seed=0)
        rows.append({"a": one, "b": two, "gain": [gain.mean, gain.low, gain.high], "p": sign_flip_test(x, y, seed=0)})
    for row, p in zip(rows, holm(np.array([row["p"] for row in rows])), strict=True):
        row["p_holm"] = float(p)
    means = {arm: {name: float(values.mean()) for name, values in found.items()} for arm, found in arms.items()}
    found = {
        "data": "ml-100k", "options": OPTIONS, "epochs": a.epochs, "arms": means, "facts": facts, "pairs": rows,
        "reach": reach(split), "version": __version__,
    }  # fmt: skip
    (RESULTS / "plm_rec.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "plm_rec.md").write_text("\n".join(table(found)) + "\n")


def table(found: dict) -> list[str]:
    lines = [
        "# PLM-Rec on ml-100k with its knowledge graph",
        "",
        "943 test users, one seed. Of the ten likeliest paths of a user: the share with no hop that is not an edge, and the",
        "share that ends in an item the user has not had. Surprise: mean -log2 of the training share of what is recommended.",
        "Made by `python -m studies.plm_rec`.",
        "",
        "| arm | NDCG@10 | HR@10 | paths in the graph | ending in a new item | distinct items in the top 10 | surprise, bits |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm, means in found["arms"].items():
        facts = found["facts"][arm]
        told = [f"{facts[name]:.1%}" if name in facts else "" for name in ("paths in the graph", "in a new one")]
        lines.append(
            f"| {arm} | {means['NDCG@10']:.4f} | {means['HR@10']:.4f} | {told[0]} | {told[1]} | {facts['distinct items']:,} "
            f"| {facts['surprise (bits)']:.2f} |"
        )
    lines += ["", "| NDCG@10 of | against | gain with 95 % interval | p (Holm) |", "|---|---|---|---|"]
    for row in found["pairs"]:
        mean, low, high = row["gain"]
        lines.append(f"| {row['a']} | {row['b']} | {mean:+.4f} [{low:+.4f}, {high:+.4f}] | {row['p_holm']:.4f} |")
    lines += ["", "Share of the catalogue that walks from a user's last 50 items reach: "]
    lines[-1] += "; ".join(f"{name} {share:.1%}" for name, share in found["reach"].items()) + "."
    return lines


if __name__ == "__main__":
    main()
