"""TransE: vectors of nodes and relations from the edges of a graph alone (Bordes et al., NeurIPS 2013)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from lmrs.graph import Graph

BATCH = 4096


def transe(
    graph: Graph, *, dim: int, epochs: int, rng: torch.Generator, lr: float = 0.01, margin: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """(nodes float32[n, D], relations float32[R, D]) with node + relation close to the tail of every edge.

    max(0, margin + |h + r - t| - |h' + r - t'|) summed over edges, the L2 distance, where h' or t' is a node drawn uniformly
    (section 2, equation 1); vectors of nodes are put back to length 1 after every step. Departures: Adam instead of plain
    descent, both directions of an edge are trained.
    """
    nodes = F.normalize((torch.rand(graph.n_nodes, dim, generator=rng) * 2 - 1) * 6 / dim**0.5, dim=1).requires_grad_()
    relations = F.normalize((torch.rand(graph.n_relations, dim, generator=rng) * 2 - 1) * 6 / dim**0.5, dim=1).requires_grad_()
    head, relation, tail = (torch.from_numpy(each) for each in (graph.head, graph.relation, graph.tail))
    optimizer = torch.optim.Adam([nodes, relations], lr=lr, fused=True)
    for _ in range(epochs):
        for at in torch.randperm(len(head), generator=rng).split(BATCH):
            h, r, t = head[at], relation[at], tail[at]
            drawn = torch.randint(graph.n_nodes, (len(at),), generator=rng)
            first = torch.rand(len(at), generator=rng) < 0.5
            other_h, other_t = torch.where(first, drawn, h), torch.where(first, t, drawn)
            moved = relations[r]
            near = (nodes[h] + moved - nodes[t]).norm(dim=1)
            far = (nodes[other_h] + moved - nodes[other_t]).norm(dim=1)
            optimizer.zero_grad(set_to_none=True)
            (margin + near - far).clamp_min(0).mean().backward()
            optimizer.step()
            with torch.no_grad():
                nodes.div_(nodes.norm(dim=1, keepdim=True).clamp_min(1e-12))
    return nodes.detach().numpy(), relations.detach().numpy()
