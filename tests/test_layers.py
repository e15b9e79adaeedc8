"""The architecture page is true: who imports whom, which files exist, and what must not occur in the sources."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lmrs

SOURCES = Path(lmrs.__file__).parent
PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"
FILES = sorted(SOURCES.rglob("*.py"))


def layers() -> list[list[str]]:
    """The lines of the page's list of layers, lowest first."""
    text = PAGE.read_text(encoding="utf-8")
    block = re.search(r"Layers, lowest first.*?```\n(.*?)```", text, re.DOTALL)
    assert block, "docs/architecture.md has no list of layers"
    return [line.split() for line in block[1].splitlines() if line.strip()]


def module(path: Path) -> str:
    """The top-level module or package of a file; "lmrs" for the package's own __init__."""
    name = path.relative_to(SOURCES).parts[0].removesuffix(".py")
    return "lmrs" if name == "__init__" else name


def imports(path: Path) -> set[tuple[int, str]]:
    """(line, top-level module of lmrs) of every import in a file: at the top, inside functions, for type checking."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} imports relatively: write lmrs.x in full"
            parts = (node.module or "").split(".")
            if parts[0] == "lmrs":
                found |= {(node.lineno, name) for name in (parts[1:2] or [alias.name for alias in node.names])}
        elif isinstance(node, ast.Import):
            found |= {(node.lineno, alias.name.split(".")[1]) for alias in node.names if alias.name.startswith("lmrs.")}
    return found


def test_every_module_is_listed_once() -> None:
    listed = [name for line in layers() for name in line]
    assert len(set(listed)) == len(listed), "a module is listed twice"
    existing = {module(path) for path in FILES} - {"lmrs"}
    assert existing - set(listed) == set(), "modules that docs/architecture.md does not list"
    assert set(listed) - existing == set(), "docs/architecture.md lists modules that do not exist"


def test_nothing_imports_a_layer_of_its_own_height_or_above() -> None:
    height = {name: at for at, line in enumerate(layers()) for name in line}
    back = []
    for path in FILES:
        own = module(path)
        if own == "lmrs":
            continue  # the public names: everything, on first use
        for line, name in sorted(imports(path)):
            if name in (own, "__version__"):
                continue
            if name not in height or height[name] >= height[own]:
                back.append(f"{path.relative_to(SOURCES)}:{line} imports {name}")
    assert not back, "\n".join(back)


def test_the_files_named_by_the_table_of_nouns_exist() -> None:
    table = PAGE.read_text(encoding="utf-8").split("## Nouns")[1].split("##")[0]
    names = [name for line in table.splitlines() if line.startswith("| **") for name in re.findall(r"`([\w/]+(?:\.py|/))`", line)]
    assert len(names) >= 12
    assert [name for name in names if not (SOURCES / name).exists()] == []


@pytest.mark.parametrize("name", ["lmrs", "lmrs.cli", "lmrs.errors", "lmrs.dataset", "lmrs.split"])
def test_it_is_imported_without_torch(name: str) -> None:
    code = f"import sys, {name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0, f"import {name} imports torch"


# -- what must not occur ---------------------------------------------------------------------------------------------------

MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
CALLS = {"eval", "exec", "compile", "__import__", "hasattr"}
METHODS = {("torch", "load"), ("torch", "save"), ("np", "load"), ("numpy", "load"), ("np", "save"), ("torch", "seed")}
OBJECTS = {"all_gather_object", "broadcast_object_list", "gather_object", "scatter_object_list", "allow_pickle", "weights_only"}


def forbidden(text: str) -> list[tuple[int, str]]:
    """(line, name) of everything in a source text that this library does without. Comments and strings do not count."""
    found = []
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names):
                found += [(node.lineno, name.name) for name in names if name.name.split(".")[0] in MODULES]
            case ast.ImportFrom(source):
                found += [(node.lineno, str(source))] if str(source).split(".")[0] in MODULES else []
            case ast.Call(ast.Name("hasattr"), [ast.Name("os"), *_]):
                pass  # what the operating system offers is not known before
            case ast.Call(ast.Name(name)) if name in CALLS:
                found.append((node.lineno, name))
            case ast.Attribute(ast.Name(owner), name) if (owner, name) in METHODS:
                found.append((node.lineno, f"{owner}.{name}"))
            case ast.Attribute(_, name) if name in OBJECTS:
                found.append((node.lineno, name))
            case ast.keyword(str(name)) if name in OBJECTS:
                found.append((node.value.lineno, name))
            case ast.Global():
                found.append((node.lineno, "global " + ", ".join(node.names)))
    return found


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("import pickle", "pickle"),
        ("from pickle import loads", "pickle"),
        ("def f():\n    import marshal.x", "marshal.x"),
        ("x = eval('1')", "eval"),
        ("a = torch.load(p)", "torch.load"),
        ("np.load(p, allow_pickle=True)", "allow_pickle"),
        ("dist.all_gather_object(a, b)", "all_gather_object"),
        ("hasattr(x, 'y')", "hasattr"),
        ("def f():\n    global x", "global x"),
    ],
)
def test_the_search_finds_what_is_forbidden(text: str, name: str) -> None:
    assert name in [found for _, found in forbidden(text)]


def test_the_search_passes_over_text_and_methods_of_the_same_name() -> None:
    assert forbidden("'eval(x)'  # pickle\nnetwork.eval()\nsafetensors.load(x)\nhasattr(os, 'fork')\nre.compile('x')") == []


def test_no_pickle_no_eval_no_globals_no_duck_typing() -> None:
    found = [f"{path.relative_to(SOURCES)}:{line} {name}" for path in FILES for line, name in forbidden(path.read_text("utf-8"))]
    assert not found, "\n".join(found)


def test_no_file_is_a_drawer_for_anything() -> None:
    assert [path.name for path in FILES if path.stem in ("utils", "util", "common", "helpers", "misc", "base")] == []
