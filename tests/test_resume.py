"""A run that is killed anywhere and resumed ends with the same bits as one that is not: the whole promise, in real processes."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
from fit_runs import Runner

from lmrs import checkpoint


@pytest.fixture(scope="module")
def runner():
    with Runner() as running:
        yield running


def saves(events: list[str]) -> list[int]:
    """Where each save makes its folder."""
    return [at for at, kind in enumerate(events) if kind == "mkdir" and events[at + 1] == "open" and "backward" in events[:at]]


def one_save(events: list[str]) -> list[int]:
    """Every file operation of the last save but one (of writes in a row the first and the last), the evaluation after it, the
    log, and the renames of the last save, which replaces a checkpoint of the same step."""
    begin = saves(events)[-2]
    until = events.index("judge", begin)
    assert {"rename", "fsync", "rmdir"} <= set(events[begin:until])
    inner = [at for at in range(begin, until) if events[at - 1 : at + 2] != ["write"] * 3]
    return inner + [at for at in range(until, len(events)) if events[at] in ("judge", "judged", "rename", "fsync")]


def spread(events: list[str], count: int) -> list[int]:
    """`count` events, evenly over the run, and the first of each kind but writes."""
    firsts = {events.index(kind) for kind in set(events) - {"write"}}
    others = [at for at, kind in enumerate(events) if kind != "write"]
    return sorted(firsts | set(others[:: max(1, len(others) // count)]))


def assert_same(got: dict, whole: dict, run: Path, reference: Path) -> None:
    """Weights, log, counts, metrics.jsonl and every tensor of the last checkpoint, bit for bit."""
    assert {key: got.get(key, got) for key in whole if key != "events"} == {k: v for k, v in whole.items() if k != "events"}
    ours, theirs = checkpoint.steps(run / "checkpoints")[-1], checkpoint.steps(reference / "checkpoints")[-1]
    assert ours.name == theirs.name
    assert (ours / "tensors.safetensors").read_bytes() == (theirs / "tensors.safetensors").read_bytes()


@pytest.mark.parametrize(("system", "count"), [("sasrec", 0), ("bert4rec", 4), ("two-stages", 10), ("three-stages", 4)])
def test_kill_9_and_resume(runner, tmp_path, system, count):
    reference = tmp_path / "whole"
    whole = runner(system=system, out=reference)
    points = spread(whole["events"], count) if count else one_save(whole["events"])
    assert len(points) >= (30 if not count else 12)
    for at in points:
        run = tmp_path / str(at)
        assert runner(system=system, out=run, kill_at=at) == {"killed": signal.SIGKILL}, whole["events"][at]
        assert_same(runner(system=system, out=run, resume=True), whole, run, reference)
        assert not list(run.glob("checkpoints/.*"))  # no rubbish stays


def test_resuming_starts_from_the_checkpoint_and_not_from_the_beginning(runner, tmp_path):
    whole = runner(system="sasrec", out=tmp_path / "whole")
    last_update = max(at for at, kind in enumerate(whole["events"]) if kind == "update")
    runner(system="sasrec", out=tmp_path / "run", kill_at=last_update)
    again = runner(system="sasrec", out=tmp_path / "run", resume=True)
    assert whole["events"].count("update") == 12
    assert again["events"].count("update") == 3  # saved after 9 of 12
    assert runner(system="sasrec", out=tmp_path / "run", resume=True)["events"].count("update") == 0  # nothing is left to do


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_again_and_again(runner, tmp_path, seed):
    """Kills at random distances, resumes included, until the run has seen its end."""
    reference, run = tmp_path / "whole", tmp_path / "run"
    whole = runner(system="two-stages", out=reference, checkpoint_every=1)
    draw = random.Random(seed)
    kills = 0
    while True:
        got = runner(system="two-stages", out=run, checkpoint_every=1, resume=True, kill_at=draw.randrange(40, 400))
        if got != {"killed": signal.SIGKILL}:
            break
        kills += 1
        assert kills < 100
    assert kills >= 4
    assert_same(got, whole, run, reference)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("kind", ["backward", "judge", "rename"])
def test_a_polite_stop_finishes_the_step_and_saves(runner, tmp_path, number, code, kind):
    reference, run = tmp_path / "whole", tmp_path / "run"
    whole = runner(system="bert4rec", out=reference)
    where = [at for at, event in enumerate(whole["events"]) if event == kind][1]
    step = whole["events"][: where + 1].count("update") + (kind == "backward")
    stopped = runner(system="bert4rec", out=run, signals=[[where, int(number)]])
    assert stopped["interrupted"] == code
    if kind != "rename":
        assert stopped["message"] == f"stopped at step {step}; state saved in {run}; go on with --resume"
        assert checkpoint.steps(run / "checkpoints")[-1].name == checkpoint.step_name(step)
    assert_same(runner(system="bert4rec", out=run, resume=True), whole, run, reference)


def test_a_second_ctrl_c_stops_at_once(runner, tmp_path):
    reference, run = tmp_path / "whole", tmp_path / "run"
    whole = runner(system="bert4rec", out=reference)
    save = saves(whole["events"])[1]  # the second signal comes in the middle of a save
    impatient = runner(system="bert4rec", out=run, signals=[[save + 1, int(signal.SIGINT)], [save + 6, int(signal.SIGINT)]])
    assert impatient == {"failed": "KeyboardInterrupt: "}
    assert [path.name for path in (run / "checkpoints").iterdir()] == [checkpoint.step_name(3)]
    assert_same(runner(system="bert4rec", out=run, resume=True), whole, run, reference)


def test_ctrl_c_then_sigterm_still_saves(runner, tmp_path):
    """What a process under torchrun gets: the terminal tells it, then torchrun does."""
    whole = runner(system="bert4rec", out=tmp_path / "whole")
    [first, *_] = [at for at, event in enumerate(whole["events"]) if event == "backward"]
    stopped = runner(
        system="bert4rec", out=tmp_path / "run", signals=[[first, int(signal.SIGINT)], [first + 1, int(signal.SIGTERM)]]
    )
    assert stopped["interrupted"] == 130
    assert checkpoint.steps(tmp_path / "run" / "checkpoints")[-1].name == checkpoint.step_name(1)
