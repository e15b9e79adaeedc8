"""Item texts to vectors, the quick way beside the plain one.

    python benchmarks/encoding.py [--part joint|frozen] [--backbone minilm] [--precision fp32] [--texts 512] [--repeats 8]

joint: a training step over the items of a batch, forward and backward: each distinct item once, beside each occurrence once.
The claim is a time ratio of at least 0.8 x the duplication factor (--repeats).
frozen: vectors of a catalogue, `lmrs.texts.encoded` with an empty cache, beside the defaults of SentenceTransformer.encode,
written by hand with the transformers package (it is no dependency): batches of 32, longest texts first, each padded to its
longest, mean pooling, length 1, fp32. --precision: of lmrs' side; "bf16" is where its gain comes from, on a processor with such
products. --same: this share of the titles are copies of others, as in many shops.

Texts are drawn words, 3 to 24 of them. Without a fetched backbone use --backbone tiny-encoder. Equality first: the largest
difference of a gradient, the least cosine. Each variant runs in a fresh process. One thread; CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

WORDS = "red blue new old small large steel wool cotton film history war love space garden music light pro kit set of and for the"


def drawn(a: argparse.Namespace) -> list[str]:
    import numpy as np

    rng = np.random.default_rng(0)
    words = WORDS.split()
    texts = [" ".join([*rng.choice(words, rng.integers(3, 25)), str(n)]) for n in range(a.texts)]
    copies = int(a.same * a.texts)
    for n in rng.choice(a.texts, copies, replace=False):
        texts[n] = texts[(n * 7 + 1) % a.texts]
    return texts


def joint(kind: str, a: argparse.Namespace) -> tuple[float, list[float]]:
    """(CPU seconds of a step, some of the gradient)."""
    import torch

    from lmrs.language import Backbone
    from lmrs.texts import Joint, TextEncoder

    policy = Joint().build(TextEncoder(Backbone(a.backbone, a.precision)), drawn(a)[:64])
    items = torch.arange(64).repeat(a.repeats)[torch.randperm(64 * a.repeats, generator=torch.Generator().manual_seed(0))]
    towards = torch.randn(len(items), policy.dim, generator=torch.Generator().manual_seed(1))
    seconds = []
    for _ in range(a.rounds + 1):
        policy.zero_grad(set_to_none=True)
        begin = time.process_time()
        vectors = policy(items) if kind == "lmrs" else policy.encoder(policy.read, items)
        (vectors * towards).sum().backward()
        seconds.append(time.process_time() - begin)
    named = dict(policy.encoder.named_parameters())
    first = next(name for name, value in named.items() if name.endswith("query.weight") or name.endswith("q_proj.weight"))
    return statistics.median(seconds[1:]), named[first].grad.flatten()[:2000].tolist()


def frozen(kind: str, a: argparse.Namespace) -> tuple[float, list[float]]:
    """(CPU seconds for all texts, their vectors)."""
    import torch
    import torch.nn.functional as F

    from lmrs.language import Backbone
    from lmrs.texts import TextEncoder, encoded

    texts = drawn(a)
    about = TextEncoder(Backbone(a.backbone, a.precision if kind == "lmrs" else "fp32"))
    if kind == "lmrs":
        with tempfile.TemporaryDirectory() as warm:  # what a process does once, on either side
            encoded(about, texts[:3], cache=warm)
        with tempfile.TemporaryDirectory() as cache:
            begin = time.process_time()
            found = encoded(about, texts, cache=cache)
            return time.process_time() - begin, found.ravel().tolist()
    model, tokens = about.backbone.build(), about.backbone.tokenizer()
    with torch.no_grad():
        model(input_ids=torch.tensor([[tokens.cls, tokens.sep]]))
    begin = time.process_time()
    order = sorted(range(len(texts)), key=lambda n: -len(texts[n]))
    out: list[torch.Tensor] = [torch.empty(0)] * len(texts)
    for at in range(0, len(order), 32):
        rows = [torch.tensor([tokens.cls, *tokens.encode(texts[n])[:126], tokens.sep]) for n in order[at : at + 32]]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokens.pad)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        with torch.no_grad():
            states = model(input_ids=ids, attention_mask=mask).last_hidden_state * mask[..., None]
        for n, vector in zip(order[at : at + 32], F.normalize(states.sum(1) / mask.sum(1, keepdim=True)), strict=True):
            out[n] = vector
    return time.process_time() - begin, torch.cat(out).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("joint", "frozen"))
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--same", type=float, default=0.0, help="share of the texts that are copies of others")
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--once", choices=("plain", "lmrs"), help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.once:
        import torch

        torch.set_num_threads(1)
        seconds, values = (joint if a.part == "joint" else frozen)(a.once, a)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"cpu_seconds": seconds, "peak_memory_mb": round(peak), "values": values}))
        return
    for part in (a.part,) if a.part else ("joint", "frozen"):
        found = {}
        for kind in ("plain", "lmrs"):
            words = [*sys.argv[1:], "--part", part, "--once", kind]
            env = {**os.environ, "OMP_NUM_THREADS": "1"}
            out = subprocess.run([sys.executable, __file__, *words], check=True, capture_output=True, text=True, env=env)
            found[kind] = json.loads(out.stdout)
        print(json.dumps({"part": part, **compared(part, found, a)}), flush=True)


def compared(part: str, found: dict, a: argparse.Namespace) -> dict:
    import numpy as np

    one, two = (np.array(found[kind].pop("values")) for kind in ("plain", "lmrs"))
    ratio = found["plain"]["cpu_seconds"] / found["lmrs"]["cpu_seconds"]
    if part == "joint":
        gap = float(np.abs(one - two).max() / np.abs(one).max())
        return {"largest_relative_difference": gap, **found, "time_ratio": round(ratio, 2), "duplication": a.repeats}
    one, two = one.reshape(a.texts, -1), two.reshape(a.texts, -1)
    cosine = (one * two).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)
    return {"least_cosine": float(cosine.min()), **found, "time_ratio": round(ratio, 2)}


if __name__ == "__main__":
    main()
