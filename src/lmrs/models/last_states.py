"""A transformer's states of last positions by the kernel in C: which networks and rows it serves, whether it is faster here."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmrs.batch import Batch, from_rows
from lmrs.hardware import threads_restored
from lmrs.models.blocks import GatedModule, PlainModule, QueryNorm
from lmrs.native import PARTS, Kernel, Layers, Positions
from lmrs.visibility import Causal, Full, Visibility
from lmrs.vocab import Vocab

if TYPE_CHECKING:
    from lmrs.models.transformer import TransformerNetwork

_NAMES = {  # of the parameters of a block, by whether it is gated
    False: {name for name in PARTS if name != "key" and not name.startswith("gate")},
    True: {name for name in PARTS if name not in ("key", "up.bias", "down.bias")},
}


def last_states(kernel: Kernel, network: TransformerNetwork, batch: Batch, visible: Visibility, at: Tensor) -> Tensor | None:
    """[B, D]: `network(batch, visible, at=at)`, or None where the kernel does not serve.

    It serves the last position of every row, under Causal and Full visibility, of fp32 networks on a processor whose widths (of
    the states, of a head, of the feed-forward) are whole registers. What is not finite in a network shows in its states, or None.
    """
    model = network.model
    if not isinstance(visible, Causal | Full) or batch.n_rows == 0 or int(batch.lengths.min()) < 1:
        return None
    if not torch.equal(at, batch.last):
        return None
    first = network.blocks[0]
    if not isinstance(first, PlainModule | GatedModule):
        return None
    tensors = [dict(block.named_parameters()) for block in network.blocks]
    if any(each.keys() != _NAMES[isinstance(first, GatedModule)] for each in tensors):  # a part was put in the place of another
        return None
    hidden = first.down.in_features
    if any(width % kernel.lanes for width in (model.dim, model.dim // model.heads, hidden)):
        return None
    if not all(each.dtype == torch.float32 and each.device.type == "cpu" for each in network.parameters()):
        return None
    if not all(math.isfinite(each.abs().amax()) for layer in tensors for each in layer.values()):  # it would not show everywhere
        return None
    begins = _begins(network, batch)
    if begins is None:
        return None
    layers = Layers(
        tensors=tuple(tuple(_laid_out(name, each, model.dim) for name in PARTS) for each in tensors),
        heads=model.heads,
        hidden=hidden,
        order=first.order,
        gelu=first.act is F.gelu,
        causal=isinstance(visible, Causal),
        norm=_both(network.final_norm),
    )
    return kernel.last(begins, layers, batch.offsets)


def states_gain(kernel: Kernel) -> float:
    """How many times as fast as torch the kernel makes the states of 64 rows of up to 60 positions of width 64, on one thread.

    Measured once (about 0.3 s of processor time) and kept beside the kernel (`Kernel.noted`).
    """
    return kernel.noted("ranking", lambda: _measured(kernel))


def _measured(kernel: Kernel) -> float:
    from lmrs.models.transformer import Transformer

    with torch.random.fork_rng(devices=[]), threads_restored(), torch.no_grad():
        torch.manual_seed(0)
        torch.set_num_threads(1)
        model = Transformer(dim=64, layers=2, heads=2, max_len=60, block=QueryNorm())
        network = model.build(Vocab(pa.array(map(str, range(100)), pa.large_string())))
        lengths = torch.arange(64) % 60 + 1
        batch = from_rows({"item": torch.arange(int(lengths.sum())) % 100}, lengths)
        best = {"native": math.inf, "torch": math.inf}
        for turn in range(20):
            for name in best:
                begin = time.thread_time()
                if name == "native":
                    last_states(kernel, network, batch, Causal(), batch.last)
                else:
                    network(batch, Causal(), at=batch.last)
                if turn:
                    best[name] = min(best[name], time.thread_time() - begin)
    return best["torch"] / best["native"]


def _begins(network: TransformerNetwork, batch: Batch) -> Positions | None:
    """How the batch's positions begin; None if numbers of items or places are none of the network's, which torch tells."""
    model, position = network.model, batch.channels["position"]
    if not network.plain():
        return Positions(network.embed(batch).contiguous(), None, 1.0, None, None, False, None)
    assert network.items is not None
    item = batch.channels["item"]
    for numbers, count in ((item, len(network.items.weight)), (position, model.max_len)):
        least, most = numbers.aminmax()
        if numbers.dtype != torch.int64 or int(least) < 0 or int(most) >= count:
            return None
    places = None if network.positions is None else network.positions.weight
    return Positions(
        vectors=network.items.weight,
        symbols=item.contiguous(),
        scale=math.sqrt(model.dim) if model.scale else 1.0,
        places=places,
        position=position.contiguous(),
        right=places is not None and model.align == "right",
        norm=_both(network.embed_norm),
    )


def _laid_out(name: str, tensors: Mapping[str, Tensor], dim: int) -> Tensor | None:
    if name == "key":
        return tensors["mix.weight"][dim : 2 * dim].contiguous()
    found = tensors.get(name)
    return found.t().contiguous() if found is not None and found.ndim == 2 else found


def _both(norm: nn.LayerNorm | None) -> tuple[Tensor, Tensor] | None:
    return None if norm is None else (norm.weight, norm.bias)
