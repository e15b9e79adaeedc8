"""Ten measures on many users' top-100 lists, beside ranx; and exact top-10 with masking, beside a plain loop.

    python benchmarks/measures.py [--users 1000000] [--items 50000]

Equality of the results comes first, then CPU seconds of this process (median of `--rounds`, in turn). ranx is compared where
it is installed and named as missing where not. Lists have 100 items, users 1 to 10 true ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import torch

from lmrs.answers import rank
from lmrs.cards import peak_memory_bytes
from lmrs.measures import F1, HR, MAP, MRR, NDCG, Precision, Ranks, Recall

TEN = {
    HR(10): "hit_rate@10", Recall(10): "recall@10", Precision(10): "precision@10", F1(10): "f1@10",
    NDCG(10): "ndcg@10", NDCG(100): "ndcg@100", MRR(10): "mrr@10", MRR(100): "mrr@100", MAP(100): "map@100",
    Recall(100): "recall@100",
}  # fmt: skip


def clock(tasks: dict[str, Callable[[], object]], *, rounds: int) -> dict[str, float]:
    """Median CPU seconds of each task, run in turn so that a busy machine hurts all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            start = time.process_time()
            task()
            seconds[name].append(time.process_time() - start)
    return {name: round(statistics.median(values), 3) for name, values in seconds.items()}


def lists(n_users: int, n_items: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(lists int32[Q, 100], offsets, items): distinct items by steps around a circle, true ones partly from the list."""
    start, step = rng.integers(0, n_items, (n_users, 1)), rng.integers(1, n_items // 100, (n_users, 1))
    top = ((start + np.arange(100) * step) % n_items).astype(np.int32)
    n_truth = rng.integers(1, 11, n_users)
    offsets = np.concatenate([[0], np.cumsum(n_truth)])
    query = np.repeat(np.arange(n_users), n_truth)
    place = np.arange(len(query)) - offsets[query]
    inside = top[query, (place * 10 + rng.integers(0, 10, len(query))) % 100]
    outside = (start[query, 0] + 100 * step[query, 0] + place) % n_items  # behind the list on the circle
    return top, offsets, np.where(rng.random(len(query)) < 0.3, inside, outside).astype(np.int64)


def measure(n_users: int, n_items: int, rounds: int) -> dict:
    top, offsets, items = lists(n_users, n_items, np.random.default_rng(0))
    ranks = Ranks.from_lists(top, offsets=offsets, items=items, n_candidates=n_items)
    tasks: dict[str, Callable[[], object]] = {
        "lists to ranks": lambda: Ranks.from_lists(top, offsets=offsets, items=items, n_candidates=n_items),
        "ten measures of ranks": lambda: [m(Ranks(ranks.offsets, ranks.rank, ranks.n_candidates)) for m in TEN],
    }
    out: dict = {"users": n_users}
    if find_spec("ranx"):
        ranx, typed = import_module("ranx"), import_module("numba.typed")

        names = list(TEN.values())
        # ranx' inputs as its kernels take them, so that building dictionaries of text is not counted against it.
        truth = typed.List(
            [np.stack([items[a:b], np.ones(b - a, np.int64)], axis=1).astype(np.float64) for a, b in pairwise(offsets)]
        )
        scores = np.arange(100, 0, -1, dtype=np.float64)
        given = typed.List([np.stack([row, scores], axis=1) for row in top.astype(np.float64)])
        ours = np.array([m(ranks).mean() for m in TEN])
        found = ranx.evaluate(truth, given, names)
        theirs = np.array([found[name] for name in names])
        # ranx divides average precision by n, not by min(k, n): the same where users have at most k true items, as here.
        out["means"] = dict(zip(map(str, TEN), ours.round(6).tolist()))
        out["largest difference of means"] = float(np.abs(ours - theirs).max())
        tasks["ranx, ten measures"] = lambda: ranx.evaluate(truth, given, names)
        tasks["ranx, NDCG@10 alone"] = lambda: ranx.evaluate(truth, given, "ndcg@10")
    else:
        out["ranx"] = "missing"
    return {**out, "cpu seconds": clock(tasks, rounds=rounds), "peak memory bytes": peak_memory_bytes()}


def answer(n_items: int, rounds: int, *, n_users: int = 256, k: int = 10) -> dict:
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.standard_normal((n_users, n_items)).astype(np.float32))
    query, offsets = np.arange(n_users), np.arange(n_users + 1)
    seen, truth = (offsets * 50, rng.integers(0, n_items, 50 * n_users)), (offsets, rng.integers(0, n_items, n_users))

    def plain() -> tuple[np.ndarray, np.ndarray]:
        """A dense mask, topk over the whole row, and a comparison for the rank: what evaluators usually do."""
        mask = torch.zeros(scores.shape, dtype=torch.bool)
        mask[np.repeat(query, 50), seen[1]] = True
        mask[query, truth[1]] = False
        allowed = scores.masked_fill(mask, -torch.inf)
        above = (allowed > allowed[query, truth[1]][:, None]).sum(dim=1)
        return torch.topk(allowed, k).indices.numpy(), above.numpy() + 1

    def ours() -> tuple[np.ndarray, np.ndarray]:
        found = rank(scores, query=query, seen=seen, truth=truth, k=k, seed=0)
        assert found.ranks is not None
        return found.items, found.ranks.rank

    for a, b in zip(plain(), ours()):
        np.testing.assert_array_equal(a, b)
    return {"users": n_users, "items": n_items, "cpu seconds": clock({"rank": ours, "plain torch": plain}, rounds=rounds)}


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--users", type=int, default=1_000_000)
    arguments.add_argument("--items", type=int, default=50_000)
    arguments.add_argument("--rounds", type=int, default=5)
    asked = arguments.parse_args()
    print(
        json.dumps(
            {"measures": measure(asked.users, asked.items, asked.rounds), "answers": answer(asked.items, asked.rounds)}, indent=2
        )
    )
