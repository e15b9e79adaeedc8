"""What a user can get wrong on the command line is one line on stderr that says how to mend it, and exit status 1."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from lmrs.cli import run
from lmrs.errors import LmrsError
from lmrs.lock import RunLock

DATA = "synthetic:users=20,items=10,length=6"
FIT = ["fit", "markov", "--data", DATA, "--out", "run", "--quiet"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMRS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line."""
    capsys.readouterr()
    status = run(list(arguments))
    out = capsys.readouterr()
    assert status == 1
    assert out.out == ""
    assert "Traceback" not in out.err
    lines = out.err.splitlines()
    assert lines[-1].startswith("lmrs: ")
    assert sum(line.startswith("lmrs: ") for line in lines) == 1
    return lines[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fitt"], r"no command 'fitt'; did you mean fit"),
        (["data", "inspct", "x"], r"inspct"),
        (["fit", "sasrex", "--data", DATA, "--out", "run"], r"got 'sasrex'; did you mean sasrec"),
        (["fit", "markov", "--data", DATA], r"[Mm]issing option '--out'.*lmrs fit --help"),
        (["fit", "markov", "--out", "run"], r"[Mm]issing option '--data'"),
        ([*FIT, "--sed", "1"], r"[Nn]o such option.*--sed.*--seed"),
        ([*FIT, "--seed", "x"], r"'x' is not a valid integer"),
        ([*FIT, "--set", "dim=3"], r"needed a setting of markov, got 'dim'; choose one of smoothing"),
        ([*FIT, "--set", "smooting=3"], r"got 'smooting'; did you mean smoothing"),
        ([*FIT, "--set", "smoothing=much"], r"needed smoothing as a number, got 'much'"),
        ([*FIT, "--set", "smoothing"], r"settings such as dim=64, got 'smoothing'"),
        ([*FIT, "--set", "smoothing=1", "--set", "smoothing=2"], r"every setting once, got smoothing twice"),
        (["fit", "popularity", "--data", DATA, "--out", "run", "--set", "dim=3"], r"got 'dim'; it has none"),
        (["fit", "sasrec", "--data", DATA, "--out", "run", "--set", "dim=2.5"], r"needed dim as a whole number, got '2.5'"),
        (["fit", "sasrec", "--data", DATA, "--out", "run", "--set", "dim=63"], r"heads that divide dim, got dim=63, heads=2"),
        (["fit", "sasrec", "--data", DATA, "--out", "run", "--set", "loss=bpr"], r"a loss among .*, got 'bpr'"),
        (
            ["fit", "sasrec", "--data", DATA, "--out", "run", "--set", "stride=often"],
            r"stride as a whole number or none, got 'often'",
        ),
        ([*FIT[:3], "nowhere.csv", *FIT[4:]], r"the name of a source or an existing path, got 'nowhere.csv'"),
        ([*FIT[:3], "movielens-10k", *FIT[4:]], r"did you mean movielens-100k"),
        ([*FIT, "--split", "leave-two-out"], r"a split among .*, got 'leave-two-out'; did you mean leave-one-out"),
        ([*FIT, "--split", "time", "--test-from", "soon"], r"a share in \(0, 1\) or a date such as 2020-01-31, got 'soon'"),
        ([*FIT, "--split", "user", "--test-from", "1.5"], r"a share in \(0, 1\) such as 0.8, got '1.5'"),
        ([*FIT, "--core", "900"], r"core of synthetic, got nothing"),
        ([*FIT, "--measure", "NDGC@10"], r"got 'NDGC@10'; did you mean NDCG"),
        ([*FIT, "--measure", "HR"], r"HR with a cutoff, got 'HR'; write HR@10"),
        ([*FIT, "--measure", "RMSE"], r"measures of a ranking, got RMSE"),
        ([*FIT, "--column", "usr=x"], r"columns such as user=customer_id, got 'usr=x'; did you mean user"),
        ([*FIT, "--threads", "0"], r"at least 1 thread, got 0"),
        ([*FIT, "--device", "gpu0"], r"the device cpu, cuda or auto, got 'gpu0'"),
        (["fit", "mine.py:f", "--data", DATA, "--out", "run"], r"the Python file .*mine.py, got no such file"),
        (["evaluate", "nowhere"], r"a run in nowhere, got no such folder"),
        (["evaluate", "."], r"a folder without run.json"),
        (["recommend", "nowhere", "--history", "1"], r"a saved recommender at nowhere"),
        (["recommend", "nowhere"], r"needed a history, got none; add --history"),
        (["recommend", "x", "--history", "1", "--user", "2"], r"got both; leave one out"),
        (["compare", "x", "y"], r"x"),
    ],
    ids=lambda x: " ".join(x)[:50] if isinstance(x, list) else "",
)
def test_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert re.search(message, told(capsys, *arguments))
    assert not Path("run", "model").exists()


def test_a_run_folder_holds_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(FIT) == 0
    assert "an empty run folder: run, got one with a run in it; add --resume, or choose another --out" in told(capsys, *FIT)
    assert "smoothing was 1.0, is 2.0" in told(capsys, *FIT, "--resume", "--set", "smoothing=2")
    assert "seed was 0, is 1" in told(capsys, *FIT, "--resume", "--seed", "1")
    assert "system was markov, is popularity" in told(capsys, "fit", "popularity", *FIT[2:], "--resume")
    assert "split was leave-one-out, is user" in told(capsys, *FIT, "--resume", "--split", "user")
    assert run([*FIT, "--resume"]) == 0


def test_a_fit_that_failed_early_does_not_block_its_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert "needed" in told(capsys, "fit", "s3rec", "--data", DATA, "--out", "run", "--quiet", "--set", "epochs=1")
    assert run(FIT) == 0


def test_a_run_that_somebody_else_writes(capsys: pytest.CaptureFixture[str]) -> None:
    with RunLock("run"):
        assert f"owned by process {os.getpid()}" in told(capsys, *FIT)


def test_damage_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(FIT) == 0
    tensors = Path("run/model/tensors.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-3])
    assert "run/model/tensors.safetensors" in told(capsys, "recommend", "run", "--history", "i1")
    assert "run/model/tensors.safetensors" in told(capsys, "evaluate", "run", "--quiet")
    Path("run/run.json").write_text("{")
    assert "run/run.json" in told(capsys, "evaluate", "run", "--quiet")
    Path("run/run.json").write_text(json.dumps({"system": "markov"}))
    assert "run/run.json" in told(capsys, "evaluate", "run", "--quiet")


def test_data_that_changed_since_the_fit(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"u{n % 5},i{n % 7},{1_600_000_000 + n}" for n in range(40)]
    Path("shop.csv").write_text("\n".join(["user,item,time", *rows]))
    assert run(["fit", "markov", "--data", "shop.csv", "--out", "run", "--quiet"]) == 0
    Path("shop.csv").write_text("\n".join(["user,item,time", *rows, "u1,i2,1700000000"]))
    assert "changed since" in told(capsys, "evaluate", "run", "--quiet")
    assert run(["evaluate", "run", "--quiet", "--data", "shop.csv"]) == 0
    Path("else.csv").write_text("\n".join(["user,item,time", *(row.replace(",i", ",other") for row in rows)]))
    assert "none of the 7 items of else" in told(capsys, "evaluate", "run", "--quiet", "--data", "else.csv")


def test_a_user_who_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(FIT) == 0
    assert re.search(r"a user of synthetic, got 'u999'; did you mean u", told(capsys, "recommend", "run", "--user", "u999"))


def test_own_files_that_do_not_work(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.py").write_text("def chain(*, order: int):\n    return order\n\ndef boom():\n    return 1 / 0\n")
    own = ["--data", DATA, "--out", "run", "--quiet"]
    assert "got 'chian'; did you mean chain" in told(capsys, "fit", "./mine.py:chian", *own)
    assert "got no function" in told(capsys, "fit", "./mine.py", *own)
    assert "a value for order, got none; add --set order=VALUE" in told(capsys, "fit", "./mine.py:chain", *own)
    assert "a System from chain, got int" in told(capsys, "fit", "./mine.py:chain", "--set", "order=2", *own)
    assert "a System from boom, got ZeroDivisionError: division by zero (line 5); mend it" in told(
        capsys, "fit", "./mine.py:boom", *own
    )


def test_disk_full(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    assert "No space left on device; free some space" in told(capsys, *FIT)


def test_a_fault_of_lmrs_is_one_line_unless_one_asks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: object) -> None:
        raise ZeroDivisionError("deep inside\nsomewhere")

    monkeypatch.setattr("lmrs.cli.options.the_data", broken)
    line = told(capsys, *FIT)
    assert "ZeroDivisionError: deep inside somewhere - this is a fault of lmrs, not yours: please report it" in line
    with pytest.raises(ZeroDivisionError):
        run(["--debug", *FIT])


def test_ctrl_c_before_the_fit(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lmrs.cli.options.the_data", stop)
    assert run(FIT) == 130
    assert capsys.readouterr().err.strip() == "lmrs: stopped"


def test_user_errors_can_be_debugged() -> None:
    with pytest.raises(LmrsError):
        run(["--debug", "evaluate", "nowhere"])
