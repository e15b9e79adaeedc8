"""Templates and columns of text become token ids: each distinct text is encoded once, the rest is arithmetic on arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lmrs.errors import ContractError
from lmrs.prompts.compiled import Compiled, Report
from lmrs.prompts.examples import Cell, Column, Examples
from lmrs.prompts.filling import Entries, Filling, Pool, visible
from lmrs.prompts.pieces import Fixed, Many, Piece, Text, lay_out
from lmrs.prompts.template import Template

if TYPE_CHECKING:
    from lmrs.language.tokens import Tokens

Given = Mapping[str, Sequence[Cell] | Sequence[Sequence[Cell]] | Column]


def compile(
    template: Template,
    tokens: Tokens,
    examples: Examples | Given,
    *,
    context: int,
    target_context: int | None = None,
    missing: str = "error",
) -> Compiled:
    """One prompt for each example.

    tokens: with the template's control tokens declared (`declare`). context: tokens that a prompt may have; a longer prompt loses
    whole list entries, of the first list that may be cut until it is empty, then of the next; the oldest first, or the last with
    keep="left". target_context: room of the target apart from the prompt (sequence to sequence); None: they share `context`.
    missing: what becomes of a text that is None, empty or invisible: "error", or the text to put there; "" leaves it out (and a
    list entry whose fields are all missing with it).

    Raises ContractError for an unknown column (with the nearest), a slot that the tokenizer cannot fill, a prompt that is too
    long even without list entries (naming the lengths); DataError for a missing text.
    """
    data = examples if isinstance(examples, Examples) else Examples(examples)
    if missing != "error" and missing and not visible(missing):
        raise ContractError(needed="missing='error', a visible text or ''", came=repr(missing))
    pieces = lay_out(template, tokens)
    pool = Pool(tokens)
    texts = {
        at: Filling(pool, piece, data.texts(piece.field), missing) for at, piece in enumerate(pieces) if isinstance(piece, Text)
    }
    lists = {at: Entries(pool, piece, data, missing) for at, piece in enumerate(pieces) if isinstance(piece, Many)}
    pool.encode()
    n = len(data)

    prompt, target = np.zeros(n, np.int64), np.zeros(n, np.int64)  # tokens of each example outside lists
    for at, piece in enumerate(pieces):
        length: np.ndarray | int = 0
        if isinstance(piece, Text):
            texts[at].find()
            length = texts[at].length
        elif isinstance(piece, Fixed):
            length = len(piece.ids)
        else:
            lists[at].find(n)
            continue
        apart = piece.charged and target_context is not None
        target += length if apart else 0
        prompt += 0 if apart else length
    if target_context is not None:
        _fits(target, target_context, "the target's")
    dropped = _cut(list(lists.values()), prompt, context)
    longest = prompt + sum((each.total() for each in lists.values()), np.zeros(n, np.int64))
    _fits(longest, context, "a")

    runs = _Runs(len(pieces))
    for at, piece in enumerate(pieces):
        if isinstance(piece, Fixed):
            runs.add(at, piece, np.arange(n), np.full(n, pool.add(piece)), np.full(n, len(piece.ids)))
        elif isinstance(piece, Text):
            runs.add(at, piece, np.arange(n), texts[at].start, texts[at].length, data=True)
        else:
            runs.entries(at, lists[at])
    filled = [*texts.values(), *(each for entries in lists.values() for each in entries.fields)]
    report = Report(
        dropped=dropped,
        limited=sum((each.limited for each in lists.values()), np.zeros(n, np.int64)),
        shortened=sum(int(each.shortened[each.used].sum()) for each in filled),
        missing=sum(int(each.missing.sum()) for each in filled),
        longest=int((longest + target).max(initial=0)),
        context=context,
    )
    return runs.compiled(template, tokens, n, pool, report)


def _fits(length: np.ndarray, context: int, whose: str) -> None:
    if len(length) and length.max() > context:
        at = int(length.argmax())
        raise ContractError(
            needed=f"{whose} context of at least {length[at]} tokens: example {at} has that many with all its lists empty"
            if whose == "a"
            else f"{whose} context of at least {length[at]} tokens (example {at})",
            came=f"{context}",
            remedy="give a longer context, or limits to the template's texts",
        )


def _cut(lists: list[Entries], prompt: np.ndarray, context: int) -> np.ndarray:
    """Take entries from lists, the first list first, until prompts fit; returns the entries each prompt lost."""
    total = [each.total() for each in lists]
    lost = np.zeros(len(prompt), np.int64)
    for at, entries in enumerate(lists):
        if entries.piece.source.keep == "all":
            continue
        others = prompt + sum((each for i, each in enumerate(total) if i != at), np.zeros(len(prompt), np.int64))
        if (others + total[at] > context).any():
            lost += entries.shrink(context - others)
            total[at] = entries.total()
    return lost


@dataclass(frozen=True, eq=False)
class _Run:
    """Pieces of prompts: R slices of the pool, each for one example."""

    order: np.ndarray
    example: np.ndarray
    start: np.ndarray
    length: np.ndarray
    segment: np.ndarray
    entry: np.ndarray
    data: np.ndarray
    label: np.ndarray


class _Runs:
    """Slices of the pool, collected piece by piece, then sorted by example and written out."""

    def __init__(self, n_pieces: int) -> None:
        self.n_pieces, self.found = n_pieces, list[_Run]()

    def add(
        self, at: int, piece: Piece, example: np.ndarray, start: np.ndarray, length: np.ndarray, *, data: bool = False
    ) -> None:
        charged = isinstance(piece, Fixed | Text) and piece.charged
        r = len(example)
        self.found.append(
            _Run(
                order=example * self.n_pieces + at,
                example=example,
                start=start,
                length=length,
                segment=np.full(r, piece.segment),
                entry=np.full(r, -1),
                data=np.full(r, data),
                label=np.full(r, charged),
            )
        )

    def entries(self, at: int, entries: Entries) -> None:
        """The kept entries of a list."""
        example, place, start, length, data = entries.runs()
        parts, r = len(data), start.size
        example = np.repeat(example, parts)
        self.found.append(
            _Run(
                order=example * self.n_pieces + at,
                example=example,
                start=start.ravel(),
                length=length.ravel(),
                segment=np.full(r, entries.piece.segment),
                entry=np.repeat(place, parts),
                data=np.tile(data, len(place)),
                label=np.zeros(r, bool),
            )
        )

    def compiled(self, template: Template, tokens: Tokens, n: int, pool: Pool, report: Report) -> Compiled:
        order = np.argsort(np.concatenate([each.order for each in self.found]), kind="stable")

        def column(values: list[np.ndarray]) -> np.ndarray:
            return np.concatenate(values)[order]

        length = column([each.length for each in self.found])
        ends = np.cumsum(length)
        size = int(ends[-1]) if len(ends) else 0
        source = np.repeat(column([each.start for each in self.found]) - (ends - length), length) + np.arange(size)
        per_example = np.bincount(column([each.example for each in self.found]), length, minlength=n)

        def spread(values: list[np.ndarray]) -> np.ndarray:
            return np.repeat(column(values), length)

        return Compiled(
            template=template,
            tokens=tokens,
            ids=pool.channel("ids")[source],
            offsets=np.concatenate([[0], np.cumsum(per_example)]).astype(np.int64),
            label=spread([each.label for each in self.found]),
            soft=pool.channel("soft")[source],
            vector=pool.channel("vector")[source],
            segment=spread([each.segment for each in self.found]),
            entry=spread([each.entry for each in self.found]),
            data=spread([each.data for each in self.found]),
            mask=np.flatnonzero(pool.channel("mask")[source]),
            report=report,
        )
