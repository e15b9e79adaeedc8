"""One owner for a run folder, across real processes and real kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from lmrs.errors import BusyError, UserError
from lmrs.lock import RunLock

OWNER = """
import sys, time
from lmrs.lock import RunLock
with RunLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def owner(folder):
    """A process that owns the folder until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_second_process_is_told_whose_it_is(tmp_path):
    with owner(tmp_path) as process:
        with pytest.raises(BusyError, match=rf"no other process writes: {tmp_path}, got one owned by process {process.pid};"):
            RunLock(tmp_path).__enter__()
        assert (tmp_path / "lock").read_text() == f"{process.pid}\n"  # the refused one left it as it was


def test_a_dead_owner_is_taken_over(tmp_path):
    with owner(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (tmp_path / "lock").read_text() == f"{process.pid}\n"  # nothing tidied up
        with RunLock(tmp_path):
            assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_left_free(tmp_path):
    with owner(tmp_path) as process:
        process.communicate("go\n")
        assert process.returncode == 0
    assert (tmp_path / "lock").read_text() == ""
    for _ in range(2):
        with RunLock(tmp_path):
            pass


def test_freed_by_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), RunLock(tmp_path):
        1 / 0
    with RunLock(tmp_path):
        pass


def test_twice_in_one_process(tmp_path):
    lock = RunLock(tmp_path)
    with lock:
        with pytest.raises(BusyError, match=f"owned by process {os.getpid()}"):
            RunLock(tmp_path).__enter__()
        with pytest.raises(BusyError, match="held already"):
            lock.__enter__()
        with pytest.raises(BusyError):  # the refused attempts did not let go
            RunLock(tmp_path).__enter__()


def test_makes_the_folder(tmp_path):
    with RunLock(str(tmp_path / "a" / "run")):
        assert (tmp_path / "a" / "run" / "lock").exists()


def test_unusable_folders(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"lock file that can be written and locked: .*file.*; choose a folder"):
        RunLock(tmp_path / "file").__enter__()


def test_a_disk_without_locks(tmp_path, monkeypatch):
    import errno
    import fcntl

    def refuse(handle, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(UserError, match="No locks available; choose a folder on a disk"):
        RunLock(tmp_path).__enter__()
