"""A System is checked when it is made: what cannot work together is refused, with what to do."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest

from lmrs import models, objectives, systems, tasks, views
from lmrs.errors import ContractError
from lmrs.schedule import Linear
from lmrs.system import Budget, Estimate, Paper, Stage, System
from lmrs.testing import check_repr

PAPER = Paper("T", "A", 2020)
SEQUENCE = views.ItemSequence(max_len=8)
NETWORK = models.Transformer(dim=8, heads=2, max_len=8)
STAGE = Stage("train", SEQUENCE, objectives.NextItem())
TASK = tasks.Ranking(SEQUENCE)


def test_parts_that_fit_make_a_value() -> None:
    one, two = System(PAPER, NETWORK, (STAGE,), TASK), System(PAPER, NETWORK, (STAGE,), TASK)
    assert one == two
    assert hash(one) == hash(two)
    check_repr(one)
    with pytest.raises(FrozenInstanceError):
        one.model = models.Markov()  # type: ignore[misc]


def test_departures_do_not_make_another_system() -> None:
    one = System(PAPER, NETWORK, (STAGE,), TASK)
    assert replace(one, departures=("pre-norm",)) == one


def test_a_control_is_estimated_and_a_network_trained() -> None:
    System(PAPER, models.Markov(), (Estimate(),), TASK)
    for model, stages in ((models.Markov(), (STAGE,)), (NETWORK, (Estimate(),)), (models.Markov(), (Estimate(), STAGE))):
        with pytest.raises(ContractError, match="Estimate stages for a control and Stages for a network"):
            System(PAPER, model, stages, TASK)


def test_a_network_needs_a_stage() -> None:
    with pytest.raises(ContractError, match="at least one stage"):
        System(PAPER, NETWORK, (), TASK)


def test_counting_and_training_do_not_mix() -> None:
    with pytest.raises(ContractError, match="Estimate stages for a control and Stages for a network"):
        System(PAPER, NETWORK, (Estimate(), STAGE), TASK)


def test_rows_longer_than_the_model_are_refused() -> None:
    long = replace(STAGE, view=views.ItemSequence(max_len=9))
    with pytest.raises(ContractError, match=r"rows of at most 8 positions for Transformer, got stage 'train' with max_len=9"):
        System(PAPER, NETWORK, (long,), TASK)


def test_histories_longer_than_the_model_are_refused() -> None:
    with pytest.raises(ContractError, match=r"histories of at most 8 positions for Transformer, got .*max_len=9"):
        System(PAPER, NETWORK, (STAGE,), tasks.Ranking(views.ItemSequence(max_len=9)))


def test_a_model_that_looks_back_alone_refuses_a_cloze() -> None:
    for model in (models.Recurrent(dim=8, max_len=8), models.Caser(dim=8, max_len=8)):
        with pytest.raises(ContractError, match=r"run under Full\(\) for stage 'train'.*looks only back"):
            System(PAPER, model, (replace(STAGE, objective=objectives.Cloze()),), TASK)


def test_every_stage_is_checked() -> None:
    with pytest.raises(ContractError, match="stage 'second'"):
        System(PAPER, NETWORK, (STAGE, replace(STAGE, name="second", view=views.ItemSequence(max_len=20))), TASK)


class Demanding(objectives.NextItem):
    needs = ("item", "words")


def test_an_objective_gets_the_channels_that_it_needs() -> None:
    with pytest.raises(
        ContractError, match=r"\['words'\] for objective Demanding in stage 'x', got view ItemSequence, which gives"
    ):
        Stage("x", SEQUENCE, Demanding())


def test_start_has_two_values() -> None:
    with pytest.raises(ContractError, match="start 'previous' or 'new', got 'old'"):
        replace(STAGE, start="old")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs of at least 1, got epochs=0"),
        ({"batch_size": 0}, "batch_size of at least 1"),
        ({"every": 0}, "every of at least 1"),
        ({"lr": 0.0}, "lr above 0, got lr=0.0"),
        ({"lr": float("nan")}, "lr above 0, got lr=nan"),
        ({"lr": float("inf")}, "lr above 0, got lr=inf"),
        ({"patience": 0}, "patience of at least 1, or None"),
        ({"weight_decay": -0.1}, "weight_decay of at least 0"),
        ({"clip": 0.0}, "clip above 0, or None"),
        ({"betas": (0.9, 1.0)}, r"betas in \[0, 1\)"),
        ({"average": 1.0}, r"average in \[0, 1\), or None, got average=1.0"),
        ({"average": -0.1}, r"average in \[0, 1\), or None"),
    ],
)
def test_budgets_are_checked(change: dict, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        Budget(**change)


def test_budgets_read_back() -> None:
    check_repr(Budget(schedule=Linear(warmup=0.1), patience=None, clip=1.0, average=0.99))


@pytest.mark.parametrize("make", systems.CATALOGUE.values(), ids=systems.CATALOGUE)
def test_options_that_cannot_work_are_refused_when_the_system_is_made(make) -> None:
    names = make.__kwdefaults__ or {}
    for name, value in (
        ("max_len", 0),
        ("dim", 0),
        ("epochs", 0),
        ("lr", -1.0),
        ("dropout", 1.0),
        ("batch_size", 0),
        ("layers", 0),
    ):
        if name in names:
            with pytest.raises(ContractError, match=rf"{name}.*got .*{value}"):
                make(**{name: value})
