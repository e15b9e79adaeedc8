"""What every Model must keep to that writes explanations (`models.explainer`)."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch

from lmrs.batch import Batch
from lmrs.models import Model
from lmrs.models.explainer import Explainer
from lmrs.split import Split
from lmrs.testing import tiny
from lmrs.testing.models import assert_same
from lmrs.testing.values import check_repr
from lmrs.views import Reviews


class ExplainerTests:
    """Subclass, name it Test..., set `part` to the description (small, with dropout if it has one), override `data`.

    close: largest difference that counts as rounding. unused: names of parameters that neither text nor rating reaches.
    """

    part: ClassVar[Model]
    close: ClassVar[float] = 1e-4
    unused: ClassVar[tuple[str, ...]] = ()

    @staticmethod
    def data() -> Split:
        """A Split of data with reviews, a dozen in each part at least."""
        raise NotImplementedError

    def network(self, *, seed: int = 1) -> Explainer:
        """In fp64, with weights drawn from `seed`."""
        split = self.data()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            prepared = self.part.prepare(split.train, seed=seed)
            network = self.part.build(replace(tiny.vocab(split.train), prepared=prepared))
        assert isinstance(network, Explainer), f"{type(network).__name__} is no Explainer"
        return network.double()

    def batch(self, count: int = 6) -> Batch:
        view = Reviews()
        return view.collate(view.held_out(self.data().test).take(np.arange(count)))

    def test_repr_evaluates_to_an_equal_value(self) -> None:
        check_repr(self.part)

    def test_the_same_seed_builds_the_same_weights(self) -> None:
        assert_same(dict(self.network().state_dict()), dict(self.network().state_dict()))

    def test_its_users_are_kept_with_it(self) -> None:
        assert self.part.knows_users, "a model with something for each user must say so: their ids are saved with it"

    def test_a_row_alone_says_what_it_says_in_a_batch(self) -> None:
        network, batch = self.network(), self.batch()
        told, written, rated = network.tell(batch), network.write(batch), network.rate(batch)
        rows = [batch.take(torch.tensor([row])) for row in range(batch.n_rows)]
        alone = [network.tell(row) for row in rows]
        assert abs(float(told.text.detach()) - sum(float(each.text.detach()) for each in alone)) < self.close
        assert told.tokens == sum(each.tokens for each in alone)
        assert [network.write(row)[0] for row in rows] == written
        assert (rated is None) == (told.rating is None)
        if rated is not None and told.rating is not None:
            assert torch.allclose(rated, told.rating, atol=self.close), "two ways to rate differ"
            assert torch.allclose(rated, torch.cat([each.rating for each in alone if each.rating is not None]), atol=self.close)

    def test_what_is_told_is_a_log_probability(self) -> None:
        told = self.network().tell(self.batch())
        assert told.text < 0
        assert told.tokens >= self.batch().n_rows, "the end of each text is a token, too"
        assert told.context is None or told.context < 0

    def test_who_and_what_make_a_difference(self) -> None:
        network, batch = self.network(), self.batch(1)
        wanted = float(network.tell(batch).text.detach())
        users, items = network.said.users, network.said.items
        other = replace(batch, rows={**batch.rows, "user": (batch.rows["user"] + 1) % len(users)})
        assert float(network.tell(other).text.detach()) != wanted, "the user makes no difference"
        known = np.flatnonzero(items)
        item = torch.tensor([int(known[(np.searchsorted(known, int(batch.channels["item"])) + 1) % len(known)])])
        assert float(network.tell(batch.with_channels(item=item)).text.detach()) != wanted, "the item makes no difference"

    def test_nothing_is_written_from_the_text_that_is_asked_for(self) -> None:
        network, batch = self.network(), self.batch()
        blind = replace(batch, texts={**batch.texts, "explanation": ("",) * batch.n_rows})
        assert network.write(blind) == network.write(batch)
        assert network.write(replace(batch, texts={})) == network.write(replace(batch, texts={"feature": (None,) * batch.n_rows}))

    def test_an_empty_shard_says_nothing(self) -> None:
        network, nobody = self.network(), self.batch().take(torch.zeros(0, dtype=torch.int64))
        told = network.tell(nobody)
        assert (float(told.text.detach()), told.tokens) == (0.0, 0)
        told.text.backward()
        assert network.write(nobody) == []

    def test_randomness_comes_from_rng_alone(self) -> None:
        network, batch = self.network(), self.batch()
        state = torch.get_rng_state()
        for seed in (None, 3):
            one, two = (network.tell(batch, None if seed is None else torch.Generator().manual_seed(seed)) for _ in range(2))
            assert torch.equal(one.text, two.text), f"rng={seed} says two things"
        assert torch.equal(torch.get_rng_state(), state), "torch's own generator was used"

    def test_gradient_reaches_every_parameter(self) -> None:
        network, batch = self.network(), self.batch()
        told = network.tell(batch)
        total = told.text + (0 if told.context is None else told.context) + (0 if told.rating is None else told.rating.sum())
        total.backward()
        missed = sorted(name for name, p in network.named_parameters() if p.grad is None or not p.grad.any())
        assert missed == sorted(self.unused), f"without gradient: {missed}, listed: {self.unused}"
