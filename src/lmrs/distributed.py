"""Several processes as one: sums and copies of tensors, and which rows belong to whom.

A program started by `torchrun --nproc-per-node 2 ...` finds its place with `Group.current()`; started alone, it is a group
of one, for which every operation here does nothing. Only tensors travel (all-reduce, broadcast), never pickled objects.
Every process must make the same calls in the same order with tensors of the same shapes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from lmrs.errors import UserError

BUCKET = 1 << 22  # elements sent at once: 32 MiB in fp64, enough to hide the latency of a call


@dataclass(frozen=True)
class Group:
    """The processes that train together.

    rank: this one's number, 0 <= rank < size. size: how many there are, >= 1. device: where its tensors live
    ("cpu", or "cuda:<LOCAL_RANK>" in a group on GPUs).
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @classmethod
    def current(cls, *, device: str = "cpu") -> Group:
        """The group that torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT) describes.

        device: "cpu" talks over gloo, "cuda" over NCCL with one GPU a process. Waits until all processes are there.
        Without that environment: a group of one on `device`. Raises UserError if the environment makes no sense or the
        others cannot be reached.
        """
        if "WORLD_SIZE" not in os.environ:
            return cls(device=device)
        rank, size, local = _number("RANK"), _number("WORLD_SIZE"), _number("LOCAL_RANK", default=0)
        if not 0 <= rank < size:
            raise UserError(needed="RANK below WORLD_SIZE", came=f"RANK={rank}, WORLD_SIZE={size}", remedy="start with torchrun")
        if size == 1:
            return cls(device=device)
        on_gpu = device.startswith("cuda")
        if on_gpu:
            device = f"cuda:{local}"
            torch.cuda.set_device(local)
        import torch.distributed as dist

        if not dist.is_initialized():
            with _together(size):
                dist.init_process_group("nccl" if on_gpu else "gloo", rank=rank, world_size=size)
        return cls(rank, size, device)

    @property
    def is_main(self) -> bool:
        """This process writes the files and talks to people."""
        return self.rank == 0

    def shard(self, rows: int) -> slice:
        """This process's rows of a batch of `rows`: every size-th one from `rank` on, which evens out rows sorted by length.

        The shards of all ranks are a partition; sizes differ by at most one and may be 0.
        """
        return slice(self.rank, rows, self.size)

    @torch.no_grad()
    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Replaces each tensor by its sum over the processes, in place; every process gets the same bits.

        Floating-point values on CPUs are added in fp64 and rounded once; on GPUs half precision is added in fp32.
        Dense tensors of any shape; types may be mixed.
        """
        if self.size == 1:
            return
        import torch.distributed as dist

        for bucket, wide in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1).to(wide) for tensor in bucket])
            with _together(self.size):
                dist.all_reduce(flat)
            _unpack(flat, bucket)

    @torch.no_grad()
    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        """Replaces each tensor by that of rank 0, in place, bit for bit."""
        if self.size == 1:
            return
        import torch.distributed as dist

        for tensor in tensors:
            raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
            with _together(self.size):
                dist.broadcast(raw, src=0)
            tensor.copy_(raw.view(tensor.dtype).reshape(tensor.shape))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in at least one process: how all of them stop at the same step."""
        told = torch.tensor([int(flag)], device=self.device)
        self.sum_([told])
        return bool(told.item())

    def barrier(self) -> None:
        """Returns when every process has come here."""
        self.any(False)

    def close(self) -> None:
        """Leaves the group; nothing more can be sent."""
        if self.size > 1:
            import torch.distributed as dist

            if dist.is_initialized():
                dist.destroy_process_group()


def _buckets(tensors: Iterable[Tensor]) -> Iterator[tuple[list[Tensor], torch.dtype]]:
    """Tensors of one type in lists of about BUCKET elements, with the type in which they are added."""
    open_: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        bucket = open_.setdefault(tensor.dtype, [])
        bucket.append(tensor)
        if sum(member.numel() for member in bucket) >= BUCKET:
            yield open_.pop(tensor.dtype), _wide(tensor)
    for bucket in open_.values():
        yield bucket, _wide(bucket[0])


def _wide(tensor: Tensor) -> torch.dtype:
    """The type in which values are added: exact enough that the order of the processes cannot be seen."""
    if not tensor.dtype.is_floating_point:
        return torch.int64
    if tensor.device.type == "cpu":
        return torch.float64
    return torch.float32 if tensor.dtype.itemsize < 4 else tensor.dtype


def _unpack(flat: Tensor, tensors: list[Tensor]) -> None:
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view(tensor.shape))


@contextmanager
def _together(size: int) -> Iterator[None]:
    """Turns the failure of a collective operation into a UserError: it almost always means that another process died."""
    try:
        yield
    except RuntimeError as error:
        raise UserError(
            needed=f"all {size} processes",
            came=f"a broken connection ({str(error).strip().splitlines()[0]})",
            remedy="look for the first process that failed, then start again with --resume",
        ) from error


def _number(name: str, *, default: int | None = None) -> int:
    text = os.environ.get(name, "" if default is None else str(default))
    try:
        return int(text)
    except ValueError:
        raise UserError(
            needed=f"a whole number in {name}", came=repr(text), remedy="start with torchrun, or unset WORLD_SIZE"
        ) from None
