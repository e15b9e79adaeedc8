"""What every Objective must keep to: purity, sums that do not depend on how a batch is cut, and no peeping."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.losses import Output
from lmrs.models import Model, Network, Transformer
from lmrs.objectives import Objective
from lmrs.split import Train
from lmrs.testing import tiny
from lmrs.testing.models import CLOSE, built, gap, other
from lmrs.testing.values import check_repr
from lmrs.views import ItemSequence, View
from lmrs.visibility import Visibility

SEEDS = (0, 1, 2)


class ObjectiveTests:
    """Subclass, name it Test..., set `part` to the objective.

    model: what it is tried on. zero_cost: what one prediction costs, by part of the loss, if all weights are zero (log V for
    a softmax over the catalogue): it shows that `counts` counts what `charge` charges. Parts that are not named are not checked.
    view: how batches are read, 8 positions a row at most.
    runs: how many runs of the network in a charge predict items, the first ones (None: all of them).
    """

    part: ClassVar[Objective]
    model: ClassVar[Model] = Transformer(dim=8, layers=2, heads=2, max_len=12, dropout=0.3)
    view: ClassVar[View] = ItemSequence(max_len=8)
    zero_cost: ClassVar[dict[str, float]] = {}
    runs: ClassVar[int | None] = None

    def batch(self, train: Train) -> Batch:
        """A batch as the view gives it: rows of two events and more."""
        return tiny.batch(train, lengths=(5, 2, 8, 3, 8, 6, 2, 7, 4, 2), view=self.view)

    def parts(self, train: Train) -> tuple[Network, nn.Module | None]:
        """Network and head in fp64."""
        network = built(self.model, train)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            head = self.part.head(tiny.vocab(train), network.dim)
        return network, None if head is None else head.double()

    def prepared(self, batch: Batch, train: Train, seed: int) -> Batch:
        return self.part.corrupt(batch, tiny.vocab(train), torch.Generator().manual_seed(seed))

    def test_repr_evaluates_to_an_equal_value(self) -> None:
        check_repr(self.part)

    def test_model_is_allowed_what_it_needs(self) -> None:
        for visible in (self.part.visible, self.part.asked_visible):
            assert self.model.allows(visible), (
                f"{self.model!r} does not allow {visible!r}: choose another `model` for these checks"
            )

    def test_corrupt_is_a_function_of_batch_and_rng(self) -> None:
        train = tiny.split().train
        state = torch.get_rng_state()
        for seed in SEEDS:
            one, two = (tensors(self.prepared(self.batch(train), train, seed)) for _ in range(2))
            assert one.keys() == two.keys()
            for name in one:
                assert torch.equal(one[name], two[name]), f"{name} differs between two calls with the same rng"
        assert torch.equal(torch.get_rng_state(), state), "torch's own generator was used"

    def test_corrupt_leaves_its_input_alone(self) -> None:
        train = tiny.split().train
        batch = self.batch(train)
        before = {name: tensor.clone() for name, tensor in tensors(batch).items()}
        self.prepared(batch, train, 0)
        after = tensors(batch)
        assert before.keys() == after.keys(), f"{sorted(after.keys() ^ before.keys())} appeared or went"
        for name, tensor in before.items():
            assert torch.equal(tensor, after[name]), f"{name} was written to"

    def test_rows_stay_sorted_and_keep_their_examples(self) -> None:
        train = tiny.split().train
        batch = self.batch(train)
        for seed in SEEDS:
            for prepared in nested(self.prepared(batch, train, seed)):
                assert (prepared.lengths.diff() <= 0).all(), "rows are not sorted by falling length"
                assert torch.isin(prepared.rows["example"], batch.rows["example"]).all(), "an example that was not in the batch"

    def test_names_of_weights_counts_and_charges_agree(self) -> None:
        train = tiny.split().train
        network, head = self.parts(train)
        prepared = self.prepared(self.batch(train), train, 0)
        charged = self.part.charge(network, head, prepared, tiny.vocab(train), None)
        assert set(self.part.weights) == set(self.part.counts(prepared)) == set(charged)
        for name, value in charged.items():
            assert value.ndim == 0, f"{name} is no scalar"
            assert value.isfinite(), f"{name} is {value}"
            assert value > 0, f"{name} charges {float(value)} to a network that knows nothing"

    def test_shards_add_up_to_the_whole(self) -> None:
        """However the prepared batch is cut into shards or micro-batches, sums and counts are those of the whole."""
        train = tiny.split().train
        network, head = self.parts(train)
        vocab = tiny.vocab(train)
        for seed in SEEDS[:2]:
            whole = self.prepared(self.batch(train), train, seed)
            wanted, counted = self.part.charge(network, head, whole, vocab, None), self.part.counts(whole)
            for size in (3, whole.n_rows):
                pieces = cut(whole, size)
                charged = [self.part.charge(network, head, piece, vocab, None) for piece in pieces]
                counts = [self.part.counts(piece) for piece in pieces]
                for name, value in wanted.items():
                    total = torch.stack([piece[name] for piece in charged]).sum()
                    assert torch.allclose(total, value, rtol=1e-9, atol=CLOSE), f"{name} in {size} shards: {gap(total, value)}"
                    assert sum(piece[name] for piece in counts) == counted[name], f"counts of {name} in {size} shards"

    def test_gradients_of_micro_batches_add_up(self) -> None:
        train = tiny.split().train
        network, head = self.parts(train)
        modules = nn.ModuleDict({"network": network, **({} if head is None else {"head": head})})
        vocab = tiny.vocab(train)
        whole = self.prepared(self.batch(train), train, 0)
        counts = self.part.counts(whole)

        def gradient(pieces: list[Batch]) -> dict[str, Tensor]:
            modules.zero_grad(set_to_none=True)
            for piece in pieces:
                charged = self.part.charge(network, head, piece, vocab, None)
                loss = torch.stack(
                    [self.part.weights[name] / max(1, counts[name]) * value for name, value in charged.items()]
                ).sum()
                if loss.requires_grad:
                    loss.backward()
            return {name: p.grad.clone() for name, p in modules.named_parameters() if p.grad is not None}

        wanted, found = gradient([whole]), gradient(cut(whole, 3))
        assert wanted.keys() == found.keys()
        for name, value in wanted.items():
            assert torch.allclose(found[name], value, rtol=1e-8, atol=CLOSE), f"gradient of {name}: {gap(found[name], value)}"

    def test_an_empty_shard_costs_nothing(self) -> None:
        """With more processes than rows somebody gets none; it must still take part."""
        train = tiny.split().train
        network, head = self.parts(train)
        nobody = self.prepared(self.batch(train), train, 0).take(torch.zeros(0, dtype=torch.int64))
        charged = self.part.charge(network, head, nobody, tiny.vocab(train), None)
        assert set(charged) == set(self.part.weights)
        assert all(float(value.detach()) == 0 for value in charged.values())

    def test_counts_count_what_is_charged(self) -> None:
        train = tiny.split().train
        network, head = self.parts(train)
        for module in [network] if head is None else [network, head]:
            for parameter in module.parameters():
                parameter.data.zero_()
        for seed in SEEDS:
            prepared = self.prepared(self.batch(train), train, seed)
            charged = self.part.charge(network, head, prepared, tiny.vocab(train), None)
            for name, cost in self.zero_cost.items():
                each = float(charged[name].detach()) / self.part.counts(prepared)[name]
                assert abs(each - cost) < 1e-9, f"{name}: {each} a prediction, should be {cost}"

    def test_gradient_reaches_the_head(self) -> None:
        train = tiny.split().train
        network, head = self.parts(train)
        if head is None:
            return
        prepared = self.prepared(self.batch(train), train, 0)
        charged = self.part.charge(network, head, prepared, tiny.vocab(train), None)
        torch.stack(list(charged.values())).sum().backward()
        missed = [name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()]
        assert not missed, f"head parameters without gradient: {missed}"

    def test_no_state_reads_what_it_predicts(self) -> None:
        """Another item at a place must leave the states alone that are asked for that item."""
        train = tiny.split().train
        network, head = self.parts(train)
        batch, vocab = tiny.batch(train, lengths=(6, 2, 8, 3, 8), view=self.view), tiny.vocab(train)
        predicted = 0
        one = watched(self.part, network, head, self.prepared(batch, train, 0), vocab)
        for place in range(batch.n_positions):
            changed = tiny.with_item(batch, place, other(batch, place, train))
            two = watched(self.part, network, head, self.prepared(changed, train, 0), vocab)
            assert len(one) == len(two)
            for (before, states), (after, again) in list(zip(one, two))[: self.runs]:
                for name in {"target", "targets"} & before.channels.keys():
                    differs = before.channels[name] != after.channels[name]
                    asked = differs.any(1) if differs.ndim == 2 else differs
                    predicted += int(asked.sum())
                    assert torch.allclose(states[asked], again[asked], rtol=0, atol=CLOSE), (
                        f"a state depends on the item it predicts (flat place {place}): {gap(states[asked], again[asked])}"
                    )
        assert predicted, "no prediction was found: mark predictions in the channel `target` (-1 where nothing is charged)"

    def test_the_question_asks_once_a_row(self) -> None:
        train = tiny.split().train
        batch = tiny.batch(train, view=self.view)
        before = {name: tensor.clone() for name, tensor in tensors(batch).items()}
        asked = self.part.ask(batch, tiny.vocab(train))
        for name, tensor in before.items():
            assert torch.equal(tensor, tensors(batch)[name]), f"ask wrote to {name}"
        if asked is None:
            return
        assert torch.equal(asked.rows["example"], batch.rows["example"]), "rows changed places"
        assert torch.equal(asked.lengths - batch.lengths, torch.full((batch.n_rows,), self.part.asks)), (
            "`asks` positions more a row"
        )
        times = torch.zeros(batch.n_rows, dtype=torch.int64).index_add_(0, asked.row_of, asked.channels["asked"].long())
        assert torch.equal(times, torch.ones(batch.n_rows, dtype=torch.int64)), f"asked {times.tolist()} times"

    def test_the_answer_depends_on_the_whole_history(self) -> None:
        train = tiny.split().train
        network, _ = self.parts(train)
        batch, vocab = tiny.batch(train, view=self.view), tiny.vocab(train)
        question = self.part.ask(batch, vocab)
        if question is None:
            return
        before = network.score(question, self.part.asked_visible)
        for place in range(batch.n_positions):
            changed = self.part.ask(tiny.with_item(batch, place, other(batch, place, train)), vocab)
            assert changed is not None
            after = network.score(changed, self.part.asked_visible)
            moved = ~torch.isclose(after, before, rtol=0, atol=CLOSE).all(1)
            assert torch.equal(moved.nonzero()[:, 0], batch.row_of[place : place + 1]), (
                f"changing flat place {place} must change the answer of its row alone"
            )


class _Watched(Network):
    """A network that remembers what it was asked."""

    def __init__(self, inner: Network) -> None:
        super().__init__()
        self.inner, self.dim, self.n_items = inner, inner.dim, inner.n_items
        self.calls: list[tuple[Batch, Tensor]] = []

    def forward(self, batch: Batch, visible: Visibility, rng: torch.Generator | None = None, at: Tensor | None = None) -> Tensor:
        states = self.inner(batch, visible, rng)
        self.calls.append((batch, states))
        return states if at is None else states[at]

    def read(self, states: Tensor) -> Tensor:
        return self.inner.read(states)

    def output(self) -> Output:
        return self.inner.output()


@torch.no_grad()
def watched(objective: Objective, network: Network, head: nn.Module | None, prepared: Batch, vocab) -> list[tuple[Batch, Tensor]]:
    """Every (batch, states) that charging the prepared batch runs the network on."""
    watch = _Watched(network)
    objective.charge(watch, head, prepared, vocab, None)
    return watch.calls


def cut(prepared: Batch, size: int) -> list[Batch]:
    """`size` shards by example: every size-th of them, as fit cuts a batch."""
    examples = torch.unique(prepared.rows["example"])
    return [prepared.take(torch.isin(prepared.rows["example"], examples[rank::size]).nonzero()[:, 0]) for rank in range(size)]


def nested(batch: Batch) -> list[Batch]:
    """A batch and all its parts."""
    return [batch, *(inner for part in batch.parts.values() for inner in nested(part))]


def tensors(batch: Batch, prefix: str = "") -> dict[str, Tensor]:
    """Every tensor of a batch and its parts, by name."""
    found = {f"{prefix}offsets": batch.offsets}
    for kind, group in (("channels", batch.channels), ("rows", batch.rows), ("extra", batch.extra)):
        found |= {f"{prefix}{kind}[{name}]": value for name, value in group.items()}
    for name, part in batch.parts.items():
        found |= tensors(part, f"{prefix}{name}.")
    return found
