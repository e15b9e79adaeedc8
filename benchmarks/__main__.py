"""Run benchmarks, one fresh process each, and write docs/performance.md: `python -m benchmarks [NAME ...] [--data-root FOLDER]`.

Machines are shared and noisy: read the ratios, which are taken side by side, not the absolute figures. Those on real histories
need a folder with ml-100k, ml-1m and amazon-beauty; without one they say so and leave the figures that are there. Peers:
`python -m benchmarks.peers install all`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

ON_DATA = ("rate", "ranking", "validating", "sampled")
ALL = (
    "training",
    *ON_DATA,
    "serving",
    "loss",
    "measures",
    "prepare",
    "checkpoint",
    "growth",
    "processes",
    "candidates",
    "beam",
    "encoding",
)
LONG = ("quality", "compiled")  # run by name alone


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = (*ALL, *LONG)
    told = f"of {', '.join(names)}; without any, all but the last {len(LONG)}, which take hours"
    parser.add_argument("names", nargs="*", metavar="NAME", help=told)
    parser.add_argument("--data-root")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in names]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(names)}", file=sys.stderr)
        return 1
    failed = 0
    for name in given.names or ALL:
        print(f"== {name}", flush=True)
        more = ["--data-root", given.data_root] if given.data_root and name in (*ON_DATA, *LONG) else []
        failed |= subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *more], check=False).returncode
    return failed | subprocess.run([sys.executable, "-m", "benchmarks.page"], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
