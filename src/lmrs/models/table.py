"""A table of items that a module computes from its weights, made as rarely as may be."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Table:
    """`made()` is the module's output now; `again()` the same for whoever asks next, with the same gradients.

    With gradients: `again` hands out what `made` made, once, if no weight has changed in between, so that a training step
    computes the table once and not twice. Without: it is computed only if a weight has changed since
    (ranking asks in every batch).
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._next: tuple[list[int], Tensor] | None = None
        self._kept: tuple[list[Tensor], Tensor] | None = None

    def made(self) -> Tensor:
        if not torch.is_grad_enabled():
            now = list(self.module.parameters())
            if self._kept is None or not all(map(_same, now, self._kept[0])):
                self._kept = [each.detach().clone() for each in now], self.module()
            return self._kept[1]
        table = self.module()
        self._next = self._versions(), table
        return table

    def again(self) -> Tensor:
        ready, self._next = self._next, None
        if ready is not None and torch.is_grad_enabled() and ready[0] == self._versions():
            return ready[1]
        return self.made()

    def _versions(self) -> list[int]:
        return [each._version for each in self.module.parameters()]


def _same(one: Tensor, two: Tensor) -> bool:
    return one.device == two.device and one.dtype == two.dtype and torch.equal(one, two)
