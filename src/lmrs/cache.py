"""Where prepared stores and downloads are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

from lmrs.errors import StorageError
from lmrs.files import storage


def cache_folder(cache: str | os.PathLike[str] | None = None) -> Path:
    """The cache: `cache` if given, else $LMRS_CACHE, else $XDG_CACHE_HOME/lmrs, else ~/.cache/lmrs. It is made if need be.

    Raises StorageError if it cannot be written.
    """
    if cache is not None:
        folder = Path(cache)
    elif named := os.environ.get("LMRS_CACHE"):
        folder = Path(named)
    elif base := os.environ.get("XDG_CACHE_HOME"):
        folder = Path(base) / "lmrs"
    else:
        folder = Path("~/.cache/lmrs").expanduser()
    try:
        with storage(folder):
            folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except StorageError as error:
        raise StorageError(
            needed=f"a cache folder at {folder}", came=error.came, remedy="set LMRS_CACHE to one you may write"
        ) from error
    if not writable:
        raise StorageError(
            needed=f"a cache folder at {folder}", came="one you may not write", remedy="set LMRS_CACHE to one you may write"
        )
    return folder
