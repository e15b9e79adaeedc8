"""A transformer that reads a dialogue and writes what comes next, its words biased by what was named (KBRD section 3.3)."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lmrs.decoding import greedy
from lmrs.errors import CheckpointError, ContractError
from lmrs.files import write_atomic
from lmrs.graph import Graph
from lmrs.measures.words import WORDS
from lmrs.models.dropout import dropout
from lmrs.models.speaker import Told
from lmrs.records import SLOT
from lmrs.split import Train
from lmrs.views import Replies

BEGIN, END, UNKNOWN, ITEM = 0, 1, 2, 3  # symbols that no text can spell, but for the slot of an item; the words follow
SPECIAL = 4
FILE = "words.json"


@dataclass(frozen=True)
class WordSpeech:
    """An encoder over the words of the dialogue, a decoder over those of the response; E is the table of words.

        log p(w | before) = log softmax(E h + b + W_2 relu(W_1 u))         (section 3.3)

    h is the decoder's state, u the vector of what was named. Post-norm layers with sine positions.

    words: size of the vocabulary, from the training turns; rarer words are one unknown symbol, which is never written.
    dim, layers, heads: of the transformer, its feed-forward parts as wide as itself. dropout: on the words where they are read.
    hidden: rows of W_1. bias: False leaves the term of u out. context: words of the dialogue that are read, the newest.
    said: words of a response that are learned. most: that are written.
    """

    words: int = 20_000
    dim: int = 300
    layers: int = 2
    heads: int = 2
    dropout: float = 0.1
    hidden: int = 512
    bias: bool = True
    context: int = 256
    said: int = 128
    most: int = 50

    def __post_init__(self) -> None:
        for name in ("words", "dim", "layers", "heads", "hidden", "context", "said", "most"):
            if getattr(self, name) < 1:
                raise ContractError(needed=f"{name} of at least 1", came=f"{name}={getattr(self, name)}")
        if self.dim % self.heads or self.dim % 2:
            raise ContractError(needed="an even dim that heads divide", came=f"dim={self.dim}, heads={self.heads}")
        if not 0 <= self.dropout < 1:
            raise ContractError(needed="dropout in [0, 1)", came=f"dropout={self.dropout}")

    def build(self, words: tuple[str, ...], width: int) -> Speech:
        """The module. width: of u. Draws from torch's generator as it stands."""
        return Speech(self, words, width)

    def vocabulary(self, train: Train, max_len: int) -> tuple[str, ...]:
        """The words of training, the most frequent first, ties in alphabetical order: of the recommender's turns and of the turns
        before them, in which items are their titles."""
        view = Replies(max_len=max_len)
        texts = view.collate(view.rows(train, ahead=0, rng=np.random.default_rng(0))).texts
        counts: Counter[str] = Counter()
        for before, said in zip(texts["context"], texts["response"], strict=True):
            counts.update(WORDS["words"](said or ""))
            counts.update(WORDS["words"]((before or "").rpartition("\n")[2]))
        counts.pop(SLOT, None)
        return tuple(sorted(counts, key=lambda word: (-counts[word], word))[: self.words])


@dataclass(frozen=True, eq=False)
class Worded:
    """What is prepared for a model that finds items by a graph and writes words."""

    graph: Graph
    words: tuple[str, ...]

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps([self.graph.fingerprint, self.words]).encode()).hexdigest()

    def save(self, folder: Path) -> Path:
        """Writes graph.arrow and words.json. Raises StorageError."""
        self.graph.save(folder)
        write_atomic(folder / FILE, json.dumps(list(self.words), ensure_ascii=False).encode() + b"\n")
        return folder / FILE

    @classmethod
    def load(cls, folder: Path) -> Worded:
        """What `save` wrote. Raises CheckpointError."""
        try:
            words = json.loads((folder / FILE).read_bytes())
        except (OSError, ValueError) as error:
            raise CheckpointError(
                needed=f"words in {folder / FILE}", came=type(error).__name__, remedy="fit or save the recommender again"
            ) from error
        return cls(Graph.load(folder), tuple(map(str, words)))

    def __str__(self) -> str:
        return f"{self.graph}, {len(self.words):,} words"


class Speech(nn.Module):
    """tokens: E. free: b. first, second: W_1 and W_2, or None. Padding is masked and counts for nothing."""

    def __init__(self, about: WordSpeech, words: tuple[str, ...], width: int) -> None:
        super().__init__()
        self.about, self.words = about, words
        self.numbers = {SLOT: ITEM} | {word: SPECIAL + at for at, word in enumerate(words)}
        size = SPECIAL + len(words)
        self.tokens = nn.Embedding(size, about.dim)
        nn.init.normal_(self.tokens.weight, std=about.dim**-0.5)
        self.free = nn.Parameter(torch.zeros(size))
        shape: dict[str, Any] = {"dim_feedforward": about.dim, "dropout": 0.0, "batch_first": True}  # it would draw by itself
        self.encoder = nn.ModuleList(nn.TransformerEncoderLayer(about.dim, about.heads, **shape) for _ in range(about.layers))
        self.decoder = nn.ModuleList(nn.TransformerDecoderLayer(about.dim, about.heads, **shape) for _ in range(about.layers))
        self.first = nn.Linear(width, about.hidden) if about.bias else None
        self.second = nn.Linear(about.hidden, size, bias=False) if about.bias else None

    def read(self, text: str) -> list[int]:
        """The symbols of a text."""
        return [self.numbers.get(word, UNKNOWN) for word in WORDS["words"](text)]

    def text(self, symbols: list[int]) -> str:
        return " ".join(SLOT if each == ITEM else self.words[each - SPECIAL] for each in symbols)

    def heard(self, contexts: tuple[str | None, ...], rng: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """(memory [B, T, D], what is padding bool[B, T]) of the dialogues. BEGIN stands before each: none is empty."""
        read = [[BEGIN, *self.read(text or "")[-self.about.context :]] for text in contexts]
        ids, gap = self._padded(read)
        x = self._embed(ids, rng)
        for layer in self.encoder:
            x = layer(x, src_key_padding_mask=gap)
        return x, gap

    def logits(
        self, said: Tensor, memory: Tensor, gap: Tensor, u: Tensor, rng: torch.Generator | None = None, *, last: bool = False
    ) -> Tensor:
        """[B, L, W] of the word after each of `said` (int64[B, L], padded at the end); of the last one alone [B, W]."""
        x = self._embed(said, rng)
        future = torch.ones(said.shape[1], said.shape[1], dtype=torch.bool, device=said.device).triu(1)
        for layer in self.decoder:
            x = layer(x, memory, tgt_mask=future, memory_key_padding_mask=gap)
        x = x[:, -1:] if last else x
        out = nn.functional.linear(x, self.tokens.weight, self.free)
        if self.first is not None and self.second is not None:
            out = out + self.second(self.first(u).relu())[:, None]
        return out[:, 0] if last else out

    def judged(
        self, contexts: tuple[str | None, ...], responses: tuple[str | None, ...], u: Tensor, rng: torch.Generator | None
    ) -> Told:
        read = [self.read(text or "")[: self.about.said] for text in responses]
        memory, gap = self.heard(contexts, rng)
        ids, _ = self._padded([[BEGIN, *each] for each in read])
        target, none = self._padded([[*each, END] for each in read])
        gain = self.logits(ids, memory, gap, u, rng).log_softmax(2).gather(2, target[..., None])[..., 0]
        return Told(gain.masked_fill(none, 0.0).sum(1), (~none).sum(1))

    @torch.no_grad()
    def written(self, contexts: tuple[str | None, ...], u: Tensor) -> list[str]:
        memory, gap = self.heard(contexts)
        said = torch.full((len(contexts), 1), BEGIN, device=u.device)

        def step(chosen: Tensor) -> Tensor:
            nonlocal said
            said = torch.cat([said, chosen[:, None]], 1)
            return self.logits(said, memory, gap, u, last=True)

        first = self.logits(said, memory, gap, u, last=True)
        found = greedy(first, step, end=END, most=self.about.most, unwritten=(BEGIN, UNKNOWN))
        return [self.text(each) for each in found]

    def _padded(self, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        """(int64[B, T], what is padding bool[B, T]), padded at the end."""
        place = self.free.device
        size = torch.tensor([len(row) for row in rows], device=place)
        ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=END).to(place)
        return ids, torch.arange(ids.shape[1], device=place) >= size[:, None]

    def _embed(self, ids: Tensor, rng: torch.Generator | None) -> Tensor:
        dim = self.about.dim
        rates = torch.exp(torch.arange(0, dim, 2, device=ids.device) * (-math.log(10_000.0) / dim))
        angle = torch.arange(ids.shape[1], device=ids.device)[:, None] * rates
        sines = torch.stack([angle.sin(), angle.cos()], 2).flatten(1)
        x = self.tokens(ids) * math.sqrt(dim) + sines.to(self.tokens.weight.dtype)
        return dropout(x, self.about.dropout, rng)
