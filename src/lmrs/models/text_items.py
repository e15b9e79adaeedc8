"""A transformer whose items are their texts: frozen text vectors, a learned adaptor, and ids on top where wanted (UniSRec)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.errors import CheckpointError, ContractError
from lmrs.language import Backbone
from lmrs.losses import Output
from lmrs.models.adaptor import Adaptor
from lmrs.models.blocks import Block, PostNorm
from lmrs.models.learned import Learned, learned
from lmrs.models.network import Model
from lmrs.models.transformer import Transformer, TransformerNetwork
from lmrs.models.unread import Unread
from lmrs.split import Train
from lmrs.texts import ItemText, TextEncoder, encoded, without_words
from lmrs.visibility import Causal, Visibility
from lmrs.vocab import Vocab

TAKEN = ("adaptor.", "blocks.", "embed_norm.", "positions.")  # of another run: what does not depend on the catalogue


@dataclass(frozen=True)
class TextItems(Model):
    """v_i = adaptor(text vector of i) (+ id embedding of i); the blocks read v, and score(h, i) = cos(h, v_i) / temperature.

    Every item of the catalogue has a vector from its text, so items without training events are ranked like any other (they
    share the text of `text.missing` if they have none; with ids=True they lack what the id would add).

    encoder: reads each text once; its vectors are kept in the cache, not in the model. text: which text. adaptor: what learns
    to read the vectors. ids: a learned embedding a catalogue item on top, zero at first (UniSRec's transductive setting).
    word_drop: share of words left out of a text's second version, which is read where the channel `dropped` says so.
    temperature: > 0. dim, layers, heads, max_len, dropout, attention_dropout, block: as in Transformer; the sum of item and
    position is normalised (LayerNorm).

    start: the folder of a run whose adaptor and blocks are taken over, trained on any catalogue with the same sizes and encoder;
    ids are not. Read by fit alone: a saved model does not need it any more.

    The gate's noise and the adaptor's dropout act on the items of the history, not on the table that is scored.
    """

    encoder: TextEncoder = TextEncoder(Backbone("minilm"))  # noqa: RUF009 - a frozen value
    text: ItemText = ItemText()  # noqa: RUF009 - a frozen value
    adaptor: Adaptor = Adaptor()  # noqa: RUF009 - a frozen value
    ids: bool = False
    word_drop: float = 0.15
    temperature: float = 0.07
    dim: int = 300
    layers: int = 2
    heads: int = 2
    max_len: int = 50
    dropout: float = 0.5
    attention_dropout: float = 0.0
    block: Block = PostNorm(expand=1)  # noqa: RUF009 - a frozen value
    start: str = ""

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ContractError(needed="temperature above 0", came=f"temperature={self.temperature}")
        if not 0 < self.word_drop < 1:
            raise ContractError(needed="word_drop above 0 and below 1", came=f"word_drop={self.word_drop}")
        self._body()

    def _body(self) -> Transformer:
        return Transformer(
            dim=self.dim, layers=self.layers, heads=self.heads, max_len=self.max_len, dropout=self.dropout,
            attention_dropout=self.attention_dropout, block=self.block, embed_norm=True,
        )  # fmt: skip

    @property
    def knows_new(self) -> bool:
        return True

    @property
    def pretrained(self) -> bool:
        return bool(self.start)

    def prepare(self, train: Train, *, seed: int) -> Learned | None:
        """What was learned in `start`. Raises UserError if it is not there, CheckpointError if it read other text vectors."""
        if not self.start:
            return None
        found = learned(self.start, TAKEN)
        if found.origin != self.origin:
            raise CheckpointError(
                needed=f"a run whose texts were read by {self.encoder.backbone.name}",
                came=f"another reader in {found.folder}",
                remedy="set the backbone that it was trained with",
            )
        return found

    @property
    def origin(self) -> str:
        return self.encoder.backbone.info().fingerprint

    def allows(self, visible: Visibility) -> bool:
        """Only what looks back: a text says nothing of the mask symbol that objectives with both sides need."""
        return isinstance(visible, Causal)

    def build(self, vocab: Vocab) -> TextItemsNetwork:
        """Raises DataError if no item has a text, UserError if the backbone is not at hand. Encodes texts the cache lacks."""
        return TextItemsNetwork(self, self._body(), vocab)


class TextItemsNetwork(TransformerNetwork):
    """texts: [V, E], frozen and not saved. coverage: how many items have a text. ids: [V, D] or None."""

    texts: Tensor
    dropped: Tensor | None

    def __init__(self, about: TextItems, body: Transformer, vocab: Vocab) -> None:
        super().__init__(body, vocab, table=False)
        self.about = about
        self.words, self.coverage = about.text.of(vocab)
        self.unread = Unread(without_text=self.coverage.without)
        found = torch.from_numpy(encoded(about.encoder, self.words))
        self.register_buffer("texts", found, persistent=False)
        self.register_buffer("dropped", None, persistent=False)
        self.adaptor = about.adaptor.build(found.shape[1], about.dim)
        self.ids = nn.Embedding(vocab.n_items, about.dim) if about.ids else None
        if self.ids is not None:
            nn.init.zeros_(self.ids.weight)
        self._kept: tuple[list[Tensor], Tensor] | None = None
        if isinstance(vocab.prepared, Learned):
            vocab.prepared.into(_Taken(self))

    def look_up(self, batch: Batch, rng: torch.Generator | None) -> Tensor:
        item = batch.channels["item"]
        x = self.texts[item]
        if "dropped" in batch.channels:
            x = torch.where(batch.channels["dropped"][:, None], self._dropped()[item], x)
        x = self.adaptor(x, rng)
        return x if self.ids is None else x + self.ids(item)

    def _dropped(self) -> Tensor:
        """[V, E]: vectors of the texts without some of their words; made when first needed."""
        if self.dropped is None:
            fewer = without_words(self.words, self.about.word_drop)
            self.dropped = torch.from_numpy(encoded(self.about.encoder, fewer)).to(self.texts)
        return self.dropped

    def read(self, states: Tensor) -> Tensor:
        return F.normalize(states, dim=1) / self.about.temperature

    def vectors(self, items: Tensor) -> Tensor:
        return self._in_item_space(self.adaptor(self.texts[items]), None if self.ids is None else self.ids.weight[items])

    def output(self) -> Output:
        return Output(self._in_item_space(self._adapted(), None if self.ids is None else self.ids.weight), None)

    def _in_item_space(self, adapted: Tensor, ids: Tensor | None) -> Tensor:
        return F.normalize(adapted if ids is None else adapted + ids, dim=1)

    def _adapted(self) -> Tensor:
        """[V, D]: all items through the adaptor, in the precision of the weights; made anew where gradients are wanted, else only
        if a weight has changed (ranking asks for it in every batch, and it costs more than the ranking)."""
        with torch.autocast(self.texts.device.type, enabled=False):
            if torch.is_grad_enabled():
                return self.adaptor(self.texts)
            now = list(self.adaptor.parameters())
            if self._kept is None or not all(map(_same, now, self._kept[0])):
                self._kept = [each.detach().clone() for each in now], self.adaptor(self.texts)
            return self._kept[1]


class _Taken(nn.Module):
    """The parts of a network that do not depend on the catalogue, under their own names."""

    def __init__(self, network: TextItemsNetwork) -> None:
        super().__init__()
        for name, part in network.named_children():
            if f"{name}.".startswith(TAKEN):
                self.add_module(name, part)


def _same(one: Tensor, two: Tensor) -> bool:
    return one.device == two.device and one.dtype == two.dtype and torch.equal(one, two)
