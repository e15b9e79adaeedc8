"""What is charged for a prediction: pure functions of states, item table and targets. All return *sums*.

Every loss is a frozen description with `charge(states, output, target, drawn) -> Tensor` (a scalar sum over the M charged
positions). `negatives` says what must be drawn for it (None: the whole catalogue is the denominator).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lmrs.hardware import threads_restored
from lmrs.native import Charged, Kernel, by_kernel, chosen_kernel
from lmrs.negatives import Drawn, Negatives, Uniform

_LOG2_E = math.log2(math.e)
TILE = 4096  # items of the catalogue at a time: their scores for a block of rows fit into a second-level cache
_BLOCK = 1024  # rows at a time where the negatives are shared: their scores stay in the cache
_FEW, _SOME = 64, 2048  # rows and items of a piece of a large product
_rounding: ContextVar[bool] = ContextVar("rounding", default=False)


@contextmanager
def rounded_products(rounded: bool) -> Iterator[None]:
    """In this block the products of FullSoftmax are made in bf16 (as torch.autocast does for those of a network).

    The target's own score, sums and exponentials stay in fp32. Against fp64 the loss is within 1e-4 and gradients within 3e-3
    of their norm while scores stay below 16; the error grows with the largest score.
    """
    before = _rounding.set(rounded)
    try:
        yield
    finally:
        _rounding.reset(before)


def softmax_gain(kernel: Kernel, *, rounded: bool = False) -> float:
    """How many times as fast as torch a kernel charges 192 rows of width 64 against 4,096 items, on one thread.

    rounded: both with rounded products. Measured once (about 0.3 s of processor time: the best of many turns of either, since a
    neighbour can only make them slower) and kept beside the kernel (`Kernel.noted`).
    """

    def measured() -> float:
        found = _seconds({"native": (kernel, rounded), "torch": (None, rounded)})
        return found["torch"] / found["native"]

    return kernel.noted("rounded softmax" if rounded else "softmax", measured)


def rounding_gain(kernel: Kernel) -> float:
    """The same of a kernel with rounded products over the faster way without. The kernel must be one that `rounds`."""

    def measured() -> float:
        found = _seconds({"rounded": (kernel, True), "native": (kernel, False), "torch": (None, False)})
        return min(found["native"], found["torch"]) / found["rounded"]

    return kernel.noted("rounding", measured)


def _seconds(ways: dict[str, tuple[Kernel | None, bool]]) -> dict[str, float]:
    """Of processor time, the least of many turns. ways: (the kernel or None, whether products are rounded) by name."""
    states = torch.linspace(-1, 1, 192 * 64).view(192, 64).requires_grad_()
    output, target = Output(torch.linspace(-0.1, 0.1, 4096 * 64).view(4096, 64).requires_grad_(), None), torch.arange(192)
    best = dict.fromkeys(ways, math.inf)
    with threads_restored():
        torch.set_num_threads(1)
        for turn in range(40):
            for name, (kernel, rounded) in ways.items():
                begin = time.thread_time()
                with by_kernel(kernel), rounded_products(rounded):
                    FullSoftmax().charge(states, output, target)
                if turn:
                    best[name] = min(best[name], time.thread_time() - begin)
    return best


class Output(NamedTuple):
    """The item space of a network: score(h, i) = h . table[i] + bias[i]. table: [V, E]; bias: [V] or None."""

    table: Tensor
    bias: Tensor | None

    def scores(self, states: Tensor) -> Tensor:
        """[*, E] states to [*, V] scores."""
        small = states.ndim != 2 or len(states) * len(self.table) <= 4 * _FEW * _SOME
        if small or torch.is_grad_enabled() or states.device.type != "cpu":
            return F.linear(states, self.table, self.bias)
        # A processor makes a few rows and items at a time in half the time of all at once: what it reads stays in its cache.
        out = states.new_empty(len(states), len(self.table))
        for begin in range(0, len(states), _FEW):
            part = states[begin : begin + _FEW]
            for first in range(0, len(self.table), _SOME):
                where = slice(first, first + _SOME)
                place = out[begin : begin + _FEW, where]
                if self.bias is None:
                    torch.mm(part, self.table[where].t(), out=place)
                else:
                    torch.addmm(self.bias[where], part, self.table[where].t(), out=place)
        return out

    def scores_of(self, states: Tensor, items: Tensor) -> Tensor:
        """[M, E] states and [M] or [M, K] items to scores of the same shape as items."""
        rows = self.table[items]
        found = (states * rows).sum(-1) if items.ndim == 1 else torch.einsum("me,mke->mk", states, rows)
        return found if self.bias is None else found + self.bias[items]


class _FullSoftmax(torch.autograd.Function):
    """Cross-entropy over the catalogue in row blocks of one reused buffer; the gradient is made in the forward pass.

    Memory is block x V instead of M x V. Exact: the same sums as F.cross_entropy(h @ table.T + bias, target, reduction="sum").
    """

    @staticmethod
    def forward(ctx, states, table, bias, target, smoothing, block, half):
        need_states, need_table, need_bias = ctx.needs_input_grad[:3]
        needs = (need_states, need_table, bias is not None and need_bias)
        # Scores are made in base 2, because exp2 takes a third of the time of exp. d cost / d logits = exp(logits - top) / mass
        # - (1 - smoothing) onehot - smoothing / V: the two last terms act on states and table, not on a score each.
        scaled = states * _LOG2_E
        offset = None if bias is None else bias * _LOG2_E
        chosen = table[target]
        own = (scaled * chosen).sum(1)
        if offset is not None:
            own += offset[target]
        most = largest(scaled, table, offset)
        kernel = chosen_kernel("softmax")
        serves = kernel is not None and (kernel.rounds or not half) and kernel.serves(states, table)
        if kernel is not None and serves and math.isfinite(most):
            found = kernel.softmax(states, scaled, table, offset, own, needs, rounded=half)
        else:
            found = _charged(states, scaled, table, offset, needs, block=block, half=half, small=most < 60)
        cost = own * (smoothing - 1)
        if smoothing:
            mean = table.mean(0)
            cost -= smoothing * (scaled @ mean + (0 if offset is None else offset.mean()))
        total = found.log_mass.sum(dtype=torch.float64) + cost.sum(dtype=torch.float64) / _LOG2_E
        _, grad_states, grad_table, grad_bias = found
        if grad_states is not None:
            grad_states.sub_(chosen, alpha=1 - smoothing)
            if smoothing:
                grad_states.sub_(mean, alpha=smoothing)
        if grad_table is not None:
            grad_table.index_add_(0, target, states, alpha=smoothing - 1.0)
            if smoothing:
                grad_table.sub_(states.sum(0), alpha=smoothing / len(table))
        if grad_bias is not None:
            grad_bias.index_add_(0, target, torch.ones_like(target, dtype=bias.dtype), alpha=smoothing - 1.0)
            if smoothing:
                grad_bias.sub_(smoothing * len(states) / len(table))
        ctx.save_for_backward(*(g for g in (grad_states, grad_table, grad_bias) if g is not None))
        ctx.present = (grad_states is not None, grad_table is not None, grad_bias is not None)
        return total.to(states.dtype)

    @staticmethod
    def backward(ctx, grad):
        saved = iter(ctx.saved_tensors)
        scale = Tensor.mul_ if _last() else Tensor.mul  # a copy of the table's gradient is another pass over fresh memory
        grads = [scale(next(saved), grad) if there else None for there in ctx.present]
        return (*grads, None, None, None, None)


def _charged(
    states: Tensor,
    scaled: Tensor,
    table: Tensor,
    offset: Tensor | None,
    needs: tuple[bool, bool, bool],
    *,
    block: int,
    half: bool,
    small: bool,
) -> Charged:
    """What `native.Kernel` gives, by torch, on any device and in any precision. small: scores need no maximum."""
    rows, items = states.shape[0], table.shape[0]
    block = 2 * block if half else block  # what is best for either: half the buffer's bytes are read
    grad_states = torch.zeros_like(states) if needs[0] else None
    grad_table = torch.zeros_like(table) if needs[1] else None
    grad_bias = torch.zeros_like(offset) if offset is not None and needs[2] else None
    # A tile of the catalogue stays in the cache from its scores to its share of the states' gradient. A GPU wants few large
    # products instead.
    tile = min(TILE, items) if table.device.type == "cpu" else items
    tiles = [slice(begin, min(begin + tile, items)) for begin in range(0, items, tile)]
    products = (_Rounded if half else _Products)(table, min(block, rows), tile)
    column = None if offset is None else offset[:, None]
    log_mass = []
    # Scores are held items by rows, because the product of the table with a narrow matrix is faster than its transpose. The
    # division by the mass acts on the small side of the products, so the buffer is passed over as few times as possible.
    for begin in range(0, rows, block):
        place = slice(begin, begin + block)
        asked, part = scaled[place], states[place]
        to_states = None if grad_states is None else grad_states[place]
        mass = asked.new_zeros(len(asked))
        # The largest score so far, and what it was at each tile; finite, since a tile may hold nothing but minus infinity.
        top, tops = torch.full_like(mass, torch.finfo(mass.dtype).min), []
        for where in tiles:
            logits = products.scores(asked, where, column)
            if not small:
                above = torch.maximum(top, logits.amax(0))
                shrunk = (top - above).exp2_()
                mass *= shrunk
                if to_states is not None:
                    to_states *= shrunk[:, None]
                top = above
                tops.append(top)
                logits.sub_(top)
            mass += logits.exp2_().sum(0)
            products.exponentiated(where)
            if to_states is not None:
                products.to_states(to_states, where)
        log_mass.append(mass.log() if small else mass.log() + top / _LOG2_E)
        if to_states is not None:
            to_states.div_(mass[:, None])
        shares = [1 / mass] if small else [(then - top).exp2_() / mass for then in tops]
        for index, where in enumerate(tiles):
            if grad_table is not None and (not index or not small):
                weighed = part * shares[index][:, None]
            if grad_table is not None:
                products.to_table(grad_table[where], weighed, where)
            if grad_bias is not None:
                grad_bias[where].addmv_(products.probabilities(where), shares[0 if small else index])
    return Charged(torch.cat(log_mass) if log_mass else scaled.new_zeros(0), grad_states, grad_table, grad_bias)


def _last() -> bool:
    """Whether the running backward pass gives its graph up, so that what it saved may be changed; False if torch cannot tell."""
    keeps = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return keeps is not None and not keeps()


def largest(scaled: Tensor, table: Tensor, offset: Tensor | None) -> float:
    """What no score exceeds in size (Cauchy-Schwarz): below 60, so in 2^-60 .. 2^60, a softmax needs no maximum. May be NaN."""
    if not len(scaled):
        return 0.0
    most = torch.linalg.vector_norm(scaled, dim=1).amax() * torch.linalg.vector_norm(table, dim=1).amax()
    if offset is not None:
        most = most + offset.abs().amax()
    return float(most)


class _Products:
    """The three products of the loss for a block of rows, a tile of the catalogue at a time.

    What is held from the scores to the table's gradient is the whole [V, n] of the block, in a reused buffer.
    """

    def __init__(self, table: Tensor, rows: int, tile: int) -> None:
        self.table = table
        self.buffer = table.new_empty(len(table) * rows)

    def scores(self, part: Tensor, where: slice, offset: Tensor | None) -> Tensor:
        """[t, n] of the items `where`, to be changed in place."""
        self.block = self.buffer[: len(self.table) * len(part)].view(len(self.table), len(part))
        if offset is None:
            return torch.mm(self.table[where], part.t(), out=self.block[where])
        return torch.addmm(offset[where], self.table[where], part.t(), out=self.block[where])

    def exponentiated(self, where: slice) -> None:
        """Called once the last scores have been made probabilities, up to their mass."""

    def probabilities(self, where: slice) -> Tensor:
        return self.block[where]

    def to_states(self, into: Tensor, where: slice) -> None:
        into.addmm_(self.block[where].t(), self.table[where])

    def to_table(self, into: Tensor, part: Tensor, where: slice) -> None:
        into.addmm_(self.block[where], part)


class _Rounded(_Products):
    """The same with both factors and the result of each product rounded to bf16; sums, exp and what is added up stay fp32."""

    def __init__(self, table: Tensor, rows: int, tile: int) -> None:
        self.table = table.bfloat16()
        self.buffer = torch.empty(len(table) * rows, dtype=torch.bfloat16, device=table.device)
        self.wide = table.new_empty(tile * rows)
        self.narrow = torch.empty_like(self.table[:tile])

    def scores(self, part: Tensor, where: slice, offset: Tensor | None) -> Tensor:
        low = super().scores(part.bfloat16(), where, None)
        self.logits = self.wide[: low.numel()].view(low.shape).copy_(low)
        return self.logits if offset is None else self.logits.add_(offset[where])

    def exponentiated(self, where: slice) -> None:
        self.block[where].copy_(self.logits)

    def probabilities(self, where: slice) -> Tensor:
        return self.block[where].float()

    def to_states(self, into: Tensor, where: slice) -> None:
        into.add_(torch.mm(self.block[where].t(), self.table[where]))

    def to_table(self, into: Tensor, part: Tensor, where: slice) -> None:
        into.add_(torch.mm(self.block[where], part.bfloat16(), out=self.narrow[: len(into)]))


@dataclass(frozen=True)
class FullSoftmax:
    """Cross-entropy over all V items: -log exp(s_i) / sum_j exp(s_j), exact, in bounded memory.

    smoothing: label smoothing in [0, 1): the target distribution is (1 - smoothing) one-hot + smoothing / V.
    block: rows of logits held at once; it changes memory and speed, never the result.

    Inside `rounded_products(True)` the products are made in bf16 (losses.rounded_products).
    """

    smoothing: float = 0.0
    block: int = 64

    @property
    def negatives(self) -> Negatives | None:
        return None

    def charge(self, states: Tensor, output: Output, target: Tensor, drawn: Drawn | None = None) -> Tensor:
        return _FullSoftmax.apply(
            states.contiguous(), output.table, output.bias, target, self.smoothing, self.block, _rounding.get()
        )


class _SharedSoftmax(torch.autograd.Function):
    """Cross-entropy among each row's target and K shared negatives; the gradient is made in the forward pass.

    The table gets one gradient of its size instead of one for the targets, one for the negatives and their sum. expected: log of
    how often each negative is expected, float or [K], taken from its score. Negatives that equal the target are left out.
    """

    @staticmethod
    def forward(ctx, states, table, bias, target, items, expected):
        need_states, need_table, need_bias = ctx.needs_input_grad[:3]
        few, chosen = table[items], table[target]
        scaled = states * _LOG2_E  # scores in base 2: exp2 is faster than exp
        positive = (scaled * chosen).sum(1)
        offset = None if bias is None else bias[items] * _LOG2_E
        if bias is not None:
            positive += bias[target] * _LOG2_E
        if isinstance(expected, float):  # a softmax is the same if the target's score rises instead
            positive += expected * _LOG2_E
        else:
            offset = expected * -_LOG2_E if offset is None else offset - expected * _LOG2_E
        drawn = torch.zeros(len(table), dtype=torch.bool, device=table.device)
        drawn[items] = True
        clash = drawn[target]  # few rows have their target among the negatives: those alone are compared
        grad_states = torch.empty_like(states) if need_states else None
        grad_few = torch.zeros_like(few) if need_table else None
        grad_offset = few.new_zeros(len(items)) if bias is not None and need_bias else None
        grad_positive = torch.empty_like(positive)
        block = _BLOCK if table.device.type == "cpu" else max(len(states), 1)
        buffer = few.new_empty(min(block, len(states)), len(items))
        total = torch.zeros((), dtype=torch.float64, device=states.device)
        for begin in range(0, len(states), block):
            place = slice(begin, begin + block)
            part, own = states[place], positive[place]
            weights = torch.mm(scaled[place], few.t(), out=buffer[: len(part)])
            if offset is not None:
                weights += offset
            rows = clash[place].nonzero()[:, 0]
            if len(rows):
                weights[rows] = weights[rows].masked_fill_(items == target[place][rows, None], -torch.inf)
            top = torch.maximum(weights.amax(1), own)
            weights.sub_(top[:, None]).exp2_()
            of_target = (own - top).exp2_()
            mass = weights.sum(1).add_(of_target)
            total += (mass.log() + (top - own) / _LOG2_E).sum(dtype=torch.float64)
            share = mass.reciprocal_()
            grad_positive[place] = of_target.mul_(share).sub_(1)
            if grad_states is not None:
                torch.mm(weights, few, out=grad_states[place]).mul_(share[:, None])
            if grad_few is not None:
                grad_few.addmm_(weights.t(), part * share[:, None])
            if grad_offset is not None:
                grad_offset.addmv_(weights.t(), share)
        grad_table = grad_bias = None
        if grad_states is not None:
            grad_states.addcmul_(chosen, grad_positive[:, None])
        if grad_few is not None:
            grad_table = torch.zeros_like(table).index_add_(0, items, grad_few)
            grad_table.index_add_(0, target, states * grad_positive[:, None])
        if grad_offset is not None:
            grad_bias = torch.zeros_like(bias).index_add_(0, items, grad_offset).index_add_(0, target, grad_positive)
        ctx.save_for_backward(*(g for g in (grad_states, grad_table, grad_bias) if g is not None))
        ctx.present = (grad_states is not None, grad_table is not None, grad_bias is not None)
        return total.to(states.dtype)

    @staticmethod
    def backward(ctx, grad):
        return (*_FullSoftmax.backward(ctx, grad)[:3], None, None, None)


@dataclass(frozen=True)
class SampledSoftmax:
    """Softmax over the target and drawn negatives, which are corrected for how likely each was to be drawn (log-Q).

    s'(j) = s(j) - log E[number of draws of j] for negatives, s'(i) = s(i) for the target, negatives equal to the target are left
    out: the denominator is then an unbiased estimate of that of the full softmax (Bengio & Senecal 2008, importance sampling).
    logq=False gives the uncorrected form that many libraries call sampled softmax. With uniform draws the correction adds
    log(V / K) to all negatives. Correcting the target too (Yi et al. 2019) would cancel under uniform draws.
    """

    negatives: Negatives = Uniform(k=256, shared=True)  # noqa: RUF009 - a frozen value
    logq: bool = True

    def charge(self, states: Tensor, output: Output, target: Tensor, drawn: Drawn | None = None) -> Tensor:
        assert drawn is not None
        # The target is there for certain: only what was drawn is corrected.
        expected = drawn.log_expected(drawn.items) if self.logq else 0.0
        if drawn.items.ndim == 1:  # shared by all positions
            return _SharedSoftmax.apply(states.contiguous(), output.table, output.bias, target, drawn.items, expected)
        positive = output.scores_of(states, target)  # (M,)
        negative = output.scores_of(states, drawn.items) - expected
        negative = negative.masked_fill(drawn.items == target[:, None], -torch.inf)
        return (torch.logsumexp(torch.cat([positive[:, None], negative], 1), 1) - positive).sum()


@dataclass(frozen=True)
class BCE:
    """Binary cross-entropy with drawn negatives: -log sig(s+) - sum_neg log(1 - sig(s-)) (SASRec, equation 6)."""

    negatives: Negatives = Uniform(k=1)  # noqa: RUF009 - a frozen value

    def charge(self, states: Tensor, output: Output, target: Tensor, drawn: Drawn | None = None) -> Tensor:
        assert drawn is not None
        positive, negative = output.scores_of(states, target), output.scores_of(states, drawn.each(len(target)))
        return F.softplus(-positive).sum() + F.softplus(negative).sum()


@dataclass(frozen=True)
class GBCE:
    """Generalised BCE: the positive's probability is raised to beta, which cures the overconfidence of few negatives.

    -beta log sig(s+) - sum_neg log(1 - sig(s-)), alpha = K / (V - 1), beta = alpha (t (1 - 1/alpha) + 1/alpha)
    (Petrov & Macdonald, gSASRec, RecSys 2023, equations 10-12). t in [0, 1]: 0 is BCE, 1 fully calibrated.
    """

    negatives: Negatives = Uniform(k=256)  # noqa: RUF009 - a frozen value
    t: float = 0.75

    def charge(self, states: Tensor, output: Output, target: Tensor, drawn: Drawn | None = None) -> Tensor:
        assert drawn is not None
        positive, negative = output.scores_of(states, target), output.scores_of(states, drawn.each(len(target)))
        alpha = negative.shape[1] / (len(output.table) - 1)
        beta = alpha * (self.t * (1 - 1 / alpha) + 1 / alpha)
        return beta * F.softplus(-positive).sum() + F.softplus(negative).sum()


@dataclass(frozen=True)
class BPRMax:
    """Pairwise ranking against the negatives that stand highest, which are weighted by a softmax of their scores.

    -log sum_j w_j sig(s+ - s_j) + regularisation sum_j w_j s_j^2, w = softmax_j(s_j) over the negatives
    (Hidasi & Karatzoglou 2018, section 3.3.2). Negatives equal to the target are left out, unless all of them are.

    regularisation: >= 0. elu: scores pass through ELU with this alpha first (the code's "elu-0.5"), None: as they are. ELU rises
    everywhere, so it changes the training alone, never the ranking.
    """

    negatives: Negatives = Uniform(k=256, shared=True)  # noqa: RUF009 - a frozen value
    regularisation: float = 1.0
    elu: float | None = 0.5

    def charge(self, states: Tensor, output: Output, target: Tensor, drawn: Drawn | None = None) -> Tensor:
        assert drawn is not None
        positive = output.scores_of(states, target)[:, None]  # (M, 1)
        if drawn.items.ndim == 1:  # shared by all positions
            table = output.table[drawn.items]
            negative = F.linear(states, table, None if output.bias is None else output.bias[drawn.items])  # (M, K)
        else:
            negative = output.scores_of(states, drawn.items)
        if self.elu is not None:
            positive, negative = F.elu(positive, self.elu), F.elu(negative, self.elu)
        clash = drawn.items == target[:, None]
        clash = clash & ~clash.all(1, keepdim=True)
        log_w = torch.log_softmax(negative.masked_fill(clash, -torch.inf), 1)
        cost = -torch.logsumexp(log_w + F.logsigmoid(positive - negative), 1)
        return (cost + self.regularisation * (log_w.exp() * negative.square()).sum(1)).sum()


Charge = FullSoftmax | SampledSoftmax | BCE | GBCE | BPRMax
