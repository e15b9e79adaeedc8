"""The three shapes of language models, and who may see whom in each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lmrs.errors import CheckpointError
from lmrs.visibility import Causal, Full, Visibility

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# encoder: the one side; causal: the one side; seq2seq: the encoder's side, then the decoder's.
VISIBILITIES: dict[str, tuple[Visibility, ...]] = {
    "encoder": (Full(),),
    "causal": (Causal(),),
    "seq2seq": (Full(), Causal()),
}
ABILITIES = {
    "encoder": "text vectors",
    "causal": "text continuation, candidate scoring",
    "seq2seq": "text to text, identifiers as text",
}


def family_of(config: PretrainedConfig) -> str:
    """ "encoder", "causal" or "seq2seq", read off a configuration.

    Raises CheckpointError for a model that is none of the three (vision, audio).
    """
    from transformers.models.auto import modeling_auto as known

    heads: list[str] = list(config.architectures or [])
    if config.is_encoder_decoder:
        return "seq2seq"
    kind: Any = config.model_type
    speaks = any(head.endswith(("ForCausalLM", "LMHeadModel")) for head in heads)
    if kind in known.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not speaks:
        return "encoder"
    if kind in known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "causal"
    raise CheckpointError(
        needed="a text encoder, a causal or a sequence-to-sequence language model",
        came=f"model type {kind!r} ({', '.join(heads) or 'no architecture named'})",
        remedy="choose another model; lmrs models list names some",
    )
