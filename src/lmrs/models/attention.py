"""Attention over jagged rows: the only place where padding exists.

Rows of similar length share a rectangle (`Batch.buckets`); real positions are copied in and out by two operations that are each
other's gradient. Causal rows are padded on the right, where nobody looks, so they need no mask at all.
"""

from __future__ import annotations

import math
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from lmrs.batch import Batch, Bucket, from_rows
from lmrs.hardware import threads_restored
from lmrs.models.dropout import dropout
from lmrs.native import Attended, Kernel, by_kernel, chosen_kernel
from lmrs.visibility import Causal, Full, Visibility, channels, mask


class _Fill(torch.autograd.Function):
    """[n, F] real positions into [cells, F], zeros elsewhere."""

    @staticmethod
    def forward(ctx, values, cells, size):
        ctx.save_for_backward(cells)
        out = values.new_zeros(size, values.shape[1])
        out[cells] = values
        return out

    @staticmethod
    def backward(ctx, grad):
        return grad.index_select(0, ctx.saved_tensors[0]), None, None


class _Pick(torch.autograd.Function):
    """[cells, F] to the [n, F] real positions; places are distinct, so the gradient is a copy, not an addition."""

    @staticmethod
    def forward(ctx, values, cells):
        ctx.save_for_backward(cells)
        ctx.size = values.shape[0]
        return values.index_select(0, cells)

    @staticmethod
    def backward(ctx, grad):
        out = grad.new_zeros(ctx.size, grad.shape[1])
        out[ctx.saved_tensors[0]] = grad
        return out, None


def pick(values: Tensor, at: Tensor) -> Tensor:
    """[M, F]: the places `at` (int64[M], distinct) of [N, F]."""
    return _Pick.apply(values, at)


def rectangle(values: Tensor, bucket: Bucket) -> Tensor:
    """[n, F] of one bucket to [R, T, F], zeros in the padding."""
    if bucket.cells is None:
        return values.view(bucket.n_rows, bucket.length, values.shape[1])
    return _Fill.apply(values, bucket.cells, bucket.n_rows * bucket.length).view(bucket.n_rows, bucket.length, -1)


def flatten(values: Tensor, bucket: Bucket) -> Tensor:
    """[R, T, F] back to the [n, F] real positions."""
    flat = values.reshape(bucket.n_rows * bucket.length, values.shape[2])
    return flat if bucket.cells is None else _Pick.apply(flat, bucket.cells)


def _allowed(batch: Batch, bucket: Bucket, visible: Visibility) -> Tensor | None:
    """bool[R or 1, 1, T, T] of who may see whom, or None where the kernel needs none."""
    device = batch.channels["item"].device
    real = None
    if bucket.cells is not None:
        real = torch.zeros(bucket.n_rows * bucket.length, dtype=torch.bool, device=device)
        real[bucket.cells] = True
        real = real.view(bucket.n_rows, 1, bucket.length)
    if isinstance(visible, Full):
        return None if real is None else real[:, None]
    cells = {}
    for name in channels(visible):
        column = batch.channels[name][bucket.flat].float()[:, None]
        cells[name] = rectangle(column, bucket)[..., 0]
    seen = mask(visible, cells, bucket.length).to(device)
    if real is not None:
        seen = seen & real
    # Who sees nothing (padding, for one) sees itself, so that no row of the softmax is empty.
    alone = ~seen.any(-1, keepdim=True)
    seen = seen | (alone & torch.eye(bucket.length, dtype=torch.bool, device=device))
    return seen[:, None]


def attend_at(
    query: Tensor,
    pairs: Tensor,
    at: Tensor,
    batch: Batch,
    visible: Visibility,
    *,
    heads: int,
    p: float,
    rng: torch.Generator | None,
) -> Tensor:
    """`attend` for the places `at` alone (int64[M], rising): every position is seen, few look.

    query: [M, D]. pairs: [N, 2 D], keys and values side by side. Returns [M, D].
    """
    width = query.shape[1]
    row = batch.row_of[at]
    place = at - batch.offsets[:-1].to(at.device)[row]
    bounds = [0, len(at)]
    if len(batch.buckets) != 1:
        begins = torch.tensor([b.flat.start for b in batch.buckets] + [batch.n_positions], device=at.device)
        bounds = torch.searchsorted(at, begins).tolist()
    found = []
    for bucket, begin, end in zip(batch.buckets, bounds[:-1], bounds[1:], strict=True):
        if begin == end:
            continue
        asking = _asking(row[begin:end] - bucket.rows.start, bucket)
        looks = rectangle(query[begin:end], asking).view(bucket.n_rows, asking.length, heads, width // heads).transpose(1, 2)
        cells = rectangle(pairs[bucket.flat], bucket).view(bucket.n_rows, bucket.length, 2, heads, width // heads)
        key, value = cells.permute(2, 0, 3, 1, 4)  # each (R, H, T, D/H)
        columns = rectangle(place[begin:end, None], asking)[..., 0]  # (R, Q); padding looks from place 0, which is real
        allowed = None if isinstance(visible, Causal) else _allowed(batch, bucket, visible)
        if isinstance(visible, Causal):
            allowed = torch.arange(bucket.length, device=at.device) <= columns[:, None, :, None]
        elif allowed is not None and allowed.shape[2] > 1:
            allowed = allowed[torch.arange(bucket.n_rows)[:, None] if len(allowed) > 1 else 0, 0, columns][:, None]
        if p > 0 and rng is not None:
            out = _weighted(looks, key, value, allowed, p, rng)
        else:
            out = F.scaled_dot_product_attention(looks, key, value, attn_mask=allowed)
        found.append(flatten(out.transpose(1, 2).reshape(bucket.n_rows, asking.length, width), asking))
    return torch.cat(found) if found else query


def _asking(row: Tensor, bucket: Bucket) -> Bucket:
    """The rectangle of the positions that look, given the row of each within the bucket (rising)."""
    if len(row) == bucket.n_rows and bool((row[1:] != row[:-1]).all()):  # one a row, as when the next item is asked
        return Bucket(bucket.rows, slice(0, len(row)), 1, None)
    count = torch.bincount(row, minlength=bucket.n_rows)
    longest = int(count.max())
    full = bool((count == longest).all())
    within = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    return Bucket(bucket.rows, slice(0, len(row)), longest, None if full else row * longest + within)


def attend(
    query: Tensor, pairs: Tensor, batch: Batch, visible: Visibility, *, heads: int, p: float, rng: torch.Generator | None
) -> Tensor:
    """Scaled dot-product attention inside rows.

    query: [N, D]. pairs: [N, 2 D], keys and values side by side. p: dropout on the attention weights, in [0, 1). rng: None for no
    dropout. Returns [N, D].
    """
    if not (p > 0 and rng is not None) and (made := _native(query, pairs, batch, visible, heads)) is not None:
        return made
    width = query.shape[1]
    sizes = [b.flat.stop - b.flat.start for b in batch.buckets]
    found = []
    for asks, seen, bucket in zip(query.split(sizes), pairs.split(sizes), batch.buckets, strict=True):
        looks = rectangle(asks, bucket).view(bucket.n_rows, bucket.length, heads, width // heads).transpose(1, 2)
        cells = rectangle(seen, bucket).view(bucket.n_rows, bucket.length, 2, heads, width // heads)
        key, value = cells.permute(2, 0, 3, 1, 4)  # each (R, H, T, D/H)
        causal = isinstance(visible, Causal)
        allowed = None if causal else _allowed(batch, bucket, visible)
        if p > 0 and rng is not None:
            out = _weighted(looks, key, value, mask_of(causal, allowed, bucket.length), p, rng)
        else:
            out = F.scaled_dot_product_attention(looks, key, value, attn_mask=allowed, is_causal=causal and bucket.length > 1)
        found.append(flatten(out.transpose(1, 2).reshape(bucket.n_rows, bucket.length, width), bucket))
    if not found:
        return query + pairs[:, :width]  # no positions at all: an empty share of a batch, or a user without history
    return torch.cat(found) if len(found) != 1 else found[0]


class _Native(torch.autograd.Function):
    """What a kernel has made, with the gradients that it gives."""

    @staticmethod
    def forward(ctx, query, pairs, out, level, share, kernel, offsets, heads, causal):
        ctx.save_for_backward(query, pairs, out, level, share)
        ctx.rest = kernel, offsets, heads, causal
        return out

    @staticmethod
    def backward(ctx, grad):
        query, pairs, *made = ctx.saved_tensors
        kernel, offsets, heads, causal = ctx.rest
        grads = kernel.attend_back(grad, query, pairs, offsets, Attended(*made), heads=heads, causal=causal)
        return (*grads, *[None] * 7)


def _native(query: Tensor, pairs: Tensor, batch: Batch, visible: Visibility, heads: int) -> Tensor | None:
    """`attend` by the chosen kernel, which needs no rectangles; None where it does not serve or is no faster."""
    kernel = chosen_kernel("attention")
    if kernel is None or not isinstance(visible, Causal | Full) or not kernel.serves(query, pairs) or not len(query):
        return None
    if query.shape[1] // heads % kernel.lanes or query.stride(1) != 1 or pairs.stride(1) != 1:
        return None
    causal = isinstance(visible, Causal)
    made = kernel.attend(query.detach(), pairs.detach(), batch.offsets, heads=heads, causal=causal)
    return None if made is None else _Native.apply(query, pairs, *made, kernel, batch.offsets, heads, causal)


def attention_gain(kernel: Kernel) -> float:
    """How many times as fast as torch the kernel attends: 64 rows of up to 60 positions, width 64, with gradients, one thread.

    Measured once (about 0.3 s of processor time) and kept beside the kernel (`Kernel.noted`).
    """
    return kernel.noted("attention", lambda: _measured(kernel))


def _measured(kernel: Kernel) -> float:
    lengths = torch.arange(64) % 60 + 1
    batch = from_rows({"item": torch.zeros(int(lengths.sum()), dtype=torch.int64)}, lengths)
    whole = torch.linspace(-1, 1, 192 * batch.n_positions).view(-1, 192).requires_grad_()
    best = {"native": math.inf, "torch": math.inf}
    with threads_restored():
        torch.set_num_threads(1)
        for turn in range(20):
            for name, way in (("native", kernel), ("torch", None)):
                begin = time.thread_time()
                with by_kernel(way), torch.enable_grad():
                    query, pairs = whole.split((64, 128), 1)
                    seen = attend(query, pairs, batch, Causal(), heads=2, p=0.0, rng=None)
                    torch.autograd.grad(seen, whole, torch.ones_like(seen))
                if turn:
                    best[name] = min(best[name], time.thread_time() - begin)
    return best["torch"] / best["native"]


def mask_of(causal: bool, allowed: Tensor | None, length: int) -> Tensor | None:
    """The dense mask of a kernel that has no causal flag."""
    return torch.ones(length, length, dtype=torch.bool).tril_()[None, None] if causal else allowed


def _weighted(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None, p: float, rng: torch.Generator) -> Tensor:
    """The same attention written out, for dropout on its weights."""
    logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])  # (R, H, T, T)
    if allowed is not None:
        logits = logits.masked_fill(~allowed.to(logits.device), -torch.inf)
    return dropout(logits.softmax(-1), p, rng) @ value
