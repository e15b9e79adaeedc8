"""The transformer against independent implementations: torch's own encoder, and equations written out a row at a time."""

import itertools
import math

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lmrs.batch import appended, from_rows
from lmrs.errors import ContractError
from lmrs.models import Features, Gated, PostNorm, PreNorm, QueryNorm, Transformer
from lmrs.visibility import Causal, Full
from lmrs.vocab import Attributes, Vocab

V, D = 12, 8
HOUR = 3_600_000_000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def words():
    genres = pa.array([[f"g{i % 3}", f"g{i % 4}"] if i % 5 else [] for i in range(V)], pa.list_(pa.large_string()))
    return Vocab(pa.array([f"i{i}" for i in range(V)], pa.large_string()), attributes={"genres": Attributes.from_lists(genres)})


def built(seed=0, spread=0.3, **options):
    """A float64 network whose weights are all random, norms and biases too, so that nothing hides behind a zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Transformer(**{"dim": D, "layers": 2, "heads": 2, "max_len": 10, **options}).build(words()).double()
        for parameter in network.parameters():
            parameter.data.normal_(0.5 if parameter.ndim == 1 else 0.0, spread)
    return network


def batch_of(lengths=(7, 3, 5, 1), seed=0):
    rng, total = generator(seed), sum(lengths)
    item, time = torch.randint(V, (total,), generator=rng), torch.randint(10**15, (total,), generator=rng)
    return from_rows({"item": item, "time": time}, torch.tensor(lengths))


def rows_of(batch):
    return list(itertools.pairwise(batch.offsets.tolist()))


# -- blocks and stack ----------------------------------------------------------------------------------------------------


def torch_layer(module, norm_first):
    """torch.nn.TransformerEncoderLayer with the weights of one of our blocks."""
    layer = nn.TransformerEncoderLayer(
        D, 2, dim_feedforward=module.up.out_features, dropout=0.0, activation="gelu", batch_first=True, norm_first=norm_first
    ).double()
    pairs = {
        "self_attn.in_proj_weight": module.mix.weight, "self_attn.in_proj_bias": module.mix.bias,
        "self_attn.out_proj.weight": module.out.weight, "self_attn.out_proj.bias": module.out.bias,
        "linear1.weight": module.up.weight, "linear1.bias": module.up.bias,
        "linear2.weight": module.down.weight, "linear2.bias": module.down.bias,
        "norm1.weight": module.norm_attention.weight, "norm1.bias": module.norm_attention.bias,
        "norm2.weight": module.norm_feed.weight, "norm2.bias": module.norm_feed.bias,
    }  # fmt: skip
    layer.load_state_dict(pairs)
    return layer


@pytest.mark.parametrize("visible", [Causal(), Full()], ids=repr)
@pytest.mark.parametrize("block", [PostNorm(), PreNorm(expand=3)], ids=repr)
def test_the_stack_is_that_of_torch_nn(block, visible):
    network, batch = built(block=block), batch_of()
    found = network(batch, visible)
    place = network.place(batch)
    for a, b in rows_of(batch):
        x = (network.items.weight[batch.channels["item"][a:b]] + network.positions.weight[place[a:b]])[None]
        hidden = torch.ones(b - a, b - a, dtype=torch.bool).triu(1) if visible == Causal() else None
        for module in network.blocks:
            x = torch_layer(module, norm_first=isinstance(block, PreNorm)).train()(x, src_mask=hidden)
        if network.final_norm is not None:
            x = network.final_norm(x)
        torch.testing.assert_close(found[a:b], x[0], rtol=1e-10, atol=1e-12)
    assert (network.final_norm is not None) == isinstance(block, PreNorm)


def weighted(query, key, value):
    """Causal attention of two heads, by indices."""
    out = torch.zeros_like(query)
    size = D // 2
    for head in range(2):
        part = slice(head * size, (head + 1) * size)
        for i in range(len(query)):
            weight = torch.stack([query[i, part] @ key[j, part] for j in range(i + 1)]) / math.sqrt(size)
            out[i, part] = sum(w * value[j, part] for j, w in enumerate(weight.softmax(0)))
    return out


def normed(norm, x):
    centred = x - x.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def by_hand_query_norm(m, x):
    """SASRec's released code: the query alone is normalised, carries the residual, and the feed-forward is of width D."""
    wq, wk, wv = m.mix.weight.split(D)
    bq, bk, bv = m.mix.bias.split(D)
    query = normed(m.norm_attention, x)
    seen = weighted(query @ wq.T + bq, x @ wk.T + bk, x @ wv.T + bv) @ m.out.weight.T + m.out.bias
    y = normed(m.norm_feed, query + seen)
    return y + (y @ m.up.weight.T + m.up.bias).relu() @ m.down.weight.T + m.down.bias


def by_hand_gated(m, x):
    wq, wk, wv = m.mix.weight.split(D)
    bq, bk, bv = m.mix.bias.split(D)
    n = normed(m.norm_attention, x)
    seen = weighted(n @ wq.T + bq, n @ wk.T + bk, n @ wv.T + bv) @ m.out.weight.T + m.out.bias
    x = x + seen * (x @ m.gate_attention.weight.T + m.gate_attention.bias).sigmoid()
    n = normed(m.norm_feed, x)
    left, right = m.up.weight.chunk(2)
    inner = (n @ left.T) * (n @ left.T).sigmoid() * (n @ right.T)
    return x + (inner @ m.down.weight.T) * (x @ m.gate_feed.weight.T + m.gate_feed.bias).sigmoid()


@pytest.mark.parametrize(
    ("block", "by_hand"), [(QueryNorm(), by_hand_query_norm), (Gated(), by_hand_gated)], ids=["query", "gated"]
)
def test_blocks_without_a_library_twin_are_their_equations(block, by_hand):
    network, batch = built(block=block, layers=1), batch_of()
    x = torch.randn(batch.n_positions, D, generator=generator(3), dtype=torch.float64)
    found = network.blocks[0](x, batch, Causal(), None)
    for a, b in rows_of(batch):
        torch.testing.assert_close(found[a:b], by_hand(network.blocks[0], x[a:b]), rtol=1e-10, atol=1e-12)


# -- input ---------------------------------------------------------------------------------------------------------------


def test_places_count_from_the_left_or_end_at_the_right():
    batch = batch_of((4, 2))
    assert built(align="left").place(batch).tolist() == [0, 1, 2, 3, 0, 1]
    assert built(align="right").place(batch).tolist() == [6, 7, 8, 9, 8, 9]


def test_the_place_of_a_repeated_position_does_not_move_the_others():
    """A query copy has the position of the event it stands for, wherever it is stored."""
    batch = from_rows({"item": torch.tensor([1, 2, 3, 0]), "position": torch.tensor([0, 1, 2, 1])}, torch.tensor([4]))
    assert built(align="right").place(batch).tolist() == [7, 8, 9, 8]


@pytest.mark.parametrize("options", [{}, {"scale": True}, {"embed_norm": True}, {"positions": False}, {"item_dim": 5}], ids=repr)
def test_the_input_is_item_plus_place(options):
    network, batch = built(**options), batch_of()
    wanted = network.items.weight[batch.channels["item"]]
    if "scale" in options:
        wanted = wanted * math.sqrt(D)
    if "item_dim" in options:
        wanted = wanted @ network.widen.weight.T + network.widen.bias
    if "positions" not in options:
        wanted = wanted + network.positions.weight[network.place(batch)]
    if "embed_norm" in options:
        wanted = normed(network.embed_norm, wanted)
    torch.testing.assert_close(network.embed(batch), wanted)


def test_dropout_is_a_function_of_the_generator_alone():
    network, batch = built(dropout=0.4, attention_dropout=0.2), batch_of()
    state = torch.get_rng_state()
    one, two, other = (network(batch, Causal(), generator(s)) for s in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(network(batch, Causal()), network.eval()(batch, Causal()))
    assert torch.equal(torch.get_rng_state(), state)


# -- output --------------------------------------------------------------------------------------------------------------


def test_tied_scores_use_one_tensor_with_gradient_from_both_ends():
    network, batch = built(tied=True), batch_of()
    table, bias = network.output()
    assert table.data_ptr() == network.items.weight.data_ptr()
    assert table.shape == (V, D)
    assert bias is None
    scores = network.output().scores(network.read(network(batch, Causal())))
    whole = torch.autograd.grad(scores.logsumexp(1).sum(), network.items.weight)[0]
    states = network.read(network(batch, Causal())).detach()
    as_output = torch.autograd.grad(network.output().scores(states).logsumexp(1).sum(), network.items.weight)[0]
    fixed = network.items.weight[:V].detach()
    as_input = torch.autograd.grad((network.read(network(batch, Causal())) @ fixed.T).logsumexp(1).sum(), network.items.weight)[0]
    torch.testing.assert_close(whole, as_output + as_input)
    assert as_output.any()
    assert as_input.any()


def test_untied_scores_have_a_table_and_a_bias_of_their_own():
    network = built(tied=False, bias=True)
    table, bias = network.output()
    assert table is network.table.weight
    assert table.data_ptr() != network.items.weight.data_ptr()
    assert bias.shape == (V,)
    assert sum(p.numel() for p in built().parameters()) == sum(p.numel() for p in network.parameters()) - V * D - V


@pytest.mark.parametrize(
    "options", [{"tied": True}, {"tied": False}, {"transform": True}, {"item_dim": 5}, {"item_dim": 5, "transform": True}]
)
def test_scores_are_read_at_the_asked_position(options):
    network, batch = built(bias=True, **options), batch_of()
    asked = torch.zeros(batch.n_positions, dtype=torch.bool)
    asked[batch.last] = True
    found = network.score(batch.with_channels(asked=asked), Causal())
    states = network(batch, Causal())[batch.last]
    if "transform" in options:
        dense, _, norm = network.transform
        states = normed(norm, F.gelu(states @ dense.weight.T + dense.bias))
    if "item_dim" in options:
        states = states @ network.narrow.weight.T + network.narrow.bias
    table = network.table.weight if options.get("tied") is False else network.items.weight[:V]
    torch.testing.assert_close(found, states @ table.T + network.item_bias)


# -- side information ----------------------------------------------------------------------------------------------------


def attribute_means(network, item):
    """The mean embedding of each item's genres, zero without any."""
    table, rows = words().attributes["genres"], []
    for i in item.tolist():
        mine = table.values[table.offsets[i] : table.offsets[i + 1]].astype(np.int64)
        zero = torch.zeros(network.items.weight.shape[1], dtype=torch.float64)
        rows.append(network.features.bags[0].embedding.weight[torch.from_numpy(mine)].mean(0) if len(mine) else zero)
    return torch.stack(rows)


@pytest.mark.parametrize("item_dim", [None, 5])
@pytest.mark.parametrize("merge", ["concat", "elementwise"])
def test_attributes_and_time_are_normed_each_and_merged(merge, item_dim):
    mixed = Features(names=("genres",), times=("hour",), merge=merge)
    network, batch = built(features=mixed, positions=False, item_dim=item_dim), batch_of()
    item = batch.channels["item"]
    turn = 2 * math.pi * (batch.channels["time"].double() / (24 * HOUR) % 1)
    clock = network.features.clocks[0].out
    parts = [
        normed(network.features.norms[0], attribute_means(network, item)),
        normed(network.features.norms[1], torch.stack([turn.sin(), turn.cos()], 1) @ clock.weight.T + clock.bias),
    ]
    own = normed(network.features.item_norm, network.items.weight[item])
    join = network.features.join
    wanted = torch.cat([own, *parts], 1) @ join.weight.T + join.bias if merge == "concat" else own * (1 + parts[0] + parts[1])
    if item_dim:
        wanted = wanted @ network.widen.weight.T + network.widen.bias
    torch.testing.assert_close(network.embed(batch), wanted, rtol=1e-6, atol=1e-7)


def test_the_clock_knows_hours_and_weekdays():
    """1970-01-01 was a Thursday; 2024-02-29 18:00 UTC, too. Weeks run from Monday 00:00."""
    network = built(features=Features(times=("hour", "weekday")))
    hour, weekday = network.features.clocks
    for part in (hour, weekday):
        part.out.weight.data.copy_(torch.eye(D, 2))
        part.out.bias.data.zero_()
    day = 24 * HOUR
    leap = 1_709_229_600_000_000
    for time, of_day, of_week in [(0, 0.0, 3 / 7), (leap, 0.75, 3.75 / 7), (4 * day, 0.0, 0.0), (-6 * HOUR, 0.75, 2.75 / 7)]:
        for part, share in ((hour, of_day), (weekday, of_week)):
            found = part(torch.tensor([time]))[0, :2].tolist()
            assert found == pytest.approx([math.sin(2 * math.pi * share), math.cos(2 * math.pi * share)], abs=1e-9)


def test_the_soft_clock_is_a_mixture_of_vectors():
    network, batch = built(features=Features(times=("hour",), clock="soft", bins=4)), batch_of()
    part = network.features.clocks[0]
    share = batch.channels["time"].double() / (24 * HOUR) % 1
    wanted = (share[:, None] * part.scale.weight[:, 0] + part.scale.bias).softmax(1) @ part.out.weight.T
    torch.testing.assert_close(part(batch.channels["time"]), wanted, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("merge", ["concat", "elementwise"])
def test_a_hidden_event_hides_its_side_information(merge):
    """Whatever the item and the time of a masked event were, the input is the mask's own vector."""
    network = built(features=Features(names=("genres",), times=("hour", "weekday"), merge=merge), positions=False)
    batch = appended(batch_of(), item=words().mask)
    asked = batch.last
    moved = batch.channels["time"].clone()
    moved[asked] += 5 * HOUR
    embedded, again = network.embed(batch), network.embed(batch.with_channels(time=moved))
    assert torch.equal(embedded, again)
    torch.testing.assert_close(embedded[asked], network.items.weight[V].expand(len(asked), -1))
    moved = batch.channels["time"].clone()
    moved[asked - 1] += 5 * HOUR
    assert not torch.allclose(network.embed(batch.with_channels(time=moved))[asked - 1], embedded[asked - 1])


def test_features_that_the_data_lack_are_refused_with_the_nearest_name():
    with pytest.raises(ContractError, match=r"needed the item attribute 'genre', .* did you mean genres\?"):
        Transformer(features=Features(names=("genre",))).build(words())
    network, batch = built(features=Features(times=("hour",))), batch_of()
    order_only = from_rows({"item": batch.channels["item"]}, batch.lengths)
    with pytest.raises(ContractError, match=r"needed event times for the features \['hour'\]"):
        network(order_only, Causal())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Features(), "at least one attribute name or time part"),
        (lambda: Features(names=("a",), merge="sum"), "merge 'concat' or 'elementwise', got 'sum'"),
        (lambda: Features(times=("hours",)), r"got 'hours'; did you mean hour\?"),
        (lambda: Features(times=("hour",), clock="hard"), "clock 'cyclic' or 'soft'"),
        (lambda: Features(times=("hour",), bins=1), "bins of at least 2"),
        (lambda: Transformer(dim=10, heads=4), "heads that divide dim, got dim=10, heads=4"),
        (lambda: Transformer(align="centre"), "align 'left' or 'right'"),
        (lambda: Transformer(layers=0), "layers of at least 1"),
        (lambda: Transformer(item_dim=0), "item_dim of at least 1"),
        (lambda: Transformer(dropout=1.0), r"dropout in \[0, 1\)"),
    ],
)
def test_descriptions_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ContractError, match=message):
        make()
