"""Sides of one measurement: fresh processes in turn, ratios with an interval, one JSON file a benchmark.

A side is a command that prints lines and, last, `RESULT {json}` (see peers/clock.py). Rounds alternate the sides, so that a busy
neighbour meets all of them. The interval of a median of R rounds is [smallest, largest]: it holds the true median with
probability 1 - 2^(1 - R) whatever the noise looks like.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
MARK = "RESULT "


def call(command: list[str], *, limit: float = 1800) -> dict[str, Any]:
    """What one side reports, with the wall and processor seconds of its process and what it was asked for.

    {"failed": last line of its errors} if it stops with an error or takes longer than `limit` s.
    """
    settings = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    root = str(Path(__file__).parents[1])
    settings["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    if not Path(command[0]).exists():
        return {"failed": f"not installed: python -m benchmarks.peers install {Path(command[0]).parents[1].name}"}
    begin, spent = time.perf_counter(), _processor()
    try:
        with tempfile.TemporaryDirectory() as folder:  # some leave files where they are called
            done = subprocess.run(
                command, capture_output=True, text=True, env={**os.environ, **settings}, cwd=folder, timeout=limit, check=False
            )
    except subprocess.TimeoutExpired:
        return {"failed": f"took longer than {limit:.0f} s"}
    found = [line.removeprefix(MARK) for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not found:
        why = [line for line in done.stderr.splitlines() if line.strip()]
        return {"failed": why[-1][:300] if why else f"exit status {done.returncode}"}
    process = {"wall": time.perf_counter() - begin, "processor": _processor() - spent}
    return {"process": process, "asked": asked(command), **json.loads(found[-1])}


def _processor() -> float:
    """Processor seconds of the processes that were called and have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def asked(command: list[str]) -> str:
    """What a side is told, on the page: its last words, without paths. What else is set stands in its code."""
    words = command[2:] if command[1:2] != ["-m"] else command[3:]
    told = []
    for word in words:
        try:
            pairs = json.loads(word)
        except ValueError:
            pairs = word
        if isinstance(pairs, dict):
            told += [f"{name}={value}" for name, value in pairs.items() if "/" not in str(value)]
        elif "/" not in word and word != "--side":
            told.append(word)
    return " ".join(told)


Reports = dict[str, list[dict[str, Any]]]


def in_turn(
    sides: dict[str, list[str]], *, rounds: int, limit: float = 1800, after: Callable[[Reports], None] | None = None
) -> Reports:
    """Reports of each side, a fresh process each, stopped after `limit` s; a side that fails once is not asked again.

    after: called with what there is after every round, so that a run that is stopped leaves the rounds before it.
    """
    reports: Reports = {name: [] for name in sides}
    for number in range(rounds):
        names = list(sides) if number % 2 == 0 else list(reversed(sides))
        for name in names:
            if reports[name] and "failed" in reports[name][-1]:
                continue
            begin = time.perf_counter()
            reports[name].append(call(sides[name], limit=limit))
            wall = time.perf_counter() - begin
            print(f"  round {number + 1} {name}: {wall:.0f} s {reports[name][-1].get('failed', '')}", flush=True)
        if after is not None:
            after(reports)
    return reports


def middle(values: Iterable[float]) -> list[float]:
    """[median, smallest, largest], to four digits."""
    kept = sorted(values)
    return [float(f"{value:.4g}") for value in (statistics.median(kept), kept[0], kept[-1])]


def summary(
    reports: Reports, value: Callable[[dict[str, Any]], float], *, ours: str = "lmrs", higher: bool = True
) -> dict[str, Any]:
    """For each side [median, low, high] of a value, and of how often better ours is, round by round (higher: more is better);
    wall and processor seconds of the whole process in the same way, its peak memory, versions and what it was asked for."""
    out: dict[str, Any] = {}
    for name, found in reports.items():
        good = [report for report in found if "failed" not in report]
        if not good:
            out[name] = {"missing": found[-1]["failed"] if found else "not run"}
            continue
        each = {"value": middle(value(report) for report in good), "peak_mib": max(report["peak_mib"] for report in good)}
        if name != ours:
            pairs = [
                (value(mine), value(report))
                for mine, report in zip(reports[ours], found)
                if "failed" not in mine and "failed" not in report
            ]
            if pairs:
                each["ratio"] = middle((a / b) if higher else (b / a) for a, b in pairs)
        for kind in ("wall", "processor"):
            if all("process" in report for report in good):
                each[kind] = middle(report["process"][kind] for report in good)
        out[name] = each | {"versions": good[0].get("versions", {}), "asked": good[0].get("asked", "")}
    return out


def about() -> dict[str, str]:
    """When and on what: enough to read the figures elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
    load = os.getloadavg()[0]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": f"{os.cpu_count()} x {model}",
        "load": f"{load:.1f} at the end: other work may have run beside this",
        "python": platform.python_version(),
        "threads": "1",
    }


def write(name: str, report: dict[str, Any]) -> None:
    """Prints a report and keeps it in results/NAME.json; `python -m benchmarks.page` makes docs/performance.md of all of them."""
    from benchmarks.page import section

    print(*section(name, report | {"about": about()}), sep="\n", flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(report | {"about": about()}, indent=1) + "\n")


def own(module: str, *words: object) -> list[str]:
    """The command of a side in lmrs' own environment."""
    return [sys.executable, "-m", module, *(str(word) for word in words)]
