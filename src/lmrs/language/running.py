"""Dropout inside a pre-trained model, drawn from a generator that is given, as everywhere in lmrs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def dropping(module: nn.Module, rng: torch.Generator | None) -> Iterator[None]:
    """Within it the model's own dropout layers act, with bits that depend on `rng` alone; without `rng` none does.

    The model is in eval mode before and after; torch's global generator is put back as it was.
    """
    if rng is None:
        yield
        return
    places = {each.device for each in module.parameters() if each.device.type == "cuda"}
    with torch.random.fork_rng(devices=[place.index for place in places]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=rng)))
        module.train()
        try:
            yield
        finally:
            module.eval()
