"""Which tasks the kernels in C do faster than torch on this machine."""

from __future__ import annotations

from collections.abc import Callable, Collection

from lmrs.losses import softmax_gain
from lmrs.models.attention import attention_gain
from lmrs.models.last_states import states_gain
from lmrs.native import FAST, TASKS, Kernel, load

GAINS: dict[str, Callable[[Kernel], float]] = {"softmax": softmax_gain, "attention": attention_gain, "ranking": states_gain}


def gains(kernel: Kernel, tasks: Collection[str] = TASKS, *, rounded: bool = False) -> dict[str, float]:
    """How many times as fast as torch each task is; measured once for a machine. rounded: products of the softmax, of both."""
    return {task: softmax_gain(kernel, rounded=True) if rounded and task == "softmax" else GAINS[task](kernel) for task in tasks}


def fastest(tasks: Collection[str] = TASKS) -> tuple[Kernel | None, tuple[str, ...]]:
    """For `by_kernel`: (the kernel, if one can be made here, which of the tasks it does a tenth faster than torch or more)."""
    kernel = load()
    if not isinstance(kernel, Kernel):
        return None, ()
    return kernel, tuple(task for task, gain in gains(kernel, tasks).items() if gain >= FAST)
