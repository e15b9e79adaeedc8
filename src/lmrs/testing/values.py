"""Values whose `repr` is Python: read back without running it."""

from __future__ import annotations

import ast
from dataclasses import fields, is_dataclass
from typing import Any


def rebuilt(value: object) -> object:
    """The value that `repr(value)` describes, made from its text by calling constructors by name.

    Only calls of the dataclasses that occur in `value`, with constants, tuples, lists and dicts as arguments, are understood: the
    text is parsed, never executed. Of two classes of one name the one with the written fields is meant. Raises AssertionError
    with the text for anything else.
    """
    text = repr(value)
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise AssertionError(f"repr is not Python: {text}") from error
    return _made(tree, _classes(value), text)


def check_repr(value: object) -> None:
    """Raises AssertionError unless `repr(value)` rebuilds an equal value of the same type, with the same hash."""
    again = rebuilt(value)
    assert type(again) is type(value), f"{value!r} came back as a {type(again).__name__}"
    assert again == value, f"repr does not say everything: {value!r}"
    assert hash(again) == hash(value), f"equal values with different hashes: {value!r}"


def _classes(value: object) -> list[type]:
    """Types of the dataclasses in a value."""
    if is_dataclass(value) and not isinstance(value, type):
        return [type(value), *(found for field in fields(value) for found in _classes(getattr(value, field.name)))]
    if isinstance(value, dict):
        return _classes(tuple(value.values()))
    if isinstance(value, tuple | list):
        return [found for part in value for found in _classes(part)]
    return []


def _made(node: ast.expr, classes: list[type], text: str) -> Any:
    match node:
        case ast.Constant(constant):
            return constant
        case ast.UnaryOp(ast.USub(), operand):
            return -_made(operand, classes, text)
        case ast.Tuple(parts):
            return tuple(_made(part, classes, text) for part in parts)
        case ast.List(parts):
            return [_made(part, classes, text) for part in parts]
        case ast.Dict(keys, parts):
            return {_made(key, classes, text): _made(part, classes, text) for key, part in zip(keys, parts) if key is not None}
        case ast.Name("inf" | "nan" as name):
            return float(name)
        case ast.Call(function, [], named):
            options = {part.arg: _made(part.value, classes, text) for part in named if part.arg is not None}
            for made in classes:
                if made.__qualname__ == ast.unparse(function) and options.keys() == _shown(made):
                    return made(**options)
    raise AssertionError(f"cannot be read back: {ast.unparse(node)} in {text}")


def _shown(made: type) -> set[str]:
    """Names of the fields that the repr of a dataclass writes."""
    return {field.name for field in fields(made) if field.repr}
