"""Asked to stop: Ctrl-C and SIGTERM are noted, and the work goes on to a place where it can be left."""

from __future__ import annotations

import signal
import threading
from types import TracebackType
from typing import Any

from lmrs.errors import LmrsError


class Interrupted(LmrsError):
    """The run was asked to stop; its state is saved. code: what a shell expects as exit status (130 Ctrl-C, 143 SIGTERM).

    what: what stopped and what was kept. remedy: how to go on.
    """

    def __init__(self, code: int, what: str, remedy: str = "") -> None:
        super().__init__(f"{what}; {remedy}" if remedy else what)
        self.code, self.what = code, what


class Stop:
    """Whether this process was told to stop, as a context manager. signal: the first signal that came, 0 before.

    A second Ctrl-C stops at once. A SIGTERM after a Ctrl-C does not: torchrun sends one to processes that the terminal has told
    already. Outside the main thread, where signals cannot be caught, nothing is noted.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for kind in (signal.SIGINT, signal.SIGTERM):
                self._old[kind] = signal.signal(kind, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        while self._old:
            signal.signal(*self._old.popitem())

    def _note(self, number: int, frame: object) -> None:
        if number == self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or number
