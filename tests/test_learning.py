"""Learning on chains whose best possible score is known: chance <= model <= ceiling. Above the ceiling is a leak.

Two settings of one dial: a chain that can be predicted, on which every system must learn, and one that is nearly noise, on which
none can, and on which anything that knows the answer stands out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
import torch

from lmrs import sources, systems, tasks, views
from lmrs.fit import Execution, fit
from lmrs.judge import judge
from lmrs.measures import HR
from lmrs.models import Control, ControlScorer, Scorer
from lmrs.objectives import Objective
from lmrs.split import Queries, Split, leave_one_out
from lmrs.system import System
from lmrs.tasks.ranking import Ranking

K, ITEMS = 3, 16
PREDICTABLE, NOISE = 0.15, 30.0  # concentration of the chain's rows

SMALL = {"dim": 16, "max_len": 10, "lr": 1e-2, "dropout": 0.0, "batch_size": 64, "every": 5, "patience": 2}
ONE = {"layers": 1, "heads": 1}
T4R = {**SMALL, **ONE, "item_dim": 16}

# The system, its epochs on the predictable chain, and how much of the way from chance to the ceiling it must go.
CASES: dict[str, tuple[System, int, float]] = {
    "markov": (systems.markov(), 0, 0.9),
    "sasrec": (systems.sasrec(**SMALL, **ONE), 30, 0.7),
    "esasrec": (systems.esasrec(**SMALL, **ONE, negatives=8), 30, 0.7),
    "gru4rec": (systems.gru4rec(**SMALL, embedding_dropout=0.0), 25, 0.7),
    "caser": (systems.caser(**SMALL, window=2, horizontal=8, vertical=2, targets=1), 50, 0.7),
    "bert4rec": (systems.bert4rec(**SMALL, **ONE, hide=0.3, last=0.3), 80, 0.7),
    "t4r-masked": (systems.transformers4rec(objective="masked", **T4R), 60, 0.3),
    "t4r-causal": (systems.transformers4rec(objective="causal", **T4R), 30, 0.7),
    "t4r-permuted": (systems.transformers4rec(objective="permuted", **T4R, share=0.3), 60, 0.5),
    "t4r-replaced": (systems.transformers4rec(objective="replaced", **T4R), 40, 0.3),
    "s3rec": (systems.s3rec(**SMALL, **ONE, attributes="group", loss="softmax"), 30, 0.7),
}


@cache
def split(concentration: float, order: int = 1, items: int = ITEMS) -> Split:
    return leave_one_out(sources.synthetic(users=400, items=items, length=10, concentration=concentration, order=order, seed=1))


def hits(scorer: Scorer, objective: Objective | None, system: System, queries: Queries, vocab) -> np.ndarray:
    """float64[Q]: 1 where the next item was among the first K. Repeats are part of a chain, so nothing is excluded."""
    task = replace(system.task, exclude_seen=False)
    return HR(K)(judge(scorer, objective, task, queries, vocab, k=K, seed=0).ranks)


def trained(system: System, given: Split, *, epochs: int) -> np.ndarray:
    stages = system.stages
    if epochs:
        budgets = [replace(stage.budget, epochs=max(1, epochs // 10) if stage is not stages[-1] else epochs) for stage in stages]
        stages = tuple(replace(stage, budget=budget) for stage, budget in zip(stages, budgets))
    system = replace(system, stages=stages, task=replace(system.task, exclude_seen=False))
    fitted = fit(system, given, seed=0, execution=Execution(device="cpu"))
    return hits(fitted.scorer, fitted.objective, system, given.test, fitted.vocab)


@dataclass(frozen=True)
class Bounds:
    """Where the mean of `hits` must lie. slack: three standard errors of a mean over Q queries."""

    chance: float
    ceiling: float
    slack: float

    @classmethod
    def of(cls, given: Split) -> Bounds:
        chain = sources.chain_of(given.dataset)
        best = sources.synthetic_ceiling(chain, given.test, k=K, exclude_seen=False)[f"HR@{K}"]
        # The truth is drawn: even the perfect model's hits vary, by p (1 - p) a query.
        return cls(K / chain.items, float(best.mean()), 3 * float(np.sqrt((best * (1 - best)).sum()) / len(best)) + 0.01)

    def part(self, share: float) -> float:
        """So much of the way from chance to the ceiling."""
        return self.chance + share * (self.ceiling - self.chance)


@pytest.mark.parametrize("name", CASES)
def test_it_learns_what_can_be_predicted_and_no_more(name: str) -> None:
    system, epochs, share = CASES[name]
    bounds = Bounds.of(split(PREDICTABLE))
    found = trained(system, split(PREDICTABLE), epochs=epochs).mean()
    assert found >= bounds.part(share), f"{found:.3f}: learned too little between {bounds.chance:.3f} and {bounds.ceiling:.3f}"
    assert found <= bounds.ceiling + bounds.slack, f"{found:.3f} is better than the best possible {bounds.ceiling:.3f}: a leak"


@pytest.mark.parametrize("name", CASES)
def test_it_finds_nothing_in_noise(name: str) -> None:
    system, epochs, _ = CASES[name]
    bounds = Bounds.of(split(NOISE))
    found = trained(system, split(NOISE), epochs=min(epochs, 15)).mean()
    noise = 3 * np.sqrt(bounds.chance * (1 - bounds.chance) / len(split(NOISE).test))
    assert found >= bounds.chance - noise, f"{found:.3f} is worse than chance, {bounds.chance:.3f}"
    assert found <= bounds.ceiling + bounds.slack, f"{found:.3f} is better than the best possible {bounds.ceiling:.3f}: a leak"


def test_a_transformer_learns_what_a_first_order_chain_cannot() -> None:
    given = split(0.1, 2, 7)
    bounds = Bounds.of(given)
    deep, chain = (trained(CASES[name][0], given, epochs=epochs).mean() for name, epochs in (("sasrec", 40), ("markov", 0)))
    assert deep >= chain + 0.05, f"{deep:.3f} against {chain:.3f}"
    assert deep <= bounds.ceiling + bounds.slack


# -- the bounds themselves -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Law(Control):
    """The chain's own transition rows: nobody can do better."""

    def build(self, vocab) -> LawScorer:
        return LawScorer(vocab)


class LawScorer(ControlScorer):
    def __init__(self, vocab) -> None:
        super().__init__()
        self.n_items = vocab.n_items
        self.register_buffer("table", torch.zeros(vocab.n_items, vocab.n_items, dtype=torch.float64))

    def estimate(self, train) -> None:
        place = np.array([int(text[1:]) for text in train.dataset.vocab.items.to_pylist()])
        self.table = torch.from_numpy(sources.transitions(sources.chain_of(train.dataset))[np.ix_(place, place)])

    def score(self, batch, visible):
        return self.table[batch.channels["item"][batch.channels["asked"]]]


class LastAgain(ControlScorer):
    """Recommends the last event: right whenever the history holds the answer."""

    n_items = ITEMS

    def estimate(self, train) -> None: ...

    def score(self, batch, visible):
        return torch.nn.functional.one_hot(batch.channels["item"][batch.channels["asked"]], ITEMS).double()


@pytest.mark.parametrize("concentration", [PREDICTABLE, NOISE])
def test_who_knows_the_law_reaches_the_ceiling(concentration: float) -> None:
    given = split(concentration)
    bounds = Bounds.of(given)
    scorer = Law().build(given.dataset.vocab)
    scorer.estimate(given.train)
    found = hits(scorer, None, CASES["markov"][0], given.test, given.dataset.vocab).mean()
    assert abs(found - bounds.ceiling) <= bounds.slack


@pytest.mark.parametrize("concentration", [PREDICTABLE, NOISE])
def test_who_is_shown_the_answer_is_above_the_ceiling(concentration: float) -> None:
    """The bound can fail: one event too many in the history is noticed."""
    given = split(concentration)
    leaking = replace(given.test, stop=given.test.stop + 1)
    task = Ranking(views.ItemSequence(max_len=10), exclude_seen=False)
    blocks = list(tasks.ranking.questions(LastAgain(), None, task, leaking, given.dataset.vocab))
    first = np.concatenate([block.scores.argmax(1).numpy() for block in blocks])
    order = np.concatenate([block.which for block in blocks])
    bounds = Bounds.of(given)
    assert (first == given.dataset.item[given.test.stop[order]]).mean() > bounds.ceiling + bounds.slack


def test_the_dial_turns() -> None:
    easy, hard = Bounds.of(split(PREDICTABLE)), Bounds.of(split(NOISE))
    assert easy.ceiling > 0.8
    assert hard.ceiling < 0.25
    assert easy.chance == hard.chance == K / ITEMS
