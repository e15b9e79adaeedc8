"""Templates as text: `parse` reads what `str(template)` writes.

    The user watched {list history limit=20}. [mask] {title limit=10}      text of the examples stands in braces
    [soft task 5] [vector user] [control "<rec>"] [special sep]             everything that is not text in brackets
    {target answer limit=3}                                                what is to be generated, at the end

{{ }} [[ ]] are literal brackets. Options are name=value, with text in double quotes (JSON). Only templates are parsed: no text
of an example ever reaches this file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TypeVar

from lmrs.errors import ContractError, did_you_mean
from lmrs.prompts.segments import ROLES, Control, Data, Hard, Item, ListOf, Mask, Segment, Soft, Special, Target, Vector
from lmrs.prompts.template import Frame, Template

T = TypeVar("T")

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_TOKEN = re.compile(
    r"(?P<literal>\{\{|\}\}|\[\[|\]\])"
    rf'|\{{(?P<data>(?:[^{{}}\[\]"]|{_QUOTED})*)\}}'
    rf'|\[(?P<slot>(?:[^{{}}\[\]"]|{_QUOTED})*)\]'
    r"|(?P<text>[^{}\[\]]+)",
    re.DOTALL,
)
_WORD = re.compile(rf'\s*(?:(?P<option>[A-Za-z]+)=(?P<value>{_QUOTED}|[^\s"]+)|(?P<word>{_QUOTED}|[^\s"=]+))(?=\s|$)', re.DOTALL)
_KINDS = ("mask", "soft", "vector", "control", "special", "frame")


def parse(text: str) -> Template:
    """The Template that a text describes.

    >>> parse("The user watched {list history limit=2}. Next: [mask]").segments[1]
    ListOf(field='history', separator='; ', item=Item(pattern='{}', limit=None), limit=2, keep='right')

    Raises ContractError for a lone bracket, an unknown kind of slot or option (with the nearest ones), a wrong value.
    """
    segments: list[Segment] = []
    frame: Frame | None = None
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise ContractError(
                needed="brackets in pairs in a template",
                came=f"{text[at : at + 20]!r} at character {at + 1}",
                remedy="close the slot, or write the bracket twice for a literal one",
            )
        if found["literal"]:
            segments.append(Hard(found["literal"][0]))
        elif found["text"]:
            segments.append(Hard(found["text"]))
        elif found["data"] is not None:
            segments.append(_data(_Slot(found[0], found["data"])))
        else:
            read = _slot(_Slot(found[0], found["slot"]))
            if not isinstance(read, Frame):
                segments.append(read)
            elif at:
                raise ContractError(needed="[frame ...] at the start of a template", came=f"it at character {at + 1}")
            else:
                frame = read
        at = found.end()
    return Template(tuple(segments), frame)


class _Slot:
    """The words and options of one slot; every one must be asked for."""

    def __init__(self, shown: str, body: str) -> None:
        self.shown, self.words, self.options = shown, list[str](), dict[str, str]()
        at = 0
        while body[at:].strip():
            found = _WORD.match(body, at)
            if found is None or found["option"] in self.options:
                raise ContractError(needed="words and options name=value in a slot, each once", came=shown)
            if found["option"]:
                self.options[found["option"]] = found["value"]
            else:
                self.words.append(found["word"])
            at = found.end()

    def number(self, name: str, value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", value):
            raise ContractError(needed=f"a whole number for {name}", came=f"{value} in {self.shown}")
        return int(value)

    def text(self, name: str, value: str) -> str:
        if not value.startswith('"'):
            return value
        try:
            return str(json.loads(value, strict=False))
        except json.JSONDecodeError as error:
            raise ContractError(needed=f"a JSON text for {name}", came=f"{value} in {self.shown}") from error

    def take(self, *known: str, words: int, optional: int = 0) -> None:
        """Check the number of words and the names of the options."""
        if not words <= len(self.words) <= words + optional:
            needed = f"{words - 1}" if not optional else f"{words - 1} to {words - 1 + optional}"
            raise ContractError(needed=f"{needed} words after {self.words[0]!r}", came=self.shown)
        for name in self.options:
            if name not in known:
                remedy = did_you_mean(name, known) if known else "leave it out"
                raise ContractError(needed="an option that the slot has", came=f"{name!r} in {self.shown}", remedy=remedy)

    def option(self, name: str, read: Callable[[str, str], T], default: T) -> T:
        return read(name, self.options[name]) if name in self.options else default


def _data(slot: _Slot) -> Segment:
    """What stands in braces."""
    match slot.words:
        case [field]:
            slot.take("limit", words=1)
            return Data(field, _limit(slot))
        case ["target", field]:
            slot.take("limit", words=2)
            return Target(field, _limit(slot))
        case ["list", field]:
            slot.take("separator", "item", "tokens", "limit", "keep", words=2)
            plain = ListOf(field)
            return ListOf(
                field,
                separator=slot.option("separator", slot.text, plain.separator),
                item=Item(
                    slot.option("item", slot.text, "{}"),
                    slot.number("tokens", slot.options["tokens"]) if "tokens" in slot.options else None,
                ),
                limit=_limit(slot),
                keep=slot.option("keep", slot.text, plain.keep),
            )
    raise ContractError(needed="{field}, {list field} or {target field}", came=slot.shown, remedy="write {{ for a literal brace")


def _limit(slot: _Slot) -> int | None:
    return slot.number("limit", slot.options["limit"]) if "limit" in slot.options else None


def _slot(slot: _Slot) -> Segment | Frame:
    """What stands in brackets."""
    match slot.words:
        case ["mask", *_]:
            slot.take(words=1, optional=1)
            return Mask(*(slot.number("the number of masks", each) for each in slot.words[1:]))
        case ["soft", *_]:
            slot.take(words=3)
            return Soft(slot.words[1], slot.number("the length", slot.words[2]))
        case ["vector", *_]:
            slot.take(words=2, optional=1)
            return Vector(slot.words[1], *(slot.number("the length", each) for each in slot.words[2:]))
        case ["control", *_]:
            slot.take(words=2)
            return Control(slot.text("the token", slot.words[1]))
        case ["special", *_]:
            slot.take(words=2)
            return Special(slot.words[1])
        case ["frame"]:
            slot.take("start", "end", "stop", words=1)
            return Frame(**{name: tuple(slot.text(name, value).split(",")) for name, value in slot.options.items()})
        case [kind, *_]:
            near = ROLES if kind in ROLES else _KINDS
            remedy = f"write [special {kind}]" if kind in ROLES else did_you_mean(kind, near)
            raise ContractError(needed="a kind of slot", came=slot.shown, remedy=remedy)
    raise ContractError(needed="a kind of slot in brackets", came=slot.shown, remedy="write [[ for a literal bracket")
