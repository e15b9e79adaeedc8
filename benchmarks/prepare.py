"""How long and how much memory it takes to turn a raw log into the store.

    python benchmarks/prepare.py                 # 10 million events, CSV and Parquet, text and integer ids
    python benchmarks/prepare.py --events 1000000

Makes a log (Zipf items, users in random order, as a server would write it), then prepares it in a fresh process and reads that
process's peak resident memory. The bound is twice the size of the file, interpreter and libraries included. (A child starts with
the peak of its parent, so this process stays small and makes the log in another child.)
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


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    ask.add_argument("--events", type=int, default=10_000_000)
    ask.add_argument("--users", type=int, default=200_000)
    ask.add_argument("--items", type=int, default=50_000)
    ask.add_argument("--out", type=Path, help="write the figures to this JSON file")
    ask.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    ask.add_argument("--text", action="store_true", help=argparse.SUPPRESS)
    given = ask.parse_args()
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
                subprocess.run([sys.executable, __file__, "--make", str(path), *kind, *sizes], check=True)
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
