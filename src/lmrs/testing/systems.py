"""What every System must keep to, from its signature to its answers."""

from __future__ import annotations

import inspect
import json
import math
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from lmrs import describe, taxonomy
from lmrs.dataset import Dataset
from lmrs.errors import SealedError
from lmrs.fit import Execution, Fitted, fit
from lmrs.models import Model
from lmrs.recommender import FALLBACK, Recommender
from lmrs.split import Split
from lmrs.system import Stage, System
from lmrs.tasks.ranking import scores
from lmrs.testing import tiny
from lmrs.testing.values import check_repr
from lmrs.tuning import Nothing
from lmrs.views import Rows

EPOCHS = 2


class FittedTests:
    """What holds for every System, whatever its task; `SystemTests` adds what holds for those that rank items for a history.

    Subclass, name it Test..., set `part` to a staticmethod: the function that makes the system.

    options: keywords that make it small enough for a few dozen users. cell: its training strategy in the survey's words
    (lmrs.taxonomy). still: tuned tensors that two epochs on tiny data need not move.
    """

    part: ClassVar[Callable[..., System]]
    options: ClassVar[dict[str, Any]] = {}
    cell: ClassVar[str] = taxonomy.PRETRAIN
    still: ClassVar[tuple[str, ...]] = ()

    @staticmethod
    def data() -> Split:
        """What to train on, equal in every call. Override it where the usual data lacks what the system reads."""
        return tiny.split()

    def system(self) -> System:
        """The system with the small options, two epochs a stage, small batches."""
        made = self.part(**self.options)
        stages = tuple(
            replace(stage, budget=replace(stage.budget, epochs=EPOCHS, batch_size=8)) if isinstance(stage, Stage) else stage
            for stage in made.stages
        )
        return replace(made, stages=stages)

    def fitted(self) -> Fitted:
        return _fitted(self.system(), self.data)

    def test_every_option_has_a_name_a_default_and_a_type(self) -> None:
        for name, option in inspect.signature(self.part).parameters.items():
            assert option.kind is inspect.Parameter.KEYWORD_ONLY, f"{name} is not keyword-only"
            assert option.default is not inspect.Parameter.empty, f"{name} has no default"
            assert option.annotation is not inspect.Parameter.empty, f"{name} has no type"
            assert not isinstance(option.default, list | dict | set), f"{name}: a default that can be written to"

    def test_it_is_described(self) -> None:
        assert inspect.getdoc(self.part), "the function has no docstring"
        assert self.system().paper.title
        assert self.system().paper.year > 1900

    def test_what_a_study_may_search_are_options(self) -> None:
        space = vars(sys.modules[self.part.__module__]).get("SPACE")
        assert isinstance(space, dict), f"module {self.part.__module__} has no dict SPACE"
        names = inspect.signature(self.part).parameters
        for name, choices in space.items():
            assert name in names, f"SPACE names {name!r}, which is no option"
            assert len(choices) >= 2, f"{name!r}: nothing to choose from"
            for choice in choices:
                self.part(**{**self.options, name: choice})

    def test_repr_evaluates_to_an_equal_value(self) -> None:
        for system in (self.part(), self.part(**self.options), self.system()):
            check_repr(system)
        assert self.part() == self.part()

    def test_json_describes_an_equal_value(self) -> None:
        for system in (self.part(), self.system()):
            assert describe.system_from_json(json.loads(json.dumps(describe.to_json(system)))) == system

    def test_its_cell_of_the_taxonomy_is_as_stated(self) -> None:
        assert taxonomy.cell(self.system()) == self.cell

    def test_two_epochs_of_training(self) -> None:
        fitted = self.fitted()
        stages = [s for s in fitted.system.stages if isinstance(s, Stage) and not isinstance(s.tuning, Nothing)]
        assert len(fitted.log) == EPOCHS * len(stages)
        for line in fitted.log:
            assert all(math.isfinite(value) for value in line["loss"].values()), line
        if isinstance(fitted.system.model, Model) and stages:
            assert fitted.steps > 0
            assert fitted.targets > 0
            assert fitted.log[-1].get("valid"), "the last stage was not validated: its objective cannot ask"

    def test_what_is_declared_tuned_moves(self) -> None:
        fitted = self.fitted()
        for counted in fitted.moved:
            assert counted["tensors_moved"] >= counted["tensors_tuned"] - len(self.still), counted

    def test_the_same_seed_gives_the_same_bits(self) -> None:
        one, two = self.fitted(), fit(self.system(), self.data(), seed=3, execution=Execution(device="cpu"))
        assert one.log == two.log
        first, second = one.scorer.state_dict(), two.scorer.state_dict()
        assert first.keys() == second.keys()
        for name, tensor in first.items():
            assert torch.equal(tensor, second[name]), f"{name} differs"


class SystemTests(FittedTests):
    """What every System that ranks items for a history must keep to: its answers, alone and in batches, saved and loaded."""

    def scores(self, rows: Rows) -> tuple[torch.Tensor, int]:
        fitted = self.fitted()
        serving = fitted.system.task.serving
        assert serving is not None, "a task without a way to ask: use FittedTests"
        return scores(fitted.scorer, fitted.objective, serving, rows, fitted.vocab)

    def test_the_future_is_not_read(self) -> None:
        """With other events in the test part, the same model is learned."""
        part = self.data()
        data, test = part.dataset, part.sealed_test
        item = data.item.copy()
        item[test.stop] = (item[test.stop] + 1) % data.n_items
        other = replace(
            part,
            dataset=(new := replace(data, item=item)),
            train=replace(part.train, dataset=new),
            valid=replace(part.valid, dataset=new),
            sealed_test=replace(test, dataset=new),
        )
        again = fit(self.system(), other, seed=3, execution=Execution(device="cpu"))
        for name, tensor in self.fitted().scorer.state_dict().items():
            assert torch.equal(tensor, again.scorer.state_dict()[name]), f"{name} depends on the test part"

    def test_answers_in_a_batch_are_answers_alone(self) -> None:
        split = self.data()
        rows = _histories(split)
        whole, _ = self.scores(rows)
        assert whole.shape == (len(rows), split.dataset.n_items)
        assert whole.isfinite().all()
        for at in range(len(rows)):
            alone, _ = self.scores(rows.take(np.array([at])))
            assert torch.allclose(alone[0], whole[at], rtol=1e-5, atol=1e-5), f"history {at}"

    def test_users_without_history_get_popularity(self) -> None:
        """Alone and among others; and how many they are is said."""
        split = self.data()
        rows = _histories(split)
        wanted = torch.from_numpy(split.train.counts()).float()
        for which in (np.array([0]), np.array([0, 1]), np.array([2, 0, 1, 0])):
            some = rows.take(which)
            stop = np.where(which == 0, some.start, some.stop)
            found, empty = self.scores(Rows(some.dataset, some.user, some.start, stop))
            assert empty == (which == 0).sum()
            for at in np.flatnonzero(which == 0):
                assert torch.equal(found[at], wanted), "not the training popularity"

    def test_long_histories_are_cut_not_refused(self) -> None:
        view = self.fitted().system.task.serving
        assert view is not None
        long = self.data().dataset
        item = (np.arange(view.max_len * 2 + 3) % (long.n_items - 1)).astype(np.int32)
        data = Dataset("long", long.vocab, item, np.array([0, len(item)]), time=np.arange(len(item)) * tiny.DAY)
        found, empty = self.scores(Rows(data, np.array([0]), np.array([0]), np.array([len(item)])))
        assert found.isfinite().all()
        assert empty == 0

    def test_a_saved_recommender_answers_as_before(self) -> None:
        before = Recommender.of(self.fitted())
        with tempfile.TemporaryDirectory() as folder:
            after = Recommender.load(before.save(Path(folder) / "model"))
        assert after.system == before.system
        histories = _texts(self.data())
        for one, two in zip(after.recommend_batch(histories, k=5), before.recommend_batch(histories, k=5), strict=True):
            # Products round by where their operands lie in memory, so the last bits of scores may differ between two copies.
            assert np.allclose(one.scores, two.scores, rtol=1e-5, atol=1e-6)
            assert replace(one, scores=()) == replace(two, scores=())

    def test_recommendations_in_a_batch_are_those_alone(self) -> None:
        recommender = Recommender.of(self.fitted())
        histories = _texts(self.data())
        for history, found in zip(histories, recommender.recommend_batch(histories, k=5)):
            alone = recommender.recommend(history, k=5)
            assert found.ids == alone.ids, f"{found.ids} in a batch, {alone.ids} alone"
            assert np.allclose(found.scores, alone.scores, rtol=1e-5, atol=1e-6)
            assert len(set(found.ids)) == len(found), "an item twice"
            assert not set(found.ids) & set(history), "an item that the user had"
            assert list(found.scores) == sorted(found.scores, reverse=True)

    def test_unknown_items_are_ignored_and_reported(self) -> None:
        recommender = Recommender.of(self.fitted())
        history = _texts(self.data())[0]
        with_stranger = recommender.recommend(["never heard of", *history, "nor of this"], k=5)
        assert with_stranger.unknown == ("never heard of", "nor of this")
        assert with_stranger.ids == recommender.recommend(history, k=5).ids
        for nothing in ([], ["never heard of"]):
            assert recommender.recommend(nothing, k=5).fallback == FALLBACK
            assert recommender.recommend(nothing, k=5).ids == recommender.recommend([], k=5).ids

    def test_what_is_excluded_does_not_come(self) -> None:
        recommender = Recommender.of(self.fitted())
        history = _texts(self.data())[0]
        first = recommender.recommend(history, k=5).ids
        assert not set(recommender.recommend(history, k=5, exclude=first[:2]).ids) & set(first[:2])
        assert recommender.recommend(history, k=3, exclude=first[:2]).ids == first[2:5]


def _texts(split: Split) -> list[list[str]]:
    """A few histories as item ids."""
    long = np.flatnonzero(split.train.lengths >= 2)[:6]
    return [split.dataset.vocab.item_ids(split.dataset.item[split.train.start[user] : split.train.stop[user]]) for user in long]


def _histories(split: Split) -> Rows:
    user = np.flatnonzero(split.train.lengths >= 2)
    return Rows(split.dataset, user, split.train.start[user], split.train.stop[user])


@cache
def _fitted(system: System, data: Callable[[], Split]) -> Fitted:
    """Trained once for all checks. The seal is tried in passing."""
    split = data()
    fitted = fit(system, split, seed=3, execution=Execution(device="cpu"))
    try:
        len(split.test)
    except SealedError as error:
        raise AssertionError("fit left the test part sealed") from error
    return fitted
