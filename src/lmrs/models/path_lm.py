"""A language model whose sentences are paths over a graph: user, item, relation, entity, relation, item (PLM-Rec)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.errors import ContractError, did_you_mean
from lmrs.graph import Graph, Knowledge
from lmrs.losses import Output
from lmrs.models.blocks import PreNorm
from lmrs.models.checks import below_one
from lmrs.models.dropout import dropout
from lmrs.models.network import Model, Network
from lmrs.models.path_search import Explanation, Walked, best, explanations, totals
from lmrs.models.transe import transe
from lmrs.seeding import mix
from lmrs.split import Train
from lmrs.visibility import Causal, Visibility
from lmrs.vocab import Vocab

DECODING = ("constrained", "free")
USER, NODE, RELATION = 0, 1, 2  # types of tokens
BELOW = -1000.0  # log of the probability of an item that no path reaches; log-probabilities of paths are far above


@dataclass(frozen=True)
class PathLM(Model):
    """p(path | user) = prod_t p(token_t | user, tokens before it), with one softmax over nodes and one over relations.

    A causal transformer (pre-norm) over the tokens user, A, r, e, r', ... of a path that ends in an item; token, place and type
    embeddings are added. score(item) = log of the summed probability of the paths to it, over those that keep to the `beams` most
    likely beginnings. Items that no such path reaches follow below all others, by training popularity. An item without training
    events is reached over what the graph tells of it; free, it comes last, for the softmax has learned that nobody has it.

    The user is a token of the paper. Here it is the mean of the vectors of the items that the user had, weighted by a learned
    weight for each place from the end; so users who were not there in training are read like others.

    knowledge: what the graph is made of; training events are kept with the model, by number, without ids, unless users=False.
    hops: edges of a path, the first is from the user to an own item; >= 2. decoding: "constrained" takes only edges of the graph
    (each softmax runs over them alone), "free" takes any token. beams: beginnings kept of each user.
    transe_epochs: of the vectors to start from (0: drawn). max_len: items of a history that are read.
    """

    knowledge: Knowledge = Knowledge()  # noqa: RUF009 - a frozen value
    hops: int = 3
    decoding: str = "constrained"
    beams: int = 30
    transe_epochs: int = 20
    dim: int = 100
    layers: int = 6
    heads: int = 10
    max_len: int = 50
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.decoding not in DECODING:
            raise ContractError(
                needed=f"decoding {' or '.join(map(repr, DECODING))}",
                came=repr(self.decoding),
                remedy=did_you_mean(self.decoding, DECODING),
            )
        if self.dim % self.heads:
            raise ContractError(
                needed="heads that divide dim", came=f"dim={self.dim}, heads={self.heads}", remedy="change one of them"
            )
        for name, least in (
            ("hops", 2),
            ("beams", 1),
            ("transe_epochs", 0),
            ("dim", 1),
            ("layers", 1),
            ("heads", 1),
            ("max_len", 1),
        ):
            if getattr(self, name) < least:
                raise ContractError(needed=f"{name} of at least {least}", came=f"{name}={getattr(self, name)}")
        below_one(dropout=self.dropout)

    @property
    def knows_new(self) -> bool:
        return True

    def allows(self, visible: Visibility) -> bool:
        return isinstance(visible, Causal)

    def prepare(self, train: Train, *, seed: int) -> Graph:
        """The graph of the training events, with the TransE vectors to start from."""
        graph = self.knowledge.of(train)
        if not self.transe_epochs:
            return graph
        rng = torch.Generator().manual_seed(mix(seed, "transe"))
        return replace(graph, start=transe(graph, dim=self.dim, epochs=self.transe_epochs, rng=rng))

    def restore(self, folder: Path) -> Graph:
        return Graph.load(folder)

    def build(self, vocab: Vocab) -> PathNetwork:
        """Raises ContractError without the graph that `prepare` makes."""
        if not isinstance(vocab.prepared, Graph):
            raise ContractError(
                needed="a graph as vocab.prepared", came=type(vocab.prepared).__name__, remedy="use fit, or prepare"
            )
        return PathNetwork(self, vocab, vocab.prepared)


class PathNetwork(Network):
    """nodes, relations: input vectors. entity, relation: the two output heads, untied."""

    def __init__(self, model: PathLM, vocab: Vocab, graph: Graph) -> None:
        super().__init__()
        self.model, self.vocab, self.graph = model, vocab, graph
        self.n_items, self.dim = vocab.n_items, model.dim
        self.nodes = nn.Embedding(graph.n_nodes, model.dim)
        self.relations = nn.Embedding(graph.n_relations, model.dim)
        self.places = nn.Embedding(2 * model.hops - 1, model.dim)
        self.types = nn.Embedding(3, model.dim)
        self.recency = nn.Parameter(torch.zeros(model.max_len))
        self.blocks = nn.ModuleList(PreNorm().build(model.dim, model.heads, model.dropout, 0.0) for _ in range(model.layers))
        self.final_norm = nn.LayerNorm(model.dim)
        self.entity_head = nn.Linear(model.dim, graph.n_nodes)
        self.relation_head = nn.Linear(model.dim, graph.n_relations)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        if graph.start is not None:
            with torch.no_grad():
                self.nodes.weight.copy_(torch.from_numpy(graph.start[0]))
                self.relations.weight.copy_(torch.from_numpy(graph.start[1]))

    # -- the language model ----------------------------------------------------------------------------------------------

    def users(self, batch: Batch, at: Tensor) -> Tensor:
        """[M, D]: who is asked for at the places `at` (int64[M]): what the row holds up to there."""
        back = torch.arange(self.model.max_len, device=at.device)
        real = back <= batch.channels["position"][at][:, None]  # (M, L)
        item = batch.channels["item"][(at[:, None] - back).clamp_min(0)]
        weight = self.recency.expand(real.shape).masked_fill(~real, -torch.inf).softmax(1)
        return torch.einsum("ml,mld->md", weight, self.nodes(item))

    def along(self, users: Tensor, path: Tensor, rng: torch.Generator | None = None, *, last: bool = False) -> Tensor:
        """[P, 1 + t, D] states after the user and after each token of `path` (int64[P, t]: node, relation, node, ...).

        users: [P, D]. last: only the states after the last token, [P, D].
        """
        rows, size = len(users), 1 + path.shape[1]
        x = users.new_empty(rows, size, self.dim)
        x[:, 0] = users + self.types.weight[USER]
        x[:, 1::2] = self.nodes(path[:, 0::2]) + self.types.weight[NODE]
        x[:, 2::2] = self.relations(path[:, 1::2]) + self.types.weight[RELATION]
        x = dropout((x + self.places.weight[:size]).view(rows * size, self.dim), self.model.dropout, rng)
        batch = Batch({"item": path.new_zeros(rows * size)}, torch.arange(rows + 1) * size)
        for block in self.blocks[:-1]:
            x = block(x, batch, Causal(), rng)
        x = self.final_norm(self.blocks[-1](x, batch, Causal(), rng, batch.last if last else None))
        return x if last else x.view(rows, size, self.dim)

    def entities(self) -> Output:
        """The softmax over all nodes."""
        return Output(self.entity_head.weight, self.entity_head.bias)

    def kinds(self) -> Output:
        """The softmax over relations, both directions."""
        return Output(self.relation_head.weight, self.relation_head.bias)

    # -- the contract ----------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch, visible: Visibility, rng: torch.Generator | None = None, at: Tensor | None = None) -> Tensor:
        """States after the user token; what follows them is the first item of a path."""
        if at is None:
            at = torch.arange(batch.n_positions, device=batch.channels["item"].device)
        if not len(at):
            return self.nodes.weight[:0]
        return self.along(self.users(batch, at), at.new_zeros(len(at), 0), rng, last=True)

    def output(self) -> Output:
        return Output(self.entity_head.weight[: self.n_items], self.entity_head.bias[: self.n_items])

    def score(self, batch: Batch, visible: Visibility) -> Tensor:
        asked = batch.channels["asked"].nonzero()[:, 0]
        found = totals(self, self.users(batch, asked), batch)
        return torch.where(found > 0, found.log().to(self.recency.dtype), BELOW + self._popularity(found))

    def _popularity(self, like: Tensor) -> Tensor:
        """[V] in [0, 1): training popularity, for items that no path reaches."""
        counts = np.zeros(self.n_items) if self.vocab.counts is None else self.vocab.counts
        return torch.from_numpy(counts / (counts.max(initial=0) + 1)).to(like.device, self.recency.dtype)

    # -- paths -----------------------------------------------------------------------------------------------------------

    def generate(self, batch: Batch, *, k: int) -> Walked:
        """The k likeliest paths of each row of `batch` (histories), whatever node they end in."""
        return best(self, self.users(batch, batch.last), batch, k=k)

    def explain(self, batch: Batch, item: int, *, k: int = 1) -> tuple[Explanation, ...]:
        """The k likeliest paths from the history, the only row of `batch`, to an item; none if none leads there.

        Constrained: of all paths of the graph (with more than 3 hops, of those with the likeliest beginnings), by their
        probability among all tokens. Free: of the paths that the search kept, and each says whether its edges exist.
        """
        if not batch.n_positions:
            return ()
        position = batch.channels["position"] - max(0, batch.n_positions - self.model.max_len)
        batch = batch.with_channels(position=position).keep(position >= 0)  # what `score` reads of a long history
        return explanations(self, self.users(batch, batch.last), batch, item, k=k)
