"""What every Model must keep to that reads the texts of a row and not its positions."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch

from lmrs.batch import Batch
from lmrs.models import Model
from lmrs.split import Train
from lmrs.testing import tiny
from lmrs.testing.models import assert_same, built, gap
from lmrs.testing.values import check_repr
from lmrs.views import Documents
from lmrs.visibility import Causal


class DocumentTests:
    """Subclass, name it Test..., set `part` to the description; it is asked about the posts of `tiny.posts`.

    unused: names of parameters that scores do not reach.
    """

    part: ClassVar[Model]
    unused: ClassVar[tuple[str, ...]] = ()

    def asked(self, train: Train) -> Batch:
        """Nine documents, with their tags at hand."""
        view = Documents()
        return view.collate(view.rows(train, ahead=0, rng=np.random.default_rng(0)).take(np.arange(9)))

    def test_repr_evaluates_to_an_equal_value(self) -> None:
        check_repr(self.part)

    def test_the_same_seed_builds_the_same_weights(self) -> None:
        train = tiny.posts().train
        assert_same(dict(built(self.part, train).state_dict()), dict(built(self.part, train).state_dict()))

    @torch.no_grad()
    def test_a_row_alone_gives_what_it_gives_in_a_batch(self) -> None:
        train = tiny.posts().train
        network, batch = built(self.part, train), self.asked(train)
        whole = network.score(batch, Causal())
        assert whole.shape == (9, train.dataset.n_items)
        assert whole.isfinite().all()
        for row in range(batch.n_rows):
            alone = network.score(batch.take(torch.tensor([row])), Causal())
            assert torch.allclose(alone[0], whole[row], rtol=0, atol=1e-9), f"row {row}: {gap(alone[0], whole[row])}"

    @torch.no_grad()
    def test_tags_are_not_read(self) -> None:
        train = tiny.posts().train
        network, batch = built(self.part, train), self.asked(train)
        without = batch.keep(torch.zeros(batch.n_positions, dtype=torch.bool))
        assert torch.equal(network.score(batch, Causal()), network.score(without, Causal()))

    @torch.no_grad()
    def test_states_are_those_of_the_document(self) -> None:
        train = tiny.posts().train
        network, batch = built(self.part, train), self.asked(train)
        states = network(batch, Causal())
        assert states.shape == (batch.n_positions, network.dim)
        scores = network.output().scores(network.read(states))
        assert torch.allclose(scores, network.score(batch, Causal())[batch.row_of], rtol=0, atol=1e-9)
        assert torch.equal(network(batch, Causal(), at=batch.last), states[batch.last])

    def test_randomness_comes_from_rng_alone(self) -> None:
        train = tiny.posts().train
        network, batch = built(self.part, train), self.asked(train)
        state = torch.get_rng_state()
        one, two = (network(batch, Causal(), torch.Generator().manual_seed(3)) for _ in range(2))
        assert torch.equal(one, two), "the same rng gives different states"
        assert not torch.equal(one, network(batch, Causal())), "nothing is dropped"
        assert torch.equal(torch.get_rng_state(), state), "torch's own generator was used"

    @torch.no_grad()
    def test_state_survives_saving(self) -> None:
        train = tiny.posts().train
        one, two = built(self.part, train, seed=1), built(self.part, train, seed=2)
        batch = self.asked(train)
        assert not torch.equal(one.score(batch, Causal()), two.score(batch, Causal())), "different weights give the same scores"
        two.load_state_dict({name: tensor.clone() for name, tensor in one.state_dict().items()})
        assert torch.equal(one.score(batch, Causal()), two.score(batch, Causal())), "something that matters is not in the state"

    def test_gradient_reaches_every_parameter(self) -> None:
        train = tiny.posts().train
        network, batch = built(self.part, train), self.asked(train)
        network.score(batch, Causal()).square().sum().backward()
        missed = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
        assert sorted(missed) == sorted(self.unused), f"without gradient: {missed}, listed: {self.unused}"
