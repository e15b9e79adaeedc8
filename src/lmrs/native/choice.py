"""Which of the kernel's tasks it does in a block of code. Who chooses, and by which probes: lmrs.kernels."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from lmrs.native.kernel import Kernel

TASKS = ("softmax", "attention", "ranking")  # the full softmax; attention with its gradient; rankings and the states that ask
FAST = 1.1  # gain over torch from which on a task is the kernel's

_chosen: ContextVar[tuple[Kernel | None, frozenset[str]]] = ContextVar("kernel", default=(None, frozenset()))


@contextmanager
def by_kernel(kernel: Kernel | None, tasks: Collection[str] = TASKS) -> Iterator[None]:
    """In this block `tasks`, of TASKS, go by a kernel where it serves; None: all by torch."""
    before = _chosen.set((kernel, frozenset(tasks)))
    try:
        yield
    finally:
        _chosen.reset(before)


def chosen_kernel(task: str) -> Kernel | None:
    """The kernel of the innermost `by_kernel`, if the task is among its own."""
    kernel, tasks = _chosen.get()
    return kernel if task in tasks else None
