"""One owner for a run folder.

The lock is the kernel's (`flock`), not the file: it ends with the process, however that ends, so a crashed owner never
blocks the next one. The file only tells people whose lock it is, and stays behind, empty, when the owner leaves: deleting
it would let two processes hold locks on two files of one name. POSIX only.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from types import TracebackType

from lmrs.errors import BusyError, UserError

NAME = "lock"


class RunLock:
    """Exclusive ownership of a run folder, as a context manager; the folder is made if it is missing.

        with RunLock(folder):
            ...  # nobody else writes here

    folder: the run folder. While the lock is held, `folder/lock` holds the owner's pid in decimal.
    Entering raises BusyError, naming the owner's pid, if another process (or another RunLock of this one) is the owner,
    and UserError if the folder cannot be made, written or locked. A process forked from the owner shares the lock.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._held: int | None = None

    def __enter__(self) -> RunLock:
        if self._held is not None:
            raise BusyError(needed=f"a run folder that is free: {self.folder}", came="this lock, held already")
        path = self.folder / NAME
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _unusable(path, error) from error
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(held, 0)
            os.pwrite(held, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            owner = os.pread(held, 32, 0).decode("ascii", "replace").strip()
            os.close(held)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise BusyError(
                    needed=f"a run folder that no other process writes: {self.folder}",
                    came=f"one owned by process {owner}" if owner else "one that a process is just taking",
                    remedy="wait for it to end, stop it, or choose another folder",
                ) from None
            raise _unusable(path, error) from error
        self._held = held
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        held, self._held = self._held, None
        if held is not None:
            try:
                os.ftruncate(held, 0)  # before the release: afterwards the file may be the next owner's
            finally:
                os.close(held)


def _unusable(path: Path, error: OSError) -> UserError:
    return UserError(
        needed=f"a lock file that can be written and locked: {path}",
        came=error.strerror or str(error),
        remedy="choose a folder on a disk that you may write and that supports flock",
    )
