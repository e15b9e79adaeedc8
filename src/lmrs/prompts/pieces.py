"""A template under one tokenizer: what is the same in every prompt becomes token ids once, what differs keeps its place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from lmrs.errors import ContractError
from lmrs.prompts.segments import Control, Data, Hard, ListOf, Mask, Soft, Special, Target, Vector
from lmrs.prompts.template import Frame, Template

if TYPE_CHECKING:
    from lmrs.language.tokens import Tokens

START, END, STOP = -1, -2, -3  # "segments" of the frame


@dataclass(frozen=True, eq=False)
class Fixed:
    """Tokens that every example has. soft, vector: int64, slot place or -1; mask: bool."""

    segment: int
    ids: np.ndarray
    soft: np.ndarray
    vector: np.ndarray
    mask: np.ndarray
    charged: bool = False


@dataclass(frozen=True)
class Text:
    """One text of the example. lead: spaces of the template that are read together with it."""

    segment: int
    field: str
    lead: str
    limit: int | None
    charged: bool = False


@dataclass(frozen=True, eq=False)
class Many:
    """Entries of a list. lead: spaces before the first entry; separator: tokens before a later one; spaces: its last part, read
    with the entry. parts: what an entry is made of: literal text, or a field with the spaces before it; the first part takes
    `lead` or `spaces` besides."""

    segment: int
    source: ListOf
    lead: str
    separator: str
    spaces: str
    parts: tuple[str | Text, ...]


Piece = Fixed | Text | Many


def frame_of(tokens: Tokens) -> Frame:
    """The special tokens that prompts of a backbone usually have, read off its tokenizer.

    With cls and sep (BERT, BART): cls prompt sep; with bos (GPT-2, Llama): bos prompt; else (T5): prompt eos. After a Target eos
    follows where there is one. A model tuned for chats wants its turns written out as Control segments, with Frame().
    """
    stop = () if tokens.eos is None else ("eos",)
    if tokens.cls is not None and tokens.sep is not None:
        return Frame(start=("cls",), end=("sep",), stop=stop)
    if tokens.bos is not None:
        return Frame(start=("bos",), stop=stop)
    return Frame(end=stop, stop=stop)


def declare(tokens: Tokens, *templates: Template) -> Tokens:
    """The tokenizer with those control tokens of all templates that it lacks, each an atomic word numbered size, size + 1, ...

    The backbone needs a row for each new one (its embedding table has to grow by as many).
    """
    known = {*tokens.marks, *tokens.words}
    return tokens.extended(tuple(dict.fromkeys(each for one in templates for each in one.controls if each not in known)))


def lay_out(template: Template, tokens: Tokens) -> list[Piece]:
    """The pieces in order.

    Spaces at the end of the template's words go to the text that follows and are dropped before any other slot.
    Raises ContractError for a mask, role or control token that the tokenizer does not have.
    """
    frame = frame_of(tokens) if template.frame is None else template.frame
    softs, vectors = template.slots(Soft), template.slots(Vector)
    blank = tokens.pad if tokens.pad is not None else (tokens.eos or 0)  # stands where a vector will: any id of the table
    pieces: list[Piece] = [_plain([_role(tokens, role) for role in frame.start], START)] if frame.start else []
    lead, stop = "", False
    for at, segment in enumerate(template.segments):
        spaces = ""
        match segment:
            case Hard(text):
                body = text.rstrip(" ")
                spaces = text[len(body) :]
                if body:
                    pieces.append(_plain(tokens.encode(body), at))
            case Data(field, limit):
                pieces.append(Text(at, field, lead, limit))
            case ListOf():
                pieces.append(_many(segment, at, lead))
            case Target(field, limit):
                if frame.end:
                    pieces.append(_plain([_role(tokens, role) for role in frame.end], END))
                    lead = ""
                pieces.append(Text(at, field, lead, limit, charged=True))
                stop = True
            case Mask(n):
                ids = _plain([_role(tokens, "mask")] * n, at)
                pieces.append(replace(ids, mask=np.ones(n, bool)))
            case Soft(name, length):
                ids = _plain([blank] * length, at)
                pieces.append(replace(ids, soft=np.arange(softs[name].start, softs[name].stop)))
            case Vector(name, length):
                ids = _plain([blank] * length, at)
                pieces.append(replace(ids, vector=np.arange(vectors[name].start, vectors[name].stop)))
            case Control(token):
                pieces.append(_plain([tokens.id(token)], at))
            case Special(role):
                pieces.append(_plain([_role(tokens, role)], at))
        lead = spaces
    after, where = (frame.stop, STOP) if stop else (frame.end, END)
    if after:
        pieces.append(replace(_plain([_role(tokens, role) for role in after], where), charged=stop))
    return pieces


def _plain(ids: list[int], segment: int) -> Fixed:
    none = np.full(len(ids), -1, np.int64)
    return Fixed(segment, np.asarray(ids, np.int64), none, none, np.zeros(len(ids), bool))


def _role(tokens: Tokens, role: str) -> int:
    roles = {
        "bos": tokens.bos,
        "eos": tokens.eos,
        "cls": tokens.cls,
        "sep": tokens.sep,
        "pad": tokens.pad,
        "mask": tokens.mask,
    }
    found = roles[role]
    if found is None:
        has = [name for name, number in roles.items() if number is not None]
        raise ContractError(
            needed=f"a backbone with a {role} token",
            came=f"one with {', '.join(has) or 'none of them'}",
            remedy="choose a masked language model" if role == "mask" else "set the template's frame",
        )
    return found


def _many(segment: ListOf, at: int, lead: str) -> Many:
    separator = segment.separator.rstrip(" ")
    parts: list[str | Text] = []
    spaces = ""
    for is_field, text in segment.item.parts:
        if is_field:
            name = f"{segment.field}.{text}" if text else segment.field
            parts.append(Text(at, name, spaces, segment.item.limit))
            spaces = ""
        else:
            body = text.rstrip(" ")
            if body:
                parts.append(spaces + body)
            spaces = text[len(body) :] if body else spaces + text
    return Many(at, segment, lead, separator, segment.separator[len(separator) :], tuple(parts))
