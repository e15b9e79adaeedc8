"""A whole catalogue's scores, and the states that ask for them, in C: made by this machine's compiler, used where it is faster.

Plain torch makes the full softmax of three matrix products with a side of 64 and of passes over their results, which leave the
caches in between, and a ranking of one such product that is written to memory and read again; no library offers either as one
step on a processor (torch's linear_cross_entropy and Liger's kernels are for GPUs, or hold all scores; libraries of nearest
neighbours are approximate, or know no items that are left out and no ranks). `catalogue_scores.c` does, in exact fp32. Before
it, a ranking needs the state of each history's last position: `last_states.c` takes a history through all layers of a transformer
while it is in the caches, and makes of the last layer no more than that position asks for (runtimes of exported models, such as
ONNX Runtime, know rectangles only, and would be given a copy of the weights after every epoch).

Both are optional: without a compiler, or for what they do not serve, torch does the same, and results differ by the order of
additions alone.
"""

from lmrs.native.choice import FAST, TASKS, by_kernel, chosen_kernel
from lmrs.native.kernel import ORDERS, PARTS, Attended, Best, Charged, Kernel, Layers, Positions
from lmrs.native.library import compiler_found, load

__all__ = [
    "FAST",
    "ORDERS",
    "PARTS",
    "TASKS",
    "Attended",
    "Best",
    "Charged",
    "Kernel",
    "Layers",
    "Positions",
    "by_kernel",
    "chosen_kernel",
    "compiler_found",
    "load",
]
