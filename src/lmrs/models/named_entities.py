"""What was named in a dialogue, pooled by attention over vectors from the knowledge graph (KBRD, Chen et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.errors import ContractError
from lmrs.graph import Graph
from lmrs.losses import Output
from lmrs.models.checks import below_one
from lmrs.models.dropout import dropout
from lmrs.models.network import Model
from lmrs.models.relational import Relational
from lmrs.models.speaker import Speaker, Told
from lmrs.models.table import Table
from lmrs.models.word_speech import Speech, Worded, WordSpeech
from lmrs.split import Train
from lmrs.visibility import Causal, Visibility
from lmrs.vocab import Vocab


@dataclass(frozen=True)
class NamedEntities(Model):
    """u = sum_j alpha_j h_j, alpha = softmax_j(w . tanh(W h_j)) over the items named so far; score(i) = u . h_i + b_i.

    Equations 2 to 4 of the paper. While nothing was named u is zero and the biases rank (the symbol `vocab.mask` names nothing).

    entities: where h comes from. hidden: rows of W. max_len: positions of a row. dropout: on h where it is pooled. speech: what
    writes responses, whose words u biases, or None.
    """

    entities: Relational = Relational()  # noqa: RUF009 - a frozen value
    hidden: int = 128
    max_len: int = 33
    dropout: float = 0.0
    speech: WordSpeech | None = None

    def __post_init__(self) -> None:
        if self.hidden < 1 or self.max_len < 1:
            raise ContractError(needed="hidden and max_len of at least 1", came=f"hidden={self.hidden}, max_len={self.max_len}")
        below_one(dropout=self.dropout)

    def allows(self, visible: Visibility) -> bool:
        return isinstance(visible, Causal)

    def prepare(self, train: Train, *, seed: int) -> Graph | Worded:
        graph = self.entities.knowledge.of(train)
        return graph if self.speech is None else Worded(graph, self.speech.vocabulary(train, self.max_len))

    def restore(self, folder: Path) -> Graph | Worded:
        return Graph.load(folder) if self.speech is None else Worded.load(folder)

    def build(self, vocab: Vocab) -> NamedEntitiesNetwork:
        """Raises ContractError without the graph that `prepare` makes."""
        return NamedEntitiesNetwork(self, vocab, graph_of(vocab))


def graph_of(vocab: Vocab) -> Graph:
    """What `prepare` made. Raises ContractError if it was not called."""
    found = vocab.prepared.graph if isinstance(vocab.prepared, Worded) else vocab.prepared
    if not isinstance(found, Graph):
        raise ContractError(needed="a graph as vocab.prepared", came=type(found).__name__, remedy="use fit, or prepare")
    return found


class NamedEntitiesNetwork(Speaker):
    """entities: h. attend, weigh: W and w. item_bias: b. speech: the dialogue model, or None."""

    def __init__(self, model: NamedEntities, vocab: Vocab, graph: Graph) -> None:
        super().__init__()
        self.model, self.n_items, self.dim = model, vocab.n_items, model.entities.dim
        self.entities = model.entities.build(graph)
        self.attend = nn.Linear(self.dim, model.hidden, bias=False)
        self.weigh = nn.Linear(model.hidden, 1, bias=False)
        self.item_bias = nn.Parameter(torch.zeros(vocab.n_items))
        self.table = Table(self.entities)
        words = vocab.prepared.words if isinstance(vocab.prepared, Worded) else ()
        self.speech = model.speech.build(words, self.dim) if model.speech is not None else None

    def forward(self, batch: Batch, visible: Visibility, rng: torch.Generator | None = None, at: Tensor | None = None) -> Tensor:
        if not self.model.allows(visible):
            raise ContractError(needed="Causal() visibility", came=repr(visible))
        table = self.table.made()
        item = batch.channels["item"]
        real = (item < self.n_items)[:, None].to(table)  # (N, 1)
        h = dropout(table[item.clamp_max(self.n_items - 1)], self.model.dropout, rng)
        mass = self.weigh(self.attend(h).tanh()).exp() * real  # w . tanh is bounded: no maximum need be taken off
        row, place = batch.row_of, batch.channels["position"]
        longest = int(batch.lengths.max()) if batch.n_rows else 0
        cells = table.new_zeros(batch.n_rows, longest, self.dim + 1)
        cells[row, place] = torch.cat([mass * h, mass], 1)
        found = cells.cumsum(1)[row, place]  # (N, D + 1): sums over the row so far
        states = found[:, :-1] / torch.where(found[:, -1:] > 0, found[:, -1:], 1.0)
        return states if at is None else states[at]

    def output(self) -> Output:
        return Output(self.table.again(), self.item_bias)

    # -- what it says ----------------------------------------------------------------------------------------------------

    @property
    def speaks(self) -> bool:
        return self.speech is not None

    def tell(self, batch: Batch, rng: torch.Generator | None = None) -> Told:
        if not batch.n_rows:
            return Told((self._speech().free.sum() * 0).expand(0), torch.zeros(0, dtype=torch.int64))
        return self._speech().judged(batch.texts["context"], batch.texts["response"], self._named(batch), rng)

    @torch.no_grad()
    def write(self, batch: Batch) -> list[str]:
        return self._speech().written(batch.texts["context"], self._named(batch)) if batch.n_rows else []

    def _named(self, batch: Batch) -> Tensor:
        """[B, D]: u of what was named before each turn, nothing dropped."""
        return self(batch, Causal(), None, batch.last)

    def _speech(self) -> Speech:
        if self.speech is None:
            raise ContractError(needed="a model with speech=WordSpeech()", came="speech=None", remedy="it writes nothing")
        return self.speech
