"""Scoring candidates after a long prompt: lmrs.decoding.continuations beside one forward pass for each candidate.

    python benchmarks/candidates.py [--candidates 100] [--prompt 300] [--words 8] [--dim 256] [--layers 4] [--vocab 8000]

A random Llama of the given size; candidates of 1 to 2 x words tokens. Equality first: the largest difference of a log-likelihood.
Each variant runs in a fresh process, which reports CPU seconds of a repetition and its own peak memory. One thread.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time


def once(kind: str, a: argparse.Namespace) -> dict[str, float | list[float]]:
    import numpy as np
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from lmrs.decoding import causal, continuations

    torch.set_num_threads(1)
    torch.manual_seed(0)
    size = {"hidden_size": a.dim, "num_hidden_layers": a.layers, "num_attention_heads": 8, "intermediate_size": 3 * a.dim}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=a.vocab, tie_word_embeddings=True, initializer_range=0.1, **size)).eval()
    rng = np.random.default_rng(0)
    prompt = torch.from_numpy(rng.integers(0, a.vocab, (1, a.prompt)))
    offsets = np.concatenate([[0], np.cumsum(rng.integers(1, 2 * a.words + 1, a.candidates))])
    ids = rng.integers(0, a.vocab, offsets[-1])

    @torch.no_grad()
    def run() -> np.ndarray:
        if kind == "lmrs":
            return continuations(causal(model, prompt, torch.ones_like(prompt, dtype=torch.bool)), (offsets, ids)).total
        out = []
        for row in np.split(ids, offsets[1:-1]):
            wanted = torch.from_numpy(row)
            whole = torch.cat([prompt[0], wanted])[None]
            logits = model(input_ids=whole, use_cache=False, logits_to_keep=len(row) + 1).logits[0, :-1]
            out.append(float(logits.log_softmax(dim=1).gather(1, wanted[:, None]).sum()))
        return np.asarray(out)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    seconds = []
    for _ in range(a.rounds):
        begin = time.process_time()
        scores = run()
        seconds.append(time.process_time() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"cpu_seconds": statistics.median(seconds), "extra_memory_mb": peak / 1024, "scores": scores.tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("candidates", 100), ("prompt", 300), ("words", 8), ("dim", 256), ("layers", 4), ("vocab", 8000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--once", choices=("plain", "lmrs"), help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.once:
        print(json.dumps(once(a.once, a)))
        return
    found = {}
    for kind in ("plain", "lmrs"):
        words = [*sys.argv[1:], "--once", kind]
        out = subprocess.run([sys.executable, __file__, *words], check=True, capture_output=True, text=True)
        found[kind] = json.loads(out.stdout)
    pairs = zip(found["plain"].pop("scores"), found["lmrs"].pop("scores"), strict=True)
    gap = max(abs(one - two) for one, two in pairs)
    ratio = found["plain"]["cpu_seconds"] / found["lmrs"]["cpu_seconds"]
    print(json.dumps({"largest_difference": gap, **found, "time_ratio": round(ratio, 2)}), flush=True)


if __name__ == "__main__":
    main()
