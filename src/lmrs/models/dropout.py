"""Dropout with the generator as an argument: no train/eval mode, no global seed, exact resume."""

from __future__ import annotations

import torch
from torch import Tensor


def dropout(values: Tensor, p: float, rng: torch.Generator | None) -> Tensor:
    """Each value is zero with probability p, else divided by 1 - p. rng=None or p=0 returns `values` itself."""
    if rng is None or p == 0:
        return values
    keep = torch.empty_like(values).bernoulli_(1 - p, generator=rng)
    return values * keep.div_(1 - p)
