"""The demo's whole way, on a small data set and one epoch each; and again, from the runs that are there."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest

from lmrs.cli import run
from lmrs.cli.demo import CONTROLS, LEARNERS, SHOWN
from lmrs.progress import Reporter

DATA = "synthetic:users=40,items=25,length=12,seed=1"


def test_the_demo_shows_quality_cost_protocol_and_lists(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["demo", "--data", DATA, "--epochs", "1", "--quiet"]
    assert run(arguments) == 0
    shown = capsys.readouterr().out
    for name in (*CONTROLS, *LEARNERS):
        assert name in shown
        report = json.loads(Path("runs/demo", name, "evaluation/report.json").read_text())
        assert f"{report['measures']['NDCG@10']:.3f} [{report['intervals']['NDCG@10'][0]:.3f}" in shown
    assert "synthetic, leave-one-out, test part, 40 queries, all 25 items ranked" in " ".join(shown.split())
    assert shown.count("then came") == 3
    assert all(f"{name} recommends" in shown for name in SHOWN)
    assert "Item " in shown  # titles, not ids
    assert shown.rstrip().endswith("lmrs recommend runs/mine --history ID,ID,ID")
    assert {"sasrec", "bert4rec"} <= {*LEARNERS}
    assert len(LEARNERS) >= 3

    compare = next(line for line in shown.splitlines() if "lmrs compare" in line).partition("lmrs ")[2].split()
    assert run([*compare, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["system"] for row in rows] == ["item-knn", *LEARNERS]

    before = Path("runs/demo/sasrec/metrics.jsonl").read_bytes()
    assert run(arguments) == 0
    again = capsys.readouterr().out
    assert again.splitlines()[-20:] == shown.splitlines()[-20:]
    assert Path("runs/demo/sasrec/metrics.jsonl").read_bytes() == before


def test_a_stopped_demo_says_how_it_goes_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "step", lambda self, note="", *, by=1: signal.raise_signal(signal.SIGINT))
        patch.setattr(sys.modules["lmrs.cli.demo"], "CONTROLS", ())
        assert run(["demo", "--data", DATA, "--epochs", "1", "--quiet"]) == 130
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "state saved in runs/demo/gru4rec; go on with the same command" in told


def test_no_network_and_no_copy_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMRS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.chdir(tmp_path)
    assert run(["demo", "--quiet"]) == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert "movielens-100k" in told[0] or "recbole" in told[0]
    assert "--data" in told[0] or "copy" in told[0]
