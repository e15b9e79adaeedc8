"""torch.compile for the blocks of a network in training: whether it pays, and how it is put on and taken off again.

Starting takes tens of seconds, and what comes of it may be slower than before, so nothing is compiled on faith: a long run tries
one block, once for a machine and a kind of block. What is drawn (dropout) is the same either way; the two differ by rounding.

Attention stays out of what is compiled: it takes rows by groups of their lengths, so nearly every batch would be compiled anew.
"""

from __future__ import annotations

import json
import logging
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.cache import cache_folder
from lmrs.errors import ContractError, StorageError
from lmrs.files import write_atomic
from lmrs.hardware import processor
from lmrs.models.blocks import GatedModule, PlainModule
from lmrs.native import FAST, chosen_kernel
from lmrs.visibility import Visibility

LONG = 1200.0  # seconds in blocks from which on they are tried: about twenty times what trying takes on a slow processor
SECONDS, TURNS = 2.0, 3  # of timing at most, once compiled, but so many turns at least
Block = PlainModule | GatedModule
ARGUMENTS = ("x", "batch", "visible", "rng", "at")  # of its forward
Way = Callable[..., Tensor]  # what `forward` of a block does


def blocks(network: nn.Module) -> list[Block]:
    """The parts that can be compiled: the transformer blocks of models/blocks.py, wherever they stand in the network."""
    return [each for each in network.modules() if isinstance(each, Block)]


def compiled(block: Block) -> Way:
    """The block's forward through torch.compile, for rows of any length. Code is made when it is called, within `put_on`.

    Raises ContractError on a system that torch.compile does not know.
    """
    with _told(RuntimeError):  # which it raises on a system or a Python that it does not know
        forward = torch.compile(block.forward, dynamic=True)
        look = torch.compiler.disable(block.look)

    def way(x: Tensor, batch: Batch, visible: Visibility, rng: torch.Generator | None, at: Tensor | None = None) -> Tensor:
        block.look = look
        try:
            return forward(x, batch, visible, rng, at)
        finally:
            del block.look

    return way


@contextmanager
def put_on(ways: Sequence[tuple[nn.Module, Way]]) -> Iterator[None]:
    """In this block each module goes by the way beside it. Their parameters keep their names, and their own way comes back.

    Raises ContractError where torch fails to compile.
    """
    for module, way in ways:
        module.forward = way
    try:
        with _told() if ways else nullcontext():
            yield
    finally:
        for module, _ in ways:
            del module.forward


@contextmanager
def _told(*kinds: type[Exception]) -> Iterator[None]:
    """What torch logs while it compiles is for its authors: silent in this block. Its errors, and `kinds`, become one of ours."""
    log = logging.getLogger("torch._dynamo")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    except Exception as error:
        from torch._dynamo.exc import TorchDynamoException

        if not isinstance(error, (TorchDynamoException, *kinds)):
            raise
        came = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise ContractError(needed="blocks that torch can compile here", came=came[0], remedy="use --compile off") from error
    finally:
        log.setLevel(level)


@dataclass(frozen=True)
class Seen:
    """A call of a block as it came in an update, the largest there was.

    given: its arguments, without a graph behind them. work: positions that all blocks of the update had, as a multiple of those
    of this call.
    """

    block: Block
    given: tuple[Any, ...]
    work: float


class Watch:
    """Sees an update's calls of blocks while it is open as a context manager."""

    def __init__(self, network: nn.Module) -> None:
        self.blocks, self.positions = blocks(network), 0
        self.largest: tuple[Block, tuple[Any, ...]] | None = None

    def __enter__(self) -> Watch:
        self._hooks = [each.register_forward_pre_hook(self._called, with_kwargs=True) for each in self.blocks]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _called(self, block: Block, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        given = (*given, *(named[each] for each in ARGUMENTS[len(given) :] if each in named))
        self.positions += len(given[0])
        if self.largest is None or len(given[0]) > len(self.largest[1][0]):
            self.largest = block, (given[0].detach().requires_grad_(given[0].requires_grad), *given[1:])

    @property
    def seen(self) -> Seen | None:
        """None where no block had anything to do."""
        if self.largest is None or not self.positions:
            return None
        return Seen(*self.largest, self.positions / len(self.largest[1][0]))


def choose(seen: Seen | None, *, update: float, updates: int, say: Callable[[str], object]) -> tuple[str, dict[str, float]]:
    """Whether to compile, and what is known of the way not taken: its rate as a multiple of the other's.

    seen: None where there was nothing to compile. update: seconds of one, plain. updates: how many there will be at the least.
    say: told what takes long. "on" where the blocks take LONG seconds of the run, gain a tenth, and gain more than twice what
    starting takes (the first and the last block of a stack are compiled apart); "off" where they do not; "untried" where they
    take less and no earlier run has tried; "unable" where torch cannot compile them.
    """
    if seen is None:
        return "off", {}
    gain = kept(seen)
    if gain is not None and gain.rate < FAST:
        return "off", {"on": gain.rate}
    spent = update * updates  # at most; the blocks alone are timed only where that is long
    if spent >= LONG:
        spent = updates * seen.work * min(seconds(seen, seen.block.forward) for _ in range(TURNS))
    if gain is None:
        if spent < LONG:
            return "untried", {}
        say("trying torch.compile on a block, once for this machine; this may take a minute")
        try:
            gain = measured(seen)
        except ContractError:
            return "unable", {}
    if spent >= LONG and gain.rate >= FAST and spent * (1 - 1 / gain.rate) > 2 * gain.start:
        say("blocks through torch.compile from now on, which is faster here (--compile off does without)")
        return "on", {"off": 1 / gain.rate}
    return "off", {"on": gain.rate}


@dataclass(frozen=True)
class Gain:
    """rate: how many times as fast a compiled block is as the plain one. start: seconds until it could begin."""

    rate: float
    start: float


def kept(seen: Seen) -> Gain | None:
    """What this machine found before, for this kind of block."""
    with suppress(StorageError):  # no cache, nothing kept
        note = _note(seen)
        return Gain(**json.loads(note.read_bytes())) if note.is_file() else None
    return None


def measured(seen: Seen) -> Gain:
    """What compiling the block of a call gives, and keeps for later runs. Raises ContractError where torch cannot.

    Its forward and backward passes, plain and compiled in turn; of either the best turn counts, since a neighbour can only make
    it slower. Takes the compiling (tens of seconds, the first time) and 2 s, or three turns.
    """
    with _told():
        way = compiled(seen.block)
        first = seconds(seen, way)
        best, spent, turn = [math.inf, math.inf], 0.0, 0
        while turn < TURNS or spent < SECONDS:
            for side, each in enumerate((seen.block.forward, way)):
                took = seconds(seen, each)
                best[side], spent = min(best[side], took), spent + took
            turn += 1
    gain = Gain(best[0] / best[1], first - best[1])
    with suppress(StorageError):  # what cannot be kept is measured again
        note = _note(seen)
        note.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(note, json.dumps({"rate": gain.rate, "start": gain.start}).encode())
    return gain


def seconds(seen: Seen, way: Way) -> float:
    """Wall seconds of a forward pass, and of the backward pass where something learns.

    Gradients are left nowhere, and dropout draws by a generator of its own.
    """
    x, batch, visible, rng, *rest = seen.given
    x = x.detach().requires_grad_(x.requires_grad)
    own = None if rng is None else torch.Generator(device=rng.device).manual_seed(0)
    leaves = [each for each in (x, *seen.block.parameters()) if each.requires_grad]
    _wait(x)
    begin = time.perf_counter()
    total = way(x, batch, visible, own, *rest).sum()
    if leaves:
        torch.autograd.grad(total, leaves, allow_unused=True)
    _wait(x)
    return time.perf_counter() - begin


def _wait(x: Tensor) -> None:
    """Until the device has done what it was told."""
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)


def _note(seen: Seen) -> Path:
    """Where the gain of this kind of block is kept: by the machine, torch, and what is computed on about how many positions."""
    x, _, visible, rng = seen.given[:4]
    device = torch.cuda.get_device_name(x.device) if x.device.type == "cuda" else processor()
    shapes = [tuple(each.shape) for each in seen.block.parameters()]
    rounded = torch.is_autocast_enabled(x.device.type)
    block = seen.block
    by_kernel = chosen_kernel("attention") is not None
    kind = (block.order, block.heads, block.p > 0, block.attention_p > 0, rng is None, by_kernel)
    places = (type(visible).__name__, len(x).bit_length())
    told = (torch.__version__, platform.platform(), device, torch.get_num_threads(), kind, shapes, places, rounded)
    return cache_folder() / "compiled" / f"block-{sha256(repr(told).encode()).hexdigest()[:32]}.json"
