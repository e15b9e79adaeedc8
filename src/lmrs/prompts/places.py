"""Soft prompts, second axis: where vectors enter a language model. Any source of `sources.py` goes to any place.

InputVectors: instead of the token embeddings, at the soft or vector positions of a compiled prompt.
VocabularyRows: as rows of the embedding table after its last one; `Compiled.with_rows` writes their ids into the prompt.
KeyValues: as keys and values before those of the text, in every layer (prefix tuning); the prompt itself has no slots for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor, nn

from lmrs.errors import ContractError, did_you_mean
from lmrs.prompts.segments import Soft, Vector
from lmrs.prompts.source import Source, SourceModule
from lmrs.prompts.template import Template

if TYPE_CHECKING:
    from transformers import DynamicCache


class Shape(Protocol):
    """What a place must know of a backbone (`language.Info` has it)."""

    @property
    def family(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def key_heads(self) -> int: ...


@dataclass(frozen=True)
class InputVectors:
    """Vectors of width D in place of token embeddings."""

    def width(self, shape: Shape) -> int:
        return shape.dim

    def inject(self, embedded: Tensor, place: Tensor, row: Tensor, vectors: Tensor) -> Tensor:
        """`embedded` with vectors[row, place] wherever place >= 0; new memory, gradients reach both.

        embedded: [..., D] token embeddings, flat or padded. place: int64[...], `Compiled.soft` or `.vector`, -1 elsewhere.
        row: int64[...], the example of each position. vectors: [B, L, D].
        """
        at = place >= 0
        out = embedded.clone()
        out[at] = vectors[row[at], place[at]].to(embedded.dtype)
        return out


@dataclass(frozen=True)
class VocabularyRows:
    """Vectors of width D as rows W, W + 1, ... of the embedding table, rows of the example's own where the source has such."""

    def width(self, shape: Shape) -> int:
        return shape.dim

    def lookup(self, table: Tensor, ids: Tensor, row: Tensor, vectors: Tensor) -> Tensor:
        """[..., D]: table[id] for ids below W, vectors[row, id - W] for the rest.

        table: [W, D]. ids: int64[...], from `Compiled.with_rows(W)`. row: int64[...]. vectors: [B, L, D].
        Raises ContractError for ids of W + L and more.
        """
        words, length = len(table), vectors.shape[1]
        if ids.numel() and int(ids.max()) >= words + length:
            raise ContractError(
                needed=f"ids below {words + length} ({words} words, {length} new rows)",
                came=f"{int(ids.max())}",
                remedy="write the ids with Compiled.with_rows(number of rows of the table)",
            )
        return InputVectors().inject(table[ids.clamp(max=words - 1)], (ids - words).clamp(min=-1), row, vectors)

    def scores(self, states: Tensor, row: Tensor, vectors: Tensor) -> Tensor:
        """[M, L]: logits of the new rows, states . vector, to stand behind the W logits of a model with tied embeddings.

        states: [M, D]. row: int64[M]. vectors: [B, L, D].
        """
        return torch.einsum("md,mld->ml", states, vectors[row].to(states.dtype))


@dataclass(frozen=True)
class KeyValues:
    """A prefix of keys and values in every layer (Li and Liang 2021; UniCRS, PEPLER's relatives).

    The prefix carries no positions of its own. A model that is not told positions numbers the text from the prefix's length on;
    pass position_ids from 0 to leave them as they were in training (UniCRS does), and an attention mask of prefix + text length.
    """

    def width(self, shape: Shape) -> int:
        """2 * layers * key heads * head width: what a source must give a position. Raises ContractError for seq2seq."""
        if shape.family == "seq2seq":
            raise ContractError(
                needed="an encoder or a causal model for a prefix of keys and values",
                came="a sequence-to-sequence one",
                remedy="use InputVectors() or VocabularyRows()",
            )
        return 2 * shape.layers * shape.key_heads * (shape.dim // shape.heads)

    def prefix(self, shape: Shape, vectors: Tensor) -> Tensor:
        """[layers, 2, B, key heads, length, D / heads] from vectors [B, length, width]; [:, 0] are keys, [:, 1] values."""
        n, length, width = vectors.shape
        if width != self.width(shape):
            raise ContractError(
                needed=f"vectors of width {self.width(shape)}", came=f"{width}", remedy="build with place.width(info)"
            )
        split = vectors.view(n, length, shape.layers, 2, shape.key_heads, shape.dim // shape.heads)
        return split.permute(2, 3, 0, 4, 1, 5)

    def cache(self, prefix: Tensor) -> DynamicCache:
        """The prefix as `past_key_values` of a transformers model; a new one for every forward pass, as the model extends it."""
        from transformers import DynamicCache

        return DynamicCache([(layer[0], layer[1]) for layer in prefix])


Place = InputVectors | VocabularyRows | KeyValues


class SoftPrompts(nn.Module):
    """One source for each slot of a template; gives the vectors of all its slots in the order of their places."""

    def __init__(self, sources: Mapping[str, SourceModule]) -> None:
        super().__init__()
        self.sources = nn.ModuleDict({f"slot:{name.replace('.', '/')}": each for name, each in sources.items()})

    def forward(self, n: int, given: Mapping[str, Tensor]) -> Tensor:
        """[n, L, width] for n examples; L counts all positions of the slots."""
        return torch.cat([cast(SourceModule, each)(n, given) for each in self.sources.values()], 1)


def build(
    template: Template, kind: type[Soft] | type[Vector], sources: Mapping[str, Source], width: int, rng: torch.Generator
) -> SoftPrompts:
    """The modules that fill a template's soft (or vector) slots.

    sources: by the slot's name. Raises ContractError for a slot without a source, a source without a slot, and unequal lengths.
    """
    slots = template.slots(kind)
    for name in sources:
        if name not in slots:
            remedy = did_you_mean(name, slots) if slots else f"write [{kind.__name__.lower()} {name} ...] in it"
            raise ContractError(needed="sources for slots of the template", came=f"one for {name!r}", remedy=remedy)
    for name, place in slots.items():
        if name not in sources:
            raise ContractError(
                needed=f"a source for the slot {name!r}", came=", ".join(sources) or "none", remedy="add one, such as Free(...)"
            )
        if sources[name].length != place.stop - place.start:
            raise ContractError(
                needed=f"a source of length {place.stop - place.start} for the slot {name!r}", came=f"{sources[name].length}"
            )
    return SoftPrompts({name: sources[name].build(width, rng) for name in slots})
