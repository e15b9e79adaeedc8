"""Semantic ids: an item vector as the path of its residuals through a few codebooks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lmrs.errors import ContractError
from lmrs.indexing.index import Index, Indexer, by_id, made, rank_in_group
from lmrs.language.tokens import Tokens
from lmrs.seeding import numpy_generator
from lmrs.split import Train

_CELLS = 1 << 24  # distances held at once


@dataclass(frozen=True)
class Quantised:
    """Residual quantisation of item vectors by k-means, and one more token for items that fall together (TIGER's semantic ids).

    r_0 = x;  c_d = argmin_j |r_d - e_dj|;  r_{d+1} = r_d - e_{d, c_d}   for d = 0..levels-1

    TIGER learns the codebooks inside an autoencoder (RQ-VAE); here level d is the k-means of the residuals r_d of the items that
    occur in training, which is how RQ-VAE starts, and needs no training of its own. Each level has words of its own. The last
    token is the place among the items of one path, trained items first, by id; it is always there: all codes are equally long.

    levels: d, >= 1. codes: words of a level, >= 1 (fewer if there are fewer different vectors). rounds: Lloyd iterations.

    A new item is put through the codebooks that training items made: where its vector resembles theirs it begins as they do.
    """

    levels: int = 3
    codes: int = 256
    rounds: int = 20

    def __post_init__(self) -> None:
        for name in ("levels", "codes", "rounds"):
            if getattr(self, name) < 1:
                raise ContractError(needed=f"{name} of at least 1", came=f"{name}={getattr(self, name)}")

    def fit(self, train: Train, *, seed: int = 0, tokens: Tokens | None = None, vectors: np.ndarray | None = None) -> Index:
        residual, trained = checked(train, vectors)
        columns = []
        for level in range(self.levels):
            rng = numpy_generator(seed, "indexing", "codebook", level)
            centres = kmeans(residual[trained], self.codes, rounds=self.rounds, rng=rng)
            code = closest(residual, centres)
            residual -= centres[code]
            columns.append(code)
        return told_apart(self, train, np.stack(columns, axis=1), self.codes, tokens)


def checked(train: Train, vectors: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """(float32[V, E] a copy of the vectors, int64[n] the items with training events, in an order that the log does not fix).

    Raises ContractError if the vectors are missing, of the wrong shape or not finite, and if there are no such items.
    """
    n_items = train.dataset.n_items
    if vectors is None or vectors.ndim != 2 or len(vectors) != n_items:
        came = "None" if vectors is None else f"shape {vectors.shape}"
        raise ContractError(
            needed=f"vectors of shape ({n_items}, E)", came=came, remedy="pass the text vectors of the items, in vocab order"
        )
    copied = np.array(vectors, np.float32)
    if not np.isfinite(copied).all():
        raise ContractError(needed="finite item vectors", came="NaN or infinite values", remedy="encode the items again")
    order = by_id(train.dataset.vocab)
    trained = order[train.counts()[order] > 0]
    if not len(trained):
        raise ContractError(needed="items with training events", came="none", remedy="use more data")
    return copied, trained


def told_apart(indexer: Indexer, train: Train, paths: np.ndarray, codes: int, tokens: Tokens | None) -> Index:
    """The Index of paths int64[V, levels], each code in 0..codes-1, with a last token that tells items of one path apart."""
    levels = paths.shape[1]
    order = by_id(train.dataset.vocab)
    order = order[np.argsort(train.counts()[order] == 0, kind="stable")]
    place, collisions = rank_in_group(np.unique(paths, axis=0, return_inverse=True)[1].ravel(), order)
    whole = np.column_stack([paths + codes * np.arange(levels), place + codes * levels])
    words = [f"<{chr(97 + level % 25)}{level // 25 or ''}_{at}>" for level in range(levels) for at in range(codes)]
    words += [f"<z_{at}>" for at in range(int(place.max()) + 1)]
    rows = np.arange(len(whole) + 1) * (levels + 1), whole.ravel()
    return made(indexer, train, rows, words=words, tokens=tokens, collisions=collisions)


def kmeans(points: np.ndarray, count: int, *, rounds: int, rng: np.random.Generator) -> np.ndarray:
    """float32[k, E]: centres of k = min(count, different points) clusters of float32[n, E] (k-means++ start, Lloyd rounds).

    A centre that loses all its points moves to the point farthest from its own. Stops early when nothing changes.
    """
    distinct = np.unique(points, axis=0)
    if len(distinct) <= count:
        return distinct
    centres = np.empty((count, points.shape[1]), np.float32)
    centres[0] = points[rng.integers(len(points))]
    gap = np.full(len(points), np.inf)
    for at in range(1, count):
        gap = np.minimum(gap, np.square(points - centres[at - 1]).sum(axis=1, dtype=np.float64))
        edges = np.cumsum(gap)
        centres[at] = points[min(int(np.searchsorted(edges, rng.random() * edges[-1], side="right")), len(points) - 1)]
    code = np.full(len(points), -1)
    for _ in range(rounds):
        before, code = code, closest(points, centres)
        if (code == before).all():
            break
        order = np.argsort(code, kind="stable")
        held, start = np.unique(code[order], return_index=True)
        centres[held] = np.add.reduceat(points[order].astype(np.float64), start) / np.diff([*start, len(points)])[:, None]
        empty = np.setdiff1d(np.arange(count), held)
        if len(empty):
            far = np.square(points - centres[code]).sum(axis=1)
            centres[empty] = points[np.argsort(-far, kind="stable")[: len(empty)]]
    return centres


def closest(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """int64[n]: the nearest centre of each point in Euclidean distance, the first of equals."""
    half = np.square(centres).sum(axis=1) / 2
    step = max(1, _CELLS // len(centres))
    parts = [(half - points[at : at + step] @ centres.T).argmin(axis=1) for at in range(0, len(points), step)]
    return np.concatenate(parts)
