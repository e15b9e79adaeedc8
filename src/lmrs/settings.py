"""The keywords of a system function, from text and back: `--set dim=64` read by the function's own annotations."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from lmrs.describe import is_own, load_file, where
from lmrs.errors import LmrsError, UserError, did_you_mean
from lmrs.system import System

_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def find(name: str) -> Callable[..., System]:
    """The function that makes a system: of a catalogue name (`sasrec`), or of one's own file (`./mine.py:function`).

    Raises UserError for an unknown name, file or function, with the nearest ones.
    """
    from lmrs.systems import CATALOGUE

    path, colon, function = name.rpartition(":")
    if colon or name.endswith(".py"):
        module = load_file(path if colon else name)
        offered = {
            key: value for key, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == module.__name__
        }
        if function not in offered:
            came = f"{function!r}" if colon else "no function"
            raise UserError(
                needed=f"a function of {path or name}",
                came=came,
                remedy=did_you_mean(function, offered) if offered else "define one",
            )
        return offered[function]
    key = name.lower().replace("_", "-")
    if key not in CATALOGUE:
        raise UserError(
            needed="a system of the catalogue, or ./file.py:function",
            came=repr(name),
            remedy=f"{did_you_mean(name, CATALOGUE)} (lmrs systems lists them)",
        )
    return CATALOGUE[key]


def canonical(name: str) -> str:
    """The name as it is recorded: catalogue names in lower case with dashes, files by their absolute path."""
    path, colon, function = name.rpartition(":")
    return f"{Path(path).resolve()}:{function}" if colon else name.lower().replace("_", "-")


def options(function: Callable[..., System]) -> dict[str, tuple[Any, Any]]:
    """(annotation, default) of every keyword, in order; the default is `inspect.Parameter.empty` where one must be given."""
    hints = get_type_hints(function)
    return {name: (hints.get(name, str), each.default) for name, each in inspect.signature(function).parameters.items()}


def parse(function: Callable[..., System], pairs: Iterable[str]) -> dict[str, Any]:
    """Keywords from texts such as "dim=64", "loss=bce", "stride=none", "features=genres,director".

    Raises UserError for a text without "=", an unknown keyword (nearest shown), one given twice, and a value of another type.
    """
    known, found = options(function), {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise UserError(needed="settings such as dim=64", came=repr(pair), remedy="write NAME=VALUE")
        if name not in known:
            raise UserError(
                needed=f"a setting of {function.__name__}",
                came=repr(name),
                remedy=did_you_mean(name, known) if known else "it has none",
            )
        if name in found:
            raise UserError(needed="every setting once", came=f"{name} twice", remedy="leave one out")
        found[name] = read(text.strip(), known[name][0], name)
    return found


def read(text: str, kind: Any, name: str) -> Any:
    """One value: int, float, bool, str, None, a tuple of them, or a choice of these by annotation."""
    kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    for each in sorted(kinds, key=lambda one: one is str):  # text fits everything: it comes last
        try:
            return _as(text, each)
        except ValueError:
            continue
    words = " or ".join("none" if each is type(None) else _spelled(each) for each in kinds)
    raise UserError(needed=f"{name} as {words}", came=repr(text), remedy=f"write {name}=VALUE")


def _as(text: str, kind: Any) -> Any:
    if kind is type(None):
        if text.lower() in ("none", "null"):
            return None
        raise ValueError
    if kind is bool:
        if text.lower() in _WORDS:
            return _WORDS[text.lower()]
        raise ValueError
    if kind in (int, float):
        return kind(text.replace("_", ""))
    if get_origin(kind) is tuple:
        inner, parts = get_args(kind), [part.strip() for part in text.strip("()").split(",") if part.strip()]
        inner = (inner[0],) * len(parts) if inner[-1] is Ellipsis else inner
        if len(inner) != len(parts):
            raise ValueError
        return tuple(_as(part, each) for part, each in zip(parts, inner, strict=True))
    if kind is str:
        return text
    raise ValueError


def _spelled(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(kind) or ("values joined by commas" if get_origin(kind) is tuple else str(kind))


def complete(function: Callable[..., System], given: Mapping[str, Any]) -> dict[str, Any]:
    """All keywords with the values used, defaults included: what a run records. Raises UserError for one that must be given."""
    out = {}
    for name, (_, default) in options(function).items():
        if name not in given and default is inspect.Parameter.empty:
            raise UserError(needed=f"a value for {name}", came="none", remedy=f"add --set {name}=VALUE")
        out[name] = given.get(name, default)
    return out


def make(function: Callable[..., System], given: Mapping[str, Any]) -> System:
    """The System that the function makes.

    Raises UserError for a keyword that must be given, if the function makes something else, and if one's own function fails.
    """
    every = complete(function, given)
    try:
        made = function(**every)
    except LmrsError:
        raise
    except Exception as error:
        if not is_own(function):
            raise
        raise UserError(
            needed=f"a System from {function.__name__}", came=where(error, inspect.getfile(function)), remedy="mend it"
        ) from error
    if not isinstance(made, System):
        raise UserError(needed=f"a System from {function.__name__}", came=type(made).__name__, remedy="return lmrs.System(...)")
    return made


def from_record(function: Callable[..., System], values: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords as JSON had them: lists become tuples, and a number of type float stays one."""
    known = options(function)
    for name in values:
        if name not in known:
            raise UserError(needed=f"a setting of {function.__name__}", came=repr(name), remedy=did_you_mean(name, known))
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
