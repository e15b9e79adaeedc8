"""Beam search under a trie: lmrs.decoding.beam beside a trie of Python dictionaries asked for every beam.

    python benchmarks/beam.py [--items 12000 500000] [--batch 64] [--width 50] [--codes 256] [--levels 4] [--rounds 3]

The language model is a table of random numbers, so that only the search is timed: what may follow, its log-probabilities, the
best of each row. The reference does what `generate(prefix_allowed_tokens_fn=...)` does: a walk through the dictionaries for each
beam, a mask over the vocabulary, top-k over beams x vocabulary. Both are given log-probabilities. Equality first: the same
items, and the largest difference of a score. One fresh process for each variant, CPU seconds of a whole search. One thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time


def once(kind: str, a: argparse.Namespace) -> dict[str, float | list]:
    import numpy as np
    import torch

    from lmrs.decoding import beam
    from lmrs.indexing import Trie

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    drawn = rng.choice(a.codes**a.levels, a.items[0], replace=False)
    codes = drawn[:, None] // a.codes ** np.arange(a.levels - 1, -1, -1) % a.codes + a.codes * np.arange(a.levels)
    words = a.codes * a.levels
    tables = []
    for level in range(a.levels):
        rows = a.batch * (a.width if level else 1)
        tables.append(torch.randn(rows, words, generator=torch.Generator().manual_seed(level)).log_softmax(dim=1))

    class Steps:
        """The same numbers at every search."""

        def first(self) -> torch.Tensor:
            self.level = 0
            return tables[0]

        def next(self, parents: np.ndarray, tokens: np.ndarray) -> torch.Tensor:
            self.level += 1
            return tables[self.level][: len(parents)]

    def plain() -> tuple[np.ndarray, np.ndarray]:
        prefixes: list[tuple[int, ...]] = [()] * a.batch
        total = torch.zeros(a.batch, 1)
        for level in range(a.levels):
            beams = total.shape[1]
            logs = tables[level][: len(prefixes)]
            mask = torch.full_like(logs, -torch.inf)
            for row, prefix in enumerate(prefixes):
                node = root
                for token in prefix:
                    node = node[token]
                mask[row, list(node)] = 0
            scores = (logs + mask).view(a.batch, beams, words) + total[..., None]
            total, at = scores.view(a.batch, -1).topk(a.width, dim=1)
            prefixes = [
                (*prefixes[row * beams + place // words], place % words) for row, line in enumerate(at.tolist()) for place in line
            ]
        items = [find[prefix] for prefix in prefixes]
        return np.asarray(items).reshape(a.batch, a.width), total.numpy()

    def ours() -> tuple[np.ndarray, np.ndarray]:
        found = beam(Steps(), trie, k=a.width)
        return found.items, found.scores

    if kind == "plain":
        root: dict = {}
        find = {tuple(code): item for item, code in enumerate(codes.tolist())}
        for code in find:
            node = root
            for token in code:
                node = node.setdefault(token, {})
    else:
        trie = Trie.build(np.arange(len(codes) + 1) * a.levels, codes.ravel())
    run = plain if kind == "plain" else ours
    run()
    seconds = []
    for _ in range(a.rounds):
        begin = time.process_time()
        items, scores = run()
        seconds.append(time.process_time() - begin)
    return {"cpu_seconds": statistics.median(seconds), "items": items.tolist(), "scores": scores.tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[12000, 500000])
    for name, default in (("batch", 64), ("width", 50), ("codes", 256), ("levels", 4), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--once", choices=("plain", "lmrs"), help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.once:
        print(json.dumps(once(a.once, a)))
        return
    for items in a.items:
        found = {}
        for kind in ("plain", "lmrs"):
            words = ["--batch", a.batch, "--width", a.width, "--codes", a.codes, "--levels", a.levels, "--rounds", a.rounds]
            line = [sys.executable, __file__, "--once", kind, "--items", items, *words]
            out = subprocess.run([str(word) for word in line], check=True, capture_output=True, text=True)
            found[kind] = json.loads(out.stdout)
        chosen = [found[kind].pop("items") for kind in found]
        scores = [[each for row in found[kind].pop("scores") for each in row] for kind in found]
        gap = max(abs(one - two) for one, two in zip(*scores, strict=True))
        ratio = found["plain"]["cpu_seconds"] / found["lmrs"]["cpu_seconds"]
        report = {"catalogue": items, "same_items": chosen[0] == chosen[1], "largest_difference": gap, **found}
        print(json.dumps({**report, "time_ratio": round(ratio, 2)}), flush=True)


if __name__ == "__main__":
    main()
