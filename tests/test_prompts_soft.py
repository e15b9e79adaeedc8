"""Soft prompts: sources against their equations, places against a dense computation, and every pair of the two."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lmrs import prompts
from lmrs.errors import ContractError
from lmrs.language import Backbone
from lmrs.prompts import (
    ById,
    Free,
    FromProfile,
    FromVector,
    InputVectors,
    KeyValues,
    Reparameterised,
    SharedPlus,
    Soft,
    SoftPrompts,
    Vector,
    VocabularyRows,
    parse,
)
from lmrs.testing.values import check_repr

CAUSAL, ENCODER = Backbone("tiny-causal"), Backbone("tiny-encoder")
GIVEN = {
    "user": torch.tensor([3, 0]),
    "gender": torch.tensor([1, 0]),
    "age": torch.tensor([2, -1]),
    "item": torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.3, -0.7]]),
}
SOURCES = (
    Free(3),
    ById("user", 5, 3),
    FromProfile((("gender", 2), ("age", 4)), length=3, dim=4, hidden=6),
    FromVector("item", 3, 3),
    FromVector("item", 3, 3, hidden=5),
    SharedPlus(Free(2), ById("user", 5)),
    SharedPlus(Free(3), FromVector("item", 3, 3), how="add"),
    Reparameterised(Free(3), dim=4, hidden=7),
    Reparameterised(SharedPlus(Free(1), ById("user", 5, 2)), dim=4, hidden=7),
)
NAMES = [f"{type(each).__name__}{at}" for at, each in enumerate(SOURCES)]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- sources ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_a_source_gives_its_shape_from_its_generator_alone(source) -> None:
    check_repr(source)
    before = torch.get_rng_state()
    one, two, other = source.build(8, rng()), source.build(8, rng()), source.build(8, rng(1))
    assert torch.equal(before, torch.get_rng_state()), "it drew from the global generator"
    vectors = one(2, GIVEN)
    assert vectors.shape == (2, 3, 8)
    assert torch.equal(vectors, two(2, GIVEN))
    assert not torch.equal(vectors, other(2, GIVEN))
    assert 0.002 < float(vectors.detach().std()) < 0.2, "far from the scale of embeddings"
    vectors.square().sum().backward()
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in one.parameters())


def test_free_is_its_table() -> None:
    module = Free(2).build(4, rng())
    assert torch.equal(module(3, {}), torch.stack([module.table] * 3))


def test_by_id_is_a_row_of_its_table() -> None:
    module = ById("user", 5, 2).build(4, rng())
    assert torch.equal(module(2, GIVEN)[0], module.table[3].view(2, 4))


def test_from_profile_is_the_equation() -> None:
    module = FromProfile((("gender", 2), ("age", 4)), length=2, dim=3, hidden=5).build(4, rng())
    module.first.bias.data.normal_(generator=rng(2))
    module.second.bias.data.normal_(generator=rng(3))
    for row, (gender, age) in enumerate([(1, 2), (0, None)]):
        x = torch.cat([module.tables[0][gender], torch.zeros(3) if age is None else module.tables[1][age]])
        hidden = (module.first.weight @ x + module.first.bias).clamp(min=0)
        wanted = (module.second.weight @ hidden + module.second.bias).view(2, 4)
        torch.testing.assert_close(module(2, GIVEN)[row], wanted)


def test_from_vector_is_linear_or_an_mlp() -> None:
    plain = FromVector("item", 3, 2).build(4, rng())
    torch.testing.assert_close(plain(2, GIVEN)[1], (plain.second.weight @ GIVEN["item"][1]).view(2, 4))
    deep = FromVector("item", 3, 2, hidden=5).build(4, rng())
    x = deep.first.weight @ GIVEN["item"][1]
    hidden = x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    torch.testing.assert_close(deep(2, GIVEN)[1], (deep.second.weight @ hidden).view(2, 4))


def test_two_sources_are_added_or_put_side_by_side() -> None:
    side = SharedPlus(Free(2), ById("user", 5)).build(4, rng())
    assert torch.equal(side(2, GIVEN), torch.cat([side.shared(2, GIVEN), side.own(2, GIVEN)], 1))
    added = SharedPlus(Free(2), ById("user", 5, 2), how="add").build(4, rng())
    assert torch.equal(added(2, GIVEN), added.shared.table + added.own(2, GIVEN))


def test_reparameterised_is_an_mlp_over_its_source() -> None:
    module = Reparameterised(Free(3), dim=4, hidden=7).build(6, rng())
    hidden = (module.source.table @ module.first.weight.T + module.first.bias).tanh()
    torch.testing.assert_close(module(1, {})[0], hidden @ module.second.weight.T + module.second.bias)


def test_a_start_is_where_the_vectors_are() -> None:
    tokens = CAUSAL.tokenizer()
    table = CAUSAL.build().get_input_embeddings().weight
    wanted = prompts.from_words("the movie", tokens, table, 3)
    assert torch.equal(wanted, table[[*tokens.encode("the movie"), tokens.encode("the")[0]]])
    for source in SOURCES[:5]:
        module = source.build(32, rng())
        module.start(wanted)
        assert (module(2, GIVEN) - wanted).abs().max() < 0.2
    for source in SOURCES[:2]:
        module = source.build(32, rng())
        module.start(wanted)
        assert torch.equal(module(2, GIVEN), wanted.expand(2, -1, -1))
    side = SharedPlus(Free(2), ById("user", 5)).build(32, rng())
    side.start(wanted)
    assert torch.equal(side(2, GIVEN)[1], wanted)
    with pytest.raises(ContractError, match=r"starting vectors of shape \(3, 32\), got \(2, 32\)"):
        Free(3).build(32, rng()).start(wanted[:2])
    with pytest.raises(ContractError, match="Reparameterised, whose vectors come out of an MLP"):
        SOURCES[7].build(32, rng()).start(wanted)
    with pytest.raises(ContractError, match="words to start a soft prompt from, got ''"):
        prompts.from_words("", tokens, table, 3)


def test_a_start_from_the_vocabulary_takes_words_that_text_can_give() -> None:
    tokens = CAUSAL.tokenizer()
    table = torch.arange(float(tokens.size))[:, None].expand(-1, 4)
    plain = tokens.size - len(tokens.marks)
    drawn = prompts.from_vocabulary(tokens, table, plain, rng())
    assert sorted(drawn[:, 0].tolist()) == sorted(set(range(tokens.size)) - set(tokens.marks.values()))
    few = prompts.from_vocabulary(tokens, table, 5, rng())
    assert torch.equal(few, prompts.from_vocabulary(tokens, table, 5, rng()))
    assert not torch.equal(few, prompts.from_vocabulary(tokens, table, 5, rng(1)))
    with pytest.raises(ContractError, match=f"a vocabulary of at least {plain + 1} words, got {plain}"):
        prompts.from_vocabulary(tokens, table, plain + 1, rng())


@pytest.mark.parametrize(
    ("source", "given", "message"),
    [
        (ById("usr", 5), GIVEN, r"'usr' of every example.*did you mean user\?"),
        (ById("user", 3), GIVEN, "'user' from 0 to 2, got 0 to 3"),
        (FromProfile((("age", 2),)), GIVEN, "'age' from -1 to 1, got -1 to 2"),
        (FromVector("item", 4), GIVEN, r"'item' of shape \(2, 4\), got \(2, 3\)"),
        (FromVector("item", 4), {}, "'item' of every example for the soft prompt, got nothing"),
    ],
)
def test_what_a_source_refuses(source, given: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        source.build(4, rng())(2, given)


def test_what_a_description_refuses() -> None:
    for make in (
        lambda: Free(0),
        lambda: ById("u", 0),
        lambda: FromProfile(()),
        lambda: FromProfile((("a", 0),)),
        lambda: FromVector("v", 0),
    ):
        with pytest.raises(ContractError, match="of at least 1, got 0"):
            make()
    with pytest.raises(ContractError, match="how='concat' or 'add', got 'mul'"):
        SharedPlus(Free(1), Free(1), "mul")
    with pytest.raises(ContractError, match="sources of equal length to add, got 1 and 2"):
        SharedPlus(Free(1), Free(2), "add")


# -- places -----------------------------------------------------------------------------------------------------------------


def llama(model, x: Tensor, prefix: Tensor | None, start: int) -> Tensor:
    """[T, W] logits of one row of input vectors x [T, D], head by head; prefix: [layers, 2, key heads, P, D / heads]."""
    told = model.config
    heads, groups = told.num_attention_heads, told.num_attention_heads // told.num_key_value_heads
    size = told.hidden_size // heads
    t = len(x)

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return weight * x / (x.square().mean(1, keepdim=True) + told.rms_norm_eps).sqrt()

    angle = (torch.arange(t) + start)[:, None] * told.rope_parameters["rope_theta"] ** (-torch.arange(0, size, 2) / size)

    def turned(x: Tensor) -> Tensor:
        one, two = x[:, : size // 2], x[:, size // 2 :]
        return torch.cat([one * angle.cos() - two * angle.sin(), two * angle.cos() + one * angle.sin()], 1)

    for at, layer in enumerate(model.model.layers):
        h = norm(x, layer.input_layernorm.weight)
        q, k, v = (h @ getattr(layer.self_attn, name).weight.T for name in ("q_proj", "k_proj", "v_proj"))
        parts = []
        for head in range(heads):
            own, shared = slice(head * size, head * size + size), slice(head // groups * size, head // groups * size + size)
            keys, values = turned(k[:, shared]), v[:, shared]
            if prefix is not None:
                keys, values = (torch.cat([prefix[at, which, head // groups], each]) for which, each in ((0, keys), (1, values)))
            weight = turned(q[:, own]) @ keys.T / math.sqrt(size)
            ahead = len(keys) - t
            weight = weight.masked_fill(torch.arange(len(keys))[None] > torch.arange(t)[:, None] + ahead, -math.inf)
            parts.append(weight.softmax(1) @ values)
        x = x + torch.cat(parts, 1) @ layer.self_attn.o_proj.weight.T
        h = norm(x, layer.post_attention_layernorm.weight)
        mlp = layer.mlp
        x = x + (F.silu(h @ mlp.gate_proj.weight.T) * (h @ mlp.up_proj.weight.T)) @ mlp.down_proj.weight.T
    return norm(x, model.model.norm.weight) @ model.lm_head.weight.T


def frozen(backbone: Backbone):
    return backbone.build(words=True).requires_grad_(False)


TEXT = "The user [soft task 3] watched {h}"
COLUMNS = {"h": ["movie", "a"]}


def padded(compiled, values: Tensor) -> Tensor:
    """[B, T] of a flat channel; -1 behind the end."""
    ends = compiled.offsets.tolist()
    return torch.nn.utils.rnn.pad_sequence([values[a:b] for a, b in pairwise(ends)], True, -1)


def answers(place, source, module) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Logits [B, T, W] through the place, the lengths, and what the dense computation says of each row."""
    model, info = frozen(CAUSAL), CAUSAL.info()
    table = model.get_input_embeddings().weight
    text = TEXT.replace("[soft task 3] ", "") if isinstance(place, KeyValues) else TEXT
    compiled = prompts.compile(parse(text), CAUSAL.tokenizer(), COLUMNS, context=40)
    length = torch.from_numpy(compiled.offsets).diff()
    row = torch.arange(2)[:, None].expand(-1, int(length.max()))
    soft, ids = (padded(compiled, torch.from_numpy(each)) for each in (compiled.soft, compiled.ids))
    vectors = module(2, GIVEN)
    assert vectors.shape == (2, source.length, place.width(info))
    there = (ids >= 0).long()
    ids = ids.clamp(min=0)
    prefix, extra = None, {}
    if isinstance(place, KeyValues):
        prefix = place.prefix(info, vectors)
        assert prefix.shape == (info.layers, 2, 2, info.key_heads, 3, info.dim // info.heads)
        extra["past_key_values"] = place.cache(prefix)
        there = torch.cat([there.new_ones(2, 3), there], 1)
        extra["position_ids"] = torch.arange(ids.shape[1]).expand(2, -1)
        embedded = table[ids]
    elif isinstance(place, InputVectors):
        embedded = place.inject(table[ids], soft, row, vectors)
        flat = place.inject(
            table[torch.from_numpy(compiled.ids)], torch.from_numpy(compiled.soft), torch.from_numpy(compiled.row_of), vectors
        )
        assert torch.equal(flat, embedded[padded(compiled, torch.from_numpy(compiled.ids)) >= 0]), "flat and padded differ"
    else:
        with_rows = padded(compiled, torch.from_numpy(compiled.with_rows(len(table)))).clamp(min=0)
        embedded = place.lookup(table, with_rows, row, vectors)
    logits = model(inputs_embeds=embedded, attention_mask=there, **extra).logits
    dense = []
    for b in range(2):
        x = torch.stack(
            [
                vectors[b, s] if not isinstance(place, KeyValues) and s >= 0 else table[i]
                for s, i in zip(soft[b, : length[b]].tolist(), ids[b].tolist(), strict=False)
            ]
        )
        dense.append(llama(model, x, None if prefix is None else prefix[:, :, b], 0))
    return logits, length, dense


@pytest.mark.parametrize("place", [InputVectors(), VocabularyRows(), KeyValues()], ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_any_source_goes_to_any_place(source, place) -> None:
    check_repr(place)
    module = source.build(place.width(CAUSAL.info()), rng())
    for parameter in module.parameters():
        parameter.data.mul_(10)  # so that the prompt matters
    logits, length, dense = answers(place, source, module)
    for b in range(2):
        torch.testing.assert_close(logits[b, : length[b]], dense[b], rtol=1e-4, atol=1e-4)
    sum(logits[b, length[b] - 1].square().sum() for b in range(2)).backward()
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in module.parameters())


def test_the_dense_computation_can_tell() -> None:
    """Where the prefix stands, and what positions the text has, changes the answer."""
    model, info = frozen(CAUSAL), CAUSAL.info()
    place = KeyValues()
    prefix = place.prefix(info, torch.randn(1, 3, place.width(info), generator=rng()))
    ids = torch.tensor([[5, 60, 7, 80]])
    x = model.get_input_embeddings().weight[ids[0]]
    shifted = model(input_ids=ids, past_key_values=place.cache(prefix)).logits[0]
    torch.testing.assert_close(shifted, llama(model, x, prefix[:, :, 0], 3), rtol=1e-4, atol=1e-4)
    assert (shifted - llama(model, x, prefix[:, :, 0], 0)).abs().max() > 1e-2
    assert (shifted - llama(model, x, prefix.flip(1)[:, :, 0], 3)).abs().max() > 1e-2
    assert (shifted - llama(model, x, None, 3)).abs().max() > 1e-2


def test_a_prefix_is_cut_from_its_vectors_by_layer_then_kind_then_head() -> None:
    info, place = CAUSAL.info(), KeyValues()
    vectors = torch.randn(2, 3, place.width(info), generator=rng())
    prefix, size = place.prefix(info, vectors), info.dim // info.heads
    for layer in range(info.layers):
        for kind in range(2):
            for head in range(info.key_heads):
                first = ((layer * 2 + kind) * info.key_heads + head) * size
                assert torch.equal(prefix[layer, kind, :, head], vectors[:, :, first : first + size])


def test_an_encoder_takes_a_prefix_too() -> None:
    """Every position of BERT sees the prefix: the first layer's context vectors, head by head."""
    model, info = frozen(ENCODER).bert, ENCODER.info()
    place = KeyValues()
    prefix = place.prefix(info, torch.randn(1, 3, place.width(info), generator=rng()))
    ids = torch.tensor([[5, 60, 7, 80]])
    seen = []
    attention = model.encoder.layer[0].attention
    hook = attention.output.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    model(ids, attention_mask=torch.ones(1, 7), past_key_values=place.cache(prefix), position_ids=torch.arange(4)[None])
    hook.remove()
    x = model.embeddings(ids)[0]
    q, k, v = ((x @ each.weight.T + each.bias) for each in (attention.self.query, attention.self.key, attention.self.value))
    size = info.dim // info.heads
    parts = []
    for head in range(info.heads):
        own = slice(head * size, head * size + size)
        keys, values = torch.cat([prefix[0, 0, 0, head], k[:, own]]), torch.cat([prefix[0, 1, 0, head], v[:, own]])
        parts.append((q[:, own] @ keys.T / math.sqrt(size)).softmax(1) @ values)
    torch.testing.assert_close(seen[0][0], torch.cat(parts, 1), rtol=1e-4, atol=1e-4)


def test_vocabulary_rows_are_rows_of_a_longer_table() -> None:
    """The same logits as a model whose table really has the new rows, and their scores are its last ones."""
    model = frozen(CAUSAL)
    table = model.get_input_embeddings().weight
    module = Free(3).build(32, rng())
    module.table.data.mul_(20)
    compiled = prompts.compile(parse(TEXT), CAUSAL.tokenizer(), {"h": ["movie"]}, context=40)
    ids = torch.from_numpy(compiled.with_rows(len(table)))[None]
    longer = frozen(CAUSAL)
    for each in (longer.get_input_embeddings(), longer.lm_head):
        each.weight = torch.nn.Parameter(torch.cat([table, module.table.detach()]))
    wanted = longer(input_ids=ids).logits[0]
    place, vectors = VocabularyRows(), module(1, {})
    row = torch.zeros_like(ids)
    out = model(inputs_embeds=place.lookup(table, ids, row, vectors), output_hidden_states=True)
    torch.testing.assert_close(out.logits[0], wanted[:, : len(table)], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        place.scores(out.hidden_states[-1][0], row[0], vectors), wanted[:, len(table) :], rtol=1e-4, atol=1e-4
    )
    with pytest.raises(ContractError, match=f"ids below {len(table) + 3} .*got {len(table) + 3}"):
        place.lookup(table, ids + 1, row, vectors)


def test_injecting_leaves_what_it_was_given() -> None:
    embedded = torch.zeros(2, 3)
    place = torch.tensor([-1, 0])
    out = InputVectors().inject(embedded, place, torch.tensor([0, 1]), torch.arange(6.0).view(2, 1, 3))
    assert out.tolist() == [[0, 0, 0], [3, 4, 5]]
    assert not embedded.any()


def test_a_prefix_is_not_for_sequence_to_sequence() -> None:
    with pytest.raises(ContractError, match=r"an encoder or a causal model.*use InputVectors\(\) or VocabularyRows\(\)"):
        KeyValues().width(Backbone("tiny-seq2seq").info())
    with pytest.raises(ContractError, match=r"vectors of width 64, got 32; build with place.width\(info\)"):
        KeyValues().prefix(CAUSAL.info(), torch.zeros(1, 3, 32))


# -- slots ------------------------------------------------------------------------------------------------------------------


def test_slots_get_their_vectors_in_order() -> None:
    template = parse("[vector user][soft b.x 2]{h}[soft keys 1][soft b.x 2]")
    module = prompts.build(template, Soft, {"keys": Free(1), "b.x": ById("user", 5, 2)}, 4, rng())
    assert isinstance(module, SoftPrompts)
    by_id, free = module.sources.values()
    assert torch.equal(module(2, GIVEN), torch.cat([by_id(2, GIVEN), free(2, GIVEN)], 1))
    outside = prompts.build(template, Vector, {"user": FromVector("item", 3)}, 4, rng())
    assert outside(2, GIVEN).shape == (2, 1, 4)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"tsak": Free(3)}, r"sources for slots of the template, got one for 'tsak'; did you mean task\?"),
        ({}, r"a source for the slot 'task', got none"),
        ({"task": Free(2)}, "a source of length 3 for the slot 'task', got 2"),
    ],
)
def test_what_slots_refuse(sources: dict, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        prompts.build(parse("[soft task 3]"), Soft, sources, 4, rng())
    with pytest.raises(ContractError, match=r"write \[vector task \.\.\.\] in it"):
        prompts.build(parse("a"), Vector, {"task": Free(1)}, 4, rng())
