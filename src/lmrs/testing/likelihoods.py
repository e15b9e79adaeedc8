"""What every Model must keep to that answers with the likelihood of items and has no table of them (it spells them)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from lmrs.batch import Batch
from lmrs.models import Model, Network
from lmrs.split import Train
from lmrs.testing import tiny
from lmrs.testing.models import assert_same, built, gap, other
from lmrs.testing.values import check_repr
from lmrs.visibility import Causal


class LikelihoodTests:
    """Subclass, name it Test..., set `part` to the description (small: the checks run on a few dozen positions).

    close: largest difference that counts as rounding (models with parts in fp32 are not exact in fp64 either).
    unused: names of parameters that likelihoods do not reach.
    """

    part: ClassVar[Model]
    close: ClassVar[float] = 1e-4
    unused: ClassVar[tuple[str, ...]] = ()

    def asked(self, train: Train) -> Batch:
        return tiny.marked(tiny.batch(train))

    def of_all(self, network: Network, batch: Batch) -> Tensor:
        """[B, V]: the likelihood of every item at the end of every row."""
        found = [
            network.likelihood(batch, Causal(), batch.last, torch.full((batch.n_rows,), item)) for item in range(network.n_items)
        ]
        return torch.stack(found, 1)

    def same(self, one: Tensor, two: Tensor, what: str) -> None:
        assert torch.allclose(one.double(), two.double(), rtol=0, atol=self.close), f"{what}: {gap(one, two)}"

    def test_repr_evaluates_to_an_equal_value(self) -> None:
        check_repr(self.part)

    def test_the_same_seed_builds_the_same_weights(self) -> None:
        train = tiny.split().train
        assert_same(dict(built(self.part, train).state_dict()), dict(built(self.part, train).state_dict()))

    def test_what_is_prepared_reads_training_events_alone(self) -> None:
        data = tiny.dataset()
        train = tiny.split(data).train
        one, two = (self.part.prepare(each, seed=0) for each in (train, tiny.with_future(data, train)))
        assert (None if one is None else one.fingerprint) == (None if two is None else two.fingerprint)

    def test_likelihoods_are_those_of_a_distribution(self) -> None:
        """No item costs nothing, and all together have at most all of the probability."""
        train = tiny.split().train
        found = self.of_all(built(self.part, train), self.asked(train))
        assert (found < 0).all()
        assert (found.exp().sum(1) <= 1 + self.close).all(), f"probabilities that add up to {float(found.exp().sum(1).max())}"

    def test_candidates_have_the_likelihoods_that_training_charges(self) -> None:
        train = tiny.split().train
        network, batch = built(self.part, train), self.asked(train)
        wanted = self.of_all(network, batch)
        candidates = torch.stack(
            [torch.randperm(network.n_items, generator=torch.Generator().manual_seed(b))[:4] for b in range(batch.n_rows)]
        )
        candidates[0, 1] = -1
        found = network.score_among(batch, Causal(), candidates)
        real = candidates >= 0
        self.same(found[real], wanted.gather(1, candidates.clamp_min(0))[real], "score_among")

    def test_a_row_alone_gives_what_it_gives_in_a_batch(self) -> None:
        train = tiny.split().train
        network, batch = built(self.part, train), self.asked(train)
        target = torch.arange(batch.n_rows) % network.n_items
        whole = network.likelihood(batch, Causal(), batch.last, target)
        scores = network.score(batch, Causal())
        assert scores.isfinite().all()
        for row in range(batch.n_rows):
            alone = batch.take(torch.tensor([row]))
            self.same(network.likelihood(alone, Causal(), alone.last, target[row : row + 1])[0], whole[row], f"row {row}")
            self.same(network.score(alone, Causal())[0], scores[row], f"scores of row {row}")

    def test_every_place_is_a_question_about_its_past(self) -> None:
        train = tiny.split().train
        network, batch = built(self.part, train), tiny.batch(train)
        at, target = torch.arange(batch.n_positions), torch.zeros(batch.n_positions, dtype=torch.int64)
        before = network.likelihood(batch, Causal(), at, target)
        self.same(network.likelihood(batch, Causal(), batch.last, target[batch.last]), before[batch.last], "some places")
        for row in (0, 3):
            start, stop = int(batch.offsets[row]), int(batch.offsets[row + 1])
            for place in range(start, stop):
                after = network.likelihood(tiny.with_item(batch, place, other(batch, place, train)), Causal(), at, target)
                untouched = torch.ones(batch.n_positions, dtype=torch.bool)
                untouched[place:stop] = False
                self.same(after[untouched], before[untouched], f"place {place - start} of row {row} is seen by an earlier one")
                assert after[place] != before[place], f"place {place - start} of row {row} does not see itself"

    def test_randomness_comes_from_rng_alone(self) -> None:
        train = tiny.split().train
        network, batch = built(self.part, train), self.asked(train)
        target = batch.last % network.n_items
        state = torch.get_rng_state()
        plain = [network.train(mode).likelihood(batch, Causal(), batch.last, target) for mode in (True, False)]
        assert torch.equal(*plain), "there is no train/eval mode"
        one, two = (network.likelihood(batch, Causal(), batch.last, target, torch.Generator().manual_seed(3)) for _ in range(2))
        assert torch.equal(one, two), "the same rng gives different likelihoods"
        assert torch.equal(torch.get_rng_state(), state), "torch's own generator was used"

    def test_nothing_to_ask_costs_nothing(self) -> None:
        train = tiny.split().train
        network = built(self.part, train)
        empty = tiny.batch(train).take(torch.zeros(0, dtype=torch.int64))
        nothing = torch.zeros(0, dtype=torch.int64)
        assert network.likelihood(empty, Causal(), nothing, nothing).shape == (0,)

    def test_gradient_reaches_every_parameter(self) -> None:
        train = tiny.split().train
        network, batch = built(self.part, train), tiny.batch(train)
        at = torch.arange(batch.n_positions)
        network.likelihood(batch, Causal(), at, at % network.n_items).sum().backward()
        missed = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
        assert sorted(missed) == sorted(self.unused), f"without gradient: {missed}, listed: {self.unused}"
