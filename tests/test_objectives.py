"""Training signals against their definitions: what is hidden, what may be seen, what is charged, and that each can be learned."""

import itertools
import math

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lmrs.batch import from_rows
from lmrs.errors import ContractError
from lmrs.losses import BCE, FullSoftmax, Output, SampledSoftmax
from lmrs.models import PostNorm, Transformer
from lmrs.negatives import Uniform
from lmrs.objectives import Cloze, Mutual, NextItem, Permuted, Replaced, Total
from lmrs.objectives.mutual import segments
from lmrs.objectives.next_item import charge_targets
from lmrs.objectives.permuted import two_streams
from lmrs.objectives.replaced import sample
from lmrs.visibility import Causal, Full, Permutation
from lmrs.vocab import Attributes, Vocab

V, D = 15, 8
MASK = V
fast = settings(max_examples=40, deadline=None)
LENGTHS = st.lists(st.integers(2, 20), min_size=1, max_size=8)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def words():
    lists = pa.array([[f"a{i % 2}", f"b{i % 3}"] if i % 5 else [] for i in range(V)], pa.list_(pa.large_string()))
    return Vocab(
        pa.array([f"i{i}" for i in range(V)], pa.large_string()),
        attributes={"attributes": Attributes.from_lists(lists)},
        counts=np.arange(1, V + 1),
    )


def network_of(seed=0, **options):
    """A float64 network whose random weights are large enough for every input to matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = (
            Transformer(**{"dim": D, "layers": 2, "heads": 2, "max_len": 24, "bias": True, **options}).build(words()).double()
        )
        for parameter in network.parameters():
            parameter.data.normal_(0.5 if parameter.ndim == 1 else 0.0, 0.4)
        network.item_bias.data.normal_(0, 0.1)
    return network


def head_of(objective, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = objective.head(words(), D)
    return None if head is None else head.double()


def batch_of(lengths, seed=0):
    item = torch.randint(V, (sum(lengths),), generator=generator(seed))
    return from_rows({"item": item}, torch.tensor(lengths), {"user": torch.arange(len(lengths))})


def rows_of(batch, channel="item"):
    values = batch.channels[channel].tolist()
    return [values[a:b] for a, b in itertools.pairwise(batch.offsets.tolist())]


def state_of(network, items, visible):
    """States of one row on its own."""
    return network(from_rows({"item": torch.tensor(items)}, torch.tensor([len(items)])), visible)


def cross_entropy(network, state, item):
    return F.cross_entropy(network.output().scores(network.read(state))[None], torch.tensor([item]))


# -- next item -----------------------------------------------------------------------------------------------------------


def test_next_item_on_paper():
    batch = from_rows({"item": torch.tensor([3, 4, 5, 7, 8])}, torch.tensor([3, 2]))
    prepared = NextItem().corrupt(batch, words(), generator())
    assert rows_of(prepared) == [[3, 4], [7]]
    assert rows_of(prepared, "target") == [[4, 5], [8]]
    assert rows_of(prepared, "position") == [[0, 1], [0]]
    assert NextItem().counts(prepared) == {"next": 3}
    assert NextItem().visible == NextItem().asked_visible == Causal()


def test_next_item_charges_each_event_given_those_before_it():
    network, batch = network_of(align="left"), batch_of([5, 3, 2])
    prepared = NextItem().corrupt(batch, words(), generator())
    found = NextItem().charge(network, None, prepared, words(), None)["next"]
    wanted = sum(
        cross_entropy(network, state_of(network, row[:t], Causal())[-1], row[t])
        for row in rows_of(batch)
        for t in range(1, len(row))
    )
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("loss", [BCE(), SampledSoftmax(Uniform(k=3)), SampledSoftmax(Uniform(k=5, shared=True))])
def test_next_item_draws_its_negatives_for_the_whole_batch(loss):
    network, objective = network_of(), NextItem(loss)
    prepared = objective.corrupt(batch_of([5, 3, 2]), words(), generator())
    whole = objective.charge(network, None, prepared, words(), None)["next"]
    parts = [objective.charge(network, None, prepared.take(torch.tensor([r])), words(), None)["next"] for r in range(3)]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-10, atol=1e-10)
    if loss.negatives.shared:
        assert prepared.extra["negative"].shape == (5,)
    else:
        for row in range(3):  # nothing of the row, nor the event to predict
            mine = prepared.row_of == row
            assert not set(prepared.channels["negative"][mine].flatten().tolist()) & set(rows_of(batch_of([5, 3, 2]))[row])


def test_next_item_asks_at_the_last_event():
    asked = NextItem().ask(from_rows({"item": torch.tensor([3, 4, 5])}, torch.tensor([2, 1])), words())
    assert rows_of(asked, "asked") == [[False, True], [True]]
    some = NextItem().ask(from_rows({"item": torch.tensor([3, 4])}, torch.tensor([2, 0])), words())
    assert some.channels["asked"].tolist() == [False, True]


# -- cloze ---------------------------------------------------------------------------------------------------------------


@fast
@given(LENGTHS, st.floats(0.05, 1.0), st.one_of(st.none(), st.integers(1, 6)), st.booleans(), st.integers(0, 9))
def test_cloze_hides_the_stated_number_and_always_by_the_mask(lengths, hide, most, keep_one, seed):
    objective, batch = Cloze(hide=hide, most=most, keep_one=keep_one), batch_of(lengths)
    prepared = objective.corrupt(batch, words(), generator(seed))
    for before, after, target in zip(rows_of(batch), rows_of(prepared), rows_of(prepared, "target"), strict=True):
        n = len(before)
        k = max(1, round(n * hide))  # Python and torch both round halves to even
        k = min(k, most) if most else k
        k = min(k, n - 1) if keep_one else k
        hidden = [t >= 0 for t in target]
        assert sum(hidden) == k
        assert [i if h else -1 for i, h in zip(before, hidden, strict=True)] == target
        assert [MASK if h else i for i, h in zip(before, hidden, strict=True)] == after
    assert objective.counts(prepared)["cloze"] == sum(t >= 0 for row in rows_of(prepared, "target") for t in row)


def test_cloze_hides_every_position_equally_often():
    times = torch.zeros(10)
    for seed in range(600):
        times += Cloze(hide=0.3).corrupt(batch_of([10]), words(), generator(seed)).channels["target"] >= 0
    share = times / 600
    assert times.sum() == 600 * 3
    assert (share - 0.3).abs().max() < 5 * math.sqrt(0.3 * 0.7 / 600)


def test_cloze_copies_of_the_question_hide_the_last_event_alone():
    objective = Cloze(hide=0.5, last=0.4)
    prepared = objective.corrupt(batch_of([8] * 1000), words(), generator())
    alone = [t[-1] >= 0 and sum(v >= 0 for v in t) == 1 for t in rows_of(prepared, "target")]
    assert {sum(v >= 0 for v in t) for t, a in zip(rows_of(prepared, "target"), alone, strict=True) if not a} == {4}
    assert sum(alone) / 1000 == pytest.approx(0.4, abs=5 * math.sqrt(0.24 / 1000))
    assert all(t[-1] >= 0 for t in rows_of(Cloze(last=1.0).corrupt(batch_of([4, 9]), words(), generator()), "target"))


def test_cloze_charges_hidden_events_given_both_sides():
    network, objective, batch = network_of(block=PostNorm()), Cloze(hide=0.4), batch_of([6, 4, 2])
    prepared = objective.corrupt(batch, words(), generator(3))
    wanted = 0
    for row, target in zip(rows_of(prepared), rows_of(prepared, "target"), strict=True):
        states = state_of(network, row, Full())
        wanted = wanted + sum(cross_entropy(network, states[t], item) for t, item in enumerate(target) if item >= 0)
    found = objective.charge(network, None, prepared, words(), None)["cloze"]
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("objective", [Cloze(), Replaced(), Permuted()])
def test_signals_with_a_mask_ask_behind_the_history(objective):
    asked = objective.ask(from_rows({"item": torch.tensor([3, 4, 5])}, torch.tensor([2, 1])), words())
    assert rows_of(asked) == [[3, 4, MASK], [5, MASK]]
    assert rows_of(asked, "asked") == [[False, False, True], [False, True]]
    assert rows_of(asked, "position") == [[0, 1, 2], [0, 1]]
    assert objective.asks == 1


# -- permuted ------------------------------------------------------------------------------------------------------------


@fast
@given(LENGTHS, st.sampled_from([1 / 6, 0.3, 0.5, 1.0]), st.integers(1, 5), st.integers(0, 9))
def test_permuted_copies_each_target_behind_its_row(lengths, share, span, seed):
    objective, batch = Permuted(share=share, span=span), batch_of(lengths)
    prepared = objective.corrupt(batch, words(), generator(seed))
    assert (prepared.lengths.diff() <= 0).all()
    source = dict(zip(batch.rows["user"].tolist(), rows_of(batch), strict=True))
    names = ("item", "position", "rank", "query", "target")
    for at, (user, example) in enumerate(zip(prepared.rows["user"].tolist(), prepared.rows["example"].tolist(), strict=True)):
        item, position, rank, query, target = (rows_of(prepared, name)[at] for name in names)
        assert example == int(batch.rows["example"][batch.rows["user"] == user])
        row, n = source[user], len(source[user])
        assert (item[:n], position[:n], query[:n], target[:n]) == (row, list(range(n)), [0] * n, [-1] * n)
        chosen = [t for t in range(n) if rank[t] >= 0]
        assert chosen
        assert len({rank[t] for t in chosen}) == len(chosen)
        assert (position[n:], target[n:]) == (chosen, [row[t] for t in chosen])
        assert rank[n:] == [rank[t] for t in chosen]
        assert item[n:] == [MASK] * len(chosen)
        assert query[n:] == [1] * len(chosen)
    assert objective.counts(prepared) == {"permuted": prepared.n_positions - batch.n_positions}


def test_permuted_spans_are_short_and_cover_about_the_stated_share():
    objective, batch = Permuted(share=1 / 6, span=5), batch_of([300] * 40)
    chosen = objective.targets(batch, generator())
    assert chosen.double().mean().item() == pytest.approx(1 / 6, abs=0.02)
    runs = [len(list(group)) for row in chosen.view(40, 300).tolist() for yes, group in itertools.groupby(row) if yes]
    assert np.bincount(runs).argmax() <= 5
    assert min(np.bincount([r for r in runs if r <= 5], minlength=6)[1:]) > 0.1 * len(runs)
    assert sum(r > 5 for r in runs) < 0.1 * len(runs)  # two spans may touch


def test_permuted_orders_are_uniform():
    """Three targets in a row of three: each of the six orders is as frequent as the others."""
    objective, counts = Permuted(share=1.0, span=1), {}
    ranks = objective.corrupt(batch_of([3] * 3000), words(), generator()).channels
    for row in ranks["rank"][ranks["query"] == 1].view(-1, 3).tolist():
        counts[tuple(row)] = counts.get(tuple(row), 0) + 1
    assert len(counts) == 6
    assert all(abs(n / 3000 - 1 / 6) < 5 * math.sqrt(5 / 36 / 3000) for n in counts.values())


def test_permuted_in_the_order_of_time_is_causal_prediction_at_a_mask():
    """With every event a target and the identity as order, the content stream is a causal transformer, and the query of event t
    is that transformer's state at a mask put after x_<t. NextItem reads the state at x_{t-1} instead, so the comparison is with
    NextItem's visibility and loss on the rows x_<t + [mask], the mask's state alone being charged."""
    network, batch = network_of(align="left"), batch_of([6, 4, 2])
    identity = batch.channels["position"]
    found = Permuted().charge(network, None, two_streams(batch, identity, words()), words(), None)["permuted"]
    masked = [[*row[:t], MASK] for row in rows_of(batch) for t in range(len(row))]
    truth = [[-1] * t + [row[t]] for row in rows_of(batch) for t in range(len(row))]
    lengths = torch.tensor([len(row) for row in masked])
    channels = {"item": torch.tensor(list(itertools.chain(*masked))), "target": torch.tensor(list(itertools.chain(*truth)))}
    wanted = NextItem().charge(network, None, from_rows(channels, lengths), words(), None)["next"]
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    content = two_streams(batch, identity, words())
    states = network(content, Permutation())[content.channels["query"] == 0]
    torch.testing.assert_close(states, network(batch, Causal()), rtol=1e-10, atol=1e-10)


def test_permuted_predictions_hang_on_what_comes_earlier_in_the_order_only():
    network, batch = network_of(), batch_of([7])
    rank = torch.tensor([2, -1, 0, 3, -1, 1, -1])  # order of the targets: places 2, 5, 0, 3; context: 1, 4, 6

    def states(batch):
        return network(two_streams(batch, rank, words()), Permutation())[7:]  # the queries of places 0, 2, 3, 5

    before = states(batch)
    for place in range(7):
        item = batch.channels["item"].clone()
        item[place] = (item[place] + 1) % V
        after = states(batch.with_channels(item=item))
        moved = [not torch.allclose(a, b, atol=1e-9) for a, b in zip(before, after, strict=True)]
        assert moved == [int(rank[place]) < int(rank[q]) for q in (0, 2, 3, 5)]


def test_permuted_question_sees_the_whole_history_from_both_sides():
    network, batch = network_of(), batch_of([5])
    asked = Permuted().ask(batch, words())
    found = network(asked, Permuted().asked_visible)
    content = state_of(network, rows_of(batch)[0], Full())
    shifted = network_of(align="left")
    left, alone = shifted(asked, Permutation())[:5], shifted(batch, Full())
    torch.testing.assert_close(left, alone, rtol=1e-10, atol=1e-10)  # the history does not see the question
    assert not torch.allclose(found[:5], content)  # aligned to the right the question takes the last place
    for place in range(5):
        item = batch.channels["item"].clone()
        item[place] = (item[place] + 1) % V
        again = network(Permuted().ask(batch.with_channels(item=item), words()), Permutation())
        assert not torch.allclose(again[5], found[5], atol=1e-9)


# -- replaced ------------------------------------------------------------------------------------------------------------


def test_replaced_charges_the_equation():
    """BCE at every position, where a draw that hits the true item is not a replacement."""
    objective, batch = Replaced(Cloze(hide=0.5)), batch_of([6, 4, 3])
    network, head = network_of(), head_of(objective)
    prepared = objective.corrupt(batch, words(), generator(2))
    hidden = prepared.channels["target"] >= 0
    prepared.channels["dice"][hidden.nonzero()[0]] = _dice_of_truth(network, prepared, int(hidden.nonzero()[0]))
    filled = objective.filled(network, network(prepared, Full(), at=hidden.nonzero()[:, 0]), prepared)
    original = batch.channels["item"]
    assert torch.equal(filled[~hidden], original[~hidden])
    fake = filled != original
    assert fake.any()
    assert (hidden & ~fake).any()
    first, _, second = head
    states = network(batch.with_channels(item=filled), Full())
    logit = (F.gelu(states @ first.weight.T + first.bias) @ second.weight.T + second.bias)[:, 0]
    p = logit.sigmoid()
    wanted = -(torch.where(fake, p, 1 - p)).log().sum()
    charged = objective.charge(network, head, prepared, words(), None)
    torch.testing.assert_close(charged["replaced"], wanted, rtol=1e-9, atol=1e-9)
    cloze = charge_targets(network, network(prepared, Full(), at=hidden.nonzero()[:, 0]), prepared, FullSoftmax(), words())
    torch.testing.assert_close(charged["cloze"], cloze)
    assert objective.counts(prepared) == {"cloze": int(hidden.sum()), "replaced": 13}
    assert Replaced(weight=3.0).weights == {"cloze": 1.0, "replaced": 3.0}


def _dice_of_truth(network, prepared, place):
    """The middle of the true item's share of [0, 1), so that the draw hits it."""
    law = network.output().scores(network.read(network(prepared, Full())[place])).softmax(0).double()
    truth = int(prepared.channels["target"][place])
    return law[:truth].sum() + law[truth] / 2


def test_replaced_draws_follow_the_softmax():
    scores = torch.tensor([0.3, -1.0, 2.0, 0.0], dtype=torch.float64)
    output = Output(torch.eye(4, dtype=torch.float64), scores)
    dice = torch.rand(20_000, generator=generator(), dtype=torch.float64)
    found = sample(torch.zeros(20_000, 4, dtype=torch.float64), output, dice, block=999)
    share = torch.bincount(found, minlength=4) / 20_000
    assert (share - scores.softmax(0)).abs().max() < 5 * 0.5 / math.sqrt(20_000)
    edges = scores.softmax(0).cumsum(0)
    ends = torch.cat([torch.zeros(1, dtype=torch.float64), edges[:3], edges[:3] - 1e-9, torch.tensor([1 - 1e-16])])
    assert sample(torch.zeros(8, 4, dtype=torch.float64), output, ends).tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def test_replaced_from_the_batch_fills_with_hidden_items_only():
    objective, batch = Replaced(Cloze(hide=0.3), pool="batch"), batch_of([9, 8, 8, 7])
    network = network_of()
    prepared = objective.corrupt(batch, words(), generator())
    hidden = prepared.channels["target"] >= 0
    pool = set(batch.channels["item"][hidden].tolist())
    filled = objective.filled(network, network(prepared, Full(), at=hidden.nonzero()[:, 0]), prepared)
    assert set(filled[hidden].tolist()) <= pool < set(range(V))


def test_replaced_sends_no_gradient_through_the_draw():
    """The discriminator alone leaves the output bias, which only the generator's scores use, without gradient."""
    objective = Replaced()
    network, head = network_of(), head_of(objective)
    prepared = objective.corrupt(batch_of([6, 4]), words(), generator())
    charged = objective.charge(network, head, prepared, words(), None)
    gradient = torch.autograd.grad(
        charged["replaced"], [network.item_bias, network.items.weight], retain_graph=True, allow_unused=True
    )
    assert gradient[0] is None
    assert gradient[1].any()
    assert torch.autograd.grad(charged["cloze"], network.item_bias)[0].any()


# -- mutual --------------------------------------------------------------------------------------------------------------


@fast
@given(LENGTHS, st.integers(0, 9))
def test_mutual_hides_the_last_event_always_and_cuts_segments(lengths, seed):
    batch = batch_of(lengths)
    prepared = Mutual(hide=0.3).corrupt(batch, words(), generator(seed))
    stream = batch.channels["item"].tolist()
    parts = [rows_of(prepared.parts[name]) for name in ("context", "segment", "wrong")]
    for before, after, target, context, segment, wrong in zip(
        rows_of(batch), rows_of(prepared), rows_of(prepared, "target"), *parts, strict=True
    ):
        assert target[-1] == before[-1]
        assert after == [MASK if t >= 0 else i for i, t in zip(before, target, strict=True)]
        inside = [t for t, i in enumerate(context) if i == MASK]
        assert 1 <= len(inside) <= len(before) // 2
        assert inside == list(range(inside[0], inside[0] + len(inside)))
        assert [i if i != MASK else before[t] for t, i in enumerate(context)] == before
        assert segment == [before[t] if t in inside else MASK for t in range(len(before))]
        assert [t for t, i in enumerate(wrong) if i != MASK] == inside
        foreign = [wrong[t] for t in inside]
        assert any(stream[a : a + len(foreign)] == foreign for a in range(len(stream)))


def test_mutual_negatives_are_not_of_the_row_and_segments_need_two_events():
    batch = batch_of([9, 5, 2, 1])
    prepared = Mutual(negatives=4).corrupt(batch, words(), generator())
    for before, target, negative in zip(rows_of(batch), rows_of(prepared, "target"), rows_of(prepared, "negative"), strict=True):
        for t, drawn in zip(target, negative, strict=True):
            assert t < 0 or not set(drawn) & set(before)
    assert [part.n_rows for part in segments(batch, words(), generator()).values()] == [3, 3, 3]


@pytest.mark.parametrize("loss", ["double_sigmoid", "infonce"])
def test_mutual_charges_the_equations(loss):
    objective, batch = Mutual(hide=0.4, mim_loss=loss, negatives=2), batch_of([6, 5, 3])
    network, head = network_of(), head_of(objective)
    prepared = objective.corrupt(batch, words(), generator(1))
    states, table = network(prepared, Full()), network.output().table
    has = torch.zeros(V, 5, dtype=torch.float64)
    own = words().attributes["attributes"]
    for i in range(V):
        has[i, own.values[own.offsets[i] : own.offsets[i + 1]].astype(int)] = 1

    def through(name, h):
        return h @ head.maps[name].weight.T + head.maps[name].bias

    def rank(a, b):
        if loss == "double_sigmoid":
            return sum(-torch.log(torch.sigmoid(a.sigmoid() - other.sigmoid())) for other in b)
        return -torch.log(a.exp() / (a.exp() + sum(other.exp() for other in b)))

    wanted = dict.fromkeys(("aap", "mip", "map", "sp"), 0.0)
    for t in range(batch.n_positions):
        item, hidden = int(batch.channels["item"][t]), bool(prepared.channels["target"][t] >= 0)
        name = "map" if hidden else "aap"
        p = (through(name, states[t]) @ head.bag.embedding.weight.T).sigmoid()
        wanted[name] += -(has[item] * p.log() + (1 - has[item]) * (1 - p).log()).sum()
        if hidden:
            scores = [through("mip", states[t]) @ table[i] for i in (item, *prepared.channels["negative"][t].tolist())]
            wanted["mip"] += rank(scores[0], scores[1:])
    for row in range(3):
        c, s, w = (state_of(network, rows_of(prepared.parts[name])[row], Full())[-1] for name in ("context", "segment", "wrong"))
        wanted["sp"] += rank(through("sp", c) @ s, [through("sp", c) @ w])
    charged = objective.charge(network, head, prepared, words(), None)
    for name, value in wanted.items():
        torch.testing.assert_close(charged[name], value, rtol=1e-9, atol=1e-9, msg=name)
    assert objective.counts(prepared) == {"aap": 3, "mip": 3, "map": 3, "sp": 3}
    assert objective.weights == {"aap": 0.2, "mip": 1.0, "map": 1.0, "sp": 0.5}


def test_mutual_double_sigmoid_is_bounded_below_and_infonce_is_not():
    far = torch.tensor([40.0], dtype=torch.float64), torch.tensor([[-40.0]], dtype=torch.float64)
    assert Mutual().rank(*far).item() == pytest.approx(-math.log(1 / (1 + math.exp(-1))), abs=1e-9)
    assert Mutual(mim_loss="infonce").rank(*far).item() == pytest.approx(0, abs=1e-9)


def test_mutual_needs_the_attribute_only_where_it_is_used():
    with pytest.raises(
        ContractError, match=r"needed the item attribute 'genres', got a data set with attributes \['attributes'\]"
    ):
        Mutual(attributes="genres").head(words(), D)
    alone = Mutual(attributes="genres", aap=0, map=0)
    head, network = head_of(alone), network_of()
    charged = alone.charge(network, head, alone.corrupt(batch_of([4, 3]), words(), generator()), words(), None)
    assert set(charged) == {"mip", "sp"} == set(head.maps)
    bare = Vocab(words().items)
    with pytest.raises(ContractError, match=r"attributes \[\]; add a list column"):
        Mutual().head(bare, D)


def test_mutual_needs_items_as_wide_as_states():
    objective, network = Mutual(), network_of(item_dim=5)
    prepared = objective.corrupt(batch_of([3]), words(), generator())
    with pytest.raises(
        ContractError, match="needed items as wide as the states for Mutual, got widths 5 and 8; leave item_dim out"
    ):
        objective.charge(network, head_of(objective), prepared, words(), None)


def test_mutual_cannot_be_asked():
    assert Mutual().ask(batch_of([3]), words()) is None


# -- total ---------------------------------------------------------------------------------------------------------------


def test_total_is_the_weighted_sum_of_its_signals():
    one, two = Cloze(hide=0.5), Replaced(Cloze(hide=0.3))
    total = Total((("fill", 2.0, one), ("spot", 0.5, two)))
    network, head, batch = network_of(), head_of(Total((("fill", 2.0, one), ("spot", 0.5, two)))), batch_of([6, 4, 3])
    prepared = total.corrupt(batch, words(), generator())
    charged = total.charge(network, head, prepared, words(), None)
    assert total.weights == {"fill.cloze": 2.0, "spot.cloze": 0.5, "spot.replaced": 0.5}
    assert list(head) == ["spot"]
    for name, signal, own in (("fill", one, None), ("spot", two, head["spot"])):
        for part, value in signal.charge(network, own, prepared.parts[name], words(), None).items():
            torch.testing.assert_close(charged[f"{name}.{part}"], value)
        for part, count in signal.counts(prepared.parts[name]).items():
            assert total.counts(prepared)[f"{name}.{part}"] == count
    assert rows_of(total.ask(batch, words())) == rows_of(one.ask(batch, words()))
    assert (total.ahead, total.asks, total.visible, total.asked_visible) == (0, 1, Full(), Full())
    assert Total((("next", 1.0, NextItem()),)).head(words(), D) is None


def test_total_keeps_inputs_within_the_model_when_signals_look_ahead_differently():
    total = Total((("next", 1.0, NextItem()), ("fill", 1.0, Cloze(hide=1.0))))
    prepared = total.corrupt(batch_of([5, 4, 3, 2]), words(), generator())
    assert (total.ahead, total.visible, total.asked_visible) == (1, Full(), Causal())
    assert prepared.parts["next"].lengths.tolist() == [4, 3, 2, 1]
    assert prepared.parts["fill"].lengths.tolist() == [4, 3, 2, 2]
    assert rows_of(prepared.parts["fill"], "target") == [
        row[-n:] for row, n in zip(rows_of(batch_of([5, 4, 3, 2])), (4, 3, 2, 2))
    ]
    assert rows_of(prepared.parts["fill"], "position") == [list(range(n)) for n in (4, 3, 2, 2)]


# -- all of them ---------------------------------------------------------------------------------------------------------

EVERY = [
    NextItem(),
    NextItem(BCE()),
    Cloze(hide=0.4),
    Permuted(share=0.5, span=3),
    Replaced(),
    Mutual(),
    Mutual(mim_loss="infonce"),
    Total((("next", 1.0, NextItem()), ("fill", 0.5, Cloze()))),
]


@pytest.mark.parametrize("objective", EVERY, ids=lambda o: type(o).__name__)
def test_every_signal_can_be_learned(objective):
    """On rows that count upwards, a hundred updates bring the loss well below that of the first ones."""
    vocab = words()
    start = torch.randint(V, (32,), generator=generator(1))
    items = (start[:, None] + torch.arange(8)) % V
    batch = from_rows({"item": items.flatten()}, torch.full((32,), 8))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Transformer(dim=16, layers=1, heads=2, max_len=9, dropout=0.0).build(vocab)
        head = objective.head(vocab, 16)
    modules = nn.ModuleList([network] if head is None else [network, head])
    optimizer = torch.optim.Adam(modules.parameters(), lr=1e-2)
    history = {name: [] for name in objective.weights}
    for step in range(100):
        prepared = objective.corrupt(batch, vocab, generator(step))
        counts = objective.counts(prepared)
        charged = objective.charge(network, head, prepared, vocab, generator(step))
        loss = sum(objective.weights[name] * value / counts[name] for name, value in charged.items())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for name, value in charged.items():
            history[name].append(float(value.detach()) / counts[name])
    for name, values in history.items():
        if name != "replaced":  # a better generator makes the discriminator's work harder
            assert np.mean(values[-5:]) < 0.9 * np.mean(values[:3]), name


@pytest.mark.parametrize("objective", EVERY, ids=lambda o: type(o).__name__)
def test_every_signal_runs_in_low_precision_with_its_loss_in_full(objective):
    vocab, prepared = words(), objective.corrupt(batch_of([6, 5, 3, 2]), words(), generator())
    network, head = network_of(item_dim=None if isinstance(objective, Mutual) else 6).float(), head_of(objective)
    head = None if head is None else head.float()
    wanted = objective.charge(network, head, prepared, vocab, None)
    with torch.autocast("cpu", torch.bfloat16):
        found = objective.charge(network, head, prepared, vocab, None)
    for name, value in found.items():
        assert value.dtype == torch.float32
        if name not in ("replaced",):  # a rounded score may draw another item
            torch.testing.assert_close(value, wanted[name], rtol=0.05, atol=0.5)


@pytest.mark.parametrize("objective", EVERY, ids=lambda o: type(o).__name__)
def test_repr_evaluates_back(objective):
    assert eval(repr(objective)) == objective


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cloze(hide=0), r"hide in \(0, 1\], got hide=0"),
        (lambda: Cloze(last=2), r"last in \[0, 1\]"),
        (lambda: Permuted(share=0), r"share in \(0, 1\]"),
        (lambda: Permuted(span=0), "span of at least 1"),
        (lambda: Replaced(weight=-1), "weight of at least 0"),
        (lambda: Replaced(pool="all"), "pool 'catalogue' or 'batch', got 'all'"),
        (lambda: Mutual(hide=-0.1), r"hide in \[0, 1\]"),
        (lambda: Mutual(mim_loss="nce"), "mim_loss 'double_sigmoid' or 'infonce', got 'nce'"),
        (lambda: Mutual(negatives=0), "negatives of at least 1"),
        (lambda: Mutual(aap=0, mip=0, map=0, sp=0), "one of them above"),
        (lambda: Total(()), "signals with distinct names"),
        (lambda: Total((("a", 1.0, Cloze()), ("a", 1.0, Cloze()))), "distinct names"),
        (lambda: Total((("a", -1.0, Cloze()),)), "weights of at least 0, got a with -1.0"),
    ],
)
def test_signals_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ContractError, match=message):
        make()
