"""What does an untrained language model know of films, and what else decides? Sileo's protocol, calibration, and four biases.

    python -m studies.zero_shot --data-root FOLDER [--users N] [--queries N]

FOLDER holds ml-1m and ml-100k. Backbones smollm2 (135 M, causal) and minilm (22 M, sentence vectors); nothing is trained.
Part one, as the paper (section 4): ml-1m, users with at least 21 ratings of 5 and 5 below 2.5; five liked titles drawn for
the prompt, one more against four disliked ones; titles without years, articles at the front. Precision@1, chance .2.
Part two: ml-100k, leave one out, the last five titles, 99 uniform negatives; NDCG@10, and the biases of lmrs.biases.
Differences are paired by user: bootstrap interval and randomisation test, Holm-corrected.
Result: studies/results/zero_shot.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from lmrs import __version__, biases, sources, systems
from lmrs.batch import from_rows
from lmrs.dataset import Dataset
from lmrs.language import Backbone
from lmrs.models.prompted_title import TitleNetwork
from lmrs.split import fewer, leave_one_out
from lmrs.statistics import holm, seeds_difference, sign_flip_test
from lmrs.texts import ItemText, TextEncoder, encoded
from lmrs.visibility import Causal
from lmrs.vocab import Vocab

RESULTS = Path(__file__).parent / "results"
SHOWN, DISLIKED = 5, 4
PROMPTS = ("0", "3", "5")


def cleaned(title: str) -> str:
    """A title as people write it: no year, no other title in brackets, the article at the front."""
    bare = re.sub(r"\s*\([^()]*\)", "", title).strip() or title
    found = re.fullmatch(r"(.*), (The|A|An|Les|La|Le|Il|Das|Der|Die|El)", bare)
    return f"{found[2]} {found[1]}" if found else bare


def with_titles(data: Dataset) -> Dataset:
    assert data.items is not None
    titles = pa.array([cleaned(title) for title in data.titles(np.arange(data.n_items))])
    at = data.items.column_names.index("title")
    return replace(data, items=data.items.set_column(at, "title", titles))


def pairs(data: Dataset, users: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(users [Q], liked titles shown [Q, 5], candidates [Q, 1 + 4], the liked one first)."""
    assert data.rating is not None
    found = []
    for user in rng.permutation(data.n_users):
        span = slice(int(data.offsets[user]), int(data.offsets[user + 1]))
        item, rating = data.item[span], data.rating[span]
        liked, disliked = np.unique(item[rating > 4]), np.unique(item[rating < 2.5])
        if len(liked) >= 21 and len(disliked) >= 5:
            chosen = rng.permutation(liked)[: SHOWN + 1]
            found.append((user, chosen[:SHOWN], np.append(chosen[SHOWN], rng.permutation(disliked)[:DISLIKED])))
        if len(found) == users:
            break
    who, shown, among = zip(*found, strict=True)
    return np.array(who), np.stack(shown), np.stack(among)


def title_network(prompt: str, vocab: Vocab) -> TitleNetwork:
    made = systems.zero_shot(prompt=prompt, max_len=SHOWN).model.build(vocab)
    assert isinstance(made, TitleNetwork)
    return made


def three_scores(network: TitleNetwork, shown: np.ndarray, among: np.ndarray) -> dict[str, np.ndarray]:
    """[Q, K] of each way to make a score of the tokens' log-probabilities: their sum, their mean, the sum less the prior."""
    batch = from_rows({"item": torch.from_numpy(shown.ravel().astype(np.int64))}, torch.full((len(shown),), shown.shape[1]))
    asked = torch.zeros(batch.n_positions, dtype=torch.bool)
    asked[batch.last] = True
    order = batch.rows["example"].numpy()
    total = np.empty(among.shape)
    candidates = torch.from_numpy(among[order].astype(np.int64))
    total[order] = network.score_among(batch.with_channels(asked=asked), Causal(), candidates).double().numpy()
    items = np.unique(among)
    prior, length = np.zeros(network.n_items), np.zeros(network.n_items)
    prior[items] = network.blank(items)
    length[items] = np.diff(network.tokens.batch([f" {network.titles[item]}." for item in items])[1])
    return {"sum": total, "mean": total / length[among], "pmi": total - prior[among]}


def similarity(vocab: Vocab, shown: np.ndarray, among: np.ndarray) -> np.ndarray:
    """[Q, K]: dot product of a candidate's vector with the mean of those shown (Penha & Hauff's mean-pooled probe)."""
    vectors = encoded(TextEncoder(Backbone("minilm")), ItemText(("title",)).of(vocab).texts)
    return np.einsum("qd,qkd->qk", vectors[shown].mean(1), vectors[among])


def won(scores: np.ndarray) -> np.ndarray:
    """float64[Q]: 1 where the first candidate is above all others; a tie of n is won once in n."""
    top = scores.max(1, keepdims=True)
    return (scores[:, 0] == top[:, 0]) / (scores == top).sum(1)


def ndcg(scores: np.ndarray) -> np.ndarray:
    """float64[Q]: NDCG@10 with the true item first among the candidates; ties count half."""
    better, equal = (scores[:, 1:] > scores[:, :1]).sum(1), (scores[:, 1:] == scores[:, :1]).sum(1)
    rank = 1 + better + equal / 2
    return np.where(rank <= 10, 1 / np.log2(1 + rank), 0.0)


def compared(arms: dict[str, np.ndarray], asked: list[tuple[str, str]]) -> list[dict]:
    rows = []
    for one, two in asked:
        gap = seeds_difference(arms[one][None], arms[two][None], seed=0)
        p = sign_flip_test(arms[one], arms[two], seed=0)
        rows.append({"better?": one, "than": two, "gain": [gap.mean, gap.low, gap.high], "p": p})
    for row, p in zip(rows, holm(np.array([row["p"] for row in rows])), strict=True):
        row["p_holm"] = float(p)
    return rows


def first_part(root: Path, users: int) -> dict:
    data = with_titles(sources.load(root / "ml-1m"))
    who, shown, among = pairs(data, users, np.random.default_rng(1))
    vocab = replace(data.vocab, catalogue=data.items)
    others = ~np.isin(np.repeat(np.arange(data.n_users), data.lengths), who)
    assert data.rating is not None
    events = np.bincount(data.item[others], minlength=data.n_items)
    liked = np.bincount(data.item[others & (data.rating > 4)], minlength=data.n_items)
    arms = {"chance": np.full(len(who), 1 / (1 + DISLIKED))}
    arms["popularity, all others' ratings"] = won(events[among].astype(float))
    arms["popularity, all others' fives"] = won(liked[among].astype(float))
    arms["minilm, dot product"] = won(similarity(vocab, shown, among))
    for prompt in PROMPTS:
        for name, scores in three_scores(title_network(prompt, vocab), shown, among).items():
            arms[f"smollm2, prompt {prompt}, {name}"] = won(scores)
    best = "smollm2, prompt 3, sum"
    asked = [(best, "chance"), ("minilm, dot product", "chance"), (best, "minilm, dot product")]
    asked += [("smollm2, prompt 3, pmi", best), ("smollm2, prompt 3, mean", best), (best, "smollm2, prompt 5, sum")]
    asked += [(best, "popularity, all others' ratings")]
    means = {name: float(values.mean()) for name, values in arms.items()}
    return {"users": len(who), "precision@1": means, "tests": compared(arms, asked)}


def second_part(root: Path, queries: int) -> dict:
    data = with_titles(sources.load(root / "ml-100k"))
    split = fewer(leave_one_out(data), test=queries)
    vocab = replace(data.vocab, counts=split.train.counts(), catalogue=data.items)
    asked = split.test
    network = title_network("3", vocab)
    rng = np.random.default_rng(2)
    shown = np.stack([asked.history(query)[-SHOWN:] for query in range(len(asked))])
    free = [np.setdiff1d(np.arange(data.n_items), [*asked.history(q), *asked.truth(q)]) for q in range(len(asked))]
    among = np.stack([np.append(asked.truth(q)[:1], rng.choice(free[q], 99, replace=False)) for q in range(len(asked))])
    other = np.stack([row[rng.permutation(SHOWN)] for row in shown])
    plain, moved = three_scores(network, shown, among), three_scores(network, other, among)
    assert vocab.counts is not None
    length = np.diff(network.tokens.batch([f" {title}" for title in network.titles])[1])
    blank = np.zeros(vocab.n_items)
    blank[np.unique(among)] = network.blank(np.unique(among))
    arms = {"chance": ndcg(rng.random(among.shape)), "popularity": ndcg(vocab.counts[among].astype(float))}
    arms["minilm, dot product"] = ndcg(similarity(vocab, shown, among))
    habits: dict[str, dict[str, np.ndarray]] = {}
    scored = {**{f"smollm2, {name}": (scores, moved[name]) for name, scores in plain.items()}}
    scored["minilm, dot product"] = (similarity(vocab, shown, among), similarity(vocab, other, among))
    for name, (scores, again) in scored.items():
        arms[name] = ndcg(scores)
        drawn = slice(1, None)  # the true item is left out: it is popular because it was taken

        def rho(values: np.ndarray, scores: np.ndarray = scores, drawn: slice = drawn) -> np.ndarray:
            return np.array([biases.rank_correlation(a, b) for a, b in zip(scores[:, drawn], values[:, drawn], strict=True)])

        habits[name] = {"popularity": rho(vocab.counts[among]), "length": rho(length[among]), "order": rho(again)}
        habits[name]["first"] = (scores[:, drawn].argmax(1) == again[:, drawn].argmax(1)).astype(float)
        if name.startswith("smollm2"):
            habits[name]["prior"] = rho(blank[among])
    tests = compared(
        arms,
        [("smollm2, sum", "chance"), ("smollm2, pmi", "smollm2, sum"), ("smollm2, mean", "smollm2, sum"),
         ("minilm, dot product", "smollm2, sum"), ("popularity", "smollm2, sum")],
    )  # fmt: skip
    kinds = ("popularity", "length", "prior")
    calibrated = compared(
        {f"{name}: size of {kind}": np.abs(habits[name][kind]) for name in ("smollm2, sum", "smollm2, pmi") for kind in kinds},
        [(f"smollm2, sum: size of {kind}", f"smollm2, pmi: size of {kind}") for kind in kinds],
    )
    return {
        "queries": len(asked),
        "NDCG@10/99neg": {name: float(values.mean()) for name, values in arms.items()},
        "tests": tests,
        "biases": {name: biases.Biases(values, "tokens", 99).means() for name, values in habits.items()},
        "calibration": calibrated,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--queries", type=int, default=40)
    a = parser.parse_args()
    torch.set_num_threads(1)
    found = {
        "ml-1m": first_part(a.data_root, a.users),
        "ml-100k": second_part(a.data_root, a.queries),
        "cpu_seconds": time.process_time(),
        "version": __version__,
    }
    (RESULTS / "zero_shot.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "zero_shot.md").write_text("\n".join(report(found)) + "\n")


def report(found: dict) -> list[str]:
    one, two = found["ml-1m"], found["ml-100k"]
    lines = [
        "# Zero-shot recommendation by a small language model",
        "",
        f"Made by `python -m studies.zero_shot`; {found['cpu_seconds']:,.0f} CPU seconds.",
        "",
        f"## ml-1m: one liked title against four disliked ones, {one['users']} users, precision@1",
        "",
        "| scorer | precision@1 |",
        "|---|---|",
        *(f"| {name} | {value:.3f} |" for name, value in one["precision@1"].items()),
        "",
        *tests(one["tests"]),
        f"## ml-100k: the next title against 99 drawn ones, {two['queries']} users, NDCG@10",
        "",
        "| scorer | NDCG@10 |",
        "|---|---|",
        *(f"| {name} | {value:.3f} |" for name, value in two["NDCG@10/99neg"].items()),
        "",
        *tests(two["tests"]),
        "## ml-100k: biases on the drawn items (rank correlations; first: share of first places kept)",
        "",
        "| scorer | " + " | ".join(biases.ABOUT) + " |",
        "|---|" + "---|" * len(biases.ABOUT),
    ]
    for name, values in two["biases"].items():
        cells = [f"{values[k][0]:+.2f} [{values[k][1]:+.2f}, {values[k][2]:+.2f}]" if k in values else "" for k in biases.ABOUT]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, "", "Size of a bias before and after calibration (pmi):", "", *tests(two["calibration"])]


def tests(rows: list[dict]) -> list[str]:
    lines = ["| | less | difference | p (Holm) |", "|---|---|---|---|"]
    for row in rows:
        mean, low, high = row["gain"]
        lines.append(f"| {row['better?']} | {row['than']} | {mean:+.3f} [{low:+.3f}, {high:+.3f}] | {row['p_holm']:.4f} |")
    return [*lines, ""]


if __name__ == "__main__":
    main()
