"""The moving average of weights over the updates of a stage: less noise than the last weights have, for one more copy of them.

    a_t = (1 - d) (w_t + d w_(t-1) + ... + d^(t-1) w_1) / (1 - d^t)

with w_t the weights after update t and d the decay: about the last 1 / (1 - d) updates count, all while they are fewer.
Kingma & Ba 2015, Adam, section 7.2; averages of weights are of Polyak & Juditsky 1992 (Izmailov et al. 2018 for deep networks).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def follow(average: dict[str, Tensor], modules: nn.Module, decay: float, updates: int) -> None:
    """Takes the weights after so many updates (>= 1) into the average, in place. An empty one is begun: the tuned parameters of
    `modules` by name. What is frozen has none, and buffers stay as they are."""
    weight = (1 - decay) / (1 - decay**updates)
    for name, parameter in modules.named_parameters():
        if parameter.requires_grad:
            now = parameter.detach()
            if updates == 1:
                average[name] = now.clone()
            else:
                average[name].lerp_(now, weight)


@contextmanager
def standing_in(average: dict[str, Tensor], modules: nn.Module) -> Iterator[None]:
    """In this block the parameters of `modules` have the values of the average; those that it does not name keep theirs."""
    parameters = dict(modules.named_parameters())
    kept = {name: parameters[name].detach().clone() for name in average}
    put(average, modules)
    try:
        yield
    finally:
        put(kept, modules)


@torch.no_grad()
def put(average: dict[str, Tensor], modules: nn.Module) -> None:
    """Copies an average into the parameters it is of."""
    parameters = dict(modules.named_parameters())
    for name, value in average.items():
        parameters[name].copy_(value)
