"""A frozen language model that is steered by prompts made of words and items together (UniCRS, Wang et al. 2022)."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.errors import ContractError
from lmrs.graph import Graph
from lmrs.language import Backbone, admit, require
from lmrs.losses import Output
from lmrs.models.fused_speech import Speech
from lmrs.models.named_entities import graph_of
from lmrs.models.network import Model
from lmrs.models.prompted import wide
from lmrs.models.relational import Relational
from lmrs.models.speaker import Speaker, Told
from lmrs.models.table import Table
from lmrs.split import Train
from lmrs.visibility import Causal, Visibility
from lmrs.vocab import Vocab

FAMILIES = ("encoder", "causal")
SPEAKERS = {"seeker": "User", "recommender": "System"}
LINES = 50_000  # tokenised lines kept
OPENING = 8  # tokens, at most, that say whose turn it is, and the end of one


@dataclass(frozen=True)
class FusedPrompt(Model):
    """score(i) = h . e_i + b_i, h the state of a frozen language model that reads [task vectors; fused vectors; dialogue].

    e = the items' vectors from the graph, mapped to the width D of the language model; T = the states of the dialogue's tokens,
    read by the same model without a prompt; for the items E named so far

        A = (T W) E^T / D,   P = softmax_over_tokens(A)^T T + E         (equations 3 and 4 of the paper, and its code)

    gives one fused vector an item, and one for "nothing was named yet" (the symbol `vocab.mask`). h is the state of the last
    token of a causal model, the mean over the dialogue's tokens of an encoder.

    A row's text `context` holds one line a turn ("seeker: ..."); `sentence`, where it is given, is one more, and then no task
    vectors are used: that is the pre-training. A bare history is read as a turn of the seeker that lists its titles.

    With `speech` (`models.fused_speech`) the same frozen model writes what is said next, after prompts of one vector a token.

    backbone: an encoder or a causal model; never tuned. entities: of the graph. task: task vectors. fuse: False leaves P out.
    context: tokens of the dialogue, the newest. max_len: positions of a row. bias: False leaves b out, as the paper's code does.
    speech: task vectors of the conversation; 0: it writes nothing. said: tokens of a response that are learned. most: tokens of a
    response that are written.
    """

    backbone: Backbone
    entities: Relational = Relational()  # noqa: RUF009 - a frozen value
    task: int = 10
    fuse: bool = True
    context: int = 128
    max_len: int = 33
    bias: bool = True
    speech: int = 0
    said: int = 183
    most: int = 50

    def __post_init__(self) -> None:
        for name, least in (("task", 0), ("context", 4), ("max_len", 1), ("speech", 0), ("said", 1), ("most", 1)):
            if getattr(self, name) < least:
                raise ContractError(needed=f"{name} of at least {least}", came=f"{name}={getattr(self, name)}")
        if not self.task and not self.fuse and not self.speech:
            raise ContractError(needed="task vectors or fused ones", came="task=0, fuse=False")
        admit(self.backbone, for_="UniCRS's prompt", families=self.families)

    @property
    def families(self) -> tuple[str, ...]:
        """Of the backbones that can do it: an encoder writes nothing."""
        return FAMILIES[1:] if self.speech else FAMILIES

    @property
    def pretrained(self) -> bool:
        return True

    @property
    def prompted(self) -> bool:
        return True

    @property
    def soft(self) -> bool:
        return True

    @property
    def origin(self) -> str:
        return self.backbone.info().fingerprint

    def given(self, name: str) -> bool:
        return name.startswith("backbone.")

    def group(self, name: str) -> str:
        if name.startswith(("prompt.", "speech.")):
            return "prompt"
        return "head" if name.startswith("item_bias") else "model"

    def allows(self, visible: Visibility) -> bool:
        return isinstance(visible, Causal)

    def prepare(self, train: Train, *, seed: int) -> Graph:
        return self.entities.knowledge.of(train)

    def restore(self, folder: Path) -> Graph:
        return Graph.load(folder)

    def build(self, vocab: Vocab) -> FusedPromptNetwork:
        """Raises ContractError without the graph that `prepare` makes, or for a backbone that cannot take so many tokens."""
        longest = self.context + self.task + self.max_len
        if self.speech:  # a vector for each token of the dialogue stands before it, and a response after it
            longest = max(longest, 2 * self.context + self.speech + max(self.said, self.most) + OPENING)
        require(self.backbone, for_="UniCRS's prompt", family=self.families, context=longest)
        return FusedPromptNetwork(self, vocab, graph_of(vocab))


class FusedPromptNetwork(Speaker):
    """backbone: the language model. prompt: what finds items. item_bias: b. speech: what writes, or None."""

    def __init__(self, model: FusedPrompt, vocab: Vocab, graph: Graph) -> None:
        super().__init__()
        info = model.backbone.info()
        self.model, self.n_items, self.dim = model, vocab.n_items, info.dim
        self.encoder = info.family == "encoder"
        self.tokens = model.backbone.tokenizer()
        self.titles = vocab.titles(np.arange(vocab.n_items))
        self.backbone: nn.Module = model.backbone.build()
        takes = inspect.signature(self._body().forward).parameters
        self.options = {"use_cache": False} if "use_cache" in takes and not self.encoder else {}
        self.prompt = PromptMaker(model, graph, info.dim)
        self.item_bias = nn.Parameter(torch.zeros(vocab.n_items)) if model.bias else None
        self.speech = Speech(model.speech, self.prompt, self.backbone) if model.speech else None
        self.table = Table(self.prompt.items)
        self._lines: dict[str, list[int]] = {}

    def _body(self) -> Any:
        """The language model without the head that scores words."""
        model: Any = self.backbone
        return model.base_model

    def train(self, mode: bool = True) -> FusedPromptNetwork:
        """There is no train mode: the frozen model never drops anything out."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, batch: Batch, visible: Visibility, rng: torch.Generator | None = None, at: Tensor | None = None) -> Tensor:
        if not self.model.allows(visible):
            raise ContractError(needed="Causal() visibility", came=repr(visible))
        places = torch.arange(batch.n_positions) if at is None else at.cpu()
        if not len(places):
            return self.table.made()[:0]
        table = self.table.made()
        ids, real, item, named, words = self._asked(batch, places)
        prompt, there = self.prompt(table, item, named, words, real, task="sentence" not in batch.texts)
        states = self._run(torch.cat([prompt, self._embed(ids)], 1), torch.cat([there, real], 1))[:, prompt.shape[1] :]
        if self.encoder:
            return (states * real[..., None]).sum(1) / real.sum(1, keepdim=True)
        return states[torch.arange(len(states), device=states.device), real.sum(1) - 1]

    def _asked(self, batch: Batch, places: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(tokens [M, T], which are real, items named [M, K], which are real, states of the tokens [M, T, D]) at some places."""
        row = batch.row_of.cpu()[places]
        length = places - batch.offsets[row] + 1
        within = torch.arange(int(length.max()))
        named = within < length[:, None]
        item = batch.channels["item"].cpu()[torch.where(named, batch.offsets[row][:, None] + within, 0)]
        read = (*self._read(batch, row, item, named), item, named)
        ids, real, item, named = (each.to(self.prompt.place) for each in read)
        with torch.no_grad():
            words = self._run(self._embed(ids), real)
        return ids, real, item, named, words

    # -- what it says ----------------------------------------------------------------------------------------------------

    @property
    def speaks(self) -> bool:
        return self.speech is not None

    def tell(self, batch: Batch, rng: torch.Generator | None = None) -> Told:
        speech = self._speech()
        if not batch.n_rows:
            return Told((speech.slot.sum() * 0).expand(0), torch.zeros(0, dtype=torch.int64))
        said = [speech.read(self.tokens, text or "")[: self.model.said] for text in batch.texts["response"]]
        return speech.judged(*self._before(batch), said, self.backbone, self._run, end=self._end)

    @torch.no_grad()
    def write(self, batch: Batch) -> list[str]:
        if not batch.n_rows:
            return []
        speech = self._speech()
        found = speech.written(
            *self._before(batch), self.backbone, end=self._end, most=self.model.most,
            unwritten=[each for each in self.tokens.marks.values() if each != self._end], size=self.tokens.size,
        )  # fmt: skip
        return [speech.text(self.tokens, each) for each in found]

    def _speech(self) -> Speech:
        if self.speech is None:
            raise ContractError(needed="a model built with speech=20, say", came="speech=0", remedy="it writes nothing")
        return self.speech

    @property
    def _end(self) -> int:
        if self.tokens.eos is None:
            raise ContractError(
                needed="a backbone with an end-of-text token", came=self.model.backbone.name, remedy="choose another"
            )
        return self.tokens.eos

    def _before(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(vectors [B, L, D], which are real bool[B, L]) that a response comes after: prompt, dialogue, whose turn it is."""
        ids, real, item, named, words = self._asked(batch, batch.last.cpu())
        prompt, there = self._speech()(self.prompt, item, named, words, real)
        opening = self._embed(torch.tensor([self.tokens.encode(f"{SPEAKERS['recommender']}:")], device=ids.device))
        opening = opening.expand(len(ids), -1, -1)
        vectors = torch.cat([prompt, self._embed(ids), opening.to(prompt)], 1)
        return vectors, torch.cat([there, real, real.new_ones(opening.shape[:2])], 1)

    # -- what it reads ---------------------------------------------------------------------------------------------------

    def _embed(self, ids: Tensor) -> Tensor:
        model: Any = self.backbone
        return model.get_input_embeddings()(ids)

    def _run(self, vectors: Tensor, real: Tensor) -> Tensor:
        """[M, L, D] states, of a model in half precision as fp32; padding (bool[M, L] False) is not seen, nor is it counted."""
        place = (real.long().cumsum(1) - 1).clamp_min(0)
        vectors = vectors.to(next(self.backbone.parameters()).dtype)
        found = self._body()(inputs_embeds=vectors, attention_mask=real.long(), position_ids=place, **self.options)
        return wide(found.last_hidden_state)

    def _read(self, batch: Batch, row: Tensor, item: Tensor, named: Tensor) -> tuple[Tensor, Tensor]:
        """(token ids int64[M, T], which are real bool[M, T]) of the dialogues, padded on the right."""
        found = []
        for at, which in enumerate(row.tolist()):
            if "context" in batch.texts:
                lines = (batch.texts["context"][which] or "").split("\n")
                lines += [batch.texts["sentence"][which] or ""] if "sentence" in batch.texts else []
            else:
                titles = [self.titles[each] for each in item[at][named[at]].tolist() if each < self.n_items]
                lines = ["seeker: " + ", ".join(titles)]
            found.append(self._cut([token for line in lines if line for token in self._line(line)]))
        longest = max(map(len, found))
        ids = torch.tensor([each + [self.tokens.pad or 0] * (longest - len(each)) for each in found])
        return ids, torch.arange(longest) < torch.tensor([len(each) for each in found])[:, None]

    def _line(self, line: str) -> list[int]:
        """One turn, closed by the mark that separates texts for this model."""
        if line not in self._lines:
            if len(self._lines) >= LINES:
                self._lines.clear()
            role, _, said = line.partition(": ")
            end = self.tokens.sep if self.encoder else self.tokens.eos
            ids = self.tokens.encode(f"{SPEAKERS.get(role, role)}: {said}")
            self._lines[line] = ids + ([end] if end is not None else [])
        return self._lines[line]

    def _cut(self, ids: list[int]) -> list[int]:
        begin = self.tokens.cls if self.encoder else self.tokens.bos
        before = [begin] if begin is not None else []
        ids = before + ids[-(self.model.context - len(before)) :]
        return ids or [self.tokens.eos or 0]

    def output(self) -> Output:
        return Output(self.table.again(), self.item_bias)


class PromptMaker(nn.Module):
    """What learns. items: e, the table. task: vectors that are the same for all, or None. fusion: P, or None."""

    def __init__(self, model: FusedPrompt, graph: Graph, width: int) -> None:
        super().__init__()
        self.items = Mapped(model.entities.build(graph), model.entities.dim, width)
        self.task = TaskVectors(model.task, width) if model.task else None
        self.fusion = Fusion(width) if model.fuse else None

    @property
    def place(self) -> torch.device:
        return next(self.parameters()).device

    def forward(
        self, table: Tensor, item: Tensor, named: Tensor, words: Tensor, real: Tensor, *, task: bool
    ) -> tuple[Tensor, Tensor]:
        """(vectors [M, L, D], which are real bool[M, L]) to stand before the dialogue.

        table: [V, D]. item, named: int64 and bool [M, K]. words, real: [M, T, D] and bool [M, T]. task: with task vectors.
        """
        parts, there = [table.new_zeros(len(item), 0, table.shape[1])], [named[:, :0]]
        if task and self.task is not None:
            vectors = self.task()
            parts.append(vectors.expand(len(item), -1, -1))
            there.append(named.new_ones(len(item), len(vectors)))
        if self.fusion is not None:
            parts.append(self.fusion(table, item, words, real))
            there.append(named)
        return torch.cat(parts, 1), torch.cat(there, 1)


class TaskVectors(nn.Module):
    """[n, D]: free vectors through a bottleneck and a linear map, which makes them easier to train."""

    def __init__(self, n: int, width: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(n, width)
        self.out = nn.Sequential(Bottleneck(width), nn.Linear(width, width))

    def forward(self) -> Tensor:
        return self.out(self.vectors.weight)


class Fusion(nn.Module):
    """P of the equation, through a bottleneck and a linear map. nothing: the vector of "nothing was named yet"."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.nothing = nn.Embedding(1, width)
        self.tokens = nn.Sequential(Bottleneck(width), nn.Linear(width, width))
        self.affinity = nn.Linear(width, width, bias=False)
        self.out = nn.Sequential(Bottleneck(width), nn.Linear(width, width))

    def forward(self, table: Tensor, item: Tensor, words: Tensor, real: Tensor, named: Tensor | None = None) -> Tensor:
        """[M, K, D], a vector for each item; with `named` (bool[M, K], which items are real) [M, T, D], one for each token:
        softmax_over_items(A) E + T."""
        known = (item < len(table))[..., None]
        chosen = torch.where(known, table[item.clamp_max(len(table) - 1)], self.nothing.weight)
        tokens = self.tokens(words)  # (M, T, D)
        affinity = self.affinity(tokens) @ chosen.transpose(1, 2) / table.shape[1]  # (M, T, K)
        if named is not None:
            share = affinity.masked_fill(~named[:, None], -torch.inf).softmax(2)
            return self.out(share @ chosen + tokens)
        share = affinity.masked_fill(~real[..., None], -torch.inf).softmax(1)
        return self.out(share.transpose(1, 2) @ tokens + chosen)


class Mapped(nn.Module):
    """[V, D]: the items' vectors of a graph through a bottleneck and a linear map."""

    def __init__(self, inner: nn.Module, dim: int, width: int) -> None:
        super().__init__()
        self.inner, self.out = inner, nn.Sequential(Bottleneck(dim), nn.Linear(dim, width))

    def forward(self) -> Tensor:
        return self.out(self.inner())


class Bottleneck(nn.Module):
    """x + W_2 relu(W_1 x), the layer between of half the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, max(1, width // 2)), nn.Linear(max(1, width // 2), width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(x)))
