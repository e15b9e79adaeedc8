"""Full-rank evaluation: the ten best unseen items of every user and where the truth stands, in lmrs and its peers.

    python -m benchmarks.ranking --data-root FOLDER [--sets ml-100k amazon-beauty ml-1m 50k-items 1m-items] [--rounds 5]

SASRec of hidden 64, 2 layers, 2 heads with weights that were hardly trained (the clock does not care), one thread. Users a
processor second, reading of histories included. Peers through their own calls: RecTools `recommend(filter_viewed=True)`, RePlay
`Trainer.predict` with its filter of seen items and its top-k callback, RecBole `Trainer.evaluate`, which leaves seen items in.
"lmrs" goes by the kernels in C, as `lmrs evaluate` does where a compiler is there; "lmrs torch" does without. Equality first:
for a block of users the lists of lmrs are those of a dense mask and `topk` on torch's scores, up to the rounding of these; peers
have other weights, so their lists cannot be compared. (benchmarks/measures.py ranks the same scores beside plain torch.)
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks import beside, histories, peers

SIDES = ("lmrs", "lmrs torch", "rectools", "replay", "recbole")


def lmrs(asked: dict) -> dict:
    from dataclasses import replace

    import numpy as np
    import torch

    from benchmarks.peers.clock import Laps
    from lmrs.hardware import keep_memory
    from lmrs.judge import jagged, judge
    from lmrs.kernels import fastest
    from lmrs.native import by_kernel
    from lmrs.systems.sasrec import sasrec
    from lmrs.tasks.ranking import scores
    from lmrs.views import Rows

    torch.set_num_threads(1)
    keep_memory()  # as the command line does
    split = histories.split(Path(asked["data"]))
    vocab = replace(split.dataset.vocab, counts=split.train.counts())
    system = sasrec(max_len=asked["max_len"])
    torch.manual_seed(0)
    network = system.model.build(vocab)
    queries = split.valid.take(np.arange(min(asked["users"], len(split.valid))))
    objective = system.stages[0].objective

    some = queries.take(np.arange(min(256, len(queries), max(1, 32_000_000 // vocab.n_items))))
    rows = Rows(some.dataset, some.user, some.start, some.stop)
    cells, _ = scores(network, objective, system.task.view, rows, vocab)
    offsets, seen = jagged(some.dataset.item, some.start, some.stop)
    truth = jagged(some.dataset.item, some.stop, some.target)
    chosen = fastest() if asked["kernel"] else (None, ())
    with by_kernel(*chosen):
        found = judge(network, objective, system.task, some, vocab, k=10, seed=0)
    mask = torch.zeros(cells.shape, dtype=torch.bool)
    mask[torch.from_numpy(np.repeat(np.arange(len(some)), np.diff(offsets))), torch.from_numpy(seen)] = True
    mask[torch.arange(len(some)), torch.from_numpy(truth[1])] = False
    cells.masked_fill_(mask, -torch.inf)
    best = cells.topk(10)
    # Two products round differently: who changes places has the same score up to that.
    ours = cells.gather(1, torch.from_numpy(found.items).long())
    same = bool((torch.from_numpy(found.items) == best.indices).all())
    assert torch.allclose(ours, best.values, rtol=1e-5, atol=1e-6), "lists differ from those of a dense mask and topk"

    laps = Laps(1)
    laps.mark()
    for _ in range(asked["rounds"] + 1):
        with by_kernel(*chosen):
            judge(network, objective, system.task, queries, vocab, k=10, seed=0)
        laps.mark(len(queries))
    return laps.found() | {"same_lists": same, "users": len(queries)}


def command(side: str, name: str, data: Path, users: int) -> list[str]:
    asked = {"task": "evaluate", "data": str(data), "max_len": histories.LENGTH[name], "users": users, "rounds": 2}
    asked |= {"steps": 1, "warm": 0}
    if side.startswith("lmrs"):
        asked["kernel"] = side == "lmrs"
        return beside.own("benchmarks.ranking", "--side", "lmrs", json.dumps(asked))
    return peers.side(side, json.dumps(asked))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument(
        "--sets",
        nargs="+",
        default=[name for name in histories.LENGTH if name != "skewed"],
        choices=list(histories.LENGTH),
    )
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--users", type=int, default=2048)
    parser.add_argument("--side", nargs=2, metavar=("NAME", "TASK"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        from benchmarks.peers.clock import result

        result(lmrs(json.loads(given.side[1])), "lmrs", "torch", "numpy")
        return 0
    for name in given.sets:
        if given.data_root is None and name not in histories.MADE:
            print(f"ranking: {name} needs --data-root: not measured", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as folder:
            data = histories.file(given.data_root, name, Path(folder))
            commands = {side: command(side, name, data, given.users) for side in given.sides}
            beside.in_turn(commands, rounds=given.rounds, after=partial(keep, name, given.users))
    return 0


def keep(name: str, users: int, reports: beside.Reports) -> None:
    facts = {"users_at_most": users, "length": histories.LENGTH[name], "same_lists": reports["lmrs"][0].get("same_lists")}
    rounds = max(len(each) for each in reports.values())
    what = "full-rank evaluation: users a processor second, ten best unseen items"
    sides = beside.summary(reports, lambda report: report["rate"])
    beside.write(f"ranking-{name}", {"what": what, "data": facts, "rounds": rounds, "sides": sides})


if __name__ == "__main__":
    sys.exit(main())
