"""Beam search that can only spell items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lmrs.decoding.context import Context
from lmrs.errors import ContractError
from lmrs.indexing.trie import Trie


class Steps(Protocol):
    """A language model as the search sees it: B contexts, then beams that go on from them."""

    def first(self) -> Tensor:
        """float32[B, W]: log-probabilities of the token after each context, normalised over the vocabulary."""
        ...

    def next(self, parents: np.ndarray, tokens: np.ndarray) -> Tensor:
        """float32[M, W] after M beams of the last call (at first the contexts), `parents` int64[M], went on by a token each."""
        ...


class ModelSteps:
    """Steps of a Context: keys and values follow their beams."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def first(self) -> Tensor:
        return self.context.logits.log_softmax(dim=1)

    @torch.no_grad()
    def next(self, parents: np.ndarray, tokens: np.ndarray) -> Tensor:
        device = self.context.mask.device
        chosen = self.context.select(torch.from_numpy(parents).to(device))
        logits, self.context = chosen.read(torch.from_numpy(tokens).to(device)[:, None])
        return logits[:, -1].float().log_softmax(dim=1)


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found, best first: items int64[B, k] (-1 where there are fewer) and scores float64[B, k] (-inf there)."""

    items: np.ndarray
    scores: np.ndarray


def beam(
    steps: Steps, trie: Trie, *, k: int, width: int | None = None, allowed: np.ndarray | None = None, length_power: float = 0.0
) -> Found:
    """The k items whose codes a language model finds likeliest, searched with `width` beams a row.

    score(i) = sum_t log p(token_t | context, tokens before) / (tokens of the code) ^ length_power

    log p is normalised over the whole vocabulary, so scores of different contexts compare. Only tokens that lead to an allowed
    item are looked at, so nothing else can come out. The search is exact if width is at least the number of nodes of every level
    of the trie; a beam that can no longer reach the best k is dropped, which changes nothing.

    k: items wanted, >= 1. width: beams, >= k (None: k); with fewer than all nodes the result is a good, not a certain, one. There
    are always min(k, allowed items) results.
    allowed: bool[V] or bool[B, V], the items that may come out (None: all); memory B times the nodes of the trie, in bytes.
    length_power: 0 for the log-likelihood, 1 for its mean a token; >= 0.
    Raises ContractError for a model that gives NaN.
    """
    width = k if width is None else width
    if k < 1 or width < k or length_power < 0:
        raise ContractError(
            needed="k >= 1, width >= k, length_power >= 0", came=f"k={k}, width={width}, length_power={length_power}"
        )
    logs = steps.first()
    rows = len(logs)
    open_ = _open(trie, allowed, rows)
    best = Found(np.full((rows, k), -1, np.int64), np.full((rows, k), -np.inf))
    owner, node, total = np.arange(rows), np.zeros(rows, np.int64), np.zeros(rows)  # of each live beam, by rising owner
    for length in range(1, trie.depth + 1):
        offsets, edges = trie.edges(node)
        beams = np.repeat(np.arange(len(node)), np.diff(offsets))
        if open_ is not None:
            keep = open_[owner[beams] if len(open_) > 1 else 0, edges + 1]
            beams, edges = beams[keep], edges[keep]
        tokens = trie.token[edges]
        if not len(beams):
            break
        scores = total[beams] + _picked(logs, beams, tokens)
        row, child = owner[beams], edges + 1
        alive = None  # which may be gone on from; None: all
        if trie.ends[length]:
            item = trie.item[child]
            alive = item < 0
            best = _merged(best, row[~alive], item[~alive], scores[~alive] / length**length_power, k)
        if (least := best.scores[:, -1]).max() > -np.inf:
            # At best a beam goes on for free, over as many tokens as there are at most.
            reach = scores / trie.depth**length_power >= least[row]
            alive = reach if alive is None else alive & reach
        at = _top(row, scores if alive is None else np.where(alive, scores, -np.inf), rows, width)
        at = at[scores[at] > -np.inf] if alive is None else at[alive[at] & (scores[at] > -np.inf)]
        if not len(at):
            break
        owner, node, total = row[at], child[at], scores[at]
        logs = steps.next(beams[at], tokens[at])
    return best


def _open(trie: Trie, allowed: np.ndarray | None, rows: int) -> np.ndarray | None:
    """bool[1 or B, nodes], or None."""
    if allowed is None:
        return None
    allowed = np.atleast_2d(np.asarray(allowed))
    if allowed.dtype != bool or allowed.shape not in ((1, trie.n_items), (rows, trie.n_items)):
        raise ContractError(
            needed=f"allowed as booleans of shape ({trie.n_items},) or ({rows}, {trie.n_items})",
            came=f"{allowed.dtype} of shape {allowed.shape}",
        )
    return trie.openings(allowed)


def _picked(logs: Tensor, beams: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """float64[n]: log p of a token after a beam, for n pairs."""
    if int(tokens.max()) >= logs.shape[1]:
        raise ContractError(
            needed=f"a model of at least {int(tokens.max()) + 1:,} tokens", came=f"one of {logs.shape[1]:,}",
            remedy="give it rows for the words of the index",
        )  # fmt: skip
    flat = torch.from_numpy(beams * logs.shape[1] + tokens).to(logs.device)
    found = logs.reshape(-1)[flat].double().cpu().numpy()
    if np.isnan(found).any():
        raise ContractError(needed="numbers from the model", came="NaN", remedy="check its weights and precision")
    return found


def _top(row: np.ndarray, scores: np.ndarray, rows: int, k: int) -> np.ndarray:
    """Places of the k best scores of each row, by rising row, best first, the earlier of equals first. row: rising."""
    counts = np.bincount(row, minlength=rows)
    widest = int(counts.max(initial=0))
    if widest > k:
        if (counts == widest).all():
            dense = scores.reshape(rows, widest)
        else:
            dense = np.full((rows, widest), -np.inf)
            dense[np.arange(widest) < counts[:, None]] = scores
        cut = np.partition(dense, widest - k, axis=1)[:, widest - k : widest - k + 1]  # the k-th best of each row
        line, place = np.nonzero(dense >= cut)
        near = (np.cumsum(counts) - counts)[line] + place
        near = near[place < counts[line]]
    else:
        near = np.arange(len(row))
    near = near[np.lexsort((near, -scores[near], row[near]))]
    held = np.bincount(row[near], minlength=rows)
    return near[np.arange(len(near)) - (np.cumsum(held) - held)[row[near]] < k]


def _merged(best: Found, row: np.ndarray, item: np.ndarray, scores: np.ndarray, k: int) -> Found:
    """The k best of what was found before and now."""
    rows = len(best.items)
    at = _top(row, scores, rows, k)
    at = at[scores[at] > -np.inf]
    held = np.bincount(row[at], minlength=rows)
    place = k + np.arange(len(at)) - (np.cumsum(held) - held)[row[at]]
    items = np.concatenate([best.items, np.full((rows, k), -1)], axis=1)
    values = np.concatenate([best.scores, np.full((rows, k), -np.inf)], axis=1)
    items[row[at], place], values[row[at], place] = item[at], scores[at]
    order = np.argsort(-values, axis=1, kind="stable")[:, :k]
    return Found(np.take_along_axis(items, order, axis=1), np.take_along_axis(values, order, axis=1))
