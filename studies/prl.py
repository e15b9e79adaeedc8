"""Does a wished return help, does it help what pays more, and does aiming higher change what is answered?

    python -m studies.prl --data-root FOLDER [--seeds N]

FOLDER holds ml-1m. None of the data sets at hand has clicks and purchases, so ratings stand in: an event rated 4 or 5 pays 1
("liked"), any other .2. Every second user, last 21 training events, leave-one-out, whole catalogue; SASRec of one layer and width
64 as the encoder. Queries are split by what their true event pays. Arms share data, encoder, optimiser and stopping rule; the
return that is aimed at is changed after training alone. Differences are paired by user: bootstrap interval and
randomisation test, Holm-corrected. Result: studies/results/prl.{json,md}.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

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
OPTIONS = {"rating": 4.0, "max_len": 20, "lr": 2e-3, "batch_size": 64, "epochs": 40, "every": 2, "patience": 3}
AIMS = (0.0, 1.0, 2.0, 4.0)
MAIN = "PRL, c = 2"
COMPARED = (  # group, arm, against
    ("liked", MAIN, "plain"),
    ("other", MAIN, "plain"),
    ("liked", MAIN, "plain, weighed"),
    ("liked", MAIN, "PRL, not weighed"),
    ("other", MAIN, "PRL, not weighed"),
    ("liked", MAIN, "PRL, mean of three"),
    ("liked", MAIN, "PRL, c = 0"),
    ("liked", MAIN, "PRL, c = 1"),
    ("liked", MAIN, "PRL, c = 4"),
    ("liked", "PRL, c = 4", "PRL, c = 0"),
    ("other", "PRL, c = 4", "PRL, c = 0"),
)


def plain(*, weigh: bool) -> System:
    """The encoder without prompts; weighed: charged by rewards as PRL is."""
    system = prl(**OPTIONS)
    model, stage = system.model, system.stages[0]
    assert isinstance(model, RewardPrompt)
    assert isinstance(stage, Stage)
    objective = RewardedNext() if weigh else NextItem()
    return replace(system, model=model.encoder, stages=(replace(stage, objective=objective),))


def some_users(root: Path) -> Split:
    split = leave_one_out(sources.load(root / "ml-1m"))
    kept = np.arange(split.dataset.n_users) % 2 == 0
    train = replace(split.train, stop=np.where(kept, split.train.stop, split.train.start))
    parts = [part.take(np.flatnonzero(kept[part.user])) for part in (split.valid, split.sealed_test)]
    return replace(split, train=train, valid=parts[0], sealed_test=parts[1], about=split.about | {"users": "every second"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=1)
    a = parser.parse_args()
    split = some_users(a.data_root)
    rating = split.dataset.rating
    assert rating is not None
    liked = rating[split.test.stop] >= OPTIONS["rating"]
    systems = {
        "plain": plain(weigh=False),
        "plain, weighed": plain(weigh=True),
        "PRL": prl(**OPTIONS),
        "PRL, not weighed": prl(**OPTIONS, weigh=False),
        "PRL, mean of three": prl(**OPTIONS, fusion="mean"),
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
    groups = {"liked": liked, "other": ~liked}
    table = {
        arm: {
            group: [float(np.stack(each)[:, here].mean()) for each in (values[arm], hits[arm])] for group, here in groups.items()
        }
        | {"fit_cpu_seconds": round(cost[arm])}
        for arm in values
    }
    rows = paired.comparisons(values, COMPARED, groups, called="truth")
    write(table, rows, {group: int(here.sum()) for group, here in groups.items()}, a.seeds)


def write(table: dict, rows: list[dict], queries: dict[str, int], seeds: int) -> None:
    found = {
        "data": "ml-1m, every second user", "measure": "NDCG@10", "options": OPTIONS, "seeds": seeds, "queries": queries,
        "arms": table, "comparisons": rows, "version": __version__,
    }  # fmt: skip
    (RESULTS / "prl.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = [
        "# PRL on ml-1m, ratings as rewards",
        "",
        f"Every second user, {seeds} seed(s); {queries['liked']:,} queries whose true event is rated 4 or 5 (liked),",
        f"{queries['other']:,} others. NDCG@10 / HR@10 over the whole catalogue. p of the paired randomisation test,",
        "Holm-corrected.",
        "Made by `python -m studies.prl`.",
        "",
        "| arm | liked | other | CPU s of the fit |",
        "|---|---|---|---|",
    ]
    for arm, row in table.items():
        cells = [f"{row[group][0]:.4f} / {row[group][1]:.4f}" for group in ("liked", "other")]
        lines.append(f"| {arm} | {cells[0]} | {cells[1]} | {row['fit_cpu_seconds']:,} |")
    lines += paired.table(rows, called="truth", gain="gain (NDCG@10)")
    (RESULTS / "prl.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
