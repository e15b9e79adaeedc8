"""What a prompt is made of: segments, as values.

The words of a template are the author's; what fills its slots is data. The two never meet as text: data is put in after the
template is read, and is encoded on its own, so that a title can spell a slot or a special token without becoming one.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from lmrs.errors import ContractError, did_you_mean

ROLES = ("bos", "eos", "cls", "sep", "pad", "mask")
KEEPS = ("right", "left", "all")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")
_PART = re.compile(r"(\{\{|\}\})|\{([^{}]*)\}|([^{}]+)|(.)", re.DOTALL)


def _named(kind: str, name: str) -> None:
    if not NAME.fullmatch(name):
        raise ContractError(
            needed=f"a {kind} of letters, digits and _ . - that begins with a letter", came=repr(name), remedy="rename it"
        )


def _at_least(least: int, what: str, count: int | None) -> None:
    if count is not None and count < least:
        raise ContractError(needed=f"{what} of at least {least}", came=f"{count}")


def check_roles(roles: tuple[str, ...]) -> None:
    for role in roles:
        if role not in ROLES:
            raise ContractError(needed="the role of a special token", came=repr(role), remedy=did_you_mean(role, ROLES))


def doubled(text: str, marks: str = "{}[]") -> str:
    """The text as a template writes it: brackets and braces twice."""
    for mark in marks:
        text = text.replace(mark, mark * 2)
    return text


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _options(**given: object) -> str:
    """` name=value` of what is not None; text in quotes."""
    shown = {name: _quoted(each) if isinstance(each, str) else str(each) for name, each in given.items() if each is not None}
    return "".join(f" {name}={value}" for name, value in shown.items())


@dataclass(frozen=True)
class Item:
    """How one entry of a list is written.

    pattern: text with fields in braces: "{}" is the entry itself; "{title} ({year})" reads the columns `<list>.title` and
    `<list>.year`, which run parallel. "{{" and "}}" are literal braces. Nothing else is interpreted.
    limit: tokens that a field may have (the first ones are kept), or None.
    """

    pattern: str = "{}"
    limit: int | None = None

    def __post_init__(self) -> None:
        _at_least(1, "a limit", self.limit)
        if not self.fields:
            raise ContractError(needed="a pattern with a field such as {} or {title}", came=repr(self.pattern))

    @property
    def parts(self) -> tuple[tuple[bool, str], ...]:
        """(True, field name) and (False, literal text) in order."""
        found: list[tuple[bool, str]] = []
        for brace, name, text, stray in _PART.findall(self.pattern):
            if stray:
                raise ContractError(
                    needed="braces in pairs in an item's pattern", came=repr(self.pattern), remedy="write {{ or }} for a brace"
                )
            if brace or text:
                literal = brace[:1] or text
                if found and not found[-1][0]:
                    found[-1] = (False, found[-1][1] + literal)
                else:
                    found.append((False, literal))
            else:
                if name:
                    _named("field", name)
                found.append((True, name))
        return tuple(found)

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(text for is_field, text in self.parts if is_field)


@dataclass(frozen=True)
class Hard:
    """Words of the author's. Special tokens cannot be spelt here either: use Control or Special.

    Each text is encoded on its own, so no token reaches from words into data (where a byte-level vocabulary has a token ");", a
    title's ")" and a separator's ";" stay two). Spaces at its end belong to the text that follows (as word-level and byte-level
    vocabularies have it: " Heat" is one token); before any slot that is not text, and at the end of the prompt, they are dropped.
    """

    text: str

    def __str__(self) -> str:
        return doubled(self.text)


@dataclass(frozen=True)
class Data:
    """One text of the example. limit: tokens it may have (the first are kept), or None."""

    field: str
    limit: int | None = None

    def __post_init__(self) -> None:
        _named("field", self.field)
        _at_least(1, "a limit", self.limit)

    def __str__(self) -> str:
        return f"{{{self.field}{_options(limit=self.limit)}}}"


@dataclass(frozen=True)
class ListOf:
    """The entries of a list, oldest first, with `separator` between them.

    item: how an entry is written. limit: the most entries. keep: which end stays when there are too many, "right" (the last,
    most recent ones), "left", or "all" (an overlong prompt takes entries of other lists, never of this one). Entries go whole.
    """

    field: str
    separator: str = "; "
    item: Item = Item()
    limit: int | None = None
    keep: str = "right"

    def __post_init__(self) -> None:
        _named("field", self.field)
        _at_least(1, "a limit", self.limit)
        if self.keep not in KEEPS:
            raise ContractError(needed="keep=" + ", ".join(KEEPS), came=repr(self.keep), remedy=did_you_mean(self.keep, KEEPS))
        if self.limit is not None and self.keep == "all":
            raise ContractError(needed="keep='left' or 'right' beside a limit", came="keep='all'", remedy="leave out the limit")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it reads: the list itself, or one for each field of the item."""
        return tuple(dict.fromkeys(f"{self.field}.{name}" if name else self.field for name in self.item.fields))

    def __str__(self) -> str:
        plain = ListOf(self.field)
        shown = _options(
            separator=None if self.separator == plain.separator else self.separator,
            item=None if self.item.pattern == "{}" else self.item.pattern,
            tokens=self.item.limit,
            limit=self.limit,
        )
        return f"{{list {self.field}{shown}{'' if self.keep == 'right' else f' keep={self.keep}'}}}"


@dataclass(frozen=True)
class Mask:
    """n mask tokens, for the model to fill in."""

    n: int = 1

    def __post_init__(self) -> None:
        _at_least(1, "n", self.n)

    def __str__(self) -> str:
        return "[mask]" if self.n == 1 else f"[mask {self.n}]"


@dataclass(frozen=True)
class Soft:
    """`length` positions whose input vectors are learned. A name that comes twice means the same vectors."""

    name: str
    length: int

    def __post_init__(self) -> None:
        _named("name", self.name)
        _at_least(1, "a length", self.length)

    def __str__(self) -> str:
        return f"[soft {self.name} {self.length}]"


@dataclass(frozen=True)
class Vector:
    """`length` positions that take vectors from outside, others for each example: a user, an item, an image."""

    name: str
    length: int = 1

    def __post_init__(self) -> None:
        _named("name", self.name)
        _at_least(1, "a length", self.length)

    def __str__(self) -> str:
        return f"[vector {self.name}]" if self.length == 1 else f"[vector {self.name} {self.length}]"


@dataclass(frozen=True)
class Control:
    """A token of meaning by its spelling: one the backbone has, or one declared with `declare(tokens, template)`."""

    token: str

    def __post_init__(self) -> None:
        if not self.token:
            raise ContractError(needed="the spelling of a control token", came="an empty text")

    def __str__(self) -> str:
        return f"[control {_quoted(self.token)}]"


@dataclass(frozen=True)
class Special:
    """A token by its role in the backbone: "bos", "eos", "cls", "sep", "pad" or "mask"."""

    role: str

    def __post_init__(self) -> None:
        check_roles((self.role,))

    def __str__(self) -> str:
        return f"[special {self.role}]"


@dataclass(frozen=True)
class Target:
    """The text to be generated: its tokens are the charged ones. limit: tokens it may have, or None."""

    field: str
    limit: int | None = None

    def __post_init__(self) -> None:
        _named("field", self.field)
        _at_least(1, "a limit", self.limit)

    def __str__(self) -> str:
        return f"{{target {self.field}{_options(limit=self.limit)}}}"


Segment = Hard | Data | ListOf | Mask | Soft | Vector | Control | Special | Target
