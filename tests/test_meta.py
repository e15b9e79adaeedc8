"""Every public part has a conformance case, and the conformance checks notice planted faults."""

from __future__ import annotations

import importlib.util
import inspect
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import get_args

import numpy as np
import pytest
import torch

from lmrs import losses, measures, models, objectives, systems, testing, views
from lmrs.batch import Batch
from lmrs.models import Control, Model
from lmrs.models.transformer import TransformerNetwork
from lmrs.split import Train
from lmrs.system import System
from lmrs.testing import tiny


@pytest.fixture(scope="module")
def cases() -> list[type]:
    """The classes of test_conformance.py."""
    spec = importlib.util.spec_from_file_location("conformance_cases", Path(__file__).with_name("test_conformance.py"))
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [case for name, case in vars(module).items() if name.startswith("Test") and inspect.isclass(case)]


def tried(cases: list[type], base: type) -> set[object]:
    """Types of the parts (or the functions, for systems) that have a case of one kind."""
    parts = [case.part for case in cases if issubclass(case, base)]
    return {part if inspect.isfunction(part) else type(part) for part in parts}


def exported(package: ModuleType) -> list[type]:
    return [part for part in (getattr(package, name) for name in package.__all__) if inspect.isclass(part)]


def test_every_model_has_a_case(cases: list[type]) -> None:
    wanted = {part for part in exported(models) if issubclass(part, Model) and not inspect.isabstract(part)}
    assert len(wanted) >= 3
    kinds = (testing.ModelTests, testing.LikelihoodTests, testing.VerdictTests, testing.ExplainerTests, testing.DocumentTests)
    assert wanted - set().union(*(tried(cases, kind) for kind in kinds)) == set()


def test_every_control_has_a_case(cases: list[type]) -> None:
    wanted = {part for part in exported(models) if issubclass(part, Control) and not inspect.isabstract(part)}
    assert len(wanted) >= 5
    assert wanted - tried(cases, testing.ControlTests) == set()


def test_every_block_and_feature_is_used_in_a_case(cases: list[type]) -> None:
    """What models are made of: tried inside a model."""
    wanted = {part for part in exported(models) if is_dataclass(part) and not issubclass(part, Model | Control)}
    used = {
        type(value)
        for case in cases
        if issubclass(case, testing.ModelTests | testing.LikelihoodTests)
        for value in vars(case.part).values()
        if is_dataclass(value)
    }
    assert len(wanted) >= 5
    assert wanted - used == set()


def test_every_objective_has_a_case(cases: list[type]) -> None:
    wanted = {part for part in exported(objectives) if is_dataclass(part)}
    assert len(wanted) >= 7
    assert wanted - tried(cases, testing.ObjectiveTests) == set()


def test_every_view_has_a_case(cases: list[type]) -> None:
    wanted = {part for part in exported(views) if hasattr(part, "collate") and not getattr(part, "_is_protocol", False)}
    assert wanted
    assert wanted - tried(cases, testing.ViewTests) - tried(cases, testing.RecordViewTests) == set()


def test_every_loss_has_a_case(cases: list[type]) -> None:
    wanted = set(get_args(losses.Charge))
    assert len(wanted) >= 5
    assert wanted - tried(cases, testing.LossTests) == set()


def test_every_measure_has_a_case(cases: list[type]) -> None:
    wanted = {*measures.ALL, measures.Sampled}
    assert wanted <= set(exported(measures)), "a measure that is not public"
    assert wanted - tried(cases, testing.MeasureTests) == set()


def test_every_system_has_a_case(cases: list[type]) -> None:
    assert set(systems.CATALOGUE.values()) - tried(cases, testing.FittedTests) == set()


def test_every_kind_of_check_is_public() -> None:
    kinds = [kind for kind in exported(testing) if kind.__name__.endswith("Tests")]
    assert len(kinds) >= 8
    for kind in kinds:
        assert inspect.getdoc(kind)
        assert [name for name in vars(kind) if name.startswith("test_")], f"{kind.__name__} checks nothing"


# -- planted faults --------------------------------------------------------------------------------------------------------


def broken_rules(case: type) -> set[str]:
    """Names of the checks that a case fails with an AssertionError."""
    found = set()
    for name in dir(case):
        if name.startswith("test_"):
            try:
                getattr(case(), name)()
            except AssertionError:
                found.add(name)
    return found


@dataclass(frozen=True)
class Peeping(models.Transformer):
    """A model that adds the mean of its row to every state."""

    def build(self, vocab):
        network = super().build(vocab)
        plain = network.forward

        def forward(batch: Batch, visible, rng=None, at=None):
            states = plain(batch, visible, rng)
            total = torch.zeros(batch.n_rows, states.shape[1], dtype=states.dtype).index_add_(0, batch.row_of, states)
            states = states + total[batch.row_of]
            return states if at is None else states[at]

        network.forward = forward
        return network


@dataclass(frozen=True)
class Crowded(models.Transformer):
    """A model whose states depend on who else is in the batch."""

    def build(self, vocab):
        network = super().build(vocab)
        plain = network.forward
        network.forward = lambda batch, visible, rng=None, at=None: plain(batch, visible, rng, at) - 0.01 * batch.n_rows
        return network


@dataclass(frozen=True)
class Idle(models.Transformer):
    """A model with a parameter that nothing uses."""

    def build(self, vocab):
        network: TransformerNetwork = super().build(vocab)
        network.spare = torch.nn.Parameter(torch.zeros(3))
        return network


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        (Peeping, "test_the_past_does_not_see_the_future"),
        (Crowded, "test_a_row_alone_gives_what_it_gives_in_a_batch"),
        (Idle, "test_gradient_reaches_every_parameter"),
    ],
)
def test_a_faulty_model_is_caught(model: type[models.Transformer], rule: str) -> None:
    case = type("TestFaulty", (testing.ModelTests,), {"part": model(dim=8, layers=1, heads=2, max_len=9)})
    assert rule in broken_rules(case)


@dataclass(frozen=True)
class Counting(models.Popularity):
    """A control that counts all events, the held-out ones too."""

    def build(self, vocab):
        scorer = super().build(vocab)
        plain = scorer.estimate
        scorer.estimate = lambda train: plain(Train(train.dataset, train.dataset.offsets[1:]))
        return scorer


def test_a_control_that_counts_the_future_is_caught() -> None:
    case = type("TestFaulty", (testing.ControlTests,), {"part": Counting()})
    assert broken_rules(case) >= {"test_only_training_events_are_read"}


@dataclass(frozen=True)
class Leaking(objectives.Cloze):
    """Cloze that forgets to hide."""

    def corrupt(self, batch, vocab, rng):
        return super().corrupt(batch, vocab, rng).with_channels(item=batch.channels["item"])


@dataclass(frozen=True)
class Averaging(objectives.NextItem):
    """A loss that is a mean over what it was given."""

    def charge(self, network, head, prepared, vocab, rng):
        found = super().charge(network, head, prepared, vocab, rng)
        return {"next": found["next"] / max(1, prepared.n_positions)}


@dataclass(frozen=True)
class Scribbling(objectives.NextItem):
    """Writes to the batch that it was given, and draws from torch's own generator."""

    def corrupt(self, batch, vocab, rng):
        batch.channels["item"][0] = (batch.channels["item"][0] + int(torch.randint(1, vocab.n_items, (1,)))) % vocab.n_items
        return super().corrupt(batch, vocab, rng)


@pytest.mark.parametrize(
    ("objective", "rules"),
    [
        (Leaking(), {"test_no_state_reads_what_it_predicts"}),
        (Averaging(), {"test_shards_add_up_to_the_whole", "test_counts_count_what_is_charged"}),
        (Scribbling(), {"test_corrupt_leaves_its_input_alone", "test_corrupt_is_a_function_of_batch_and_rng"}),
    ],
)
def test_a_faulty_objective_is_caught(objective: objectives.Objective, rules: set[str]) -> None:
    cost = {name: float(np.log(tiny.dataset().n_items)) for name in objective.weights}
    case = type("TestFaulty", (testing.ObjectiveTests,), {"part": objective, "zero_cost": cost})
    assert rules <= broken_rules(case)


@dataclass(frozen=True)
class Greedy(views.ItemSequence):
    """A view that reads to the end of the user's events."""

    def rows(self, train, *, ahead, rng):
        return super().rows(Train(train.dataset, train.dataset.offsets[1:]), ahead=ahead, rng=rng)


def test_a_view_that_reads_the_future_is_caught() -> None:
    case = type("TestFaulty", (testing.ViewTests,), {"part": Greedy(max_len=5)})
    assert broken_rules(case) >= {
        "test_rows_stay_inside_the_training_events_of_their_user",
        "test_nothing_behind_the_training_part_is_read",
    }


def test_a_loss_that_averages_is_caught() -> None:
    @dataclass(frozen=True)
    class Mean(losses.FullSoftmax):
        def charge(self, states, output, target, drawn=None):
            return super().charge(states, output, target, drawn) / max(1, len(target))

    case = type("TestFaulty", (testing.LossTests,), {"part": Mean()})
    assert "test_it_is_a_sum_over_positions" in broken_rules(case)


def test_a_measure_above_its_bounds_is_caught() -> None:
    @dataclass(frozen=True)
    class Twice(measures.HR):
        def score(self, ranks):
            return 2 * super().score(ranks)

    case = type("TestFaulty", (testing.MeasureTests,), {"part": Twice(5)})
    assert {"test_it_keeps_to_its_bounds", "test_its_name_reads_back"} <= broken_rules(case)


def looser(option, *, dim: int = 8) -> System:
    """An option without default or type."""
    return systems.sasrec(dim=dim)


def test_a_careless_system_is_caught() -> None:
    case = type("TestFaulty", (testing.SystemTests,), {"part": staticmethod(looser)})
    made = case()
    with pytest.raises(AssertionError, match="option is not keyword-only"):
        made.test_every_option_has_a_name_a_default_and_a_type()
    with pytest.raises(AssertionError, match="has no dict SPACE"):
        made.test_what_a_study_may_search_are_options()


@dataclass(frozen=True)
class Shy:
    seen: int = 1
    secret: int = field(default=2, repr=False)


def test_a_repr_that_hides_a_field_is_caught() -> None:
    testing.check_repr(Shy(seen=-5))
    with pytest.raises(AssertionError, match="repr does not say everything"):
        testing.check_repr(Shy(secret=3))
