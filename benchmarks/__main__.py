"""Run every benchmark, one fresh process each: `python -m benchmarks [NAME ...]`.

Machines are shared and noisy: read the ratios, which are taken side by side, not the absolute figures.
"""

from __future__ import annotations

import subprocess
import sys

ALL = ("training", "loss", "measures", "prepare", "checkpoint", "candidates", "beam", "encoding")


def main() -> int:
    names = sys.argv[1:] or ALL
    unknown = [name for name in names if name not in ALL]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(ALL)}", file=sys.stderr)
        return 1
    failed = 0
    for name in names:
        print(f"== {name}", flush=True)
        failed |= subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode
    return failed


if __name__ == "__main__":
    sys.exit(main())
