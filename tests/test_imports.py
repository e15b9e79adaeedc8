"""`import lmrs` and `lmrs --help` are quick: they load nothing heavy. Public names resolve, whatever was imported before."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import lmrs

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


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="'lmrs' has no attribute 'fitt'"):
        lmrs.fitt  # type: ignore[attr-defined]
