"""From a model's words to the classes of a task: what is read at a mask, or at the first token that a model generates.

A verbaliser is a description; its reader turns logits over the vocabulary into scores [M, C], one row a prompt. The scores are
log-probabilities of words (or their means): `scores.softmax(1)` compares the classes among themselves, whatever else the
model might have said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from lmrs.errors import ContractError, did_you_mean
from lmrs.prompts.source import linear

if TYPE_CHECKING:
    from lmrs.language.tokens import Tokens

TOGETHER = ("mean", "max", "sum")
OVER_MASKS = ("mean", "min", "max", "product")


@dataclass(frozen=True)
class Words:
    """A set of words for each class, read at one position.

    With p(w) the model's probability of word w, the score of a class with words S is, by `together`:
    "mean": sum over S of log p(w) / |S|; "max": the largest log p(w); "sum": log of the sum of p(w).
    sets: ((class, (word, ...)), ...), or a mapping. lead: what stands before a word where it is read: " " behind other words in
    byte-level vocabularies (others do not mind), "" at the start of a line.
    Raises ContractError for a class without words and for a word in two classes.
    """

    sets: tuple[tuple[str, tuple[str, ...]], ...]
    together: str = "mean"
    lead: str = " "

    def __post_init__(self) -> None:
        sets = self.sets.items() if isinstance(self.sets, Mapping) else self.sets
        object.__setattr__(self, "sets", tuple((name, tuple(words)) for name, words in sets))
        if self.together not in TOGETHER:
            raise ContractError(
                needed="together=" + ", ".join(TOGETHER), came=repr(self.together), remedy=did_you_mean(self.together, TOGETHER)
            )
        if len(self.sets) < 2 or not all(words for _, words in self.sets):
            raise ContractError(needed="at least two classes, each with words", came=f"{self.sets}")
        every = [word for _, words in self.sets for word in words]
        if len(set(every)) < len(every):
            twice = next(word for word in every if every.count(word) > 1)
            raise ContractError(needed="each word in one class, once", came=f"{twice!r} twice", remedy="take it out of one")

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.sets)

    def build(self, tokens: Tokens) -> WordReader:
        """Its reader. Raises ContractError for a word that is not one token of the vocabulary."""
        return WordReader(self, [[_single(tokens, self.lead, word) for word in words] for _, words in self.sets])


@dataclass(frozen=True)
class YesNo:
    """Two classes, "no" and "yes" in this order, with a word or more for each."""

    yes: tuple[str, ...] = ("yes",)
    no: tuple[str, ...] = ("no",)
    together: str = "mean"
    lead: str = " "

    @property
    def classes(self) -> tuple[str, ...]:
        return ("no", "yes")

    def build(self, tokens: Tokens) -> WordReader:
        """Its reader; column 1 is "yes". Raises ContractError as Words does."""
        return Words((("no", self.no), ("yes", self.yes)), self.together, self.lead).build(tokens)


class WordReader:
    """ids: int64[C, S], tokens of each class, the first again where a class has fewer; real: bool[C, S]."""

    def __init__(self, words: Words, ids: list[list[int]]) -> None:
        longest = max(map(len, ids))
        self.together = words.together
        self.ids = torch.tensor([each + each[:1] * (longest - len(each)) for each in ids])
        self.real = torch.tensor([[at < len(each) for at in range(longest)] for each in ids])

    def score(self, logits: Tensor) -> Tensor:
        """[M, C] from logits [M, W] at the position that is read."""
        _shaped(logits, 2, int(self.ids.max()))
        found = logits.log_softmax(1)[:, self.ids.to(logits.device)]  # [M, C, S]
        real = self.real.to(logits.device)
        if self.together == "mean":
            return found.masked_fill(~real, 0).sum(2) / real.sum(1)
        found = found.masked_fill(~real, float("-inf"))
        return found.amax(2) if self.together == "max" else found.logsumexp(2)

    def probability(self, logits: Tensor) -> Tensor:
        """[M, C]: shares of the classes among themselves, softmax of the scores."""
        return self.score(logits).softmax(1)


@dataclass(frozen=True)
class MultiMask:
    """Texts of several tokens, read at masks (LMRec, Zhang et al. 2021): token j of a text at mask j, or all at one mask.

    With l_j = log p(token j at its mask), the score of a text is, by `together`: "mean", "min" or "max" of its l_j, or "product",
    their sum. The log-probabilities are over the whole vocabulary.
    n: tokens of a text that are read, and the number of masks; tokens beyond n are left out. one: there is a single mask, and
    all tokens are read at it (the paper's zero-shot variant).
    padding: what masks beyond a short text count: "exclude" nothing, "include" the probability of padding there (as the
    paper's code does; it favours texts of the length that the model expects).
    """

    n: int = 10
    padding: str = "exclude"
    lead: str = " "
    together: str = "mean"
    one: bool = False

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ContractError(needed="n of at least 1", came=f"{self.n}")
        if self.padding not in ("exclude", "include"):
            raise ContractError(needed="padding='exclude' or 'include'", came=repr(self.padding), remedy="choose one of them")
        if self.together not in OVER_MASKS:
            raise ContractError(
                needed="together=" + ", ".join(OVER_MASKS),
                came=repr(self.together),
                remedy=did_you_mean(self.together, OVER_MASKS),
            )

    @property
    def masks(self) -> int:
        """How many masks a prompt must have."""
        return 1 if self.one else self.n

    def build(self, tokens: Tokens, texts: Sequence[str]) -> MaskReader:
        """The reader of C texts (a catalogue's titles). Raises ContractError for a text without tokens."""
        flat, offsets = tokens.batch([self.lead + text for text in texts])
        pad = tokens.pad
        if self.padding == "include" and pad is None:
            raise ContractError(needed="a backbone with a padding token", came="one without", remedy="use padding='exclude'")
        ids = torch.full((len(texts), self.n), 0 if pad is None else pad)
        real = torch.zeros(len(texts), self.n, dtype=torch.bool)
        for at, (begin, end) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
            if begin == end or not texts[at].strip():
                raise ContractError(needed="texts that the vocabulary can write", came=repr(texts[at]), remedy="leave it out")
            length = min(end - begin, self.n)
            ids[at, :length] = torch.from_numpy(flat[begin : begin + length])
            real[at, :length] = True
        return MaskReader(
            self, ids, real if self.padding == "exclude" else torch.ones_like(real), int((np.diff(offsets) > self.n).sum())
        )


class MaskReader:
    """ids: int64[C, n]; real: bool[C, n], what counts; cut: texts longer than n tokens."""

    def __init__(self, about: MultiMask, ids: Tensor, real: Tensor, cut: int) -> None:
        self.about, self.ids, self.real, self.cut = about, ids, real, cut

    def score(self, logits: Tensor) -> Tensor:
        """[M, C] from logits [M, n, W] at the n masks of each prompt ([M, 1, W] where there is one mask)."""
        _shaped(logits, 3, int(self.ids.max()))
        if logits.shape[1] != self.about.masks:
            raise ContractError(
                needed=f"logits at {self.about.masks} masks a prompt",
                came=f"{logits.shape[1]}",
                remedy="make [mask n] and n equal",
            )
        log_p = logits.log_softmax(2)
        together = self.about.together
        nothing = {"min": torch.inf, "max": -torch.inf}.get(together, 0.0)
        total = log_p.new_full((len(logits), len(self.ids)), nothing)
        for at in range(self.ids.shape[1]):  # one mask at a time: [M, C] of memory instead of [M, C, n]
            place = 0 if self.about.one else at
            found = log_p[:, place].index_select(1, self.ids[:, at].to(logits.device))
            found = found.masked_fill(~self.real[:, at].to(logits.device), nothing)
            match together:
                case "min":
                    total = torch.minimum(total, found)
                case "max":
                    total = torch.maximum(total, found)
                case _:
                    total = total + found
        return total / self.real.sum(1).to(logits.device) if together == "mean" else total


@dataclass(frozen=True)
class ClassHead:
    """A linear layer of its own on the state of the mask (or the last token), for classes without words of their own.

    classes: their names, at least two.
    """

    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise ContractError(needed="at least two classes", came=f"{self.classes}")

    def build(self, width: int, rng: torch.Generator) -> nn.Linear:
        """[M, D] states -> [M, C] scores; weights from rng."""
        return linear(width, len(self.classes), 1.0, rng)


Verbaliser = Words | YesNo | MultiMask | ClassHead


def _single(tokens: Tokens, lead: str, word: str) -> int:
    ids = tokens.encode(lead + word)
    if len(ids) == 1 and ids[0] != tokens.unk:
        return ids[0]
    bare = tokens.encode(word)
    remedy = "choose another word, or MultiMask"
    if lead and len(bare) == 1 and bare[0] != tokens.unk:
        remedy = f"set lead='' if nothing stands before it, or {remedy}"
    raise ContractError(
        needed="words that are one token of the backbone's vocabulary",
        came=f"{lead + word!r}, {'unknown to it' if len(ids) == 1 else f'{len(ids)} tokens'}",
        remedy=remedy,
    )


def _shaped(logits: Tensor, axes: int, largest: int) -> None:
    if logits.ndim != axes or logits.shape[-1] <= largest:
        shape = "[M, W]" if axes == 2 else "[M, n, W]"
        raise ContractError(
            needed=f"logits {shape} with W above {largest}", came=f"shape {tuple(logits.shape)}", remedy="read them at the mask"
        )
