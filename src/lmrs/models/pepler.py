"""PEPLER: a pre-trained language model that writes why, after a prompt of a user and an item (Li, Zhang & Chen, TOIS 2023)."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lmrs import prompts
from lmrs.batch import Batch
from lmrs.decoding import causal, left_padded
from lmrs.errors import ContractError
from lmrs.language import Backbone, admit
from lmrs.language.running import dropping
from lmrs.measures.words import first_words
from lmrs.models.checks import at_least
from lmrs.models.explainer import Explainer, Told
from lmrs.models.network import Model
from lmrs.models.said import Said, said_in
from lmrs.prompts import ById, Compiled, Examples, Frame, InputVectors, Template, Vector, parse
from lmrs.prompts.places import build
from lmrs.split import Train
from lmrs.views.reviews import Reviews
from lmrs.visibility import Causal, Visibility
from lmrs.vocab import Vocab

CONTINUOUS = "[vector user][vector item]"
DISCRETE = '{list features separator=" " keep=left}'
RATINGS = ("", "mf", "mlp")
HIDDEN = 400  # width of the three layers of the rating net, as in the released code
FIELDS = ("feature", "features")


@dataclass(frozen=True)
class Pepler(Model):
    """The prompt, a begin token, the words, an end token; every word is read from the state before it.

    backbone: a causal one. template: in the notation of `prompts.parse`; CONTINUOUS: a learned vector for each user and each
    item (section 4.2); DISCRETE: the features that the user and the item were spoken of with in training, shared ones first
    (section 4.1). Columns: `features`, that list, and `feature`, that of the pair itself.
    rating: "", "mf" (r = u . i) or "mlp" (three layers of 400 sigmoids over [u, i]), of the vectors in the prompt (section 4.4).
    says, longest: as in views.Reviews. room: tokens of a prompt; list entries that do not fit are left out, the last ones first.
    tokens: the most that are written. fresh: random weights in place of the trained ones.
    """

    backbone: Backbone
    template: str = CONTINUOUS
    rating: str = ""
    says: str = "explanation"
    longest: int = 20
    room: int = 20
    tokens: int = 40
    fresh: bool = False

    max_len = 1

    def __post_init__(self) -> None:
        at_least(1, longest=self.longest, room=self.room, tokens=self.tokens)
        if self.rating not in RATINGS:
            raise ContractError(needed="rating 'mf', 'mlp' or '' for none", came=repr(self.rating))
        read = parse(self.template)
        for what, named, known in (("columns", read.columns, FIELDS), ("vectors", tuple(read.slots(Vector)), ("user", "item"))):
            if not set(named) <= set(known):
                raise ContractError(needed=f"{what} {' and '.join(known)} in the template", came=self.template)
        if self.rating and not self.vectors:
            raise ContractError(
                needed="[vector user] and [vector item] in the template for a rating",
                came=self.template,
                remedy="leave rating out",
            )
        admit(self.backbone, for_="Pepler", families=("causal",))

    @property
    def vectors(self) -> bool:
        """Whether the prompt holds vectors of the user and of the item."""
        return set(parse(self.template).slots(Vector)) == {"user", "item"}

    @property
    def pretrained(self) -> bool:
        return not self.fresh

    @property
    def prompted(self) -> bool:
        return True

    @property
    def soft(self) -> bool:
        return bool(parse(self.template).slots(Vector))

    @property
    def knows_users(self) -> bool:
        return True

    @property
    def origin(self) -> str:
        return "" if self.fresh else self.backbone.info().fingerprint

    def given(self, name: str) -> bool:
        return self.pretrained and name.startswith("backbone.")

    def group(self, name: str) -> str:
        return "prompt" if name.startswith("prompt") else "head" if name.startswith("rating") else "model"

    def allows(self, visible: Visibility) -> bool:
        return isinstance(visible, Causal)

    def prepare(self, train: Train, *, seed: int) -> Said:
        return Said.of(train, Reviews(self.says, self.longest), features="features" in parse(self.template).columns)

    def restore(self, folder: Path) -> Said:
        return Said.load(folder)

    def build(self, vocab: Vocab) -> PeplerNetwork:
        return PeplerNetwork(self, vocab)


class PeplerNetwork(Explainer):
    """backbone: the language model. prompt: the vectors of users and items, or None. rating: the net of "mlp", or None."""

    backbone: nn.Module

    def __init__(self, model: Pepler, vocab: Vocab) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        self.model, self.n_items, self.said = model, vocab.n_items, said_in(vocab)
        self.tokens = model.backbone.tokenizer()
        read = parse(model.template)
        self.template = read if read.frame is not None else Template(read.segments, Frame())
        self.begin, self.end = _ends(self.tokens.bos, self.tokens.eos, model.backbone.name)
        self.dim = model.backbone.info().dim
        language: Any = model.backbone.build()
        if model.fresh:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(torch.randint(2**62, (), generator=rng)))
                language = type(language)(language.config).eval()
        self.backbone = language.requires_grad_(True)
        self.takes = frozenset(inspect.signature(language.forward).parameters)
        slots = self.template.slots(Vector)
        sizes = {"user": len(self.said.users), "item": len(self.said.items)}
        sources = {name: ById(name, sizes[name], place.stop - place.start) for name, place in slots.items()}
        self.prompt = build(self.template, Vector, sources, self.dim, rng) if slots else None
        self.rating = _rating_net(2 * self.dim) if model.rating == "mlp" else None

    def train(self, mode: bool = True) -> PeplerNetwork:
        """There is no train mode: the backbone's dropout acts where a generator is given, and only there."""
        super().train(mode)
        self.backbone.eval()
        return self

    # -- the prompt ------------------------------------------------------------------------------------------------------

    def prompts(self, batch: Batch) -> Compiled:
        """The prompt of each row, in row order."""
        columns: dict[str, Any] = {}
        if "feature" in self.template.columns:
            columns["feature"] = list(batch.texts.get("feature", (None,) * batch.n_rows))
        if "features" in self.template.columns:
            pairs = zip(batch.rows["user"].tolist(), batch.channels["item"].tolist(), strict=True)
            columns["features"] = [self.said.shared_first(user, item) for user, item in pairs]
        examples = Examples(columns, batch.n_rows)
        return prompts.compile(self.template, self.tokens, examples, context=self.model.room, missing="")

    def given_vectors(self, batch: Batch) -> Tensor | None:
        """[B, L, D]: the vectors of each row's prompt."""
        if self.prompt is None:
            return None
        return self.prompt(batch.n_rows, {"user": batch.rows["user"], "item": batch.channels["item"]})

    def laid_out(self, compiled: Compiled, texts: list[np.ndarray], vectors: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """(input vectors [B, T, D], mask bool[B, T], ids int64[B, T]) of prompt, begin and text, padded on the left."""
        place = self.place
        ids, where = [], []
        for row, text in enumerate(texts):
            here = slice(int(compiled.offsets[row]), int(compiled.offsets[row + 1]))
            ids.append(np.concatenate([compiled.ids[here], [self.begin], text]))
            where.append(np.concatenate([compiled.vector[here], np.full(1 + len(text), -1)]))
        offsets = torch.tensor([0, *np.cumsum([len(row) for row in ids]).tolist()])
        padded, mask = left_padded(torch.from_numpy(np.concatenate(ids).astype(np.int64)), offsets, self.tokens.pad or 0)
        slots, _ = left_padded(torch.from_numpy(np.concatenate(where).astype(np.int64)), offsets, -1)
        padded, mask, slots = padded.to(place), mask.to(place), slots.to(place)
        language: Any = self.backbone
        embedded = language.get_input_embeddings()(padded)
        if vectors is not None:
            whose = torch.arange(len(padded), device=place)[:, None].expand_as(padded)
            embedded = InputVectors().inject(embedded, slots, whose, vectors)
        return embedded, mask, padded

    @property
    def place(self) -> torch.device:
        """Where the backbone is."""
        return next(self.backbone.parameters()).device

    # -- what it says ----------------------------------------------------------------------------------------------------

    def tell(self, batch: Batch, rng: torch.Generator | None = None) -> Told:
        if not batch.n_rows:
            nothing = next(self.backbone.parameters()).sum() * 0
            return Told(nothing, 0, None, nothing.expand(0))
        texts = [np.array([*self._read(text), self.end]) for text in batch.texts["explanation"]]
        size = torch.tensor([len(text) for text in texts])
        vectors = self.given_vectors(batch)
        embedded, mask, ids = self.laid_out(self.prompts(batch), texts, vectors)
        longest = int(size.max())
        options: dict[str, Any] = {"logits_to_keep": longest + 1} if "logits_to_keep" in self.takes else {}
        if "position_ids" in self.takes:
            options["position_ids"] = (mask.long().cumsum(1) - 1).clamp_min(0)
        with dropping(self.backbone, rng):
            out = self.backbone(inputs_embeds=embedded, attention_mask=mask.long(), **options)
        logits = out.logits[:, -longest - 1 : -1]
        charged = torch.arange(longest)[None] >= longest - size[:, None]
        charged = charged.to(logits.device)
        gain = nn.functional.cross_entropy(logits[charged].float(), ids[:, -longest:][charged], reduction="sum")
        return Told(-gain, int(size.sum()), None, self._rated(vectors))

    def rate(self, batch: Batch) -> Tensor | None:
        return self._rated(self.given_vectors(batch)) if self.model.rating else None

    def _rated(self, vectors: Tensor | None) -> Tensor | None:
        """[B] from [B, L, D]: the first vector of the user's slot and of the item's."""
        if not self.model.rating or vectors is None:
            return None
        slots = self.template.slots(Vector)
        user, item = (vectors[:, slots[name].start] for name in ("user", "item"))
        return (user * item).sum(1) if self.rating is None else self.rating(torch.cat([user, item], 1))[:, 0]

    def _read(self, text: str | None) -> list[int]:
        """The tokens of a text. It is data: no token of meaning comes of it."""
        return self.tokens.encode(f" {text}" if text else "")[: self.model.tokens]

    @torch.no_grad()
    def write(self, batch: Batch) -> list[str]:
        if not batch.n_rows:
            return []
        embedded, mask, _ = self.laid_out(self.prompts(batch), [np.zeros(0, np.int64)] * batch.n_rows, self.given_vectors(batch))
        language: Any = self.backbone
        context = causal(language, None, mask, embeddings=embedded)
        unwritten = [each for each in {*self.tokens.marks.values(), self.begin} if each != self.end]
        unwritten += list(range(self.tokens.size, context.logits.shape[1]))  # rows of the table that are no token
        said: list[list[int]] = [[] for _ in range(batch.n_rows)]
        ended = [False] * batch.n_rows
        for _ in range(self.model.tokens):
            logits = context.logits.clone()
            logits[:, unwritten] = -torch.inf
            chosen = logits.argmax(1)
            for row, token in enumerate(chosen.tolist()):
                ended[row] = ended[row] or token == self.end
                if not ended[row]:
                    said[row].append(token)
            if all(ended):
                break
            _, context = context.read(chosen[:, None])
        return [first_words(self.tokens.decode(each), self.model.longest) for each in said]


def _ends(bos: int | None, eos: int | None, name: str) -> tuple[int, int]:
    """(token that begins a text, token that ends one)."""
    if eos is None:
        raise ContractError(needed="a backbone with an end-of-text token", came=name, remedy="choose another")
    return eos if bos is None else bos, eos


def _rating_net(width: int) -> nn.Sequential:
    """[2 D -> 400 -> 400 -> 400 -> 1] with sigmoids, drawn like PETER's."""
    layers: list[nn.Module] = []
    for into in (width, HIDDEN, HIDDEN):
        layers += [nn.Linear(into, HIDDEN), nn.Sigmoid()]
    net = nn.Sequential(*layers, nn.Linear(HIDDEN, 1))
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.uniform_(layer.weight, -0.1, 0.1)
            nn.init.zeros_(layer.bias)
    return net
