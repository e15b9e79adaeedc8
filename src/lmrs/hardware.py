"""How many threads to compute with, and how fast this machine is: what a cost card needs to be read elsewhere."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lmrs.errors import UserError


def cores() -> int:
    """Physical cores this process may use: hyper-threads count once, and a container's CPU quota is kept to."""
    places = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    siblings = set()
    for place in places:
        listed = Path(f"/sys/devices/system/cpu/cpu{place}/topology/thread_siblings_list")
        siblings.add(listed.read_text().strip() if listed.is_file() else str(place))
    return max(1, min(len(siblings), _quota()))


def _quota() -> int:
    """Whole CPUs that the control group grants (at least 1; very many if it sets no limit)."""
    limit = Path("/sys/fs/cgroup/cpu.max")
    quota, _, period = (limit.read_text() if limit.is_file() else "max").strip().partition(" ")
    return 1 << 20 if quota == "max" else max(1, int(quota) // int(period))


def processor() -> str:
    """Its name and what it can do, as far as the system tells: what a compiler tunes for."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    kept = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return "\n".join(kept[:2]) or platform.processor()


def said_threads() -> int | None:
    """The number in OMP_NUM_THREADS, or None if it says none."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdigit() and int(said) > 0 else None


def use_threads(threads: int | None = None) -> int:
    """Set torch's threads and return their number: `threads`, else OMP_NUM_THREADS, else the physical cores.

    Of several processes that torchrun started on this machine, each has its share of the cores. Raises UserError for less than
    one thread.
    """
    import torch

    number = threads if threads is not None else said_threads()
    if number is None:
        here = os.environ.get("LOCAL_WORLD_SIZE", "")
        number = max(1, cores() // (int(here) if here.isdigit() and int(here) > 0 else 1))
    if number < 1:
        raise UserError(needed="at least 1 thread", came=f"{number}")
    torch.set_num_threads(number)
    return number


@contextmanager
def threads_restored() -> Iterator[None]:
    """Torch has the threads that it had before when this block ends."""
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


SECONDS, TURNS = 0.4, 20  # of a probe at most; beside them comes finding out how much work fits in a turn


def fewest_threads(seconds: Callable[[int, int], float], *, most: int, rows: int) -> tuple[int, dict[int, float]]:
    """How many threads an update is worth, and how many times as fast it is with each other number tried.

    seconds(threads, n): the wall time of the work of an update on `n` of its rows. Tried are 1, 2, 4, ... and `most` threads, in
    turn, on as many rows as the time allows (at least one); of each number the best turn counts, since a neighbour can only make
    it slower. More threads are taken only where they gain a tenth over the fewer ones: another process may need the cores.
    """
    numbers = sorted({1 << power for power in range(most.bit_length())} | {most})
    if len(numbers) == 1:
        return 1, {}
    turn, some = SECONDS / (8 * len(numbers)), 1
    while (took := seconds(1, some)) < turn and some < rows:
        some = min(rows, 2 * some)
    if took < SECONDS:  # a long turn does not notice what starting the threads takes
        for number in numbers[1:]:
            seconds(number, 1)
    best, spent = dict.fromkeys(numbers, math.inf), 0.0
    for _ in range(TURNS):
        if spent >= SECONDS:
            break
        for number in numbers:
            took = seconds(number, some)
            best[number], spent = min(best[number], took), spent + took
    chosen = numbers[0]
    for number in numbers[1:]:
        if best[number] * 1.1 <= best[chosen]:
            chosen = number
    return chosen, {number: best[chosen] / best[number] for number in numbers if number != chosen}


def probes() -> dict[str, float]:
    """Gigaflops of a 1024 x 1024 matrix product, fp32 and bf16, with the threads that are set; about 0.1 s."""
    import torch

    found = {}
    for name, dtype in (("gemm_fp32_gflops", torch.float32), ("gemm_bf16_gflops", torch.bfloat16)):
        square = torch.ones(1024, 1024, dtype=dtype)
        torch.mm(square, square)
        begin, runs = time.perf_counter(), 0
        while runs < 2 or (time.perf_counter() - begin < 0.03 and runs < 50):
            torch.mm(square, square)
            runs += 1
        found[name] = round(runs * 2 * 1024**3 / (time.perf_counter() - begin) / 1e9, 1)
    return found


def bf16_gain(items: int, *, width: int = 64, rows: int = 128) -> float:
    """How many times as fast an [items, width] x [width, rows] product is in bf16 as in fp32; about 30 ms.

    The best of several turns of either, since a neighbour can only make them slower. items are cut off at 32,768.
    """
    import torch

    items = min(items, 32_768)
    sides = [
        (torch.ones(items, width, dtype=dtype), torch.ones(width, rows, dtype=dtype), torch.empty(items, rows, dtype=dtype))
        for dtype in (torch.float32, torch.bfloat16)
    ]
    best = [math.inf, math.inf]
    for turn in range(8):
        for side, (table, states, out) in enumerate(sides):
            begin = time.perf_counter()
            torch.mm(table, states, out=out)
            if turn:
                best[side] = min(best[side], time.perf_counter() - begin)
    return best[0] / best[1]


def keep_memory() -> bool:
    """Let glibc keep freed blocks of up to 64 MiB for the next step instead of returning them, for the rest of this process.

    Buffers as large as the item table are made anew each step; fetching their pages from the system again took 5 % of a step's
    processor time. Returns False where the C library has no such setting. Peak memory is not raised: what is kept was in use.
    """
    import ctypes

    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    try:
        setting = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(setting(mmap_threshold, 64 << 20)) and bool(setting(trim_threshold, 512 << 20))
