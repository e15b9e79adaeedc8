"""Prompts as a model takes them: flat token ids with what each token is, and a report of what had to go."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from lmrs.prompts.segments import Control, Hard, ListOf, Mask, Soft, Vector, doubled
from lmrs.prompts.template import Template

if TYPE_CHECKING:
    from lmrs.language.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Report:
    """What compiling did to the examples.

    dropped: int64[B], list entries of each example left out to fit the context. limited: int64[B], those left out by a
    list's limit. shortened: texts cut to their token limit. missing: texts that were not there, or not visible, and replaced.
    longest: tokens of the longest prompt. context: what it had to fit.
    """

    dropped: np.ndarray
    limited: np.ndarray
    shortened: int
    missing: int
    longest: int
    context: int

    @property
    def cut(self) -> int:
        """Examples that lost list entries to the context."""
        return int((self.dropped > 0).sum())

    def __str__(self) -> str:
        n = len(self.dropped)
        lines = [f"{n:,} prompts of at most {self.longest:,} tokens (context {self.context:,})"]
        if self.cut:
            lines.append(f"{self.cut:,} prompts lost {int(self.dropped.sum()):,} list entries to fit the context")
        if self.limited.any():
            lines.append(f"{int((self.limited > 0).sum()):,} lists were longer than the template's limit")
        if self.shortened:
            lines.append(f"{self.shortened:,} texts were cut to their token limit")
        if self.missing:
            lines.append(f"{self.missing:,} missing texts were replaced")
        return "; ".join(lines)


@dataclass(frozen=True, eq=False)
class Compiled:
    """B prompts of N tokens together; the tokens of prompt b are [offsets[b], offsets[b + 1]).

    ids: int64[N]; where a vector goes stands some id of the table that means nothing. label: bool[N], tokens to be generated, the
    charged ones. soft: int64[N], place among the template's soft positions (`template.slots(Soft)`), or -1. vector: the same for
    outside vectors. segment: int64[N], which segment of the template; -1, -2, -3 for start, end and stop of the frame.
    entry: int64[N], which entry of its list, counted from 0 in the list as it came, or -1. data: bool[N], came from the examples'
    texts. mask: int64[M], flat places of the mask tokens, the same number in every prompt.
    """

    template: Template
    tokens: Tokens
    ids: np.ndarray
    offsets: np.ndarray
    label: np.ndarray
    soft: np.ndarray
    vector: np.ndarray
    segment: np.ndarray
    entry: np.ndarray
    data: np.ndarray
    mask: np.ndarray
    report: Report

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def row_of(self) -> np.ndarray:
        """int64[N]: the prompt of each token."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def with_rows(self, first: int) -> np.ndarray:
        """int64[N]: the ids, with soft place p written as the new vocabulary row first + p."""
        return np.where(self.soft >= 0, self.soft + first, self.ids)

    def show(self, i: int) -> str:
        """What the model sees of prompt i, in the notation of templates.

        Data stands in « », as decoded from its ids; in it and in the author's words «, », backslashes and invisible characters
        are escaped, so that no title can look like a slot.
        """
        where = range(int(self.offsets[i]), int(self.offsets[i + 1]))
        shown, charged = [], False
        for (segment, _, data, label), group in groupby(where, self._kind):
            at = np.fromiter(group, np.int64)
            if label and not charged:
                shown.append("[target]")
                charged = True
            shown.append(self._data(at) if data else self._fixed(segment, at))
        return "".join(shown)

    def _kind(self, at: int) -> tuple[int, int, bool, bool]:
        return int(self.segment[at]), int(self.entry[at]), bool(self.data[at]), bool(self.label[at])

    def _data(self, at: np.ndarray) -> str:
        text = self.tokens.decode(self.ids[at], control=True)
        body = text.lstrip(" ")  # spaces of the template are read with the text that follows
        return f"{text[: len(text) - len(body)]}«{escaped(body)}»"

    def _fixed(self, segment: int, at: np.ndarray) -> str:
        if segment < 0:
            return "".join(f"[{_escaped_mark(self.tokens.decode([each], control=True))}]" for each in self.ids[at])
        match self.template.segments[segment]:
            case Hard() | ListOf():
                return doubled(escaped(self.tokens.decode(self.ids[at], control=True)), "[]")
            case Mask():
                return "[mask]" * len(at)
            case Soft(name, length):
                return f"[soft {name} 0..{length - 1}]"
            case Vector(name, length):
                return f"[vector {name} 0..{length - 1}]"
            case Control() as control:
                return str(control)
        return "".join(f"[{_escaped_mark(self.tokens.decode([each], control=True))}]" for each in self.ids[at])


def escaped(text: str) -> str:
    """«, », backslash and everything unprintable as \\uXXXX."""
    return "".join(each if each.isprintable() and each not in "«»\\" else f"\\u{ord(each):04x}" for each in text)


def _escaped_mark(spelling: str) -> str:
    """A token of meaning between the brackets of `show`: "[CLS]" has its own."""
    return escaped(spelling.removeprefix("[").removesuffix("]"))
