"""The plain behaviour of the training loop. What survives a kill is tested in test_resume.py."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lmrs import averaging, checkpoint, losses, models, objectives, tasks, tuning, views
from lmrs.errors import ContractError, DataError, DivergedError, SealedError, UserError
from lmrs.fit import Execution, fit
from lmrs.judge import judge
from lmrs.measures import NDCG, Sampling
from lmrs.negatives import Uniform
from lmrs.progress import Reporter
from lmrs.schedule import Constant, Cosine, Linear, filled
from lmrs.split import Queries, Split, Train
from lmrs.system import Budget, Paper, Stage, System
from lmrs.systems import markov
from lmrs.testing import tiny

fitting = sys.modules["lmrs.fit"]
CPU = Execution(device="cpu")
PAPER = Paper("Nothing", "Nobody", 2020)
BUDGET = Budget(epochs=3, batch_size=4, lr=0.01, patience=None)


def system(
    budget: Budget = BUDGET,
    *,
    objective: objectives.Objective | None = None,
    dropout: float = 0.2,
    stages: tuple[Stage, ...] = (),
) -> System:
    sequence = views.ItemSequence(max_len=8)
    return System(
        PAPER,
        models.Transformer(dim=8, layers=1, heads=2, max_len=8, dropout=dropout),
        stages or (stage(budget, objective=objective),),
        tasks.Ranking(sequence),
    )


def stage(budget: Budget = BUDGET, *, objective: objectives.Objective | None = None, **options) -> Stage:
    return Stage(
        options.pop("name", "train"), views.ItemSequence(max_len=8), objective or objectives.NextItem(), budget=budget, **options
    )


def same(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    other = two.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in one.state_dict().items())


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What every step of the runs in this test was given: place, rows, learning rates."""
    seen: list[dict] = []
    plain = fitting._Run._step

    def watch(run, stage, number, modules, optimizer, rows) -> None:
        seen.append(
            {
                "epoch": run.progress.epoch,
                "step": run.progress.step,
                "rows": list(zip(rows.user.tolist(), rows.start.tolist(), rows.stop.tolist())),
                "groups": [dict(group) for group in optimizer.param_groups],
            }
        )
        plain(run, stage, number, modules, optimizer, rows)
        norms = [p.grad.norm() for p in modules.parameters() if p.grad is not None]
        seen[-1]["norm"] = float(torch.stack(norms).norm())

    monkeypatch.setattr(fitting._Run, "_step", watch)
    return seen


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    """Say what validation finds, epoch by epoch."""

    def play(*values: float) -> None:
        left: Iterator[float] = iter(values)
        monkeypatch.setattr(fitting._Run, "_validate", lambda run, stage, network: next(left))

    return play


# -- when it stops, and what it keeps --------------------------------------------------------------------------------------


def test_it_stops_after_patience_validations_without_gain_and_keeps_the_best(script) -> None:
    script(0.1, 0.3, 0.2, 0.3, 0.9)  # an equal value is no gain
    stopped = fit(system(replace(BUDGET, epochs=9, patience=2)), tiny.split(), execution=CPU)
    assert [line["epoch"] for line in stopped.log] == [1, 2, 3, 4]
    script(0.1, 0.3)
    assert same(stopped.scorer, fit(system(replace(BUDGET, epochs=2)), tiny.split(), execution=CPU).scorer)


def test_without_patience_it_goes_on_to_the_end_and_keeps_the_best_all_the_same(script) -> None:
    script(0.5, 0.1, 0.1, 0.1)
    long = fit(system(replace(BUDGET, epochs=4)), tiny.split(), execution=CPU)
    assert len(long.log) == 4
    script(0.5)
    assert same(long.scorer, fit(system(replace(BUDGET, epochs=1)), tiny.split(), execution=CPU).scorer)


def test_validation_comes_every_so_many_epochs_and_at_the_end() -> None:
    log = fit(system(replace(BUDGET, epochs=5, every=2)), tiny.split(), execution=CPU).log
    assert [line["epoch"] for line in log if "valid" in line] == [2, 4, 5]
    assert all(list(line["valid"]) == ["NDCG@10"] for line in log if "valid" in line)


def test_patience_counts_validations_not_epochs(script) -> None:
    script(0.3, 0.2, 0.1, 0.0)
    log = fit(system(replace(BUDGET, epochs=20, every=3, patience=2)), tiny.split(), execution=CPU).log
    assert log[-1]["epoch"] == 9


def test_a_split_without_validation_trains_to_the_end() -> None:
    split = tiny.split()
    nothing = np.zeros(0, np.int64)
    bare = replace(split, valid=Queries(split.dataset, nothing, nothing, nothing))
    fitted = fit(system(replace(BUDGET, patience=1)), bare, execution=CPU)
    assert len(fitted.log) == BUDGET.epochs
    assert not any("valid" in line for line in fitted.log)


def test_an_objective_that_cannot_ask_is_not_validated() -> None:
    first = stage(name="first", objective=objectives.Mutual(attributes="genres"))
    log = fit(system(stages=(first, stage(name="second"))), tiny.split(), execution=CPU).log
    assert {line["stage"] for line in log if "valid" in line} == {"second"}
    assert [line["stage"] for line in log] == ["first"] * 3 + ["second"] * 3


# -- randomness ------------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits_whatever_torch_s_own_generator_holds() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = fit(system(), tiny.split(), seed=5, execution=CPU)
    assert torch.equal(torch.get_rng_state(), before), "the global generator was used"
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002 - the point is that it does not matter
    two = fit(system(), tiny.split(), seed=5, execution=CPU)
    assert same(one.scorer, two.scorer)
    assert one.log == two.log


def test_another_seed_gives_other_weights() -> None:
    one, two = (fit(system(), tiny.split(), seed=seed, execution=CPU) for seed in (5, 6))
    assert not same(one.scorer, two.scorer)


def test_every_epoch_is_a_permutation_of_all_rows_drawn_from_seed_and_epoch(steps: list[dict]) -> None:
    split = tiny.split()

    def orders(seed: int, **changes) -> list[list[tuple]]:
        steps.clear()
        fit(system(replace(BUDGET, **changes)), split, seed=seed, execution=CPU)
        return [[row for step in steps if step["epoch"] == epoch for row in step["rows"]] for epoch in range(3)]

    first = orders(5)
    rows = views.ItemSequence(max_len=8).rows(split.train, ahead=1, rng=np.random.default_rng(0))
    everything = sorted(zip(rows.user.tolist(), rows.start.tolist(), rows.stop.tolist()))
    assert all(sorted(order) == everything for order in first)
    assert len({tuple(order) for order in first}) == 3, "two epochs in the same order"
    assert orders(6) != first, "the seed does not matter"
    assert orders(5, every=3, lr=0.1, batch_size=7) == first, "something else than (seed, epoch) decides the order"


def test_steps_are_cut_from_the_order_in_batches(steps: list[dict]) -> None:
    fit(system(), tiny.split(), execution=CPU)
    sizes = [len(step["rows"]) for step in steps if step["epoch"] == 0]
    total = int((tiny.split().train.lengths >= 2).sum())
    assert sizes == [4] * (total // 4) + ([total % 4] if total % 4 else [])


def test_micro_batches_change_nothing_but_rounding() -> None:
    loss = losses.SampledSoftmax(Uniform(k=5, shared=True))
    for objective in (objectives.NextItem(), objectives.NextItem(loss), objectives.Cloze(hide=0.4)):
        made = system(objective=objective, dropout=0.0)
        whole = fit(made, tiny.split(), execution=CPU)
        parts = fit(made, tiny.split(), execution=replace(CPU, micro_batch=1))
        for name, tensor in whole.scorer.state_dict().items():
            if "mix.bias" in name:
                continue  # the bias of the keys cannot change a softmax: its gradient is rounding, which Adam blows up
            assert torch.allclose(tensor, parts.scorer.state_dict()[name], rtol=0, atol=1e-4), name
        for one, two in zip(whole.log, parts.log):
            assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)


# -- the budget --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [Constant(), Linear(warmup=3), Cosine(warmup=0.2, floor=0.1)])
def test_the_learning_rate_follows_the_schedule(schedule, steps: list[dict]) -> None:
    fit(system(replace(BUDGET, lr=0.02, schedule=schedule)), tiny.split(), execution=CPU)
    wanted = filled(schedule, len(steps))
    rates = [{group["lr"] for group in step["groups"]} for step in steps]
    assert rates == [{0.02 * wanted.factor(at)} for at in range(len(steps))]


def test_decay_is_for_matrices_alone_and_betas_are_passed_on(steps: list[dict]) -> None:
    fit(system(replace(BUDGET, epochs=1, weight_decay=0.3, betas=(0.8, 0.9))), tiny.split(), execution=CPU)
    for group in steps[0]["groups"]:
        assert {p.ndim >= 2 for p in group["params"]} == {group["weight_decay"] == 0.3}
        assert group["betas"] == (0.8, 0.9)
    assert len(steps[0]["groups"]) == 2


def test_gradients_are_clipped(steps: list[dict]) -> None:
    fit(system(replace(BUDGET, epochs=1)), tiny.split(), execution=CPU)
    free = max(step["norm"] for step in steps)
    steps.clear()
    fit(system(replace(BUDGET, epochs=1, clip=free / 4)), tiny.split(), execution=CPU)
    assert max(step["norm"] for step in steps) == pytest.approx(free / 4, rel=1e-3)


# -- the average of the weights ----------------------------------------------------------------------------------------------


def unvalidated() -> Split:
    split = tiny.split()
    nothing = np.zeros(0, np.int64)
    return replace(split, valid=Queries(split.dataset, nothing, nothing, nothing))


@pytest.fixture
def courses(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """The network's tensors after each update of the runs in this test."""
    seen: list[dict[str, torch.Tensor]] = []
    plain = fitting._Run._step

    def watch(run, stage, number, modules, optimizer, rows) -> None:
        plain(run, stage, number, modules, optimizer, rows)
        seen.append({name: tensor.clone() for name, tensor in modules["network"].state_dict().items()})

    monkeypatch.setattr(fitting._Run, "_step", watch)
    return seen


def mean(course: list[torch.Tensor], decay: float) -> torch.Tensor:
    """The bias-corrected moving average, as the sum it is: recent ones weigh more, and the weights sum to 1."""
    shares = torch.tensor([decay**back for back in reversed(range(len(course)))], dtype=torch.float64)
    return torch.einsum("t,t...->...", shares / shares.sum(), torch.stack(course).double()).float()


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_a_stage_ends_with_the_average_of_its_weights(decay: float, courses: list[dict[str, torch.Tensor]]) -> None:
    fitted = fit(system(replace(BUDGET, average=decay)), unvalidated(), execution=CPU)
    assert len(courses) == fitted.steps > 5
    for name, tensor in fitted.scorer.state_dict().items():
        torch.testing.assert_close(tensor, mean([each[name] for each in courses], decay), rtol=1e-5, atol=1e-6, msg=name)
    assert not same(fitted.scorer, fit(system(), unvalidated(), execution=CPU).scorer)


def test_training_goes_on_with_the_weights_themselves(courses: list[dict[str, torch.Tensor]]) -> None:
    averaged = fit(system(replace(BUDGET, average=0.9)), tiny.split(), execution=CPU)
    half = len(courses)
    plain = fit(system(), tiny.split(), execution=CPU)
    for one, two in zip(courses[:half], courses[half:], strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)
    assert [line["loss"] for line in averaged.log] == [line["loss"] for line in plain.log]


def test_validation_judges_the_average_and_the_best_one_is_kept(
    monkeypatch: pytest.MonkeyPatch, courses: list[dict[str, torch.Tensor]]
) -> None:
    judged: list[dict[str, torch.Tensor]] = []
    values = iter((0.1, 0.3, 0.2))

    def validate(run, stage, network) -> float:
        judged.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return next(values)

    monkeypatch.setattr(fitting._Run, "_validate", validate)
    fitted = fit(system(replace(BUDGET, average=0.8)), tiny.split(), execution=CPU)
    an_epoch = len(courses) // 3
    for epoch, found in enumerate(judged, 1):
        for name, tensor in found.items():
            wanted = mean([each[name] for each in courses[: epoch * an_epoch]], 0.8)
            torch.testing.assert_close(tensor, wanted, rtol=1e-5, atol=1e-6, msg=name)
    assert all(torch.equal(tensor, judged[1][name]) for name, tensor in fitted.scorer.state_dict().items())


def test_an_average_of_one_update_is_the_weights() -> None:
    plain = fit(system(), tiny.split(), execution=CPU)
    averaged = fit(system(replace(BUDGET, average=0.0)), tiny.split(), execution=CPU)
    assert same(plain.scorer, averaged.scorer)
    assert plain.log == averaged.log


def test_what_is_frozen_has_no_average() -> None:
    layer, average = torch.nn.Linear(2, 3), dict[str, torch.Tensor]()
    layer.bias.requires_grad_(False)
    for update in (1, 2):
        averaging.follow(average, layer, 0.9, update)
    assert list(average) == ["weight"]


def test_every_stage_has_an_average_of_its_own(courses: list[dict[str, torch.Tensor]]) -> None:
    second = stage(replace(BUDGET, average=0.7), name="second", tuning=tuning.Part(("blocks.*",)))
    both = fit(system(stages=(stage(replace(BUDGET, average=0.9)), second)), unvalidated(), execution=CPU)
    half = len(courses) // 2
    first = {name: mean([each[name] for each in courses[:half]], 0.9) for name in courses[0]}
    for name, tensor in both.scorer.state_dict().items():
        if name.startswith("blocks."):
            wanted = mean([each[name] for each in courses[half:]], 0.7)
            torch.testing.assert_close(tensor, wanted, rtol=1e-5, atol=1e-6, msg=name)
        else:
            assert all(torch.equal(tensor, each[name]) for each in courses[half:]), name
            torch.testing.assert_close(tensor, first[name], rtol=1e-5, atol=1e-6, msg=name)


def test_a_frozen_part_stays_at_the_best_weights_of_the_stage_before(script, tmp_path) -> None:
    """Not at their last average."""
    script(0.5, 0.1, 0.1, 0.3, 0.2, 0.1)
    averaged = replace(BUDGET, average=0.9)
    second = stage(averaged, name="second", tuning=tuning.Part(("blocks.*",)))
    both = fit(system(stages=(stage(averaged), second)), tiny.split(), out=tmp_path, execution=CPU)
    script(0.5)
    alone = fit(system(replace(averaged, epochs=1)), tiny.split(), execution=CPU)
    for name, tensor in both.scorer.state_dict().items():
        assert torch.equal(tensor, alone.scorer.state_dict()[name]) != name.startswith("blocks."), name
    [last] = checkpoint.steps(tmp_path / "checkpoints")[-1:]
    assert not [name for name in checkpoint.load(last)[0] if name.startswith("average.")]  # it has done its work


def test_the_logged_loss_is_the_mean_over_all_predictions() -> None:
    """With a rate of nearly zero the weights stay, and the loss is that of the first network, written out."""
    split = tiny.split()
    fitted = fit(system(replace(BUDGET, epochs=1, lr=1e-30), dropout=0.0), split, execution=CPU)
    batch = views.ItemSequence(max_len=8).collate(
        views.ItemSequence(max_len=8).rows(split.train, ahead=1, rng=np.random.default_rng(0))
    )
    prepared = objectives.NextItem().corrupt(batch, fitted.vocab, torch.Generator())
    states = fitted.scorer(prepared, objectives.NextItem().visible)
    wanted = F.cross_entropy(fitted.scorer.output().scores(states), prepared.channels["target"])
    assert fitted.log[0]["loss"]["next"] == pytest.approx(wanted.item(), rel=1e-5)
    assert fitted.targets == prepared.n_positions
    assert fitted.steps == math.ceil(batch.n_rows / 4)


def test_training_lowers_the_loss() -> None:
    log = fit(system(replace(BUDGET, epochs=15, lr=0.03)), tiny.split(), execution=CPU).log
    assert log[-1]["loss"]["next"] < 0.85 * log[0]["loss"]["next"]


def test_a_misspelt_measure_is_told_before_the_first_step(steps: list[dict]) -> None:
    with pytest.raises(UserError, match="NDCG"):
        fit(system(replace(BUDGET, measure="NDGC@10")), tiny.split(), execution=CPU)
    assert not steps


def test_a_sampled_measure_is_watched_among_the_drawn_items_alone() -> None:
    fitted = fit(system(replace(BUDGET, epochs=1, measure="NDCG@2/3neg")), tiny.split(), execution=CPU)
    judged = judge(
        fitted.scorer, fitted.objective, fitted.system.task, tiny.split().valid, fitted.vocab,
        k=1, seed=fitted.seed, samplings=(Sampling(3, "uniform"),),
    )  # fmt: skip
    wanted = NDCG(2)(replace(judged.sampled[Sampling(3, "uniform")], sampling=None)).mean()
    assert fitted.log[-1]["valid"] == {"NDCG@2/3neg": pytest.approx(wanted, abs=1e-12)}


@pytest.mark.parametrize("measure", ["RMSE", "Coverage@10"])
def test_a_measure_that_cannot_be_watched_is_told_before_the_first_step(measure: str, steps: list[dict]) -> None:
    with pytest.raises(ContractError, match=r"needed .* got"):
        fit(system(replace(BUDGET, measure=measure)), tiny.split(), execution=CPU)
    assert not steps


# -- stages --------------------------------------------------------------------------------------------------------------------


def test_the_second_stage_goes_on_with_the_weights_of_the_first() -> None:
    frozen = stage(name="second", tuning=tuning.Nothing())
    alone = fit(system(), tiny.split(), execution=CPU)
    both = fit(system(stages=(stage(), frozen)), tiny.split(), execution=CPU)
    assert same(alone.scorer, both.scorer)


def test_a_new_stage_starts_from_fresh_weights() -> None:
    anew = stage(name="second", tuning=tuning.Nothing(), start="new")
    both = fit(system(stages=(stage(), anew)), tiny.split(), execution=CPU)
    untrained = fit(system(replace(BUDGET, epochs=1, lr=1e-30)), tiny.split(), execution=CPU)
    assert not same(both.scorer, fit(system(), tiny.split(), execution=CPU).scorer)
    assert not same(both.scorer, untrained.scorer), "the second stage has the first weights of the first stage, not its own"
    for name, tensor in both.scorer.state_dict().items():
        assert tensor.abs().max() <= 0.04 or "norm" in name, f"{name} was trained"


def test_frozen_parameters_stay_bit_for_bit() -> None:
    second = stage(name="second", tuning=tuning.Part(("blocks.*",)))
    alone = fit(system(), tiny.split(), execution=CPU)
    both = fit(system(stages=(stage(), second)), tiny.split(), execution=CPU)
    for name, tensor in both.scorer.state_dict().items():
        assert torch.equal(tensor, alone.scorer.state_dict()[name]) != name.startswith("blocks."), name
    counted = both.moved[1]
    assert (
        counted["tensors_moved"]
        == counted["tensors_tuned"]
        == len([n for n in both.scorer.state_dict() if n.startswith("blocks.")])
    )
    assert both.trained == both.parameters
    assert counted["parameters_tuned"] + counted["parameters_frozen"] == both.parameters


def test_a_control_is_counted_not_trained() -> None:
    fitted = fit(markov(), tiny.split(), execution=CPU)
    assert fitted.log == []
    assert fitted.steps == 0
    assert fitted.parameters == 0
    assert fitted.targets == tiny.split().train.n_events
    assert float(fitted.scorer.state_dict()["share"].sum()) == pytest.approx(1)


# -- what it must not do -------------------------------------------------------------------------------------------------------


class Curious(Reporter):
    """Tries to read the test part whenever it is told something."""

    def __init__(self, split: Split) -> None:
        super().__init__(quiet=True)
        self.split, self.refused = split, 0

    def begin(self, what: str, total: int, done: int = 0) -> None:
        with pytest.raises(SealedError, match="sealed during fit"):
            len(self.split.test)
        self.refused += 1


def test_the_test_part_is_sealed_during_fit_and_open_afterwards() -> None:
    split = tiny.split()
    curious = Curious(split)
    fit(system(), split, execution=CPU, reporter=curious)
    assert curious.refused >= BUDGET.epochs
    assert len(split.test)


def test_the_seal_is_lifted_after_a_failure() -> None:
    split = tiny.split()
    with pytest.raises(DivergedError):
        fit(system(objective=Poisoned()), split, execution=CPU)
    assert len(split.test)


def test_other_test_items_change_nothing() -> None:
    data = tiny.dataset()
    item = data.item.copy()
    test = tiny.split(data).sealed_test
    item[test.stop] = (item[test.stop] + 1) % data.n_items
    one, two = (fit(system(), tiny.split(each), execution=CPU) for each in (data, replace(data, item=item)))
    assert same(one.scorer, two.scorer)
    assert one.log == two.log


@dataclass(frozen=True)
class Poisoned(objectives.NextItem):
    """Becomes NaN when it meets a user."""

    user: int = 7

    def charge(self, network, head, prepared, vocab, rng):
        found = super().charge(network, head, prepared, vocab, rng)
        bad = (prepared.rows["user"] == self.user).any()
        return {"next": found["next"] * (math.nan if bad else 1.0)}


def test_a_loss_that_is_no_number_stops_with_its_place(tmp_path) -> None:
    split = tiny.split()
    with pytest.raises(DivergedError, match=r"stage 'train', epoch 1, step \d+ .*u\d+.*lower lr") as caught:
        fit(system(objective=Poisoned()), split, out=tmp_path / "run", execution=CPU)
    assert "nan" in str(caught.value)
    assert not any("nan" in line for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())


def test_the_last_good_checkpoint_is_named(tmp_path, steps: list[dict]) -> None:
    fit(system(replace(BUDGET, epochs=1)), tiny.split(), execution=CPU)
    user = steps[2]["rows"][0][0]
    with pytest.raises(DivergedError, match=r"epoch 1, step 3 .*step-00000002"):
        fit(system(objective=Poisoned(user=user)), tiny.split(), out=tmp_path / "run", execution=replace(CPU, checkpoint_every=1))


def test_nobody_with_two_events_is_told() -> None:
    split = tiny.split()
    bare = replace(split, train=Train(split.dataset, np.minimum(split.train.stop, split.train.start + 1)))
    with pytest.raises(DataError, match="two training events"):
        fit(system(), bare, execution=CPU)


# -- what it leaves --------------------------------------------------------------------------------------------------------------


def test_metrics_are_the_same_bytes_each_time(tmp_path) -> None:
    texts = []
    for name in ("one", "two"):
        fitted = fit(system(), tiny.split(), out=tmp_path / name, execution=CPU)
        texts.append((tmp_path / name / "metrics.jsonl").read_bytes())
        assert [json.loads(line) for line in texts[-1].decode().splitlines()] == fitted.log
    assert texts[0] == texts[1]


def test_a_run_folder_changes_nothing(tmp_path) -> None:
    made = system()
    kept = fit(made, tiny.split(), out=tmp_path / "run", execution=replace(CPU, checkpoint_every=2))
    assert same(kept.scorer, fit(made, tiny.split(), execution=CPU).scorer)


def test_training_counts_are_those_of_the_training_part() -> None:
    split = tiny.split()
    fitted = fit(system(), split, execution=CPU)
    assert fitted.vocab.counts is not None
    assert fitted.vocab.counts.tolist() == split.train.counts().tolist()
    assert split.dataset.vocab.counts is None, "the data set's own vocabulary was written to"
