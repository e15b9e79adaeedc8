"""What a training strategy costs in memory: counted from the parameters, not measured."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lmrs.tuning import Tuning


@dataclass(frozen=True)
class Memory:
    """Parameters in numbers, the rest in bytes. Activations, which depend on the batch, are not in it.

    trained, total: parameters. weights: of all parameters and buffers. gradients, optimiser: of the trained ones.
    """

    trained: int
    total: int
    weights: int
    gradients: int
    optimiser: int

    @property
    def all(self) -> int:
        """Bytes of weights, gradients and optimiser together."""
        return self.weights + self.gradients + self.optimiser


def memory(module: nn.Module, *, tuning: Tuning | None = None, moments: int = 2) -> Memory:
    """The Memory of a module under a tuning; tied parameters count once.

    tuning: which parameters learn, by name; None: those that require gradients now. moments: numbers that the optimiser keeps for
    each parameter, in the parameter's precision (2 for Adam and AdamW, 1 for momentum, 0 for plain SGD).
    """
    every = list(module.named_parameters())
    trained = [each for name, each in every if (each.requires_grad if tuning is None else tuning.chooses(name))]
    learned = sum(each.numel() * each.element_size() for each in trained)
    return Memory(
        trained=sum(each.numel() for each in trained),
        total=sum(each.numel() for _, each in every),
        weights=sum(each.numel() * each.element_size() for each in [*(each for _, each in every), *module.buffers()]),
        gradients=learned,
        optimiser=moments * learned,
    )
