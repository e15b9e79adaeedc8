"""Ten measures on many users' top-100 lists, beside ranx; and exact top-10 with masking, beside a plain loop.

    python -m benchmarks.measures [--users 1000000] [--items 12000 50000 1000000] [--rounds 5]

Equality first: the means differ by rounding alone, and the lists and ranks are the same. Then processor seconds, a fresh process
a side, in turn. lmrs is charged for finding the ranks of the true items in the lists and for the ten measures; ranx gets its
inputs as its compiled kernels take them. Lists have 100 items, users 1 to 10 true ones. One thread.
"""

from __future__ import annotations

import argparse
import json
import time

from benchmarks import beside, peers


def measures(asked: dict) -> dict:
    import numpy as np

    from benchmarks.lists import TEN, lists
    from lmrs.measures import Ranks, parse

    top, offsets, items = lists(asked["users"], asked["items"], np.random.default_rng(0))
    ten = [parse(name) for name in TEN]

    def run() -> list[float]:
        ranks = Ranks.from_lists(top, offsets=offsets, items=items, n_candidates=asked["items"])
        return [float(measure(ranks).mean()) for measure in ten]

    means = run()
    begin = time.process_time()
    run()
    return {"cpu_seconds": time.process_time() - begin, "means": means}


def ranking(kind: str, asked: dict) -> dict:
    """Seen items masked, ten best, rank of the truth: 2.5 million scores or one row of the catalogue at least."""
    import hashlib
    import statistics

    import numpy as np
    import torch

    from lmrs.answers import rank

    torch.set_num_threads(1)
    rng, n_items = np.random.default_rng(0), asked["items"]
    users = min(256, max(4, 8_000_000 // n_items))
    scores = torch.from_numpy(rng.standard_normal((users, n_items)).astype(np.float32))
    query, offsets = np.arange(users), np.arange(users + 1)
    seen, truth = (offsets * 50, rng.integers(0, n_items, 50 * users)), (offsets, rng.integers(0, n_items, users))

    def plain() -> tuple[np.ndarray, np.ndarray]:
        """A dense mask, topk over the whole row, and a comparison for the rank: what evaluators usually do."""
        mask = torch.zeros(scores.shape, dtype=torch.bool)
        mask[np.repeat(query, 50), seen[1]] = True
        mask[query, truth[1]] = False
        allowed = scores.masked_fill(mask, -torch.inf)
        above = (allowed > allowed[query, truth[1]][:, None]).sum(dim=1)
        return torch.topk(allowed, 10).indices.numpy(), above.numpy() + 1

    def ours() -> tuple[np.ndarray, np.ndarray]:
        found = rank(scores, query=query, seen=seen, truth=truth, k=10, seed=0)
        assert found.ranks is not None
        return found.items, found.ranks.rank

    run = ours if kind == "lmrs" else plain
    seconds = []
    for _ in range(6):
        begin = time.process_time()
        found = run()
        seconds.append(time.process_time() - begin)
    fingerprint = hashlib.sha256(b"".join(each.astype(np.int64).tobytes() for each in found)).hexdigest()
    return {"rate": users / statistics.median(seconds[1:]), "lists": fingerprint}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, nargs="+", default=[12_000, 50_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        from benchmarks.peers.clock import result

        asked = json.loads(given.side[1])
        result(measures(asked) if given.side[0] == "measures" else ranking(given.side[0], asked), "lmrs", "numpy", "torch")
        return
    words = json.dumps({"users": given.users, "items": 50_000})

    def keep(reports: beside.Reports) -> None:
        means = [found[0]["means"] for found in reports.values() if found and "means" in found[0]]
        apart = max(abs(a - b) for a, b in zip(means[0], means[-1]))
        data = {"users": given.users, "list": 100, "largest_difference_of_a_mean": apart if len(means) > 1 else None}
        sides = beside.summary(reports, lambda report: report["cpu_seconds"], higher=False)
        what = "ten ranking measures: processor seconds"
        rounds = max(len(each) for each in reports.values())
        beside.write("measures", {"what": what, "data": data, "rounds": rounds, "sides": sides})

    sides = {"lmrs": beside.own("benchmarks.measures", "--side", "measures", words), "ranx": peers.side("ranx", words)}
    beside.in_turn(sides, rounds=given.rounds, after=keep)
    for items in given.items:
        words = json.dumps({"items": items})

        def kept(reports: beside.Reports, items: int = items) -> None:
            same = len({report["lists"] for found in reports.values() for report in found if "lists" in report}) == 1
            assert same, "lists or ranks differ"
            sides = beside.summary(reports, lambda report: report["rate"])
            what = "masking, ten best and rank of given scores: users a processor second"
            rounds = max(len(each) for each in reports.values())
            beside.write(
                f"topk-{items}", {"what": what, "data": {"items": items, "same": same}, "rounds": rounds, "sides": sides}
            )

        pair = {kind: beside.own("benchmarks.measures", "--side", kind, words) for kind in ("lmrs", "plain")}
        beside.in_turn(pair, rounds=given.rounds, after=kept)


if __name__ == "__main__":
    main()
