"""Search for the likeliest paths of a path language model, along the edges of its graph or freely."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lmrs.batch import Batch
from lmrs.graph import Graph

if TYPE_CHECKING:
    from lmrs.models.path_lm import PathNetwork

CELLS = 16_000_000  # logits held at once


class Walked(NamedTuple):
    """Paths, or beginnings of paths. row: int64[P], rising; path: int64[P, t], node, relation, node, ...; log_p: float[P]."""

    row: Tensor
    path: Tensor
    log_p: Tensor


class Valid(NamedTuple):
    """What holds of a path, bool[P] each. exists: every hop is an edge (the first: an own item). item: it ends in the catalogue.
    new: in an item that the user has not had."""

    exists: np.ndarray
    item: np.ndarray
    new: np.ndarray


@dataclass(frozen=True)
class Explanation:
    """Why an item: a path in words, its log-probability, its nodes and relations (`Graph` numbers them), and whether all of its
    edges exist."""

    text: str
    log_probability: float
    path: tuple[int, ...]
    exists: bool


class _Next(NamedTuple):
    """Candidates for the next token. owner: int64[M], which beginning (rising); token: int64[M]; log_p: float[M], of the step."""

    owner: Tensor
    token: Tensor
    log_p: Tensor


@torch.no_grad()
def totals(network: PathNetwork, users: Tensor, batch: Batch) -> Tensor:
    """float64[B, V]: summed probability of the paths to each item. users: [B, D], batch: what they had."""
    begun = _beginnings(network, users, batch, 2 * network.model.hops - 2)
    out = torch.zeros(batch.n_rows * network.n_items, dtype=torch.float64, device=users.device)
    for at, found in _steps(network, users, begun, batch, most=None):
        items = found.token < network.n_items
        owner, token = found.owner[items], found.token[items]
        total = (begun.log_p[at][owner].double() + found.log_p[items].double()).exp()
        out.index_add_(0, begun.row[at][owner] * network.n_items + token, total)
    return out.view(batch.n_rows, network.n_items)


@torch.no_grad()
def best(network: PathNetwork, users: Tensor, batch: Batch, *, k: int) -> Walked:
    """The k likeliest whole paths of each row."""
    return _grown(network, users, _beginnings(network, users, batch, 2 * network.model.hops - 2), batch, most=k)


@torch.no_grad()
def explanations(network: PathNetwork, users: Tensor, batch: Batch, item: int, *, k: int) -> tuple[Explanation, ...]:
    """The k likeliest paths from the only row of the batch to an item; of those that read alike (over other users) the first."""
    if network.model.decoding == "free":
        begun = _beginnings(network, users, batch, 2 * network.model.hops - 2)
        paths = torch.cat([begun.path, torch.full_like(begun.row, item)[:, None]], 1)
    else:
        join = _over_two_edges if network.model.hops > 2 else _over_an_edge
        begun = _beginnings(network, users, batch, max(1, 2 * network.model.hops - 5))
        paths = torch.from_numpy(join(network.graph, begun.path.cpu().numpy(), item)).to(users.device)
    found = Walked(paths.new_zeros(len(paths)), paths, _log_likelihood(network, users, paths))
    order = torch.argsort(found.log_p, descending=True, stable=True)
    kept = Walked(*(each[order] for each in found))
    exists = valid(network.graph, kept, batch).exists
    told: dict[str, Explanation] = {}
    for path, log_p, there in zip(kept.path.tolist(), kept.log_p.tolist(), exists.tolist(), strict=True):
        text = network.graph.text(np.array(path), network.vocab)
        told.setdefault(text, Explanation(text, log_p, tuple(path), there))
        if len(told) == k:
            break
    return tuple(told.values())


def valid(graph: Graph, walked: Walked, batch: Batch) -> Valid:
    """Which paths keep to the edges of the graph and end in an item. batch: the histories they start from."""
    row, path = walked.row.cpu().numpy(), walked.path.cpu().numpy()
    own = np.unique((batch.row_of * graph.n_nodes + batch.channels["item"]).cpu().numpy())
    exists = np.isin(row * graph.n_nodes + path[:, 0], own)
    for at in range(0, path.shape[1] - 2, 2):
        exists &= graph.has(path[:, at], path[:, at + 1], path[:, at + 2])
    item = path[:, -1] < graph.n_items
    return Valid(exists, item, item & ~np.isin(row * graph.n_nodes + path[:, -1], own))


# -- steps ---------------------------------------------------------------------------------------------------------------


def _beginnings(network: PathNetwork, users: Tensor, batch: Batch, tokens: int) -> Walked:
    """The likeliest beginnings of paths, of so many tokens."""
    rows = torch.arange(batch.n_rows, device=users.device)
    begun = Walked(rows, rows.new_zeros(len(rows), 0), users.new_zeros(len(rows)))
    for _ in range(tokens):
        begun = _grown(network, users, begun, batch, most=network.model.beams)
    return begun


def _grown(network: PathNetwork, users: Tensor, begun: Walked, batch: Batch, *, most: int) -> Walked:
    """Each beginning with one more token: the `most` likeliest of each row."""
    rows, paths, scores = [begun.row[:0]], [begun.path.new_zeros(0, begun.path.shape[1] + 1)], [begun.log_p[:0]]
    for at, found in _steps(network, users, begun, batch, most=most):
        rows.append(begun.row[at][found.owner])
        paths.append(torch.cat([begun.path[at][found.owner], found.token[:, None]], 1))
        scores.append(begun.log_p[at][found.owner] + found.log_p)
    row, path, log_p = torch.cat(rows), torch.cat(paths), torch.cat(scores)
    order = torch.argsort(log_p, descending=True, stable=True)
    order = order[torch.argsort(row[order], stable=True)]
    row = row[order]
    nth = torch.arange(len(row), device=row.device) - torch.searchsorted(row, row)
    kept = order[nth < most]
    return Walked(row[nth < most], path[kept], log_p[kept])


def _steps(network: PathNetwork, users: Tensor, begun: Walked, batch: Batch, *, most: int | None):
    """(slice of the beginnings, their candidates for the next token), in bounded memory; free ones: the `most` of each."""
    size = begun.path.shape[1]
    output = network.kinds() if size % 2 else network.entities()
    block = max(1, CELLS // len(output.table))
    for low in range(0, len(begun.row), block):
        at = slice(low, low + block)
        states = network.along(users[begun.row[at]], begun.path[at], last=True)
        logits = output.scores(states)
        if network.model.decoding == "free":
            yield at, _any(logits, most)
        else:
            owner, token = _edges(network.graph, begun.path[at], begun.row[at], batch)
            yield at, _among(logits, owner, token)


def _any(logits: Tensor, most: int | None) -> _Next:
    log_p, token = logits.log_softmax(1).topk(min(most or logits.shape[1], logits.shape[1]), 1)
    owner = torch.arange(len(logits), device=logits.device)[:, None].expand_as(token)
    return _Next(owner.reshape(-1), token.reshape(-1), log_p.reshape(-1))


def _among(logits: Tensor, owner: Tensor, token: Tensor) -> _Next:
    """The softmax over the given tokens of each owner alone."""
    found = logits[owner, token]
    top = logits.new_full((len(logits),), -torch.inf).scatter_reduce_(0, owner, found, "amax")
    mass = logits.new_zeros(len(logits)).index_add_(0, owner, (found - top[owner]).exp())
    return _Next(owner, token, found - top[owner] - mass[owner].log())


def _edges(graph: Graph, path: Tensor, row: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """(owner, token): what the graph allows after each beginning. The first node is an own item."""
    size = path.shape[1]
    if size == 0:
        own = np.unique((batch.row_of * graph.n_nodes + batch.channels["item"]).cpu().numpy())
        of, items = np.divmod(own, graph.n_nodes)
        asked = row.cpu().numpy()
        low, high = np.searchsorted(of, asked), np.searchsorted(of, asked, side="right")
        owner = np.repeat(np.arange(len(asked)), high - low)
        token = items[
            np.arange(len(owner)) - np.repeat(np.cumsum(high - low) - (high - low), high - low) + np.repeat(low, high - low)
        ]
    elif size % 2:
        owner, token = np.nonzero(graph.leads[path[:, -1].cpu().numpy()])
    else:
        owner, _, token = graph.out_of(path[:, -2].cpu().numpy(), path[:, -1].cpu().numpy())
    return torch.from_numpy(owner).to(path.device), torch.from_numpy(token).to(path.device)


def _over_an_edge(graph: Graph, begun: np.ndarray, item: int) -> np.ndarray:
    """int64[P, t + 2]: all paths that go on from the beginnings (int64[Q, t], ending in a node) over one edge to an item."""
    owner, relation, tail = graph.out_of(begun[:, -1])
    here = tail == item
    return np.concatenate([begun[owner[here]], np.stack([relation[here], tail[here]], 1)], 1)


def _over_two_edges(graph: Graph, begun: np.ndarray, item: int) -> np.ndarray:
    """int64[P, t + 4]: the same over two edges."""
    out, back = graph.out_of(begun[:, -1]), graph.out_of(np.array([item]))
    order = np.argsort(back.tail, kind="stable")
    middle, relation = back.tail[order], back.relation[order] ^ 1
    low, high = np.searchsorted(middle, out.tail), np.searchsorted(middle, out.tail, side="right")
    size = high - low
    one = np.repeat(np.arange(len(size)), size)
    two = np.arange(len(one)) - np.repeat(np.cumsum(size) - size, size) + np.repeat(low, size)
    tails = np.stack([out.relation[one], out.tail[one], relation[two], np.full(len(one), item)], 1)
    return np.concatenate([begun[out.owner[one]], tails], 1)


def _log_likelihood(network: PathNetwork, users: Tensor, paths: Tensor) -> Tensor:
    """[P]: log p of whole paths of the only user, each token among all tokens of its type."""
    found = []
    for part in paths.split(max(1, CELLS // (network.graph.n_nodes * network.model.hops))):
        states = network.along(users.expand(len(part), -1), part[:, :-1])
        nodes = network.entities().scores(states[:, 0::2]).log_softmax(-1).gather(2, part[:, 0::2, None])
        kinds = network.kinds().scores(states[:, 1::2]).log_softmax(-1).gather(2, part[:, 1::2, None])
        found.append(nodes.sum((1, 2)) + kinds.sum((1, 2)))
    return torch.cat(found) if found else users.new_zeros(0)
