"""Systems as JSON and back: an explicit register of parts, no `eval`, no pickle.

A part is a frozen dataclass. It becomes `{"kind": "models.Transformer", <field>: <value>, ...}` with every field written
out, so that a saved system does not change when a default does. A class of the user's own is written as
`{"kind": "Chain", "file": "/home/ada/mine.py", ...}` and found again in that file.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard, get_args

from lmrs import losses, models, negatives, objectives, schedule, system, tasks, tuning, views, visibility
from lmrs.errors import CheckpointError, ContractError, UserError, did_you_mean
from lmrs.system import System

PACKAGES: dict[str, Any] = {"models": models, "objectives": objectives, "views": views, "tasks": tasks}
AREAS = (
    *PACKAGES, "losses", "negatives", "schedule", "tuning", "visibility", "indexing", "graph", "language", "prompts", "texts",
    "system",
)  # fmt: skip

_OWN = "lmrs_own_"  # how the modules of users' files are called


def parts(area: str) -> Iterable[object]:
    """What an area offers; its modules are imported now and not before: a saved system needs few of them."""
    match area:
        case "losses":
            return get_args(losses.Charge)
        case "negatives":
            return get_args(negatives.Negatives)
        case "schedule":
            return schedule.Constant, schedule.Linear, schedule.Cosine
        case "tuning":
            return get_args(tuning.Tuning)
        case "visibility":
            return get_args(visibility.Visibility)
        case "system":
            return system.Paper, system.Budget, system.Stage, system.Estimate, system.System
        case "indexing":
            from lmrs import indexing

            return indexing.INDEXERS
        case "graph":
            from lmrs import graph

            return (graph.Knowledge,)
        case "language":
            from lmrs import language
            from lmrs.language import adapters

            return language.Backbone, *get_args(adapters.Adapter)
        case "prompts":
            from lmrs.prompts import verbalisers

            return verbalisers.MultiMask, verbalisers.YesNo
        case "texts":
            from lmrs import texts

            return [getattr(texts, name) for name in texts.__all__]
    return [getattr(PACKAGES[area], name) for name in PACKAGES[area].__all__]


@cache
def register() -> dict[str, type]:
    """Every class that a description may name, by kind: "models.Transformer", "losses.BCE", ..."""
    return {f"{area}.{part.__name__}": part for area in AREAS for part in parts(area) if _is_description(part)}


@cache
def part_of(kind: str) -> type | None:
    """`register().get(kind)`, without importing what it does not need."""
    area, _, name = kind.partition(".")
    if area not in AREAS:
        return None
    if area in PACKAGES:
        found = getattr(PACKAGES[area], name) if name in PACKAGES[area].__all__ else None
        return found if _is_description(found) else None
    return next((part for part in parts(area) if _is_description(part) and part.__name__ == name), None)


def _is_description(part: object) -> TypeGuard[type]:
    """A frozen dataclass with equality: records of data (Rows) are frozen, too, but compare by identity."""
    if not inspect.isclass(part) or not is_dataclass(part):
        return False
    return vars(part)["__dataclass_params__"].frozen and part.__eq__ is not object.__eq__


def to_json(value: object) -> Any:
    """JSON values that `from_json` turns back into an equal value.

    value: a System or any part of one: dataclasses, tuples, text, numbers, True, False, None. Raises ContractError for
    anything else, and for a class of the user's own that no file defines (typed at a prompt).
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"kind": "float", "value": str(value)}
    if isinstance(value, tuple):
        return [to_json(each) for each in value]
    if is_dataclass(value) and _is_description(type(value)) and not {"kind", "file"} & {each.name for each in fields(value)}:
        return {**_kind(type(value)), **{each.name: to_json(getattr(value, each.name)) for each in fields(value) if each.init}}
    raise ContractError(
        needed="descriptions made of frozen dataclasses, tuples, text, numbers, True, False and None",
        came=f"{type(value).__name__} {str(value)[:60]}",
        remedy="use a tuple" if isinstance(value, list) else "make it a frozen dataclass without fields named kind or file",
    )


def from_json(value: Any, *, forbidden: Path | None = None) -> Any:
    """The value that `to_json` wrote.

    forbidden: a folder whose files must not be run (the one a saved recommender is read from: it is data, not code).
    Raises CheckpointError for an unknown kind or field (with the nearest ones), a missing field, and a file that is gone.
    """
    if isinstance(value, list):
        return tuple(from_json(each, forbidden=forbidden) for each in value)
    if not isinstance(value, dict):
        return value
    if value.get("kind") == "float":
        return float(value["value"])
    kind, file = value.get("kind"), value.get("file")
    part = _own_class(str(kind), str(file), forbidden) if file is not None else _known(kind)
    given = {name: from_json(each, forbidden=forbidden) for name, each in value.items() if name not in ("kind", "file")}
    names = {each.name: each for each in fields(part) if each.init}
    for name in given:
        if name not in names:
            raise CheckpointError(needed=f"fields of {kind}", came=f"{name!r}", remedy=did_you_mean(name, names))
    for name, each in names.items():
        if name not in given and each.default is MISSING and each.default_factory is MISSING:
            raise CheckpointError(
                needed=f"the field {name!r} of {kind}", came="none", remedy="save it again with this version of lmrs"
            )
    try:
        return part(**given)
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            needed=f"values that make a {kind}", came=str(error), remedy="save it again with this version"
        ) from error


def system_from_json(value: Any, *, forbidden: Path | None = None) -> System:
    """A System, checked to be one."""
    found = from_json(value, forbidden=forbidden)
    if not isinstance(found, System):
        raise CheckpointError(
            needed="the description of a System", came=type(found).__name__, remedy="save the recommender again"
        )
    return found


def files(value: Any) -> list[Path]:
    """The files of the user's own classes in a description, each once, in order."""
    found: dict[Path, None] = {}
    if isinstance(value, dict):
        if "file" in value:
            found[Path(value["file"])] = None
        for each in value.values():
            found |= dict.fromkeys(files(each))
    elif isinstance(value, list):
        for each in value:
            found |= dict.fromkeys(files(each))
    return list(found)


def load_file(path: Path | str) -> ModuleType:
    """The module of a Python file, run once per process; its classes say where they come from.

    Raises UserError if there is no such file or it cannot be run (naming the line).
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise UserError(needed=f"the Python file {path}", came="no such file", remedy="check the path, or put the file back")
    name = f"{_OWN}{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(needed="a Python file (.py)", came=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UserError(needed=f"a Python file that runs: {path}", came=where(error, path), remedy="mend it") from error
    return module


def is_own(thing: object) -> bool:
    """Whether a function or class comes from a file that `load_file` ran."""
    return getattr(thing, "__module__", "").startswith(_OWN)


def where(error: Exception, path: Path | str) -> str:
    """The error in one line, with the last line of `path` that took part."""
    line, trace = error.lineno if isinstance(error, SyntaxError) else None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" + (f" (line {line})" if line else "")


def _kind(part: type) -> dict[str, str]:
    kind = ".".join([*part.__module__.split(".")[1:2], part.__name__])  # parts are called by the top-level module they are in
    if part_of(kind) is part:
        return {"kind": kind}
    try:
        file = inspect.getfile(part)
    except (TypeError, OSError):
        file = ""
    if not Path(file).is_file() or part.__qualname__ != part.__name__:
        raise ContractError(
            needed="parts that lmrs knows, or classes at the top of a file of your own",
            came=f"{part.__module__}.{part.__qualname__}",
            remedy="define the class in a .py file",
        )
    return {"kind": part.__name__, "file": str(Path(file).resolve())}


def _known(kind: Any) -> type:
    found = part_of(kind) if isinstance(kind, str) else None
    if found is None:
        raise CheckpointError(
            needed="a kind of part that this version of lmrs knows", came=repr(kind), remedy=did_you_mean(str(kind), register())
        )
    return found


def _own_class(kind: str, file: str, forbidden: Path | None) -> type:
    path = Path(file).resolve()
    if forbidden is not None and path.is_relative_to(forbidden.resolve()):
        raise CheckpointError(needed="code outside the folder that is loaded", came=str(path), remedy="keep your code elsewhere")
    for module in list(sys.modules.values()):  # the class may be in use already, from an ordinary import
        if getattr(module, "__file__", None) and Path(str(module.__file__)).resolve() == path:
            break
    else:
        module = load_file(path)
    part = vars(module).get(kind)
    if not inspect.isclass(part) or not is_dataclass(part):
        raise CheckpointError(
            needed=f"the dataclass {kind} in {path}",
            came="none of that name",
            remedy=did_you_mean(kind, [name for name, each in vars(module).items() if inspect.isclass(each)]),
        )
    return part
