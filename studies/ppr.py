"""Do prompts made from profiles serve cold users, and what does each part of PPR add?

    python -m studies.ppr --data-root FOLDER [--seeds N]

FOLDER holds ml-1m. A third of the users is warm: their first 50 events train the recommender (SASRec, full softmax, width 64).
The others are cold, first events first: of five eighths of them four events are for tuning, the fifth for validation, the sixth
is the test ("few"); of the others nothing is known and the first event is asked, half of them for validation ("none").

Every arm starts from the same pre-trained weights and is tuned on cold users as `systems.ppr` does in its second stage, with the
learning rate that validation prefers. Differences are paired by user: bootstrap interval and randomisation test,
Holm-corrected. Result: studies/results/ppr.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file

from lmrs import __version__, sources
from lmrs.dataset import Dataset
from lmrs.fit import Execution, Fitted, fit
from lmrs.judge import judge
from lmrs.measures import NDCG
from lmrs.models import Network, ProfilePrompt, Transformer
from lmrs.split import Queries, Split, Train
from lmrs.systems import ppr
from lmrs.vocab import Vocab
from studies import paired

RESULTS = Path(__file__).parent / "results"
KNOWN, WARM = 4, 50  # events: for tuning on a cold user, of a warm one
RATES = (1e-3, 5e-3)
OPTIONS = {"few": KNOWN, "loss": "softmax", "max_len": WARM, "batch_size": 64, "pretrain_epochs": 60, "patience": 5, "epochs": 60}
ARMS: dict[str, dict] = {
    "fine-tuned": {"variant": "finetune"},
    "light": {},
    "light, no contrast": {"contrast": 0.0},
    "light, shared prompt": {"personal": False},
    "full": {"variant": "full"},
    "full, no contrast": {"variant": "full", "contrast": 0.0},
}
COMPARED = (  # group, arm, against
    ("few", "light", "frozen"),
    ("few", "light", "fine-tuned"),
    ("few", "full", "fine-tuned"),
    ("few", "full", "light"),
    ("few", "light", "light, no contrast"),
    ("few", "light", "light, shared prompt"),
    ("few", "full", "full, no contrast"),
    ("none", "light", "frozen"),
    ("none", "light", "light, shared prompt"),
    ("none", "light", "light, no contrast"),
    ("none", "full", "light"),
)


@dataclass(frozen=True)
class Trained(Transformer):
    """A transformer that starts from the weights in a file."""

    weights: str = ""

    @property
    def pretrained(self) -> bool:
        return True

    def build(self, vocab: Vocab) -> Network:
        return begun(super().build(vocab), self.weights)


@dataclass(frozen=True)
class TrainedPrompted(ProfilePrompt):
    """The same with prompts."""

    weights: str = ""

    @property
    def pretrained(self) -> bool:
        return True

    def build(self, vocab: Vocab) -> Network:
        return begun(super().build(vocab), self.weights)


def begun(network: Network, weights: str) -> Network:
    missing = network.load_state_dict(load_file(weights), strict=False)
    assert not missing.unexpected_keys
    assert all(name.startswith("prompt.") for name in missing.missing_keys)
    return network


def cold_start(data: Dataset, *, seed: int) -> tuple[Split, np.ndarray]:
    """The split of the docstring, and for every test query whether events are known."""
    order = np.random.default_rng(seed).permutation(data.n_users)
    warm, cold = np.split(order, [data.n_users // 3])
    few, none = (np.sort(part) for part in np.split(cold, [len(cold) * 5 // 8]))
    begin = data.offsets[:-1]
    stop = begin.copy()
    stop[warm] = np.minimum(begin[warm] + WARM, data.offsets[1:][warm])
    stop[few] = begin[few] + KNOWN
    parts = []
    for at, nobody in ((KNOWN, none[::2]), (KNOWN + 1, none[1::2])):
        user = np.concatenate([few, nobody])
        place = begin[user] + np.where(np.arange(len(user)) < len(few), at, 0)
        parts.append(Queries(data, user, place, place + 1))
    split = Split(data, Train(data, stop), parts[0], parts[1], {"split": "cold users", "seed": seed})
    return split, np.arange(len(parts[1])) < len(few)


def tuned(options: dict, split: Split, weights: str, seed: int) -> tuple[Fitted, float]:
    """The arm with the better of the learning rates, by validation; and the CPU seconds of all of them."""
    found, seconds = [], 0.0
    for lr in RATES:
        system = ppr(**OPTIONS, **options, lr=lr)
        model = system.model
        if isinstance(model, ProfilePrompt):
            started = TrainedPrompted(model.body, model.names, model.personal, model.length, weights=weights)
        else:
            assert isinstance(model, Transformer)
            started = Trained(**vars(model), weights=weights)
        last = replace(system, model=started, stages=system.stages[1:])
        fitted = fit(last, split, seed=seed, execution=Execution(device="cpu"))
        found.append((max(line["valid"]["NDCG@10"] for line in fitted.log), fitted))
        seconds += fitted.cpu_seconds
    return max(found, key=lambda each: each[0])[1], seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=2)
    a = parser.parse_args()
    split, known = cold_start(sources.load(a.data_root / "ml-1m"), seed=0)
    values: dict[str, list[np.ndarray]] = {name: [] for name in ("frozen", *ARMS)}
    facts: dict[str, dict] = {}
    for seed in range(a.seeds):
        with tempfile.TemporaryDirectory() as folder:
            weights = str(Path(folder) / "body.safetensors")
            fits = {"frozen": fit(ppr(**OPTIONS, variant="frozen"), split, seed=seed, execution=Execution(device="cpu"))}
            cost = {"frozen": fits["frozen"].cpu_seconds}
            save_file({name: t.contiguous().clone() for name, t in fits["frozen"].scorer.state_dict().items()}, weights)
            for name, options in ARMS.items():
                fits[name], cost[name] = tuned(options, split, weights, seed)
                print(f"seed {seed} {name}: {cost[name]:.0f} s", flush=True)
        for name, fitted in fits.items():
            judged = judge(fitted.scorer, fitted.objective, fitted.system.task, split.test, fitted.vocab, k=1, seed=seed)
            values[name].append(NDCG(10)(judged.ranks))
            stage = fitted.system.stages[-1]
            facts[name] = {
                "lr": stage.budget.lr, "tuned": fitted.moved[-1]["parameters_tuned"], "parameters": fitted.parameters,
                "fit_cpu_seconds": round(cost[name]),
            }  # fmt: skip
    groups = {"few": known, "none": ~known}
    table = {
        name: {group: float(np.stack(each)[:, here].mean()) for group, here in groups.items()} | facts[name]
        for name, each in values.items()
    }
    rows = paired.comparisons(values, COMPARED, groups, called="users")
    write(table, rows, {group: int(here.sum()) for group, here in groups.items()}, a.seeds)


def write(table: dict, rows: list[dict], users: dict[str, int], seeds: int) -> None:
    found = {
        "data": "ml-1m", "measure": "NDCG@10", "options": OPTIONS, "rates": RATES, "seeds": seeds, "users": users,
        "arms": table, "comparisons": rows, "version": __version__,
    }  # fmt: skip
    (RESULTS / "ppr.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = [
        "# PPR on cold users of ml-1m",
        "",
        f"NDCG@10 over the whole catalogue, mean of {seeds} seeds; {users['few']:,} users with five known events,",
        f"{users['none']:,} with none (where arms without prompts give training popularity). p of the paired randomisation test,",
        "Holm-corrected. lr (chosen by validation) and CPU seconds (of both rates together): last seed.",
        "Made by `python -m studies.ppr`.",
        "",
        "| arm | few events | no events | parameters tuned | of | lr | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in table.items():
        lines.append(
            f"| {name} | {row['few']:.4f} | {row['none']:.4f} | {row['tuned']:,} | {row['parameters']:,} | {row['lr']:g} "
            f"| {row['fit_cpu_seconds']:,} |"
        )
    lines += paired.table(rows, called="users")
    (RESULTS / "ppr.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
