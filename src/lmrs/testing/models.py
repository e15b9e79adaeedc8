"""What every Model and every Control must keep to."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from lmrs import views
from lmrs.batch import Batch
from lmrs.losses import FullSoftmax
from lmrs.models import Control, ControlScorer, Model, Network
from lmrs.split import Train
from lmrs.tasks.ranking import scores
from lmrs.testing import tiny
from lmrs.testing.values import check_repr
from lmrs.views import Rows
from lmrs.visibility import Causal, Full, Visibility

CLOSE = 1e-10  # in fp64: rounding, and nothing else


def built(model: Model, train: Train, *, seed: int = 1) -> Network:
    """The network in fp64 with weights drawn from `seed`, biases and norms included: the zeros and ones that they start from hide
    mistakes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = model.build(replace(tiny.vocab(train), prepared=model.prepare(train, seed=seed))).double()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return network


class ModelTests:
    """Subclass, name it Test..., set `part` to the description (small: the checks run on a few dozen positions).

    unused: names of parameters that a next-item loss is not meant to reach.
    """

    part: ClassVar[Model]
    unused: ClassVar[tuple[str, ...]] = ()

    def visibilities(self) -> list[Visibility]:
        """Those of Causal and Full that the model allows; at least one."""
        found: list[Visibility] = [visible for visible in (Causal(), Full()) if self.part.allows(visible)]
        assert found, f"{self.part!r} allows neither Causal() nor Full()"
        return found

    def test_repr_evaluates_to_an_equal_value(self) -> None:
        check_repr(self.part)

    def test_the_same_seed_builds_the_same_weights(self) -> None:
        train = tiny.split().train
        one, two = built(self.part, train), built(self.part, train)
        assert_same(dict(one.state_dict()), dict(two.state_dict()))

    def test_states_have_the_declared_shape(self) -> None:
        train = tiny.split().train
        network, batch = built(self.part, train), tiny.batch(train)
        for visible in self.visibilities():
            states = network(batch, visible)
            assert states.shape == (batch.n_positions, network.dim), f"states {tuple(states.shape)} under {visible!r}"
            output = network.output()
            assert output.scores(network.read(states)).shape == (batch.n_positions, train.dataset.n_items)

    def test_a_row_alone_gives_what_it_gives_in_a_batch(self) -> None:
        """Neither the other rows nor padding may change a row."""
        train = tiny.split().train
        network, batch = built(self.part, train), tiny.batch(train)
        for visible in self.visibilities():
            whole = network(batch, visible)
            for row in range(batch.n_rows):
                alone = network(batch.take(torch.tensor([row])), visible)
                here = whole[int(batch.offsets[row]) : int(batch.offsets[row + 1])]
                assert torch.allclose(alone, here, rtol=0, atol=CLOSE), f"row {row} under {visible!r}: {gap(alone, here)}"

    def test_chosen_places_have_the_states_they_have_among_all(self) -> None:
        """`at` saves work, it changes nothing: neither states nor gradients."""
        train = tiny.split().train
        network, batch = built(self.part, train), tiny.batch(train)
        longest = slice(int(batch.offsets[0]), int(batch.offsets[1]))
        uneven = torch.arange(batch.n_positions) % 3 == 1
        uneven[longest] = True
        for visible in self.visibilities():
            for places in (batch.last, uneven.nonzero()[:, 0], torch.arange(batch.n_positions), batch.last[:1]):
                found, wanted = network(batch, visible, at=places), network(batch, visible)[places]
                assert found.shape == wanted.shape
                assert torch.allclose(found, wanted, rtol=0, atol=CLOSE), f"{visible!r}: {gap(found, wanted)}"
            weights = list(network.parameters())
            found, wanted = (
                torch.autograd.grad(states.square().sum(), weights, allow_unused=True)
                for states in (network(batch, visible, at=places), network(batch, visible)[places])
            )
            for one, two in zip(found, wanted, strict=True):
                assert (one is None) == (two is None)
                assert one is None or torch.allclose(one, two, rtol=1e-4, atol=10 * CLOSE), f"gradients under {visible!r}"

    def test_the_past_does_not_see_the_future(self) -> None:
        if not self.part.allows(Causal()):
            return
        train = tiny.split().train
        network, batch = built(self.part, train), tiny.batch(train)
        before = network(batch, Causal())
        for row in range(batch.n_rows):
            start, stop = int(batch.offsets[row]), int(batch.offsets[row + 1])
            for place in range(start, stop):
                after = network(tiny.with_item(batch, place, other(batch, place, train)), Causal())
                untouched = torch.ones(batch.n_positions, dtype=torch.bool)
                untouched[place:stop] = False
                assert torch.allclose(after[untouched], before[untouched], rtol=0, atol=CLOSE), (
                    f"changing position {place - start} of row {row} changed an earlier state or another row"
                )
                assert not torch.equal(after[place], before[place]), f"position {place - start} of row {row} does not see itself"

    def test_full_visibility_shows_the_future(self) -> None:
        """A model that allows Full() must not quietly look back alone."""
        if not self.part.allows(Full()):
            return
        train = tiny.split().train
        network, batch = built(self.part, train), tiny.batch(train)
        place = int(batch.last[0])
        after = network(tiny.with_item(batch, place, other(batch, place, train)), Full())
        assert not torch.allclose(after[0], network(batch, Full())[0], rtol=0, atol=CLOSE), (
            "the first state ignores the last item"
        )

    def test_randomness_comes_from_rng_alone(self) -> None:
        train = tiny.split().train
        network, batch = built(self.part, train), tiny.batch(train)
        visible = self.visibilities()[0]
        state = torch.get_rng_state()
        assert torch.equal(network(batch, visible), network(batch, visible)), "rng=None is not deterministic"
        one, two = (network(batch, visible, torch.Generator().manual_seed(3)) for _ in range(2))
        assert torch.equal(one, two), "the same rng gives different states"
        assert torch.equal(torch.get_rng_state(), state), "torch's own generator was used"

    def test_train_and_eval_mode_are_the_same(self) -> None:
        train = tiny.split().train
        network, batch = built(self.part, train), tiny.batch(train)
        visible = self.visibilities()[0]
        assert torch.equal(network.train()(batch, visible), network.eval()(batch, visible)), "there is no train/eval mode"

    def test_state_survives_saving(self) -> None:
        train = tiny.split().train
        one, two = built(self.part, train, seed=1), built(self.part, train, seed=2)
        batch, visible = tiny.batch(train), self.visibilities()[0]
        assert not torch.equal(one(batch, visible), two(batch, visible)), "different weights give the same states"
        two.load_state_dict({name: tensor.clone() for name, tensor in one.state_dict().items()})
        assert torch.equal(one(batch, visible), two(batch, visible)), "something that matters is not in the state"

    def test_scores_rank_the_catalogue_row_by_row(self) -> None:
        train = tiny.split().train
        network, batch = built(self.part, train), tiny.marked(tiny.batch(train))
        for visible in self.visibilities():
            whole = network.score(batch, visible)
            assert whole.shape == (batch.n_rows, train.dataset.n_items)
            assert whole.isfinite().all()
            for row in range(batch.n_rows):
                alone = network.score(batch.take(torch.tensor([row])), visible)
                assert torch.allclose(alone[0], whole[row], rtol=0, atol=CLOSE), f"row {row}: {gap(alone[0], whole[row])}"

    def test_rows_as_long_as_max_len_fit(self) -> None:
        train = tiny.split().train
        network = built(self.part, train)
        longest = self.part.max_len
        item = torch.arange(longest) % train.dataset.n_items
        time = torch.arange(longest) * tiny.DAY
        batch = Batch(
            {"item": item, "position": torch.arange(longest), "time": time},
            torch.tensor([0, longest]),
            {"example": torch.tensor([0]), "user": torch.tensor([0])},
        )
        for visible in self.visibilities():
            assert network(batch, visible).isfinite().all(), f"not finite at max_len={longest}"

    def test_a_batch_without_positions_has_no_states(self) -> None:
        """What a process gets whose share of a batch is empty, and a user who has no history."""
        train = tiny.split().train
        network = built(self.part, train)
        empty = tiny.batch(train).take(torch.zeros(0, dtype=torch.int64))
        for visible in self.visibilities():
            states = network(empty, visible)
            assert states.shape == (0, network.dim)
            states.sum().backward()

    def test_gradient_reaches_every_parameter(self) -> None:
        train = tiny.split().train
        network, batch = built(self.part, train), tiny.batch(train)
        for visible in self.visibilities():
            network.zero_grad(set_to_none=True)
            states = network.read(network(batch, visible))
            target = torch.arange(batch.n_positions) % train.dataset.n_items
            FullSoftmax().charge(states, network.output(), target).backward()
            missed = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
            assert sorted(missed) == sorted(self.unused), f"without gradient under {visible!r}: {missed}, listed: {self.unused}"


class ControlTests:
    """Subclass, name it Test..., set `part` to the description."""

    part: ClassVar[Control]

    def estimated(self, train: Train) -> ControlScorer:
        scorer = self.part.build(tiny.vocab(train))
        scorer.estimate(train)
        return scorer

    def test_repr_evaluates_to_an_equal_value(self) -> None:
        check_repr(self.part)

    def test_estimating_twice_gives_the_same(self) -> None:
        train = tiny.split().train
        assert_same(dict(self.estimated(train).named_buffers()), dict(self.estimated(train).named_buffers()))

    def test_only_training_events_are_read(self) -> None:
        """Every event behind `train.stop` is replaced by another one: nothing may change."""
        data = tiny.dataset()
        train = tiny.split(data).train
        found = dict(self.estimated(train).named_buffers())
        assert_same(found, dict(self.estimated(tiny.with_future(data, train)).named_buffers()))

    def test_nothing_is_learned_by_gradient(self) -> None:
        assert not list(self.estimated(tiny.split().train).parameters()), "a control keeps buffers, not parameters"

    def test_scores_rank_the_catalogue_row_by_row(self) -> None:
        train = tiny.split().train
        scorer, batch = self.estimated(train), tiny.marked(tiny.batch(train))
        whole = scorer.score(batch, Causal())
        assert whole.shape == (batch.n_rows, train.dataset.n_items)
        assert whole.isfinite().all()
        for row in range(batch.n_rows):
            alone = scorer.score(batch.take(torch.tensor([row])), Causal())
            assert torch.allclose(alone[0], whole[row], rtol=1e-6, atol=1e-6), f"row {row}: {gap(alone[0], whole[row])}"

    def test_buffers_survive_saving(self) -> None:
        train = tiny.split().train
        one, two = self.estimated(train), self.part.build(tiny.vocab(train))
        two.assign({name: tensor.clone() for name, tensor in one.state_dict().items()})
        batch = tiny.marked(tiny.batch(train))
        assert torch.equal(one.score(batch, Causal()), two.score(batch, Causal())), "something that matters is not in the buffers"

    def test_a_user_without_history_gets_popularity(self) -> None:
        train = tiny.split().train
        scorer, vocab = self.estimated(train), tiny.vocab(train)
        user = np.array([0, 3])
        start = train.start[user]
        rows = Rows(train.dataset, user, start, np.array([start[0], train.stop[3]]))
        found, empty = scores(scorer, None, views.ItemSequence(max_len=8), rows, vocab)
        assert empty == 1
        assert torch.equal(found[0], torch.from_numpy(train.counts()).float())
        assert found.isfinite().all()


def other(batch: Batch, place: int, train: Train) -> int:
    """Another item than the one at that place."""
    return (int(batch.channels["item"][place]) + 1) % train.dataset.n_items


def gap(a: Tensor, b: Tensor) -> str:
    """The largest difference, for a message."""
    return (
        f"shapes {tuple(a.shape)} and {tuple(b.shape)}"
        if a.shape != b.shape
        else f"off by {float((a - b).abs().max().detach()):.3g}"
    )


def assert_same(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    """Raises AssertionError unless both hold the same names with bit-equal tensors."""
    assert one.keys() == two.keys(), f"{sorted(one)} and {sorted(two)}"
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), f"{name!r} differs"
