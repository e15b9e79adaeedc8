"""What else than the history decides the scores of a recommender: fame, length of the title, habit of the model, order.

Language models rank titles that are common, short or likely anywhere (Zhang et al. 2021; Liu et al. 2023, position). Here each
such habit is one number a query, between -1 and 1, so that systems can be compared on them with paired tests.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from lmrs.candidates import draw
from lmrs.errors import DataError
from lmrs.measures import Sampling
from lmrs.models.network import Scorer
from lmrs.models.prompted import PromptedNetwork
from lmrs.objectives import Objective
from lmrs.split import Queries
from lmrs.statistics import bootstrap_mean
from lmrs.tasks.ranking import scores
from lmrs.views import Rows, View
from lmrs.vocab import Vocab

ABOUT = {
    "popularity": "rank correlation of the score with the training events of the item",
    "length": "rank correlation of the score with the length of the title",
    "prior": "rank correlation of the score with the score after a prompt without history",
    "order": "rank correlation of the score with the score after the history in another order",
    "first": "1 if the first item stays first when the history is put in another order, else 0",
}


@dataclass(frozen=True, eq=False)
class Biases:
    """values: float64[Q] by name (`ABOUT`), NaN for a query where it is not defined (all scores equal); one query, one number.

    "prior" is there for prompted networks alone. unit: "tokens" or "words", of titles. candidates: items a query.
    """

    values: dict[str, np.ndarray]
    unit: str
    candidates: int

    def means(self, *, seed: int = 0) -> dict[str, tuple[float, float, float]]:
        """(mean, low, high) with a 95 % bootstrap interval over the queries where the value is defined."""
        found = {}
        for name, value in self.values.items():
            real = value[np.isfinite(value)]
            if len(real):
                each = bootstrap_mean(real, seed=seed)
                found[name] = (each.mean, each.low, each.high)
        return found

    def __str__(self) -> str:
        lines = [f"{len(next(iter(self.values.values()))):,} queries, {self.candidates} drawn items each; titles in {self.unit}"]
        for name, (mean, low, high) in self.means().items():
            lines.append(f"{name:<11}{mean:+.3f} [{low:+.3f}, {high:+.3f}]  {ABOUT[name]}")
        return "\n".join(lines)


def measure(
    scorer: Scorer,
    objective: Objective | None,
    view: View,
    queries: Queries,
    vocab: Vocab,
    *,
    candidates: int = 99,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Biases:
    """The habits of a trained (or untrained) scorer on items that the users did not take.

    For every query `candidates` items are drawn uniformly, none of the history and not the true one, and scored twice: after
    the history as it is and after the same events in another order. objective, view: those of the last stage. vocab: with
    training counts, as `fit` makes it. Queries without history are left out. Raises DataError if none has one.
    """
    known = np.flatnonzero(queries.stop > queries.start)
    if not len(known):
        raise DataError(needed="a query with a history", came=f"{len(queries)} without", remedy="use another split or more data")
    queries = queries.take(known)
    history, truth = ((np.concatenate([[0], np.cumsum(b - a)]), _flat(queries, a, b)) for a, b in _spans(queries))
    most = int(np.diff(truth[0]).max())
    found = draw(
        query=known, seen=history, truth=truth, n_items=vocab.n_items, sampling=Sampling(candidates), seed=seed,
    )[:, most:]  # fmt: skip
    rows = Rows(queries.dataset, queries.user, queries.start, queries.stop)
    shuffled = replace(queries.dataset, item=_shuffled(queries, view.max_len, np.random.default_rng([seed, 11])))

    def ask(which: Rows) -> np.ndarray:
        return scores(scorer, objective, view, which, vocab, device, candidates=found)[0].double().numpy()

    plain, other = ask(rows), ask(Rows(shuffled, rows.user, rows.start, rows.stop))
    real = found >= 0
    length, unit = _lengths(scorer, vocab)
    counts = np.zeros(vocab.n_items) if vocab.counts is None else vocab.counts
    values = {
        "popularity": _correlations(plain, counts[found], real),
        "length": _correlations(plain, length[found], real),
        "order": _correlations(plain, other, real),
        "first": (_masked(plain, real).argmax(1) == _masked(other, real).argmax(1)).astype(float),
    }
    if isinstance(scorer, PromptedNetwork) and scorer.model.by_item | (scorer.model.read == "masks"):
        items = np.unique(found[real])
        prior = np.zeros(vocab.n_items)
        prior[items] = scorer.blank(items)
        values["prior"] = _correlations(plain, prior[found], real)
    return Biases({name: values[name] for name in ABOUT if name in values}, unit, candidates)


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rho of two vectors, ties sharing their mean rank; NaN if either is constant or shorter than two."""
    if len(a) < 2:
        return float("nan")
    x, y = _ranks(a), _ranks(b)
    x, y = x - x.mean(), y - y.mean()
    size = np.sqrt((x * x).sum() * (y * y).sum())
    return float((x * y).sum() / size) if size > 0 else float("nan")


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


def _correlations(a: np.ndarray, b: np.ndarray, real: np.ndarray) -> np.ndarray:
    return np.array([rank_correlation(x[keep], y[keep]) for x, y, keep in zip(a, b, real, strict=True)])


def _masked(values: np.ndarray, real: np.ndarray) -> np.ndarray:
    return np.where(real, values, -np.inf)


def _spans(queries: Queries) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    return (queries.start, queries.stop), (queries.stop, queries.target)


def _flat(queries: Queries, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    return np.concatenate([queries.dataset.item[a:b] for a, b in zip(start, stop, strict=True)]).astype(np.int64)


def _shuffled(queries: Queries, max_len: int, rng: np.random.Generator) -> np.ndarray:
    """The events with the part of each history that the view reads in another order, drawn at random."""
    item = np.array(queries.dataset.item)
    for start, stop in zip(np.maximum(queries.start, queries.stop - max_len), queries.stop, strict=True):
        item[start:stop] = item[start:stop][rng.permutation(stop - start)]
    return item


def _lengths(scorer: Scorer, vocab: Vocab) -> tuple[np.ndarray, str]:
    """(length of every title, in what): tokens of the model that reads them, or words."""
    titles = vocab.titles(np.arange(vocab.n_items))
    if isinstance(scorer, PromptedNetwork):
        return np.diff(scorer.tokens.batch([f" {title}" for title in titles])[1]), "tokens"
    return np.array([len(title.split()) for title in titles]), "words"
