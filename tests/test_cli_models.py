"""`lmrs models`: what has a name, what is here, and fetching it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lmrs.cli import run
from lmrs.language import known


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LMRS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_list_tells_family_size_licence_origin_and_presence(capsys: pytest.CaptureFixture[str]) -> None:
    here = known.kept(known.KNOWN[0])
    here.mkdir(parents=True)
    assert run(["models", "list"]) == 0
    told = capsys.readouterr().out
    assert "minilm: encoder, 22.7 M parameters, 256 tokens, Apache-2.0" in told
    assert f"here: {here}" in told
    assert "smollm2: causal, 134.5 M parameters" in told
    assert "not fetched (93 MB): lmrs models get smollm2" in told
    assert "gemma3-270m: causal, 268.1 M parameters, 32,768 tokens, Gemma Terms of Use" in told
    assert "tiny-seq2seq: seq2seq" in told
    assert run(["models", "list", "--json"]) == 0
    rows = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert list(rows) == [*(each.name for each in known.KNOWN), *known.TINY]
    assert rows["minilm"]["path"] == str(here)
    assert not rows["smollm2"]["here"]
    assert rows["gemma3-270m"]["needs_terms"]


def test_list_looks_into_another_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known.kept(known.KNOWN[0], tmp_path / "other").mkdir(parents=True)
    assert run(["models", "list", "--cache", str(tmp_path / "other"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["here"]


def test_list_needs_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from lmrs.cli import run; run(['models', 'list']); "
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_get_of_what_is_there_or_needs_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = known.kept(known.KNOWN[0])
    here.mkdir(parents=True)
    assert run(["models", "get", "minilm"]) == 0
    assert capsys.readouterr().out == f"minilm: in {here}\n"
    assert run(["models", "get", "minilm", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"name": "minilm", "path": str(here)}
    assert run(["models", "get", "tiny-causal"]) == 0
    assert "made in code" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["get", "miniml"], "got 'miniml'; did you mean minilm?"),
        (["get", "gemma3-270m"], "run lmrs models get gemma3-270m --accept-terms"),
        (["get"], "NAME"),
        (["lst"], "list"),
    ],
)
def test_mistakes_are_one_line_and_exit_1(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", *arguments]) == 1
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_an_index_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: Could not find a version that satisfies the requirement\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    assert run(["models", "get", "minilm", "--quiet"]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "from a package index, got ERROR: Could not find a version" in told
