"""`python -m benchmarks.peers` says which peers are there, `... install NAME [NAME ...]` or `... install all` makes them."""

from __future__ import annotations

import sys

from benchmarks.peers import PEERS, home, install, there


def main() -> int:
    words = sys.argv[1:]
    if words[:1] == ["install"]:
        names = list(PEERS) if words[1:] == ["all"] else words[1:]
        if not names or any(name not in PEERS for name in names):
            print(f"which one? {', '.join(PEERS)}, or all", file=sys.stderr)
            return 1
        for name in names:
            install(name)
    for name in PEERS:
        print(f"{name:10} {home() / name if there(name) else 'missing: python -m benchmarks.peers install ' + name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
