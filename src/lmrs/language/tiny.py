"""Tiny backbones made in code: every family, no file, no network, the same weights on every machine.

They know nothing; they run the same classes of the transformers package as real ones, in milliseconds. Weights are drawn wider
than usual so that a wrong mask or position changes the result visibly. The tokenizer has one token for each byte and one for
each of some common words (with and without the space before it).
"""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import TYPE_CHECKING

import torch

from lmrs.language.known import TINY_CONTEXT

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

DIM, LAYERS, HEADS, KEY_HEADS = 32, 2, 4, 2
SEED = 20230208
_WORDS = (
    "a and item items like likes liked movie movies film films watched watch user users bought buy will would next is the of to "
    "in yes no good bad great terrible positive negative recommend recommended rating rated because it this that for with not "
    "news article read clicked history title candidate answer question Yes No The A User"
)
WORDS = tuple(_WORDS.split())
MARKS = {
    "encoder": {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]", "unk_token": "[UNK]"},
    "causal": {"bos_token": "<|begin|>", "eos_token": "<|endoftext|>", "pad_token": "<|pad|>"},
    "seq2seq": {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
}
# Marks without a role of their own: turns of a chat, the places that T5 fills in.
FURTHER = {"encoder": (), "causal": ("<|im_start|>", "<|im_end|>"), "seq2seq": tuple(f"<extra_id_{n}>" for n in range(10))}


@cache
def tokenizer(family: str) -> PreTrainedTokenizerFast:
    """A byte-and-word tokenizer with the marks that the family uses."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    marks = [*MARKS[family].values(), *FURTHER[family]]
    words = [space + word for word in WORDS for space in ("", "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}")]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {word: number for number, word in enumerate(dict.fromkeys([*marks, *letters, *words]))}
    # No merges: a word that the vocabulary holds is taken whole, any other is spelt in bytes.
    engine: Tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    engine.add_special_tokens([AddedToken(mark, normalized=False, special=True) for mark in marks])
    return PreTrainedTokenizerFast(tokenizer_object=engine, model_max_length=TINY_CONTEXT, **MARKS[family])


@cache
def config(family: str) -> PretrainedConfig:
    """BERT, Llama (with fewer key than query heads) or T5, two layers of width 32."""
    from transformers import BertConfig, LlamaConfig, T5Config

    fast = tokenizer(family)
    match family:
        case "encoder":
            return BertConfig(
                vocab_size=len(fast),
                hidden_size=DIM,
                num_hidden_layers=LAYERS,
                num_attention_heads=HEADS,
                intermediate_size=2 * DIM,
                max_position_embeddings=TINY_CONTEXT,
                initializer_range=0.2,
                pad_token_id=fast.pad_token_id,
            )
        case "causal":
            return LlamaConfig(
                vocab_size=len(fast),
                hidden_size=DIM,
                num_hidden_layers=LAYERS,
                num_attention_heads=HEADS,
                num_key_value_heads=KEY_HEADS,
                intermediate_size=2 * DIM,
                max_position_embeddings=TINY_CONTEXT,
                initializer_range=0.2,
                tie_word_embeddings=True,
                pad_token_id=fast.pad_token_id,
                bos_token_id=fast.bos_token_id,
                eos_token_id=fast.eos_token_id,
            )
        case _:
            told = T5Config(
                vocab_size=len(fast),
                d_model=DIM,
                d_kv=DIM // HEADS,
                d_ff=2 * DIM,
                num_layers=LAYERS,
                num_heads=HEADS,
                pad_token_id=fast.pad_token_id,
                eos_token_id=fast.eos_token_id,
            )
            told.decoder_start_token_id = fast.pad_token_id
            return told


def build(family: str, *, words: bool) -> PreTrainedModel:
    """A fresh model in eval mode; an encoder with its mask-word head if `words`. Equal weights at every call."""
    from transformers import BertForMaskedLM, LlamaForCausalLM, T5ForConditionalGeneration

    kinds = {"encoder": BertForMaskedLM, "causal": LlamaForCausalLM, "seq2seq": T5ForConditionalGeneration}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = kinds[family](deepcopy(config(family))).eval()  # a model may change its configuration (new tokens)
    if isinstance(model, BertForMaskedLM) and not words:
        return model.bert
    return model
