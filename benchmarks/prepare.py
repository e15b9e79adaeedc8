"""How long and how much memory it takes to turn a raw log into the store.

    python -m benchmarks.prepare                 # 10 million events, CSV and Parquet, text and integer ids
    python -m benchmarks.prepare --events 1000000
    python -m benchmarks.prepare --beside        # text ids alone, beside RePlay (Polars) and RecBole (pandas)

Makes a log (Zipf items, users in random order, as a server would write it), then prepares it in a fresh process and reads that
process's peak resident memory. The bound is twice the size of the file, interpreter and libraries included. (A child starts with
the peak of its parent, so this process stays small and makes the log in another child.)

Beside others, what is timed is lmrs' `sources.load` with an empty cache (checksum and the store on disk included), RePlay's
`SequenceTokenizer` on a Dataset of Polars, in memory, and RecBole's `create_dataset` of an atomic file, without its rows.
Equality first: all count the same users, items and events.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import beside, peers


def make(path: Path, *, events: int, users: int, items: int, text: bool) -> None:
    """Writes the log in pieces; text ids look like those of a shop (13 characters), others are integers."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    rng = np.random.default_rng(0)
    schema = pa.schema(
        {
            "user_id": pa.large_string() if text else pa.int64(),
            "item_id": pa.large_string() if text else pa.int64(),
            "rating": pa.int8(),
            "timestamp": pa.int64(),
        }
    )
    parquet = path.suffix == ".parquet"
    with pa.parquet.ParquetWriter(path, schema, compression="zstd") if parquet else pa.csv.CSVWriter(path, schema) as writer:
        now = 1_500_000_000
        for lo in range(0, events, 500_000):
            n = min(500_000, events - lo)
            who = rng.integers(0, users, n)
            what = np.minimum(rng.zipf(1.2, n), items) * 7919 % items
            when = now + np.cumsum(rng.integers(0, 30, n))
            now = int(when[-1])
            ids = [pa.array(who), pa.array(what)]
            if text:
                ids = [
                    pa.array([f"{mark}{n:012d}" for n in values], pa.large_string()) for mark, values in (("U", who), ("B", what))
                ]
            writer.write_table(pa.table([*ids, pa.array(rng.integers(1, 6, n), pa.int8()), pa.array(when)], schema=schema))


CHILD = """
import json, resource, sys, time
from lmrs import sources
begin = time.perf_counter()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
dataset = sources.load(sys.argv[1], cache=sys.argv[2])
first = time.perf_counter() - begin
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begin = time.perf_counter()
sources.load(sys.argv[1], cache=sys.argv[2])
again = time.perf_counter() - begin
sizes = {"events": dataset.n_events, "users": dataset.n_users, "items": dataset.n_items}
print(json.dumps({"seconds": first, "again_seconds": again, "import_mib": before / 1024, "peak_mib": peak / 1024, **sizes}))
"""


def side(path: str) -> dict:
    """lmrs beside others."""
    from lmrs import sources

    with tempfile.TemporaryDirectory() as cache:
        begin = time.process_time(), time.perf_counter()
        dataset = sources.load(path, cache=cache)
        cpu, wall = time.process_time() - begin[0], time.perf_counter() - begin[1]
    return {"cpu_seconds": cpu, "wall_seconds": wall, "counts": [dataset.n_users, dataset.n_items, dataset.n_events]}


def beside_others(given: argparse.Namespace) -> None:
    sizes = [f"--events={given.events}", f"--users={given.users}", f"--items={given.items}"]
    with tempfile.TemporaryDirectory() as work:
        paths = {suffix: Path(work) / f"interactions.{suffix}" for suffix in ("parquet", "csv")}
        for path in paths.values():
            subprocess.run([sys.executable, "-m", "benchmarks.prepare", "--make", str(path), "--text", *sizes], check=True)
        atomic = Path(work) / "here"
        atomic.mkdir()
        head = "user_id:token,item_id:token,rating:float,timestamp:float"
        with paths["csv"].open() as source, (atomic / "here.inter").open("w") as target:
            source.readline()
            target.write(head.replace(",", "\t") + "\n")
            target.writelines(line.replace('"', "").replace(",", "\t") for line in source)
        for suffix, path in paths.items():
            sides = {"lmrs": beside.own("benchmarks.prepare", "--side", str(path))}
            sides["replay"] = peers.side("replay", json.dumps({"task": "prepare", "path": str(path)}))
            if suffix == "csv":
                sides["recbole"] = peers.side("recbole", json.dumps({"task": "prepare", "path": work, "max_len": 50}))

            def keep(reports: beside.Reports, suffix: str = suffix, size: int = path.stat().st_size) -> None:
                counts = {str(report["counts"]) for found in reports.values() for report in found if "counts" in report}
                assert len(counts) == 1, f"sides differ in users, items or events: {counts}"
                data = {"events": given.events, "file_mib": round(size / 2**20, 1), "ids": "text"}
                parts = {
                    "processor seconds": beside.summary(reports, lambda report: report["cpu_seconds"], higher=False),
                    "peak memory : file": beside.summary(reports, lambda report: report["peak_mib"] * 2**20 / size, higher=False),
                }
                rounds = max(len(each) for each in reports.values())
                what = f"preparing events from {suffix.upper()}"
                beside.write(f"prepare-{suffix}", {"what": what, "data": data, "rounds": rounds, "parts": parts})

            beside.in_turn(sides, rounds=given.rounds, after=keep)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    ask.add_argument("--events", type=int, default=10_000_000)
    ask.add_argument("--users", type=int, default=200_000)
    ask.add_argument("--items", type=int, default=50_000)
    ask.add_argument("--out", type=Path, help="write the figures to this JSON file")
    ask.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    ask.add_argument("--text", action="store_true", help=argparse.SUPPRESS)
    ask.add_argument("--beside", action="store_true")
    ask.add_argument("--rounds", type=int, default=5)
    ask.add_argument("--side", help=argparse.SUPPRESS)
    given = ask.parse_args()
    if given.side:
        from benchmarks.peers.clock import result

        result(side(given.side), "lmrs", "pyarrow", "numpy")
        return
    if given.beside:
        beside_others(given)
        return
    if given.make is not None:
        make(given.make, events=given.events, users=given.users, items=given.items, text=given.text)
        return
    sizes = [f"--events={given.events}", f"--users={given.users}", f"--items={given.items}"]
    rows = []
    print(f"{'log':22} {'file MiB':>9} {'seconds':>8} {'again':>7} {'peak MiB':>9} {'import MiB':>10} {'peak/file':>9}")
    for suffix in ("csv", "parquet"):
        for text in (False, True):
            with tempfile.TemporaryDirectory() as work:
                path = Path(work) / f"interactions.{suffix}"
                kind = ["--text"] if text else []
                subprocess.run([sys.executable, "-m", "benchmarks.prepare", "--make", str(path), *kind, *sizes], check=True)
                done = subprocess.run(
                    [sys.executable, "-c", CHILD, str(path), f"{work}/cache"],
                    check=True,
                    capture_output=True,
                    text=True,
                    env={**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"},  # as the command line has it
                )
                size = path.stat().st_size / 2**20
                row = {"log": f"{suffix}, {'text' if text else 'integer'} ids", "file_mib": size, **json.loads(done.stdout)}
                rows.append(row)
                print(
                    f"{row['log']:22} {size:9.0f} {row['seconds']:8.1f} {row['again_seconds']:7.2f} {row['peak_mib']:9.0f} "
                    f"{row['import_mib']:10.0f} {row['peak_mib'] / size:9.2f}",
                    flush=True,
                )
    if given.out is not None:
        given.out.write_text(json.dumps({"when": time.strftime("%Y-%m-%d"), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
