"""`import lmrs` and `lmrs --help` are quick: they load nothing heavy. Public names resolve, whatever was imported before."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import lmrs
from lmrs.systems import sasrec
from lmrs.testing import tiny

HEAVY = ("torch", "numpy", "pyarrow", "polars", "scipy", "rich", "safetensors")


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "code",
    [
        "import lmrs",
        "import lmrs.cli",
        "from lmrs.cli import run; assert run(['--help']) == 0",
        "from lmrs.cli import run; assert run(['fit', '--help']) == 0",
        "from lmrs.cli import run; assert run(['data', '--help']) == 0",
    ],
)
def test_nothing_heavy_is_loaded(code: str) -> None:
    last = python(f"{code}\nimport sys, json\nprint(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))").splitlines()[-1]
    assert json.loads(last) == []


def test_every_public_name_resolves_and_is_listed() -> None:
    assert set(lmrs.__all__) == set(lmrs.PUBLIC)
    assert 20 <= len(lmrs.PUBLIC) <= 30
    for name in lmrs.PUBLIC:
        assert getattr(lmrs, name).__name__ == name
        assert name in dir(lmrs)


def test_functions_win_over_modules_of_the_same_name() -> None:
    out = python(
        "from lmrs.run import train\n"  # imports lmrs.fit and lmrs.evaluate, and so puts the modules into the package
        "import lmrs, lmrs.compare\n"
        "from lmrs import fit, evaluate, compare\n"
        "print(*map(callable, (fit, lmrs.evaluate, compare)), train.__module__)"
    )
    assert out.split() == ["True"] * 3 + ["lmrs.run"]


@pytest.mark.parametrize("name", ["models", "objectives", "views", "tasks", "prompts"])
def test_names_imported_on_first_use_are_told_alike_to_all(name: str) -> None:
    """To a type checker under TYPE_CHECKING, to `import *` in __all__, to Python in the table."""
    package = importlib.import_module(f"lmrs.{name}")
    folder = Path(str(package.__file__)).parent
    checked = {
        alias.asname or alias.name: str(node.module).rpartition(".")[2]
        for node in ast.walk(ast.parse((folder / "__init__.py").read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(f"lmrs.{name}.")
        for alias in node.names
    }
    assert len(checked) > 5
    assert checked == package._WHERE
    assert set(checked) == set(package.__all__)
    assert set(checked) <= set(dir(package))
    assert not set(checked) & {file.stem for file in folder.glob("*.py")}, "a module would take the name's place"
    for each, module in checked.items():
        assert getattr(package, each) is getattr(importlib.import_module(f"lmrs.{name}.{module}"), each)
    with pytest.raises(AttributeError, match=f"module 'lmrs.{name}' has no attribute 'Transformr'"):
        package.Transformr


def test_a_saved_model_is_read_without_the_parts_of_others(tmp_path: Path) -> None:
    fitted = lmrs.fit(sasrec(dim=8, layers=1, max_len=5, epochs=1), tiny.split(), seed=0)
    folder = lmrs.Recommender.of(fitted).save(tmp_path / "model")
    out = python(
        f"import sys, json, lmrs\nassert len(lmrs.Recommender.load({str(folder)!r}).recommend(['i1', 'i2'], k=3)) == 3\n"
        "print(json.dumps([name for name in sys.modules if name.split('.')[0] in ('lmrs', 'scipy', 'polars', 'rich')]))"
    )
    loaded = set(json.loads(out))
    assert "lmrs.models.transformer" in loaded
    for name in ("scipy", "polars", "rich", "lmrs.fit", "lmrs.systems", "lmrs.language", "lmrs.texts", "lmrs.models.generative",
                 "lmrs.objectives.cloze", "lmrs.tasks.task", "lmrs.views.dialogues"):  # fmt: skip
        assert name not in loaded, f"{name} is imported for one answer"


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="'lmrs' has no attribute 'fitt'"):
        lmrs.fitt  # type: ignore[attr-defined]
