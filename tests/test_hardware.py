"""What is asked of the machine: threads, probes, and how freed memory is kept."""

import platform
import subprocess
import sys

import pytest
import torch

from lmrs import hardware
from lmrs.errors import UserError

COUNT = """
import resource, sys, torch
from lmrs.hardware import keep_memory
torch.set_num_threads(1)
print(int(keep_memory()) if sys.argv[1] == "keep" else 0)
for turn in range(8):
    if turn == 3:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    made = [torch.zeros(10 << 20) for _ in range(3)]
    del made
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> tuple[int, int]:
    found = subprocess.run([sys.executable, "-c", COUNT, mode], capture_output=True, text=True, check=True).stdout.split()
    return int(found[0]), int(found[1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_kept_memory_is_not_fetched_again():
    """Five turns over three blocks of 40 MiB: 10,240 pages a block if they are fetched anew."""
    kept, again = faults("keep")
    assert kept == 1
    assert again < 3 * 10_240 < faults("return")[1]


def test_the_gain_of_bf16_is_a_ratio_of_times():
    assert 0 < hardware.bf16_gain(4096) < 100


def test_threads_are_those_that_are_asked_for(monkeypatch):
    before = torch.get_num_threads()
    try:
        assert hardware.use_threads(1) == torch.get_num_threads() == 1
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        assert hardware.use_threads() == torch.get_num_threads() == 2
        with pytest.raises(UserError, match="at least 1 thread, got 0"):
            hardware.use_threads(0)
        monkeypatch.delenv("OMP_NUM_THREADS")
        monkeypatch.setattr(hardware, "cores", lambda: 3)
        assert (hardware.said_threads(), hardware.use_threads()) == (None, 3)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # two processes that torchrun started
        assert hardware.use_threads() == 1
        with hardware.threads_restored():
            torch.set_num_threads(2)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def timed(row: float, gain: dict[int, float], *, noise: tuple[float, ...] = (1.0,)):
    """(a clock for fewest_threads, what it was asked): `row` seconds a row with one thread, noise[k] as long at the k-th call."""
    asked: list[tuple[int, int]] = []

    def seconds(threads: int, rows: int) -> float:
        asked.append((threads, rows))
        return row * rows / gain.get(threads, 1.0) * noise[len(asked) % len(noise)]

    return seconds, asked


@pytest.mark.parametrize(
    ("most", "gain", "chosen", "others"),
    [
        (1, {}, 1, {}),
        (2, {2: 0.86}, 1, {2: 0.86}),
        (2, {2: 1.09}, 1, {2: 1.09}),  # too little to take a core from another process
        (2, {2: 1.6}, 2, {1: 1 / 1.6}),
        (6, {2: 1.8, 4: 3.0, 6: 3.1}, 4, {1: 1 / 3, 2: 0.6, 6: 3.1 / 3}),
        (8, {2: 0.9, 4: 0.8, 8: 4.0}, 8, {1: 0.25, 2: 0.225, 4: 0.2}),
    ],
)
def test_no_more_threads_than_pay(most, gain, chosen, others):
    seconds, _ = timed(1e-3, gain)
    found, rates = hardware.fewest_threads(seconds, most=most, rows=128)
    assert found == chosen
    assert rates == pytest.approx(others)


def test_a_slow_moment_does_not_choose_the_threads():
    """Every third turn takes nine times as long, in turn with one and with two threads."""
    for gain, chosen in ((0.8, 1), (1.5, 2)):
        seconds, _ = timed(1e-4, {2: gain}, noise=(1.0, 1.0, 9.0))
        assert hardware.fewest_threads(seconds, most=2, rows=128)[0] == chosen


@pytest.mark.parametrize(
    ("row", "rows", "some", "longest"),
    [(1e-3, 128, 32, 0.6), (1e-6, 128, 128, 0.1), (1e-3, 4, 4, 0.6), (0.1, 128, 1, 0.9), (7.0, 128, 1, 21.0)],
)
def test_a_probe_of_threads_is_short(row, rows, some, longest):
    """It works on as many rows as half a second allows, on one where that is too much, and never twice what takes seconds."""
    seconds, asked = timed(row, {})
    hardware.fewest_threads(seconds, most=2, rows=rows)
    assert {n for threads, n in asked if threads == 2} <= {1, some}
    assert asked[-1] == (2, some)
    assert sum(row * n for _, n in asked) <= longest
