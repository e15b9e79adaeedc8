"""Adapters: nothing else learns, nothing changes before they learn, and they are saved by themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("peft")

from safetensors.torch import load_file, save_file

from lmrs import checkpoint, tuning
from lmrs.describe import from_json, to_json
from lmrs.errors import CheckpointError, ContractError
from lmrs.language import Backbone, adapters
from lmrs.language.adapters import Lora, PrefixTuning
from lmrs.language.growing import grow
from lmrs.language.memory import Memory, memory
from lmrs.language.running import dropping
from lmrs.testing.values import check_repr

TINY = ("tiny-encoder", "tiny-causal", "tiny-seq2seq")
ADAPTERS = (Lora(), Lora(rank=2, alpha=5.0, dropout=0.5), PrefixTuning(length=3), PrefixTuning(length=2, hidden=8))


def rng(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def call(module: nn.Module, ids: torch.Tensor | None = None) -> torch.Tensor:
    """States of an encoder, logits of the others, [B, T, *]."""
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]]) if ids is None else ids
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if module.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    return module(**inputs)[0]


@pytest.mark.parametrize("adapter", ADAPTERS, ids=repr)
@pytest.mark.parametrize("name", TINY)
def test_only_the_adapter_learns(name: str, adapter: adapters.Adapter) -> None:
    plain = Backbone(name).build()
    expected = call(plain).detach()
    module = adapters.apply(adapter, plain, rng=rng())
    assert not any(each.training for each in module.modules())
    start = call(module).detach()
    if isinstance(adapter, Lora):  # B is zero
        assert torch.allclose(start, expected, rtol=0, atol=1e-5)
    else:
        assert not torch.allclose(start, expected, rtol=0, atol=1e-2)

    tuned, frozen = tuning.apply(tuning.Part(adapter.patterns), nn.ModuleDict({"network": module}))
    own = adapters.names(adapter, module)
    assert [each.removeprefix("network.") for each in tuned] == own
    assert own
    assert frozen
    before = {each: parameter.detach().clone() for each, parameter in module.named_parameters()}
    optimiser = torch.optim.Adam([each for each in module.parameters() if each.requires_grad], lr=0.01)
    for _ in range(3):
        optimiser.zero_grad()
        call(module).square().mean().backward()
        optimiser.step()
    for each, parameter in module.named_parameters():
        assert torch.equal(parameter, before[each]) == (each not in own), each
    assert not torch.allclose(call(module), start, rtol=0, atol=1e-3)


@pytest.mark.parametrize("adapter", ADAPTERS, ids=repr)
def test_first_weights_come_from_the_generator_alone(adapter: adapters.Adapter) -> None:
    before = torch.random.get_rng_state()
    one, again, other = (
        adapters.state(adapter, adapters.apply(adapter, Backbone("tiny-causal").build(), rng=rng(seed))) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", TINY)
def test_lora_reaches_every_linear_map_but_the_word_head(name: str) -> None:
    plain = Backbone(name).build(words=True)
    head = plain.get_output_embeddings()
    maps = {each for each, module in plain.named_modules() if isinstance(module, nn.Linear) and module is not head}
    module = adapters.apply(Lora(rank=1), plain, rng=rng())
    reached = {each.split(".lora_")[0].removeprefix("base_model.model.") for each in adapters.names(Lora(rank=1), module)}
    assert reached == maps


def test_lora_adds_the_scaled_product() -> None:
    """W x + alpha / rank B A x, against the matrices."""
    plain = Backbone("tiny-causal").build()
    chosen = Lora(rank=2, alpha=6.0, targets=("o_proj",))
    module = adapters.apply(chosen, plain, rng=rng())
    place = module.get_submodule("base_model.model.model.layers.1.self_attn.o_proj")
    a, b = place.lora_A["default"].weight, place.lora_B["default"].weight
    nn.init.normal_(b, generator=rng(1))
    x = torch.randn(3, 32, generator=rng(2))
    assert torch.allclose(place(x), x @ (place.base_layer.weight + 6.0 / 2 * b @ a).T, atol=1e-5)
    assert len(adapters.names(chosen, module)) == 2 * 2


def test_a_pooler_that_nobody_reads_gets_no_lora() -> None:
    module = adapters.apply(Lora(), Backbone("tiny-encoder").build(), rng=rng())
    assert not [each for each in adapters.names(Lora(), module) if "pooler" in each]


@pytest.mark.parametrize("adapter", ADAPTERS, ids=repr)
def test_an_adapter_is_saved_by_itself_and_a_model_as_a_whole(adapter: adapters.Adapter, tmp_path: Path) -> None:
    module = adapters.apply(adapter, Backbone("tiny-causal").build(), rng=rng(1))
    with torch.no_grad():
        for name in adapters.names(adapter, module):
            module.get_parameter(name).add_(0.1)
    save_file(adapters.state(adapter, module), tmp_path / "adapter.safetensors")
    checkpoint.save(tmp_path / "whole", checkpoint.step_name(1), dict(module.state_dict()), {})  # tied weights among them

    other = adapters.apply(adapter, Backbone("tiny-causal").build(), rng=rng(2))
    assert not torch.equal(call(other), call(module))
    adapters.restore(adapter, other, load_file(tmp_path / "adapter.safetensors"))
    assert torch.equal(call(other), call(module))


def test_restoring_another_adapter_is_refused() -> None:
    module = adapters.apply(Lora(rank=2), Backbone("tiny-causal").build(), rng=rng())
    kept = adapters.state(Lora(rank=2), module)
    name = sorted(kept)[0]
    with pytest.raises(CheckpointError, match="in one of both only"):
        adapters.restore(Lora(rank=2), module, {each: kept[each] for each in kept if each != name})
    with pytest.raises(CheckpointError, match="of shape"):
        adapters.restore(Lora(rank=2), module, {**kept, name: torch.zeros(1)})


@pytest.mark.parametrize("adapter", ADAPTERS, ids=repr)
def test_adapters_are_values(adapter: adapters.Adapter) -> None:
    check_repr(adapter)
    assert from_json(to_json(adapter)) == adapter
    assert "file" not in to_json(adapter)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Lora(rank=0), "rank above 0, got rank=0"),
        (lambda: Lora(alpha=-1.0), "alpha above 0"),
        (lambda: Lora(dropout=1.0), r"dropout in \[0, 1\)"),
        (lambda: Lora(targets="q_proj"), r"got 'q_proj'; write \('q_proj',\)"),
        (lambda: PrefixTuning(length=0), "length above 0"),
        (lambda: PrefixTuning(hidden=0), "hidden above 0"),
        (lambda: use("tiny-causal", Lora(targets=("query",))), "linear maps named query, got a LlamaForCausalLM with .*q_proj"),
        (lambda: use("tiny-encoder", PrefixTuning()), "an encoder with its word head"),
    ],
)
def test_adapters_that_fit_nowhere(make, said: str) -> None:
    with pytest.raises(ContractError, match=said):
        make()


def use(name: str, adapter: adapters.Adapter) -> nn.Module:
    return adapters.apply(adapter, Backbone(name).build(words=True), rng=rng())


# -- dropout, growth, memory -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny-encoder", "tiny-seq2seq"])
def test_dropout_is_a_function_of_the_generator(name: str) -> None:
    module = Backbone(name).build()
    plain = call(module)
    before = torch.random.get_rng_state()
    seen = []
    for seed in (1, 1, 2):
        with dropping(module, rng(seed)):
            seen.append(call(module))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    with dropping(module, None):
        assert torch.equal(call(module), plain)
    with pytest.raises(KeyError), dropping(module, rng()):
        raise KeyError
    assert torch.equal(call(module), plain), "a failure leaves the model in train mode"


@pytest.mark.parametrize("name", TINY)
def test_new_tokens_get_rows_near_the_mean_and_old_ones_keep_their_bits(name: str) -> None:
    backbone = Backbone(name)
    module, tokens = backbone.build(words=True), backbone.tokenizer().extended(("<a>", "<b>"))
    old = module.get_input_embeddings().weight.detach().clone()
    before = torch.random.get_rng_state()
    assert grow(module, tokens, rng=rng(1)) == tokens.size == len(old) + 2
    assert torch.equal(torch.random.get_rng_state(), before)
    table = module.get_input_embeddings().weight
    assert torch.equal(table[:-2], old)
    assert ((table[-2:] - old.mean(0)).abs() <= 0.1 * 5 * old.std(0)).all()
    assert not torch.equal(table[-1], table[-2])
    assert call(module, torch.tensor([[5, tokens.size - 1]])).shape[-1] == tokens.size
    again = backbone.build(words=True)
    grow(again, tokens, rng=rng(1))
    assert torch.equal(again.get_input_embeddings().weight, table)
    assert grow(again, tokens, rng=rng(2)) == tokens.size
    assert torch.equal(again.get_input_embeddings().weight, table), "nothing to grow"


def test_memory_counts_tied_weights_once() -> None:
    module = Backbone("tiny-causal").build()
    count = Backbone("tiny-causal").info().parameters
    whole = memory(module, tuning=tuning.Everything())
    buffers = sum(each.numel() * each.element_size() for each in module.buffers())
    assert whole == Memory(trained=count, total=count, weights=4 * count + buffers, gradients=4 * count, optimiser=8 * count)
    assert whole.all == 16 * count + buffers
    assert memory(module, tuning=tuning.Nothing()) == Memory(0, count, 4 * count + buffers, 0, 0)
    chosen = Lora(rank=2, targets=("o_proj",))
    adapted = adapters.apply(chosen, module, rng=rng())
    learned = 2 * (2 * 32 + 32 * 2)
    assert memory(adapted) == memory(adapted, tuning=tuning.Part(chosen.patterns))
    assert (memory(adapted).trained, memory(adapted).total) == (learned, count + learned)
    assert memory(adapted, moments=1).optimiser == memory(adapted).gradients == 4 * learned
    half = Backbone("tiny-causal", "bf16").build()
    assert memory(half, tuning=tuning.Everything()).gradients == 2 * count
