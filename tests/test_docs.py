"""The documentation is true: every block runs, generated parts are fresh, every command and path is there."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from lmrs.cli import run

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/guide.md", "docs/tutorial.md")
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def generate() -> Iterator[object]:
    sys.path.insert(0, str(ROOT))
    try:
        yield importlib.import_module("docs.generate")
    finally:
        sys.path.remove(str(ROOT))


@pytest.mark.parametrize("page", PAGES)
def test_every_block_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Blocks with a file name are written, `python` blocks run in one namespace, `$ lmrs` lines as commands; in order."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LMRS_CACHE", str(tmp_path / "cache"))
    names: dict[str, object] = {}
    ran = 0
    for language, file, text in BLOCK.findall((ROOT / page).read_text(encoding="utf-8")):
        if file:
            Path(file).write_text(text, encoding="utf-8")
        elif language == "python":
            exec(compile(text, f"{page}, a python block", "exec"), names)  # the page's own code
            ran += 1
        elif language == "console":
            for line in text.splitlines():
                assert line.startswith("$ lmrs "), line
                assert run(shlex.split(line)[2:]) == 0, (line, capsys.readouterr().err)
                ran += 1
        else:
            assert language in ("text", "sh"), f"a block that nobody runs: {language}"
    assert ran >= 4


def test_generated_parts_are_fresh(generate: object) -> None:
    for file, text in generate.render(ROOT).items():  # type: ignore[attr-defined]
        assert file.read_text(encoding="utf-8") == text, f"{file.name} is stale: run make docs"


def test_every_command_and_option_is_documented(generate: object) -> None:
    from lmrs.cli import lmrs

    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for path, context in generate.walk(click.Context(lmrs, info_name="lmrs")):  # type: ignore[attr-defined]
        command = context.command
        assert f"## {path}\n" in text
        assert command.help, f"{path} says nothing of itself"
        for option in command.params:
            if option.param_type_name == "option":
                assert option.help, f"{path} {option.name} is not explained"  # type: ignore[attr-defined]


def test_the_ten_lines_are_ten() -> None:
    first = next(text for language, file, text in BLOCK.findall((ROOT / "README.md").read_text()) if language == "python")
    assert 8 <= len([line for line in first.splitlines() if line.strip()]) <= 11


def test_the_annotated_tree_is_the_tree() -> None:
    tree = next(text for language, _, text in BLOCK.findall((ROOT / "README.md").read_text()) if language == "text")
    assert "src/lmrs/" in tree
    for line in tree.splitlines():
        inside = ROOT / "src" / "lmrs" if line.startswith("  ") else ROOT
        for name in re.split(r"\s{2,}", line.strip())[0].split():
            assert (inside / name).exists(), f"the README names {name}, which is not there"


def test_links_lead_somewhere() -> None:
    for page in (*PAGES, "CHANGELOG.md", "CONTRIBUTING.md", "docs/catalogue.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
            if "://" not in target:
                assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


def test_no_place_of_one_machine_is_named() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*"), *(ROOT / "examples").glob("*")]:
        if page.is_file():
            assert not re.search(r"/(work|home|root|tmp)/", page.read_text(encoding="utf-8")), page
