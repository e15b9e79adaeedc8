"""A pre-trained language model as a text encoder: n texts to n vectors, in batches of texts of similar length."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmrs.errors import ContractError
from lmrs.language import Backbone, admit
from lmrs.language.running import dropping
from lmrs.texts.pooling import Attention

POOLINGS = ("mean", "cls", "last")
ABLE = {"encoder": ("mean", "cls"), "causal": ("mean", "last"), "seq2seq": ("mean",)}  # poolings of each family
# Where the models of the transformers package keep their layers: BERT and RoBERTa; DistilBERT; Llama and Gemma; T5; GPT-2.
STACKS = ("encoder.layer", "transformer.layer", "layers", "block", "h")
_CELLS = 2048  # tokens of a batch, padding included: 512 to 4096 take the same time on one core, and this much memory is small


@dataclass(frozen=True)
class TextEncoder:
    """Which model reads texts, and how its states become one vector of width E.

    backbone: of any family; of a "seq2seq" one the encoder reads. pooling: "mean" of the states, the state of the first token
    ("cls", encoders), or of the "last" one (causal models); `Attention` learns how, and then E is its own. normalise: to
    length 1. max_tokens: longest input, with the tokens that the model puts around a text, at least 3; longer texts lose their
    end. layers: only the first so many of the model; None: all.
    """

    backbone: Backbone
    pooling: str | Attention = "mean"
    normalise: bool = True
    max_tokens: int = 128
    layers: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.pooling, str) and self.pooling not in POOLINGS:
            raise ContractError(needed="pooling 'mean', 'cls', 'last' or Attention(...)", came=repr(self.pooling))
        if self.layers is not None and self.layers < 1:
            raise ContractError(needed="layers of at least 1, or None for all", came=f"layers={self.layers}")
        if self.max_tokens < 3:
            raise ContractError(needed="max_tokens of at least 3", came=f"max_tokens={self.max_tokens}")
        family = admit(self.backbone, for_="texts", families=tuple(ABLE))
        if isinstance(self.pooling, str) and self.pooling not in ABLE[family]:
            raise ContractError(
                needed=f"pooling {' or '.join(map(repr, ABLE[family]))} for {self.backbone.name}, of family {family}",
                came=repr(self.pooling),
            )

    def build(self) -> Encoder:
        """The module, with its own copy of the weights. Raises UserError if the backbone is not at hand or does not pool so."""
        return Encoder(self)


@dataclass(frozen=True, eq=False)
class Tokenised:
    """n texts as a model reads them: text i is ids[offsets[i]:offsets[i + 1]] (int64). cut: how many texts lost their end."""

    ids: np.ndarray
    offsets: np.ndarray
    cut: int

    def __len__(self) -> int:
        return len(self.offsets) - 1


class Encoder(nn.Module):
    """backbone: the model of the transformers package. pool: learned pooling, or None. dim: E."""

    def __init__(self, about: TextEncoder) -> None:
        super().__init__()
        info, self.tokens = about.backbone.info(), about.backbone.tokenizer()
        self.about, self.family = about, info.family
        self.longest = min(about.max_tokens, info.context)
        model: Any = about.backbone.build()
        self.backbone: nn.Module = model.get_encoder() if info.family == "seq2seq" else model.base_model
        if about.layers is not None:
            _shorten(self.backbone, about.layers, of=info.layers, name=about.backbone.name)
        self.pool = about.pooling.build(info.dim) if isinstance(about.pooling, Attention) else None
        self.dim = info.dim if self.pool is None else self.pool.dim
        takes = inspect.signature(self.backbone.forward).parameters
        self.options = {"use_cache": False} if "use_cache" in takes and info.family == "causal" else {}

    def train(self, mode: bool = True) -> Encoder:
        """There is no train mode: dropout acts where a generator is given, and only there."""
        super().train(mode)
        self.backbone.eval()
        return self

    def read(self, texts: Sequence[str]) -> Tokenised:
        """Texts as token ids, with what the family puts around them: [CLS] text [SEP]; begin text; text end."""
        t = self.tokens
        before = {"encoder": t.cls, "causal": t.bos, "seq2seq": None}[self.family]
        after = {"encoder": t.sep, "causal": None, "seq2seq": t.eos}[self.family]
        ids, offsets = t.batch(list(texts))
        size, extra = np.diff(offsets), (before is not None) + (after is not None)
        kept = np.minimum(size, self.longest - extra)
        bare = 0 if extra else int((kept == 0).any())  # a model without such tokens still needs one to read
        ends = np.concatenate([[0], np.cumsum(kept + extra + (kept == 0) * bare)])
        out = np.full(int(ends[-1]), t.pad or 0, np.int64)
        begin = ends[:-1] + (before is not None)
        within = np.arange(int(kept.sum())) - np.repeat(np.cumsum(kept) - kept, kept)
        out[np.repeat(begin, kept) + within] = ids[np.repeat(offsets[:-1], kept) + within]
        if before is not None:
            out[ends[:-1]] = before
        if after is not None:
            out[ends[1:] - 1] = after
        return Tokenised(out, ends, int((kept < size).sum()))

    def forward(self, read: Tokenised, which: Tensor | None = None, rng: torch.Generator | None = None) -> Tensor:
        """[n, E] vectors in fp32 of the texts `which` (int64[n]; None: all), in their order. rng: for the model's own dropout."""
        chosen = np.arange(len(read)) if which is None else which.cpu().numpy()
        device = next(self.backbone.parameters()).device
        if not len(chosen):
            return next(self.parameters()).new_zeros(0, self.dim)
        found, order = [], []
        with dropping(self.backbone, rng):
            for places in _bucketed(np.diff(read.offsets)[chosen]):
                found.append(self._pooled(*_padded(read, chosen[places], device)))
                order.append(places)
        back = torch.from_numpy(np.argsort(np.concatenate(order))).to(device)
        vectors = torch.cat(found)[back]
        return F.normalize(vectors, dim=1) if self.about.normalise else vectors

    def _pooled(self, ids: Tensor, size: Tensor) -> Tensor:
        """[R, E] of R texts padded on the right to T tokens."""
        real = torch.arange(ids.shape[1], device=ids.device) < size[:, None]  # (R, T)
        full = bool(real.all())  # without padding no mask is needed, and the faster kernel is used
        mask = None if full else real.long()
        states = self.backbone(input_ids=ids, attention_mask=mask, **self.options).last_hidden_state
        states = states.float() if states.dtype in (torch.bfloat16, torch.float16) else states
        if self.pool is not None:
            return self.pool(states, None if full else real)
        if self.about.pooling == "cls":
            return states[:, 0]
        if self.about.pooling == "last":
            return states[torch.arange(len(ids), device=ids.device), size - 1]
        return states.mean(1) if full else (states * real[..., None]).sum(1) / size[:, None]


def _shorten(model: nn.Module, layers: int, *, of: int, name: str) -> None:
    """Takes away all but the first `layers` of its `of` layers."""
    stack = next((found for path in STACKS if len(found := _stack(model, path)) == of), None)
    if stack is None or layers > of:
        raise ContractError(
            needed=f"a backbone of at least {layers} layers that can be cut",
            came=f"{name}, which has {of}",
            remedy="set layers=None",
        )
    del stack[layers:]
    model.config.num_hidden_layers = layers  # type: ignore[union-attr]


def _stack(model: nn.Module, path: str) -> nn.ModuleList:
    found: Any = model
    for name in path.split("."):
        found = getattr(found, name, None)
    return found if isinstance(found, nn.ModuleList) else nn.ModuleList()


def _bucketed(size: np.ndarray) -> Iterator[np.ndarray]:
    """Places of texts in batches of at most `_CELLS` cells, longest first; within a batch the longest is at most an eighth (or
    two tokens) longer than the shortest."""
    order = np.argsort(-size, kind="stable")
    begin = 0
    while begin < len(order):
        longest = int(size[order[begin]])
        limit = begin + max(1, _CELLS // max(1, longest))
        floor = min(longest - 2, longest * 7 // 8)
        end = begin + 1
        while end < min(limit, len(order)) and size[order[end]] >= floor:
            end += 1
        yield order[begin:end]
        begin = end


def _padded(read: Tokenised, texts: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids int64[R, T], sizes int64[R]) of some texts."""
    size = read.offsets[texts + 1] - read.offsets[texts]
    cells = np.arange(int(size.max()))
    real = cells < size[:, None]
    ids = np.where(real, read.ids[np.where(real, read.offsets[texts][:, None] + cells, 0)], 0)
    return torch.from_numpy(ids).to(device), torch.from_numpy(size).to(device)
