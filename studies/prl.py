"""Does a wished return help, does it help what pays more, and does aiming higher change what is answered?

    python -m studies.prl --data-root FOLDER [--set online-retail] [--seeds N]

FOLDER holds ml-1m or online-retail. None of the data sets at hand has clicks and purchases. In ml-1m ratings stand in: an event
rated 4 or 5 pays 1 ("liked"), any other .2; every second user. Online-retail has purchases, which pay 1, and returned goods
(negative quantities), which pay .2; lines without a customer and of service codes are left out, one event a customer, invoice and
item. Last 21 training events, leave-one-out, whole catalogue; SASRec of one layer and width 64 as the encoder. Queries are split
by what their true event pays. Arms share data, encoder, optimiser and stopping rule; the return that is aimed at is changed after
training alone. Differences are paired by user: bootstrap interval and randomisation test, Holm-corrected. Result:
studies/results/prl.{json,md}, or prl-online-retail.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lmrs import __version__, sources
from lmrs.fit import Execution, fit
from lmrs.judge import judge
from lmrs.measures import HR, NDCG
from lmrs.models.reward_prompt import RewardPrompt, RewardPromptNetwork
from lmrs.objectives import NextItem, RewardedNext
from lmrs.split import Split, leave_one_out
from lmrs.system import Stage, System
from lmrs.systems import prl
from studies import paired

RESULTS = Path(__file__).parent / "results"
OPTIONS = {"max_len": 20, "lr": 2e-3, "batch_size": 64, "epochs": 40, "every": 2, "patience": 3}
AIMS = (0.0, 1.0, 2.0, 4.0)
MAIN = "PRL, c = 2"
COMPARED = (  # whether of the queries whose truth pays more, arm, against
    (True, MAIN, "plain"),
    (False, MAIN, "plain"),
    (True, MAIN, "plain, weighed"),
    (True, MAIN, "PRL, not weighed"),
    (False, MAIN, "PRL, not weighed"),
    (True, MAIN, "PRL, mean of three"),
    (True, MAIN, "PRL, c = 0"),
    (True, MAIN, "PRL, c = 1"),
    (True, MAIN, "PRL, c = 4"),
    (True, "PRL, c = 4", "PRL, c = 0"),
    (False, "PRL, c = 4", "PRL, c = 0"),
)
NAMES = {"ml-1m": ("liked", "other"), "online-retail": ("bought", "returned")}  # what pays more, and the rest


def plain(options: dict, *, weigh: bool) -> System:
    """The encoder without prompts; weighed: charged by rewards as PRL is."""
    system = prl(**options)
    model, stage = system.model, system.stages[0]
    assert isinstance(model, RewardPrompt)
    assert isinstance(stage, Stage)
    objective = RewardedNext() if weigh else NextItem()
    return replace(system, model=model.encoder, stages=(replace(stage, objective=objective),))


def retail(root: Path) -> Split:
    """Purchases and returns, as events of two kinds."""
    table = pq.read_table(root / "online-retail" / "transactions.parquet")
    sold = pc.match_substring_regex(table["item_id"], "^[0-9]{5}")  # stock codes have five digits; POST, M, D ... are services
    table = table.filter(pc.and_(sold, pc.is_valid(table["user_id"])))
    kind = pc.if_else(pc.greater(table["quantity"], 0), "purchase", "return")
    table = pa.table({**{name: table[name] for name in ("user_id", "item_id", "invoice", "timestamp")}, "type": kind})
    table = table.group_by(["user_id", "invoice", "item_id", "type"], use_threads=False).aggregate([("timestamp", "min")])
    table = table.rename_columns([name.removesuffix("_min") for name in table.column_names]).drop_columns("invoice")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "retail.parquet"
        pq.write_table(table, file)
        return leave_one_out(sources.load(file))


def some_users(root: Path) -> Split:
    split = leave_one_out(sources.load(root / "ml-1m"))
    kept = np.arange(split.dataset.n_users) % 2 == 0
    train = replace(split.train, stop=np.where(kept, split.train.stop, split.train.start))
    parts = [part.take(np.flatnonzero(kept[part.user])) for part in (split.valid, split.sealed_test)]
    return replace(split, train=train, valid=parts[0], sealed_test=parts[1], about=split.about | {"users": "every second"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--set", default="ml-1m", choices=list(NAMES))
    parser.add_argument("--seeds", type=int, default=1)
    a = parser.parse_args()
    split = some_users(a.data_root) if a.set == "ml-1m" else retail(a.data_root)
    if a.set == "ml-1m":
        options: dict = {**OPTIONS, "rating": 4.0}
        assert split.dataset.rating is not None
        paid = split.dataset.rating[split.test.stop] >= options["rating"]
    else:
        options = dict(OPTIONS)
        assert split.dataset.type is not None
        paid = np.asarray(split.dataset.type)[split.test.stop] == split.dataset.types.index("purchase")
    systems = {
        "plain": plain(options, weigh=False),
        "plain, weighed": plain(options, weigh=True),
        "PRL": prl(**options),
        "PRL, not weighed": prl(**options, weigh=False),
        "PRL, mean of three": prl(**options, fusion="mean"),
    }
    values: dict[str, list[np.ndarray]] = {}
    hits: dict[str, list[np.ndarray]] = {}
    cost: dict[str, float] = {}
    for seed in range(a.seeds):
        for name, system in systems.items():
            fitted = fit(system, split, seed=seed, execution=Execution(device="cpu"))
            print(f"seed {seed} {name}: {fitted.cpu_seconds:.0f} s, {len(fitted.log)} epochs", flush=True)
            for aim in AIMS if name == "PRL" else (2.0,):
                if isinstance(fitted.scorer, RewardPromptNetwork):
                    fitted.scorer.aim = aim
                judged = judge(fitted.scorer, fitted.objective, system.task, split.test, fitted.vocab, k=1, seed=seed)
                arm = f"PRL, c = {aim:g}" if name == "PRL" else name
                values.setdefault(arm, []).append(NDCG(10)(judged.ranks))
                hits.setdefault(arm, []).append(HR(10)(judged.ranks))
                cost[arm] = fitted.cpu_seconds
    groups = dict(zip(NAMES[a.set], (paid, ~paid), strict=True))
    table = {
        arm: {
            group: [float(np.stack(each)[:, here].mean()) for each in (values[arm], hits[arm])] for group, here in groups.items()
        }
        | {"fit_cpu_seconds": round(cost[arm])}
        for arm in values
    }
    compared = tuple((NAMES[a.set][0 if pays else 1], one, two) for pays, one, two in COMPARED)
    rows = paired.comparisons(values, compared, groups, called="truth")
    write(a.set, table, rows, {group: int(here.sum()) for group, here in groups.items()}, options, a.seeds)


def write(data: str, table: dict, rows: list[dict], queries: dict[str, int], options: dict, seeds: int) -> None:
    more, less = NAMES[data]
    whose = "Every second user, " if data == "ml-1m" else "All customers, "
    found = {
        "data": data, "measure": "NDCG@10", "options": options, "seeds": seeds, "queries": queries,
        "arms": table, "comparisons": rows, "version": __version__,
    }  # fmt: skip
    name = "prl" if data == "ml-1m" else f"prl-{data}"
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = [
        f"# PRL on {data}, {'ratings as rewards' if data == 'ml-1m' else 'purchases and returned goods'}",
        "",
        f"{whose}{seeds} seed(s); {queries[more]:,} queries whose true event is {more}, {queries[less]:,} {less}.",
        "NDCG@10 / HR@10 over the whole catalogue. p of the paired randomisation test, Holm-corrected.",
        "Made by `python -m studies.prl`.",
        "",
        f"| arm | {more} | {less} | CPU s of the fit |",
        "|---|---|---|---|",
    ]
    for arm, row in table.items():
        cells = [f"{row[group][0]:.4f} / {row[group][1]:.4f}" for group in (more, less)]
        lines.append(f"| {arm} | {cells[0]} | {cells[1]} | {row['fit_cpu_seconds']:,} |")
    lines += paired.table(rows, called="truth", gain="gain (NDCG@10)")
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
