"""How likely each candidate is as the continuation of a prompt, with the prompt read once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lmrs.answers import Jagged
from lmrs.decoding.context import Context
from lmrs.errors import ContractError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, eq=False)
class Likelihoods:
    """log p(candidate | prompt) of K candidates.

    total: float64[K], summed over the tokens, which favours short candidates. tokens: int64[K].
    """

    total: np.ndarray
    tokens: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """float64[K]: a token, so that long candidates are not punished for their length."""
        return self.total / self.tokens

    def beyond(self, prior: Likelihoods) -> np.ndarray:
        """float64[K]: pointwise mutual information, log p(candidate | prompt) - log p(candidate | content-free prompt).

        It takes off what makes a title likely anywhere: common words, fame. prior: the same candidates after a prompt that says
        nothing. Raises ContractError if they are not the same (by their numbers of tokens).
        """
        if not np.array_equal(self.tokens, prior.tokens):
            raise ContractError(needed="the prior of the same candidates", came="candidates of other lengths")
        return self.total - prior.total


@torch.no_grad()
def continuations(context: Context, candidates: Jagged, *, rows: int = 16, memory: int = 256 << 20) -> Likelihoods:
    """log p of every candidate after one prompt.

    The prompt's keys and values were computed once, when the Context was made, and are shared by all candidates; candidates are
    read together, those of similar length at once, so that little is spent on padding. The last token of a candidate is never
    read, only predicted.

    context: of one prompt (B = 1; `context.select` picks one of several). candidates: (offsets int64[K+1], token ids), at least
    one token each. Byte-level vocabularies write the space before a word into its token: candidates after a prompt without a
    space at its end begin with one.
    rows: candidates read at once, at most. memory: bytes for keys, values and logits of those, about.
    """
    offsets, ids = (np.asarray(part, np.int64) for part in candidates)
    lengths = np.diff(offsets)
    if context.rows != 1:
        raise ContractError(needed="the context of one prompt", came=f"{context.rows}", remedy="use context.select([at])")
    if not len(lengths) or not lengths.all():
        raise ContractError(needed="candidates of at least one token", came="an empty one", remedy="leave it out")
    first = context.logits[0].log_softmax(dim=0)
    if ids.max() >= len(first) or ids.min() < 0:
        raise ContractError(
            needed=f"token ids in 0..{len(first) - 1}", came=f"{ids.min()}..{ids.max()}", remedy="check the tokeniser"
        )
    total = first[torch.from_numpy(ids[offsets[:-1]]).to(first.device)].double().cpu().numpy()
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 1]
    while len(order):
        longest = int(lengths[order[-1]]) - 1  # the longest first: no later chunk is wider
        each = context.row_bytes * 2 + longest * 8 * len(first)
        count = max(1, min(rows, memory // each))
        chunk, order = order[-count:], order[:-count]
        total[chunk] += _later(context, offsets[chunk], lengths[chunk] - 1, ids)
    return Likelihoods(total, lengths)


def _later(context: Context, start: np.ndarray, lengths: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """float64[M]: log p of all tokens but the first of M candidates, `lengths` of them each."""
    place = np.arange(lengths.max())
    real = place < lengths[:, None]
    at = np.where(real, start[:, None] + place, 0)
    read, wanted = (torch.from_numpy(np.where(real, ids[at + step], 0)).to(context.mask.device) for step in (0, 1))
    logits, _ = context.select(torch.zeros(len(start), dtype=torch.long)).read(read)
    gain = -F.cross_entropy(logits.float().flatten(0, 1), wanted.flatten(), reduction="none").view(wanted.shape)
    return gain.masked_fill(~torch.from_numpy(real).to(gain.device), 0).sum(dim=1, dtype=torch.float64).cpu().numpy()


@torch.no_grad()
def masked(model: PreTrainedModel, ids: Tensor, mask: Tensor, places: Tensor) -> Tensor:
    """float32[M, W]: log-probabilities of all words at chosen positions of B texts, by an encoder with a mask-word head.

    ids: int64[B, T], padded anywhere. mask: bool[B, T], False at padding. places: int64[M, 2], (row, position) of each mask.
    """
    logits = model(input_ids=ids, attention_mask=mask.long()).logits
    return logits[places[:, 0], places[:, 1]].float().log_softmax(dim=1)
