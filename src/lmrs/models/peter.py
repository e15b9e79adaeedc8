"""PETER: a small transformer that reads a user, an item and perhaps a feature, and writes why (Li, Zhang & Chen, ACL 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lmrs.batch import Batch, from_rows
from lmrs.errors import ContractError
from lmrs.losses import FullSoftmax, Output
from lmrs.measures.words import WORDS
from lmrs.models.blocks import PostNorm
from lmrs.models.checks import at_least, below_one
from lmrs.models.dropout import dropout
from lmrs.models.explainer import Explainer, Told
from lmrs.models.network import Model
from lmrs.models.said import Said, said_in
from lmrs.split import Train
from lmrs.views.reviews import Reviews
from lmrs.visibility import Causal, Prefix, Visibility
from lmrs.vocab import Vocab

BEGIN, END, UNKNOWN = 0, 1, 2  # symbols that no text can spell; the words follow
SPECIAL = 3
START = 0.1  # tables and heads are drawn from [-START, START]


@dataclass(frozen=True)
class Peter(Model):
    """Rows [user, item, (feature), begin, w_1 ... w_n]; everybody sees the past, and the user sees the item, too (section 3.2).

    What comes after `begin` and each word is read from the state there; the words without their order from the item's state
    (context prediction, equation 5), by the same output table; the rating from the user's state by a net of one hidden layer.

    feature: read the feature of the pair, where it has one (PETER+). words: size of the vocabulary, from training explanations
    alone; rarer words are one unknown symbol, which is never written. says, longest: as in views.Reviews, of the texts that are
    learned. mask: "peter", or "causal", under which the user does not see the item (ablation).
    dim, layers, heads, dropout: of the transformer (post-norm, feed-forward width 4 dim, sine positions).
    """

    feature: bool = False
    words: int = 20_000
    says: str = "explanation"
    longest: int = 15
    mask: str = "peter"
    dim: int = 512
    layers: int = 2
    heads: int = 2
    dropout: float = 0.2

    max_len = 1

    def __post_init__(self) -> None:
        if self.mask not in ("peter", "causal"):
            raise ContractError(needed="mask 'peter' or 'causal'", came=repr(self.mask))
        if self.dim % self.heads or self.dim % 2:
            raise ContractError(needed="an even dim that heads divide", came=f"dim={self.dim}, heads={self.heads}")
        at_least(1, words=self.words, longest=self.longest, dim=self.dim, layers=self.layers, heads=self.heads)
        below_one(dropout=self.dropout)

    @property
    def knows_users(self) -> bool:
        return True

    def allows(self, visible: Visibility) -> bool:
        return isinstance(visible, Causal)

    def prepare(self, train: Train, *, seed: int) -> Said:
        return Said.of(train, Reviews(self.says, self.longest), words=self.words)

    def restore(self, folder: Path) -> Said:
        return Said.load(folder)

    def build(self, vocab: Vocab) -> PeterNetwork:
        return PeterNetwork(self, vocab)


class PeterNetwork(Explainer):
    def __init__(self, model: Peter, vocab: Vocab) -> None:
        super().__init__()
        self.model, self.dim, self.n_items = model, model.dim, vocab.n_items
        self.said = said_in(vocab)
        self.numbers = {word: SPECIAL + at for at, word in enumerate(self.said.words)}
        self.users = nn.Embedding(len(self.said.users), model.dim)
        self.items = nn.Embedding(len(self.said.items), model.dim)
        self.tokens = nn.Embedding(SPECIAL + len(self.said.words), model.dim)
        block = PostNorm()
        self.blocks = nn.ModuleList(block.build(model.dim, model.heads, model.dropout, 0.0) for _ in range(model.layers))
        self.words = nn.Linear(model.dim, self.tokens.num_embeddings)
        self.rating = nn.Sequential(nn.Linear(model.dim, model.dim), nn.Sigmoid(), nn.Linear(model.dim, 1))
        for table in (self.users, self.items, self.tokens):
            nn.init.uniform_(table.weight, -START, START)
        for layer in (self.words, *self.rating):
            if isinstance(layer, nn.Linear):
                nn.init.uniform_(layer.weight, -START, START)
                nn.init.zeros_(layer.bias)

    # -- what it reads ---------------------------------------------------------------------------------------------------

    def read_words(self, text: str | None) -> list[int]:
        """The symbols of a text. It is data: no text gives BEGIN or END."""
        return [self.numbers.get(word, UNKNOWN) for word in WORDS["words"](text or "")]

    def heads(self, batch: Batch) -> list[list[int]]:
        """What stands between the item and the first word of each row: the feature, if it is read, and BEGIN."""
        features = batch.texts.get("feature", (None,) * batch.n_rows) if self.model.feature else (None,) * batch.n_rows
        return [[*self.read_words(text), BEGIN] for text in features]

    def laid_out(self, batch: Batch, said: list[list[int]]) -> Batch:
        """The rows as the transformer reads them; `rows["example"]` numbers the rows of `batch`, longest first.

        `item` holds one numbering of all that is read: users, items, symbols.
        """
        n_users, n_items = self.users.num_embeddings, self.items.num_embeddings
        user, item = batch.rows["user"].tolist(), batch.channels["item"].tolist()
        for what, numbers, most in (("users", user, n_users), ("items", item, n_items)):
            if numbers and not 0 <= min(numbers) <= max(numbers) < most:
                raise ContractError(needed=f"{what} numbered 0 to {most - 1}", came=f"{min(numbers)} to {max(numbers)}")
        rows = [
            [u, n_users + i, *(n_users + n_items + word for word in text)] for u, i, text in zip(user, item, said, strict=True)
        ]
        flat = torch.tensor([symbol for row in rows for symbol in row], dtype=torch.int64)
        laid = from_rows({"item": flat}, torch.tensor([len(row) for row in rows], dtype=torch.int64))
        return laid.to(batch.channels["item"].device)

    def states(self, laid: Batch, rng: torch.Generator | None, at: Tensor | None = None) -> Tensor:
        """[N, D], or [M, D] for the places `at` (int64[M], rising)."""
        table = torch.cat([self.users.weight, self.items.weight, self.tokens.weight])
        x = table[laid.channels["item"]] * math.sqrt(self.dim) + self._sines(laid.channels["position"]).to(table.dtype)
        x = dropout(x, self.model.dropout, rng)
        visible: Visibility = Prefix(2) if self.model.mask == "peter" else Causal()
        for block in self.blocks[:-1]:
            x = block(x, laid, visible, rng)
        return self.blocks[-1](x, laid, visible, rng, at)

    def _sines(self, position: Tensor) -> Tensor:
        """[N, D]: sin and cos of position / 10000^(2 j / D), side by side (Vaswani et al. 2017, section 3.5)."""
        rates = torch.exp(torch.arange(0, self.dim, 2, device=position.device) * (-math.log(10_000.0) / self.dim))
        angle = position[:, None] * rates
        return torch.stack([angle.sin(), angle.cos()], 2).flatten(1)

    # -- what it says ----------------------------------------------------------------------------------------------------

    def tell(self, batch: Batch, rng: torch.Generator | None = None) -> Told:
        if not batch.n_rows:
            nothing = self.words.weight.sum() * 0
            return Told(nothing, 0, nothing, nothing.expand(0))
        heads = self.heads(batch)
        texts = [self.read_words(text) for text in batch.texts["explanation"]]
        laid = self.laid_out(batch, [[*head, *text] for head, text in zip(heads, texts, strict=True)])
        states = self.states(laid, rng)
        row = laid.rows["example"]
        first = laid.offsets[:-1].to(states.device)
        begin = torch.tensor([1 + len(head) for head in heads], device=states.device)[row]  # the place of BEGIN in its row
        asked = laid.channels["position"] >= begin[laid.row_of]
        symbol = laid.channels["item"] - self.users.num_embeddings - self.items.num_embeddings
        target = symbol.roll(-1)
        target[laid.last] = END
        output = Output(self.words.weight, self.words.bias)
        text = -FullSoftmax().charge(states[asked], output, target[asked])
        # The bag: every word of a row is charged to the state of its item.
        word = asked & (laid.channels["position"] > begin[laid.row_of])
        context = -FullSoftmax().charge(states[(first + 1)[laid.row_of[word]]], output, symbol[word])
        rating = torch.empty(batch.n_rows, dtype=states.dtype, device=states.device)
        rating = rating.index_copy(0, row, self.rating(states[first])[:, 0])
        return Told(text, int(asked.sum()), context, rating)

    def rate(self, batch: Batch) -> Tensor:
        laid = self.laid_out(batch, [[] for _ in range(batch.n_rows)])
        states = self.states(laid, None, laid.offsets[:-1].to(self.words.weight.device))
        return torch.empty_like(states[:, 0]).index_copy(0, laid.rows["example"], self.rating(states)[:, 0])

    @torch.no_grad()
    def write(self, batch: Batch) -> list[str]:
        heads = self.heads(batch)
        said: list[list[int]] = [[] for _ in heads]
        open_ = list(range(len(heads)))
        for _ in range(self.model.longest):
            if not open_:
                break
            some = batch.take(torch.tensor(open_))
            laid = self.laid_out(some, [[*heads[at], *said[at]] for at in open_])
            logits = self.words(self.states(laid, None, laid.last))
            logits[:, [BEGIN, UNKNOWN]] = -torch.inf
            chosen = torch.empty_like(laid.rows["example"]).index_copy(0, laid.rows["example"], logits.argmax(1)).tolist()
            for at, symbol in zip(open_, chosen, strict=True):
                if symbol != END:
                    said[at].append(symbol)
            open_ = [at for at, symbol in zip(open_, chosen, strict=True) if symbol != END]
        return [" ".join(self.said.words[symbol - SPECIAL] for symbol in text) for text in said]
