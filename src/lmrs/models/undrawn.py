"""Modules whose weights are about to be read from a file: built without drawing numbers that nobody will see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_STARTS = (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)


class Undrawn(TorchFunctionMode):
    """In this block the common starts of a new module are not drawn: a tensor keeps whatever its memory holds, or the mean.

    For modules all of whose tensors are assigned afterwards. Numbers from a generator that is given are drawn as ever: they may
    be part of what a model is.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if given.get("generator") is None:
            if func in _STARTS:
                return given["tensor"] if "tensor" in given else args[0]
            if func is Tensor.normal_:  # within trunc_normal_, which draws again what is outside its bounds
                return args[0].fill_(args[1] if len(args) > 1 else given.get("mean", 0.0))
        return func(*args, **given)
