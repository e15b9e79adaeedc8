"""What every side of a measurement needs; runs in any environment (standard library alone)."""

from __future__ import annotations

import json
import math
import random
import sys
import time
from pathlib import Path


def task():
    """The JSON object that the command line ends with."""
    return json.loads(sys.argv[-1])


def peak_mib():
    """Peak resident memory of this program, MiB. (ru_maxrss would begin with the peak of the parent.)"""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) / 1024)
    return 0


def result(found, *packages):
    """Prints the last line, with the peak memory and the versions of packages."""
    from importlib.metadata import PackageNotFoundError, version  # here, for it is in no side's time then

    versions = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "missing"
    print("RESULT " + json.dumps({**found, "peak_mib": peak_mib(), "versions": versions}), flush=True)


def histories(items, count):
    """Lists of 1 to 50 item numbers, the same on every side."""
    rng = random.Random(0)
    return [[rng.randrange(items) for _ in range(rng.randint(1, 50))] for _ in range(count)]


def ndcg(lists, truth):
    """Mean NDCG@10 of the ten best items of each user, one true item each."""
    total = 0.0
    for best, wanted in zip(lists, truth):
        best = list(best)
        total += 1 / math.log2(best.index(wanted) + 2) if wanted in best else 0.0
    return total / len(truth)


class Laps:
    """Processor and wall seconds between marks, the first `warm` laps left out; counts what each lap did."""

    def __init__(self, warm):
        self.warm, self.laps, self.last = warm, [], None

    def mark(self, did=0):
        now = (time.process_time(), time.perf_counter())
        if self.last is not None:
            self.laps.append((now[0] - self.last[0], now[1] - self.last[1], did))
        self.last = now

    def found(self):
        kept = self.laps[self.warm :]
        cpu, wall, did = (sum(lap[n] for lap in kept) for n in range(3))
        return {"steps": len(kept), "cpu_seconds": cpu, "wall_seconds": wall, "targets": did, "rate": did / cpu}


def users(data):
    """(items, first place, place after the last) of each user's training events: all but the last two."""
    offsets = data["offsets"]
    return data["items"], offsets[:-1], offsets[1:] - 2
