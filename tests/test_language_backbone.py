"""Backbones: the same weights each time, what they say of themselves is so, and folders that are none are refused in a line."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from transformers import (
    BertConfig,
    BertLMHeadModel,
    BertModel,
    EncoderDecoderModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
)

from lmrs.describe import from_json, to_json
from lmrs.errors import CheckpointError, ContractError, UserError
from lmrs.language import Backbone, needs, require
from lmrs.language import tiny as tinies
from lmrs.language.folder import quiet
from lmrs.testing.values import check_repr
from lmrs.visibility import Causal, Full, Prefix

TINY = {"tiny-encoder": "encoder", "tiny-causal": "causal", "tiny-seq2seq": "seq2seq"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMRS_CACHE", str(tmp_path / "cache"))


def saved(target: Path, family: str, *, words: bool = True) -> Path:
    """A folder as save_pretrained writes it."""
    tinies.build(family, words=words).save_pretrained(target)
    tinies.tokenizer(family).save_pretrained(target)
    return target


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def states(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    row = torch.tensor([ids])
    if model.config.is_encoder_decoder:
        return model(input_ids=torch.tensor([[7, 8, 9]]), decoder_input_ids=row).logits[0]
    return model(input_ids=row)[0][0]


# -- tiny ones ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TINY)
def test_tiny_backbones_are_the_same_each_time_and_touch_no_generator(name: str) -> None:
    backbone = Backbone(name)
    check_repr(backbone)
    assert from_json(to_json(backbone)) == backbone
    assert "file" not in to_json(backbone)
    before = torch.random.get_rng_state()
    one = backbone.build()
    torch.rand(1)
    torch.random.set_rng_state(before)
    other = backbone.build()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert same(one, other)
    assert not one.training
    with torch.no_grad():
        next(one.parameters()).add_(1)
    assert same(backbone.build(), other), "weights are shared between builds"


@pytest.mark.parametrize(("name", "family"), TINY.items())
def test_info_tells_what_the_built_model_is(name: str, family: str) -> None:
    info, model = Backbone(name).info(), Backbone(name).build(words=True)
    assert info.family == family
    assert info.parameters == sum(each.numel() for each in model.parameters())
    assert info.rows == model.get_input_embeddings().weight.shape[0] >= Backbone(name).tokenizer().size
    assert info.dim == model.get_input_embeddings().weight.shape[1] == 32
    assert (info.layers, info.heads, info.key_heads) == (2, 4, 2 if family == "causal" else 4)
    assert info.words
    assert info.path is None
    assert states(model, [5, 6]).shape == (2, info.rows)


@pytest.mark.parametrize("name", TINY)
def test_visibilities_are_what_the_model_does(name: str) -> None:
    """A later token changes an earlier state exactly if the model sees fully; for seq2seq the decoder is tried."""
    model, told = Backbone(name).build(), Backbone(name).info().visibilities
    with torch.no_grad():
        one, other = states(model, [5, 6, 7, 8]), states(model, [5, 6, 7, 20])
    assert (not torch.equal(one[:3], other[:3])) == (told[-1] == Full())
    assert not torch.equal(one[3], other[3])
    assert told == {"tiny-encoder": (Full(),), "tiny-causal": (Causal(),), "tiny-seq2seq": (Full(), Causal())}[name]


def test_an_encoder_is_built_with_or_without_its_word_head() -> None:
    plain, worded = Backbone("tiny-encoder").build(), Backbone("tiny-encoder").build(words=True)
    assert (type(plain).__name__, type(worded).__name__) == ("BertModel", "BertForMaskedLM")
    assert same(plain, worded.bert)


def test_bf16_is_rounded_fp32() -> None:
    full, half = Backbone("tiny-causal").build(), Backbone("tiny-causal", "bf16").build()
    for name, weight in half.named_parameters():
        assert weight.dtype == torch.bfloat16
        assert torch.equal(weight, full.get_parameter(name).bfloat16())
    for name, buffer in half.named_buffers():
        assert torch.equal(buffer, full.get_buffer(name)), "angles of positions are rounded"
    assert Backbone("tiny-causal", "bf16").info() == Backbone("tiny-causal").info()


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"name": "tiny-causal", "precision": "fp16"}, "'fp32' or 'bf16', got 'fp16'"), ({"name": ""}, "an empty name")],
)
def test_wrong_fields(fields: dict[str, str], said: str) -> None:
    with pytest.raises(ContractError, match=said):
        Backbone(**fields)


# -- what is asked of one ------------------------------------------------------------------------------------------------------


def test_require_gives_the_info_of_one_that_can() -> None:
    backbone = Backbone("tiny-causal")
    assert (
        require(backbone, for_="a test", family=("causal", "encoder"), visible=Causal(), words=True, context=512)
        == backbone.info()
    )


@pytest.mark.parametrize(
    ("name", "wants", "said"),
    [
        (
            "tiny-encoder",
            {"family": "causal"},
            "for PEPLER a backbone: family causal, got tiny-encoder: it is encoder.*smollm2.*tiny-causal",
        ),
        (
            "tiny-causal",
            {"visible": Full()},
            r"trained under Causal\(\), not Full\(\); choose minilm, tiny-encoder, tiny-seq2seq",
        ),
        ("tiny-causal", {"visible": Prefix(4)}, r"not Prefix\(length=4\); give the folder"),
        ("tiny-causal", {"context": 4000}, "it takes 512 tokens; choose smollm2, gemma3-270m, or"),
    ],
)
def test_require_refuses_and_names_those_that_can(name: str, wants: dict, said: str) -> None:
    with pytest.raises(ContractError, match=said) as caught:
        require(Backbone(name), for_="PEPLER", **wants)
    assert "\n" not in str(caught.value)


def test_require_words_of_an_encoder_saved_without_its_head(tmp_path: Path) -> None:
    backbone = Backbone(str(saved(tmp_path / "plain", "encoder", words=False)))
    assert not backbone.info().words
    with pytest.raises(ContractError, match=r"saved without a head that scores words; choose smollm2, .*tiny-encoder"):
        require(backbone, for_="Prompt4NR", words=True)
    with pytest.raises(ContractError, match=r"saved with its word head .*, got plain; .*fresh=SEED"):
        backbone.build(words=True)
    one, again, other = (backbone.build(words=True, fresh=seed) for seed in (1, 1, 2))
    assert same(one, again)
    assert not same(one, other)
    assert same(one.bert, other.bert)


def test_without_the_packages_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "find_spec", lambda name: None)
    for call in (Backbone("tiny-causal").info, Backbone("tiny-causal").tokenizer, Backbone("tiny-causal").build):
        with pytest.raises(UserError, match=r"the extra 'language'.*pip install 'lmrs\[language\]'"):
            call()


# -- folders -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "family"), TINY.items())
def test_a_folder_gives_the_model_that_was_saved(
    name: str, family: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    backbone = Backbone(str(saved(tmp_path / "model", family)))
    capfd.readouterr()
    assert same(backbone.build(words=True), Backbone(name).build(words=True))
    assert same(backbone.build(), Backbone(name).build()) or family == "encoder"  # a pooler may be missing
    assert backbone.tokenizer().encode("good movie</s>[MASK]") == Backbone(name).tokenizer().encode("good movie</s>[MASK]")
    assert backbone.tokenizer().marks == Backbone(name).tokenizer().marks
    info, told = backbone.info(), Backbone(name).info()
    for field in ("family", "dim", "layers", "heads", "key_heads", "context", "visibilities", "words", "rows", "parameters"):
        assert getattr(info, field) == getattr(told, field), field
    assert info.licence == "not stated"
    assert info.path == tmp_path / "model"
    assert capfd.readouterr() == ("", ""), "no bars, no notices"


SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}


def roberta(words: int) -> PreTrainedModel:
    return RobertaForMaskedLM(RobertaConfig(vocab_size=words, max_position_embeddings=34, pad_token_id=1, **SMALL))


def gpt2(words: int) -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=words, n_embd=32, n_layer=1, n_head=4, n_positions=40))


def joined(words: int) -> PreTrainedModel:
    side = BertConfig(vocab_size=words, max_position_embeddings=20, is_decoder=True, add_cross_attention=True, **SMALL)
    return EncoderDecoderModel(
        encoder=BertModel(BertConfig(vocab_size=words, max_position_embeddings=30, **SMALL)), decoder=BertLMHeadModel(side)
    )


@pytest.mark.parametrize(("make", "family", "context"), [(roberta, "encoder", 32), (gpt2, "causal", 40), (joined, "seq2seq", 30)])
def test_other_architectures(make: Callable[[int], PreTrainedModel], family: str, context: int, tmp_path: Path) -> None:
    """Sizes are found under other names, and the context is the longest input that the model takes."""
    model = make(Backbone("tiny-encoder").info().rows)
    with quiet():
        model.save_pretrained(tmp_path)
    tinies.tokenizer("encoder").save_pretrained(tmp_path)
    backbone = Backbone(str(tmp_path))
    info, built = backbone.info(), backbone.build()
    assert (info.family, info.dim, info.layers, info.heads, info.context, info.words) == (family, 32, 1, 4, context, True)
    assert same(backbone.build(words=True), model)

    def run(length: int) -> torch.Tensor:
        row = torch.full((1, length), 5)
        return built(input_ids=row, **({"decoder_input_ids": row[:, :2]} if family == "seq2seq" else {}))[0]

    run(context)
    with pytest.raises((IndexError, RuntimeError)):
        run(context + 1)


def test_what_a_sentence_encoder_was_trained_with_limits_its_context(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", "encoder")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 64}')
    assert Backbone(str(folder)).info().context == 64


def test_the_fingerprint_follows_the_bytes(tmp_path: Path) -> None:
    one = saved(tmp_path / "one", "causal")
    other = Path(shutil.copytree(one, tmp_path / "other"))
    assert Backbone(str(one)).info().fingerprint == Backbone(str(other)).info().fingerprint
    content = bytearray((other / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (other / "model.safetensors").write_bytes(bytes(content))
    assert Backbone(str(one)).info().fingerprint != Backbone(str(other)).info().fingerprint


def test_the_licence_is_read_from_the_card(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", "encoder")
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n# A model\n")
    assert Backbone(str(folder)).info().licence == "mit"


def drop(name: str):
    return lambda folder: (folder / name).unlink()


def write(name: str, text: str):
    return lambda folder: (folder / name).write_text(text)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncated(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])


def header_damaged(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 40) + content[8:])


def weight_lacking(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def other_shape(folder: Path) -> None:
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**told, "intermediate_size": 48}))


def of_kind(kind: str, head: str):
    return write("config.json", json.dumps({"model_type": kind, "architectures": [head]}))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (drop("config.json"), "a model folder with config.json"),
        (drop("model.safetensors"), "model.safetensors in .*got no weights"),
        (pickled, "pytorch_model.bin, a pickle, which could run any code"),
        (drop("tokenizer.json"), "tokenizer.json in .*no fast tokenizer"),
        (truncated, r"bytes in .*model.safetensors, got [\d,]+; it is truncated"),
        (header_damaged, "a damaged header; copy it again"),
        (write("model.safetensors", ""), "a damaged header"),
        (write("config.json", "{"), "JSON in .*config.json"),
        (write("config.json", "[]"), "a JSON object in"),
        (write("tokenizer.json", "{}"), "tokenizer|read at"),
        (write("model.safetensors.index.json", '{"weight_map": {"a": "model-1.safetensors"}}'), "model-1.safetensors in"),
        (write("model.safetensors.index.json", '{"weight_map": {"a": "../x.safetensors"}}'), r"\.\./x.safetensors in"),
        (weight_lacking, "all weights of a LlamaForCausalLM in .*up_proj"),
        (other_shape, "model"),
        (of_kind("vit", "ViTModel"), "a text encoder, a causal or a sequence-to-sequence.*'vit'"),
        (of_kind("no-such-kind", "X"), "that transformers can read"),
    ],
)
def test_a_folder_that_is_none_is_refused_in_one_line(spoil, said: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", "causal")
    spoil(folder)

    def use() -> None:
        backbone = Backbone(str(folder))
        backbone.info()
        backbone.build()
        backbone.tokenizer()

    with pytest.raises(CheckpointError, match=said) as caught:
        use()
    assert "\n" not in str(caught.value)


def test_code_in_a_folder_is_never_run(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", "causal")
    told = json.loads((folder / "config.json").read_text())
    told |= {"model_type": "own-kind", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(told))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    with pytest.raises(CheckpointError, match="that transformers can read"):
        Backbone(str(folder)).build()
    assert not (tmp_path / "ran").exists()


# -- names --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("minilm", r"the backbone minilm, fetched, got none in .*; run lmrs models get minilm"),
        ("miniml", "got 'miniml'; did you mean minilm"),
        ("tiny-casual", "did you mean tiny-causal"),
        ("./nowhere/at/all", "a model folder, or org/model"),
        ("no-such-org/no-such-model", "got no copy on this machine; run lmrs models get no-such-org/no-such-model"),
    ],
)
def test_names_that_are_not_here(name: str, said: str) -> None:
    for call in (Backbone(name).info, Backbone(name).tokenizer, Backbone(name).build):
        with pytest.raises(UserError, match=said):
            call()
