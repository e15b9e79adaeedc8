"""Dropout with the generator as an argument: no train/eval mode, no global seed, exact resume."""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 1 << 16  # sixteen random bits decide a value: a fifth of the time of a draw of its own for each


def dropout(values: Tensor, p: float, rng: torch.Generator | None) -> Tensor:
    """Each value is zero with probability p, else divided by 1 - p. rng=None or p=0 returns `values` itself.

    p: in [0, 1), rounded to the nearest multiple of 2^-16, in the division too: the mean stays exactly what it was.
    """
    below = min(round(p * STEPS), STEPS - 1)
    if rng is None or below == 0:
        return values
    size = values.numel()
    words = torch.empty((size + 3) // 4, dtype=torch.int64, device=values.device).random_(-(2**63), None, generator=rng)
    kept = words.view(torch.int16)[:size].view(values.shape) >= below - STEPS // 2
    return values * kept.to(values.dtype).mul_(STEPS / (STEPS - below))
