"""Training rate: SASRec with full softmax in lmrs beside a plain padded loop, same rows, same updates, same process.

    python -m benchmarks.training [--users 4000] [--items 3400] [--median 8] [--spread 1.0] [--max-len 200] [--rounds 5]

The plain loop is what most libraries do: rows padded to max_len, scores at every cell, cross-entropy with an ignored index,
Adam. Equality first: without dropout both give the same loss (1e-5) and gradients (1e-3 of the largest, fp32) for the same
weights. Then real targets per CPU second, in turn, one thread. Lengths are log-normal around the median, as in shops: most rows
are short and a few are long, so that a padded loop computes on padding.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F

from benchmarks import beside
from benchmarks.peers.clock import peak_mib
from lmrs import __version__
from lmrs.dataset import Dataset
from lmrs.seeding import generator, numpy_generator
from lmrs.split import Train
from lmrs.systems.sasrec import sasrec
from lmrs.vocab import Vocab


def made(users: int, items: int, median: int, max_len: int, spread: float = 0.7) -> Dataset:
    """Random histories; the clock does not care what is in them. spread: deviation of the logarithm of a length."""
    rng = np.random.default_rng(0)
    lengths = np.clip(np.exp(rng.normal(np.log(median), spread, users)).astype(np.int64) + 2, 3, 4 * max_len)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    vocab = Vocab(pa.array([str(i) for i in range(items)], pa.large_string()))
    return Dataset("made", vocab, rng.integers(0, items, offsets[-1]).astype(np.int32), offsets)


def padded_loss(network, batch, max_len: int, rng) -> torch.Tensor:
    """The same network as everybody runs it: [B, T] rows with the events at the right, scores at every cell."""
    rows, item, target = batch.n_rows, batch.channels["item"], batch.channels["target"]
    place = batch.row_of * max_len + batch.channels["position"] + (max_len - batch.lengths)[batch.row_of]
    cells = torch.zeros(rows * max_len, dtype=torch.int64).index_put_((place,), item)
    wanted = torch.full((rows * max_len,), -100).index_put_((place,), target)
    real = torch.zeros(rows * max_len, dtype=torch.bool).index_put_((place,), torch.tensor(True))
    x = network.items(cells) * network.dim**0.5 + network.positions(torch.arange(max_len).repeat(rows))
    keep = 1 - network.model.dropout if rng is not None else 1.0
    drop = (lambda v: v * torch.empty_like(v).bernoulli_(keep).div_(keep)) if rng is not None else (lambda v: v)
    x = drop(x)
    seen = torch.ones(max_len, max_len, dtype=torch.bool).tril() & real.view(rows, 1, 1, max_len) | torch.eye(
        max_len, dtype=torch.bool
    )
    for block in network.blocks:
        query, width = block.norm_attention(x), network.dim
        q = F.linear(query, block.mix.weight[:width], block.mix.bias[:width])
        k, v = F.linear(x, block.mix.weight[width:], block.mix.bias[width:]).chunk(2, 1)
        heads = (t.view(rows, max_len, block.heads, -1).transpose(1, 2) for t in (q, k, v))
        out = F.scaled_dot_product_attention(*heads, attn_mask=seen).transpose(1, 2).reshape(rows * max_len, width)
        y = block.norm_feed(query + block.out(out))
        x = y + drop(block.down(drop(F.relu(block.up(y)))))
    table, _ = network.output()
    return F.cross_entropy(network.final_norm(x) @ table.T, wanted, ignore_index=-100, reduction="sum")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("users", 4000), ("items", 3400), ("median", 8), ("max-len", 200), ("rounds", 5), ("steps", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--spread", type=float, default=1.0)
    a = parser.parse_args()
    torch.set_num_threads(1)
    dataset = made(a.users, a.items, a.median, a.max_len, a.spread)
    system = sasrec(max_len=a.max_len)
    stage = system.stages[0]
    train = Train(dataset, dataset.offsets[1:])
    vocab = replace(dataset.vocab, counts=train.counts())
    rows = stage.view.rows(train, ahead=1, rng=numpy_generator(0))
    torch.manual_seed(0)
    network = system.model.build(vocab)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True, weight_decay=0.0)
    plain = torch.optim.Adam(network.parameters(), lr=1e-3)

    def batch(step: int):
        which = np.arange(step * 128, (step + 1) * 128) % len(rows)
        return stage.objective.corrupt(stage.view.collate(rows.take(which)), vocab, generator(0, step))

    def grads(loss: torch.Tensor) -> list[torch.Tensor]:
        network.zero_grad(set_to_none=True)
        loss.backward()
        return [p.grad.clone() for p in network.parameters()]

    first = batch(0)
    mine = stage.objective.charge(network, None, first, vocab, None)["next"]
    theirs = padded_loss(network, first, a.max_len, None)
    apart = max(
        float((g - h).abs().max() / h.abs().max().clamp_min(1e-12)) for g, h in zip(grads(mine), grads(theirs), strict=True)
    )
    loss_apart = abs(mine.item() - theirs.item()) / theirs.item()
    assert max(loss_apart * 100, apart) < 1e-3, (loss_apart, apart)

    def rate(run) -> float:
        begin, targets = time.process_time(), 0
        for step in range(a.steps):
            targets += run(step)
        return targets / (time.process_time() - begin)

    def ours(step: int) -> int:
        one = batch(step)
        count = stage.objective.counts(one)["next"]
        optimizer.zero_grad(set_to_none=True)
        (stage.objective.charge(network, None, one, vocab, generator(1, step))["next"] / count).backward()
        optimizer.step()
        return count

    def everybodys(step: int) -> int:
        one = batch(step)
        count = stage.objective.counts(one)["next"]
        plain.zero_grad(set_to_none=True)
        (padded_loss(network, one, a.max_len, True) / count).backward()
        plain.step()
        return count

    rate(ours), rate(everybodys)
    pairs = [(rate(ours), rate(everybodys)) for _ in range(a.rounds)]
    versions = {"lmrs": __version__, "torch": torch.__version__}
    both = {"lmrs": [x for x, _ in pairs], "padded loop": [y for _, y in pairs]}
    reports: beside.Reports = {
        name: [{"rate": value, "peak_mib": peak_mib(), "versions": versions} for value in values] for name, values in both.items()
    }
    lengths = rows.stop - rows.start
    data = {
        "users": a.users, "items": a.items, "median_length": int(np.median(lengths)), "longest": int(lengths.max()),
        "relative_loss_difference": loss_apart, "relative_gradient_difference": apart,
    }  # fmt: skip
    what = "skewed lengths, both sides in one process: real targets a processor second"
    sides = beside.summary(reports, lambda report: report["rate"])
    beside.write("skewed", {"what": what, "data": data, "rounds": a.rounds, "sides": sides})
    print(json.dumps(sides, indent=1))


if __name__ == "__main__":
    main()
