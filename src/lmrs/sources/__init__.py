"""Where data comes from: named sources, the user's own files, and synthetic chains."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from lmrs import store
from lmrs.dataset import Dataset
from lmrs.errors import DataError, did_you_mean
from lmrs.sources.cache import cache_folder
from lmrs.sources.columns import check_keys
from lmrs.sources.folder import layout
from lmrs.sources.prepare import prepare

__all__ = ["cache_folder", "load"]


def load(
    source: str | os.PathLike[str],
    *,
    columns: Mapping[str, str] | None = None,
    lenient: bool = False,
    drop_duplicates: bool = False,
    time_unit: str | None = None,
    cache: str | os.PathLike[str] | None = None,
    quarantine: str | os.PathLike[str] | None = None,
    name: str | None = None,
) -> Dataset:
    """The Dataset called `source`."""
    given = check_keys(columns)
    path = Path(source)
    if not path.exists():
        raise DataError(needed="data", came=f"'{source}'", remedy=did_you_mean(str(source), ["movielens-100k"]))
    if path.is_dir() and (path / "manifest.json").exists():
        return store.open(path)
    return prepare(
        layout(path, given=given, name=name),
        cache=cache_folder(cache),
        lenient=lenient,
        drop_duplicates=drop_duplicates,
        time_unit=time_unit,
        quarantine=Path(quarantine) if quarantine is not None else None,
    )
