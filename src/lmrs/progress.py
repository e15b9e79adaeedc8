"""What a person sees while something long runs: a bar on a terminal, plain lines in a log, nothing when quiet."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


class Reporter:
    """Progress of one run, written to standard error. quiet: show nothing. Use as a context manager."""

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        from rich.console import Console

        self.console = console or Console(stderr=True, quiet=quiet)
        self.quiet = quiet
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._shown = 0.0

    def __enter__(self) -> Reporter:
        if not self.quiet and self.console.is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", style="dim"),
                console=self.console,
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """A new piece of work of `total` steps."""
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(what, total=total, completed=done, note="")

    def step(self, note: str = "", *, by: int = 1) -> None:
        """One step further; drawn at most ten times a second."""
        if self._bar is None or self._task is None:
            return
        now = time.monotonic()
        if now - self._shown > 0.1:
            self._shown = now
            self._bar.update(self._task, note=note)
        self._bar.advance(self._task, by)

    def say(self, line: str) -> None:
        """One line that stays."""
        if not self.quiet:
            self.console.print(line, highlight=False, markup=False)
            if not self.console.is_terminal:
                sys.stderr.flush()
