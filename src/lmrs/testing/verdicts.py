"""What every Model must keep to that judges an item for a history and has no table of items (it is asked yes or no)."""

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


class VerdictTests:
    """Subclass, name it Test..., set `part` to the description (small: every row is asked for every item).

    close: largest difference that counts as rounding. unused: names of parameters that verdicts do not reach.
    """

    part: ClassVar[Model]
    close: ClassVar[float] = 1e-9
    unused: ClassVar[tuple[str, ...]] = ()

    def asked(self, train: Train) -> Batch:
        return tiny.marked(tiny.batch(train, lengths=(5, 2, 3, 1)))

    def of_all(self, network: Network, batch: Batch, rng: torch.Generator | None = None) -> Tensor:
        """[B, V]: the verdict on every item at the end of every row."""
        items = torch.arange(network.n_items).expand(batch.n_rows, -1)
        return network.verdicts(batch, Causal(), batch.last, items, rng)

    def same(self, one: Tensor, two: Tensor, what: str) -> None:
        assert torch.allclose(one.double(), two.double(), rtol=0, atol=self.close), f"{what}: {gap(one, two)}"

    def test_repr_evaluates_to_an_equal_value(self) -> None:
        check_repr(self.part)

    def test_the_same_seed_builds_the_same_weights(self) -> None:
        train = tiny.split().train
        assert_same(dict(built(self.part, train).state_dict()), dict(built(self.part, train).state_dict()))

    @torch.no_grad()
    def test_a_row_alone_gives_what_it_gives_in_a_batch(self) -> None:
        train = tiny.split().train
        network, batch = built(self.part, train), self.asked(train)
        whole = self.of_all(network, batch)
        for row in range(batch.n_rows):
            self.same(self.of_all(network, batch.take(torch.tensor([row])))[0], whole[row], f"row {row}")

    @torch.no_grad()
    def test_other_rows_and_later_events_are_not_read(self) -> None:
        train = tiny.split().train
        network, batch = built(self.part, train), self.asked(train)
        items = torch.arange(3).expand(batch.n_rows, -1)
        first = batch.offsets[:-1]
        before = network.verdicts(batch, Causal(), first, items)
        place = int(batch.last[0])
        after = network.verdicts(tiny.with_item(batch, place, other(batch, place, train)), Causal(), first, items)
        self.same(before, after, "a later event was read")
        again = self.of_all(network, tiny.with_item(batch, place, other(batch, place, train)))
        moved = (again - self.of_all(network, batch)).abs().amax(1) > self.close
        assert moved.tolist() == [True] + [False] * (batch.n_rows - 1), "the last event counts for its own row, and for no other"

    @torch.no_grad()
    def test_randomness_comes_from_rng_alone(self) -> None:
        train = tiny.split().train
        network, batch = built(self.part, train), self.asked(train)
        state = torch.get_rng_state()
        assert torch.equal(self.of_all(network, batch), self.of_all(network, batch)), "rng=None is not deterministic"
        one, two = (self.of_all(network, batch, torch.Generator().manual_seed(3)) for _ in range(2))
        assert torch.equal(one, two), "the same rng gives different verdicts"
        assert torch.equal(torch.get_rng_state(), state), "torch's own generator was used"

    @torch.no_grad()
    def test_items_are_ranked_as_they_are_judged(self) -> None:
        train = tiny.split().train
        network, batch = built(self.part, train), self.asked(train)
        judged, whole = self.of_all(network, batch), network.score(batch, Causal())
        assert whole.shape == (batch.n_rows, network.n_items)
        assert torch.equal(whole.argsort(1), judged.argsort(1)), "another order than that of the verdicts"
        some = torch.tensor([[3, 1, -1], [0, 2, 4], [5, -1, -1], [1, 1, 0]])
        among = network.score_among(batch, Causal(), some)
        self.same(among[some >= 0], whole.gather(1, some.clamp_min(0))[some >= 0], "some candidates alone")

    @torch.no_grad()
    def test_state_survives_saving(self) -> None:
        train = tiny.split().train
        one, two = built(self.part, train, seed=1), built(self.part, train, seed=2)
        batch = self.asked(train)
        assert not torch.equal(self.of_all(one, batch), self.of_all(two, batch)), "different weights judge alike"
        two.load_state_dict({name: tensor.clone() for name, tensor in one.state_dict().items()})
        assert torch.equal(self.of_all(one, batch), self.of_all(two, batch)), "something that matters is not in the state"

    def test_gradient_reaches_every_parameter(self) -> None:
        train = tiny.split().train
        network, batch = built(self.part, train), self.asked(train)
        found = network.verdicts(batch, Causal(), batch.last, torch.arange(2).expand(batch.n_rows, -1))
        found.square().sum().backward()
        missed = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
        assert sorted(missed) == sorted(self.unused), f"without gradient: {missed}, listed: {self.unused}"
