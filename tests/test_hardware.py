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
    finally:
        torch.set_num_threads(before)
