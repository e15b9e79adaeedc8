"""A pre-trained language model as a value: which one, in what precision.

A Backbone is found by name: a registered one (`lmrs models list`), a folder, a Hugging Face name that this machine has, or one
of the tiny random models that tests use. Nothing is fetched here: `lmrs models get NAME` does that, once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmrs.errors import ContractError
from lmrs.language import known
from lmrs.language.family import VISIBILITIES, family_of
from lmrs.language.needs import need
from lmrs.visibility import Visibility

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from lmrs.language.tokens import Tokens

PRECISIONS = ("fp32", "bf16")
# How the weights of an encoder's word head are called: BERT; RoBERTa; DistilBERT; ELECTRA's generator.
_WORD_HEADS = ("cls.predictions.", "lm_head.", "vocab_", "generator_")


@dataclass(frozen=True)
class Info:
    """What is known of a backbone without building it.

    family: "encoder", "causal" or "seq2seq". dim: width D of its states. layers, heads: of its (first) stack; key_heads: heads of
    keys and values, fewer than `heads` with grouped queries. context: longest input, in tokens. visibilities: what it was trained
    under; for seq2seq that of the encoder, then that of the decoder. words: it has a trained head that scores words.
    rows: rows of its embedding table, at least the size of its tokenizer. parameters: how many numbers it learned.
    licence: of the weights. fingerprint: SHA-256 of weights, configuration and tokenizer; precision is no part of it.
    path: its folder, None for the tiny ones.
    """

    family: str
    dim: int
    layers: int
    heads: int
    key_heads: int
    context: int
    visibilities: tuple[Visibility, ...]
    words: bool
    rows: int
    parameters: int
    licence: str
    fingerprint: str
    path: Path | None


@dataclass(frozen=True)
class Backbone:
    """A pre-trained language model; equal values mean equal weights as long as the files stay.

    name: registered ("minilm", "smollm2"), a folder with config.json, safetensors and tokenizer.json, a Hugging Face name
    ("org/model") that was fetched before, or "tiny-encoder", "tiny-causal", "tiny-seq2seq" (random weights, no file).
    precision: "fp32" or "bf16", of the weights that `build` gives.
    """

    name: str
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ContractError(needed="precision 'fp32' or 'bf16'", came=repr(self.precision), remedy="choose one of them")
        if not self.name:
            raise ContractError(needed="the name or folder of a backbone", came="an empty name", remedy="see lmrs models list")

    def info(self) -> Info:
        """Family, sizes, licence and fingerprint; read from files, without building the model.

        Raises UserError if the name is unknown, not fetched yet, or no sound model folder.
        """
        need("transformers")
        if self.name in known.TINY:
            return _tiny_info(known.TINY[self.name])
        from lmrs.language import folder

        path = known.place(self.name)
        return _folder_info(self.name, path, folder.fingerprint(path))

    def tokenizer(self) -> Tokens:
        """Its token vocabulary, made once a process."""
        need("transformers")
        if self.name in known.TINY:
            return _tiny_tokens(known.TINY[self.name])
        from lmrs.language import folder

        path = known.place(self.name)
        return _folder_tokens(path, folder.fingerprint(path))

    def build(self, *, words: bool | None = None, fresh: int | None = None) -> PreTrainedModel:
        """A new model of the transformers package in eval mode, with weights of its own in `precision`.

        words: with the head that scores the words of the vocabulary; None: as its family is used, that is for "causal" and
        "seq2seq" (XxxForCausalLM, T5ForConditionalGeneration) but not for "encoder" (BertModel; with words: BertForMaskedLM).
        fresh: an encoder that was saved without its word head gets one drawn from this seed; None refuses (ContractError).
        """
        need("transformers")
        from lmrs.language import folder, tiny

        if self.name in known.TINY:
            family = known.TINY[self.name]
            model = tiny.build(family, words=family != "encoder" if words is None else words)
            return folder.cast(model, self.precision)
        path = known.place(self.name)
        folder.weights(path)
        family = family_of(folder.config(path))
        return folder.load(path, precision=self.precision, words=family != "encoder" if words is None else words, fresh=fresh)


def admit(backbone: Backbone, *, for_: str, families: tuple[str, ...]) -> str:
    """The family of a backbone, one of `families`: what a description asks when it is made.

    Backbones with a name are told by it, fetched or not; the files of others are read and checked. for_: who asks.
    Raises ContractError, naming the known backbones that can, for another family; UserError for what is no backbone.
    """
    family = known.family_named(backbone.name)
    if family is None:
        return require(backbone, for_=for_, family=families).family
    if family not in families:
        raise ContractError(
            needed=f"a backbone of family {' or '.join(families)} for {for_}",
            came=f"{backbone.name}, of family {family}",
            remedy=f"choose one of {', '.join(known.names_of(families))}, or a folder",
        )
    return family


def require(
    backbone: Backbone,
    *,
    for_: str,
    family: str | tuple[str, ...] | None = None,
    visible: Visibility | None = None,
    words: bool = False,
    context: int = 0,
) -> Info:
    """The Info of a backbone that can do what is asked.

    for_: who asks ("PEPLER's prompt"); family: one that is allowed, or several; visible: a Visibility that it must have been
    trained under; words: it must score words with a trained head; context: tokens that it must take.
    Raises ContractError naming what it lacks and the known backbones that can.
    """
    info = backbone.info()
    families = (family,) if isinstance(family, str) else family or tuple(VISIBILITIES)
    lacks = []
    if info.family not in families:
        lacks.append(f"it is {info.family}, not {' or '.join(families)}")
    if visible is not None and visible not in info.visibilities:
        lacks.append(f"it was trained under {', '.join(map(repr, info.visibilities))}, not {visible!r}")
    if words and not info.words:
        lacks.append("it was saved without a head that scores words")
    if info.context < context:
        lacks.append(f"it takes {info.context} tokens")
    if not lacks:
        return info
    wants = [f"family {' or '.join(families)}"] if family is not None else []
    wants += [f"trained under {visible!r}"] if visible is not None else []
    wants += ["scores words"] if words else []
    wants += [f"{context} tokens"] if context else []
    able = [
        each.name
        for each in known.KNOWN
        if each.family in families
        and (visible is None or visible in VISIBILITIES[each.family])
        and (each.words or not words)
        and each.context >= context
    ]
    able += [
        name
        for name, kind in known.TINY.items()
        if kind in families and (visible is None or visible in VISIBILITIES[kind]) and context <= known.TINY_CONTEXT
    ]
    raise ContractError(
        needed=f"for {for_} a backbone: {', '.join(wants)}",
        came=f"{backbone.name}: {'; '.join(lacks)}",
        remedy=f"choose {', '.join(able)}, or a folder of such a model" if able else "give the folder of such a model",
    )


def _info(
    told: PretrainedConfig, *, words: bool, parameters: int, context: int, licence: str, mark: str, path: Path | None
) -> Info:
    family, first = family_of(told), _first(told)
    heads = int(first.num_attention_heads)
    return Info(
        family=family,
        dim=int(first.hidden_size),
        layers=int(first.num_hidden_layers),
        heads=heads,
        key_heads=int(getattr(first, "num_key_value_heads", None) or heads),
        context=context,
        visibilities=VISIBILITIES[family],
        words=words,
        rows=int(first.vocab_size),
        parameters=parameters,
        licence=licence,
        fingerprint=mark,
        path=path,
    )


@cache
def _tiny_info(family: str) -> Info:
    from lmrs.language import tiny

    model, told = tiny.build(family, words=True), tiny.config(family)
    digest = hashlib.sha256(tiny.tokenizer(family).backend_tokenizer.to_str().encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    count = sum(each.numel() for each in model.parameters())
    return _info(
        told, words=True, parameters=count, context=known.TINY_CONTEXT, licence="Apache-2.0", mark=digest.hexdigest(), path=None
    )


@cache
def _tiny_tokens(family: str) -> Tokens:
    from lmrs.language import tiny
    from lmrs.language.tokens import tokens_of

    return tokens_of(tiny.tokenizer(family))


@cache
def _folder_info(name: str, path: Path, mark: str) -> Info:
    from lmrs.language import folder

    told, files = folder.config(path), folder.weights(path)
    # What the sentence-transformers package trained with, where it says so, is less than the position table holds.
    sentence = path / "sentence_bert_config.json"
    limits = [_positions(_first(told))]
    if sentence.is_file():
        limits.append(int(folder.read_json(sentence).get("max_seq_length") or limits[0]))
    stored = {each for file in files for each in folder.header(file)}
    registered = known.find(name)
    return _info(
        told,
        words=family_of(told) != "encoder" or any(each.startswith(_WORD_HEADS) for each in stored),
        parameters=folder.parameters(files),
        context=min(limits),
        licence=registered.licence if registered is not None else folder.licence(path),
        mark=mark,
        path=path,
    )


def _first(told: PretrainedConfig) -> Any:
    """The configuration of the first stack: two models that were joined (EncoderDecoderModel) keep one each."""
    return getattr(told, "encoder", None) or told


def _positions(told: Any) -> int:
    """Longest input in tokens. RoBERTa counts positions from behind the padding id; T5 has no table: what it was trained with."""
    rows = getattr(told, "max_position_embeddings", None) or getattr(told, "n_positions", None) or 512
    if told.model_type in ("roberta", "xlm-roberta", "camembert"):
        return int(rows) - int(told.pad_token_id or 0) - 1
    return int(rows)


@cache
def _folder_tokens(path: Path, mark: str) -> Tokens:
    from lmrs.language import folder
    from lmrs.language.tokens import tokens_of

    return tokens_of(folder.tokenizer(path))
