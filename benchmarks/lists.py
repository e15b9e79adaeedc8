"""Made lists of recommendations for the benchmark of measures; needs numpy alone, so that other environments can read it."""

from __future__ import annotations

import numpy as np

# The ten measures, as lmrs writes them and as ranx does.
TEN = {
    "HR@10": "hit_rate@10", "Recall@10": "recall@10", "Precision@10": "precision@10", "F1@10": "f1@10", "NDCG@10": "ndcg@10",
    "NDCG@100": "ndcg@100", "MRR@10": "mrr@10", "MRR@100": "mrr@100", "MAP@100": "map@100", "Recall@100": "recall@100",
}  # fmt: skip


def lists(n_users: int, n_items: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(lists int32[Q, 100], offsets, items): distinct items by steps around a circle, 1 to 10 true ones, partly of the list."""
    start, step = rng.integers(0, n_items, (n_users, 1)), rng.integers(1, n_items // 100, (n_users, 1))
    top = ((start + np.arange(100) * step) % n_items).astype(np.int32)
    n_truth = rng.integers(1, 11, n_users)
    offsets = np.concatenate([[0], np.cumsum(n_truth)])
    query = np.repeat(np.arange(n_users), n_truth)
    place = np.arange(len(query)) - offsets[query]
    inside = top[query, (place * 10 + rng.integers(0, 10, len(query))) % 100]
    outside = (start[query, 0] + 100 * step[query, 0] + place) % n_items  # behind the list on the circle
    return top, offsets, np.where(rng.random(len(query)) < 0.3, inside, outside).astype(np.int64)
