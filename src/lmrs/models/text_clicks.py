"""Clicks from vectors that were made beforehand: frozen texts, a reader who was pre-trained, a small network on top (PREC)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.errors import ContractError
from lmrs.language import Backbone
from lmrs.losses import Output
from lmrs.models.blocks import PostNorm
from lmrs.models.dropout import dropout
from lmrs.models.network import Model
from lmrs.models.transformer import Transformer, TransformerNetwork
from lmrs.models.unread import Unread
from lmrs.texts import ItemText, TextEncoder, encoded
from lmrs.visibility import Causal, Full, Visibility
from lmrs.vocab import Vocab

_PAIRS = 2**16  # pairs of a row and an item that the click network reads at once


@dataclass(frozen=True)
class TextClicks(Model):
    """Two models over one frozen table t of text vectors, each of their numbers with mean 0 and variance 1 over the catalogue
    (language models give all texts a large common part).

    The reader: v_i = W t_i (a vector of its own for the mask), `layers` BERT blocks over the history; at a mask it says which
    item is hidden, by h . v_i. The click network: s(h, i) = DCN(LN[v_i ; u ; v_i * u]), u the mean of the reader's last states
    (Wang et al. 2017: `cross` layers x_{l+1} = x_0 (w_l . x_l) + b_l + x_l beside a ReLU layer of `hidden`, one linear map).
    Asked at a mask, the network ranks as the reader; asked at an event, by the click network. That one alone is the "head" of the
    taxonomy: reader and texts are what was there before.

    encoder, text: as in TextItems; the vectors are kept in the cache, not in the model. dim, layers, heads, max_len, dropout: of
    the reader; dropout acts on the ReLU layer, too.
    """

    encoder: TextEncoder = TextEncoder(Backbone("minilm"))  # noqa: RUF009 - a frozen value
    text: ItemText = ItemText()  # noqa: RUF009 - a frozen value
    dim: int = 64
    layers: int = 2
    heads: int = 2
    max_len: int = 50
    dropout: float = 0.1
    cross: int = 2
    hidden: int = 64

    def __post_init__(self) -> None:
        if self.cross < 0 or self.hidden < 1:
            raise ContractError(needed="cross >= 0 and hidden >= 1", came=f"cross={self.cross}, hidden={self.hidden}")
        self._body()

    def _body(self) -> Transformer:
        return Transformer(
            dim=self.dim, layers=self.layers, heads=self.heads, max_len=self.max_len, dropout=self.dropout, block=PostNorm(),
            embed_norm=True,
        )  # fmt: skip

    @property
    def knows_new(self) -> bool:
        return True

    @property
    def pretrained(self) -> bool:
        return True

    @property
    def origin(self) -> str:
        return self.encoder.backbone.info().fingerprint

    def group(self, name: str) -> str:
        return "head" if name.startswith("click.") else "model"

    def allows(self, visible: Visibility) -> bool:
        return isinstance(visible, Causal | Full)

    def build(self, vocab: Vocab) -> TextClicksNetwork:
        """Raises DataError if no item has a text, UserError if the backbone is not at hand. Encodes texts the cache lacks."""
        return TextClicksNetwork(self, vocab)


class TextClicksNetwork(TransformerNetwork):
    """texts: [V, E], frozen and not saved. coverage: how many items have a text."""

    texts: Tensor

    def __init__(self, about: TextClicks, vocab: Vocab) -> None:
        super().__init__(about._body(), vocab, table=False)
        words, self.coverage = about.text.of(vocab)
        self.unread = Unread(without_text=self.coverage.without)
        found = torch.from_numpy(encoded(about.encoder, words))
        found = (found - found.mean(0)) / found.std(0, correction=0).clamp_min(1e-6)
        self.register_buffer("texts", found, persistent=False)
        self.narrow_text = nn.Linear(found.shape[1], about.dim)
        self.hidden_item = nn.Parameter(torch.empty(about.dim).normal_(std=0.02))
        self.click = ClickNetwork(about)

    def look_up(self, batch: Batch, rng: torch.Generator | None) -> Tensor:
        item = batch.channels["item"]
        hidden = item >= self.n_items
        return torch.where(hidden[:, None], self.hidden_item, self.narrow_text(self.texts[item.masked_fill(hidden, 0)]))

    def vectors(self, items: Tensor) -> Tensor:
        return self.narrow_text(self.texts[items])

    def output(self) -> Output:
        return Output(self.narrow_text(self.texts), None)

    def readers(self, batch: Batch, visible: Visibility, rng: torch.Generator | None) -> Tensor:
        """[B, D]: the mean state of each row."""
        states = self(batch, visible, rng)
        total = states.new_zeros(batch.n_rows, self.dim).index_add(0, batch.row_of, states)
        return total / batch.lengths.clamp_min(1)[:, None].to(states)

    def verdicts(
        self, batch: Batch, visible: Visibility, at: Tensor, items: Tensor, rng: torch.Generator | None = None
    ) -> Tensor:
        found = self.readers(batch, visible, rng)[batch.row_of[at]]
        return self.click(self.vectors(items), found[:, None].expand(*items.shape, self.dim), rng)

    def score(self, batch: Batch, visible: Visibility) -> Tensor:
        return self.score_among(batch, visible, torch.arange(self.n_items, device=self.texts.device).expand(batch.n_rows, -1))

    def score_among(self, batch: Batch, visible: Visibility, candidates: Tensor) -> Tensor:
        asked = batch.channels["asked"].nonzero()[:, 0]
        items = candidates.clamp_min(0)
        if bool((batch.channels["item"][asked] >= self.n_items).any()):
            states = self(batch, visible, at=asked)
            return self.output().scores(states).gather(1, items)
        readers = self.readers(batch, visible, None)[batch.row_of[asked]]
        step = max(1, _PAIRS // max(1, len(readers)))
        found = [
            self.click(self.vectors(some), readers[:, None].expand(*some.shape, self.dim), None) for some in items.split(step, 1)
        ]
        return torch.cat(found, 1) if found else items.new_zeros(items.shape, dtype=readers.dtype)


class ClickNetwork(nn.Module):
    """cross, bias: [L, 3 D]. deep: 3 D -> hidden. out: both together to one number."""

    def __init__(self, about: TextClicks) -> None:
        super().__init__()
        width = 3 * about.dim
        self.p = about.dropout
        self.norm = nn.LayerNorm(width)
        self.cross = nn.Parameter(torch.empty(about.cross, width).normal_(std=width**-0.5))
        self.bias = nn.Parameter(torch.zeros(about.cross, width))
        self.deep = nn.Linear(width, about.hidden)
        self.out = nn.Linear(width + about.hidden, 1)

    def forward(self, item: Tensor, reader: Tensor, rng: torch.Generator | None) -> Tensor:
        """[*] scores of items [*, D] for readers [*, D]."""
        first = x = self.norm(torch.cat([item, reader, item * reader], -1))
        for weight, bias in zip(self.cross, self.bias, strict=True):
            x = first * (x @ weight)[..., None] + bias + x
        deep = dropout(self.deep(first).relu(), self.p, rng)
        return self.out(torch.cat([x, deep], -1))[..., 0]
