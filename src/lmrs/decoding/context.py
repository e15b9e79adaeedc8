"""A language model that has read something and can be asked how it goes on, without reading it again."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lmrs.errors import ContractError

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.cache_utils import Cache


@dataclass(frozen=True, eq=False)
class Context:
    """B contexts and what a model made of them: its key/value cache, and what it expects next.

    model: a causal or an encoder-decoder language model of the transformers package, in eval mode.
    logits: float32[B, W], of the token after each context.
    cache: keys and values, one row a context. It is never changed: `select` and `read` make new ones.
    mask: bool[B, T], False at padding: of the context (causal) or of what the encoder read.
    encoded: [B, T, D], what the encoder made, or None for a causal model.
    prompt: int64[B], which of the prompts that were read each context goes back to.
    """

    model: PreTrainedModel
    logits: Tensor
    cache: Cache
    mask: Tensor
    encoded: Tensor | None
    prompt: Tensor

    @property
    def rows(self) -> int:
        """B."""
        return len(self.mask)

    @property
    def row_bytes(self) -> int:
        """Bytes of the cache and of the logits of one context."""
        layers = [layer for each in _parts(self.cache) for layer in each.layers]
        held = sum(t.numel() * t.element_size() for layer in layers for t in (layer.keys, layer.values))
        return held // self.rows + 4 * self.logits.shape[1]

    def select(self, rows: Tensor) -> Context:
        """Contexts `rows` (int64[M], repeats allowed), in that order.

        One context alone is repeated without a copy: its keys and values are shared by all M. What an encoder made is copied
        only where the order of the prompts changes, which among the beams of one search it mostly does not.
        """
        shared = self.rows == 1
        prompt = self.prompt.expand(len(rows)) if shared else self.prompt[rows]
        still = self.encoded is not None and torch.equal(prompt, self.prompt)

        def pick(t: Tensor) -> Tensor:
            return t.expand(len(rows), *t.shape[1:]) if shared else t[rows]

        def pick_read(t: Tensor) -> Tensor:
            return t if still else pick(t)

        return Context(
            self.model,
            pick(self.logits),
            _each(self.cache, pick, pick_read),
            pick_read(self.mask),
            None if self.encoded is None else pick_read(self.encoded),
            prompt,
        )

    def read(self, tokens: Tensor) -> tuple[Tensor, Context]:
        """Lets every context go on with some tokens, int64[B, L].

        Returns (logits [B, L, W] in the model's precision, of the token after each; the longer contexts). Rows may be padded at
        the right end with any token: what comes before is not affected, but a row that was padded must not be read on.
        """
        cache = _each(self.cache, lambda t: t, lambda t: t)
        if self.encoded is not None:
            from transformers.modeling_outputs import BaseModelOutput

            out = self.model(
                encoder_outputs=BaseModelOutput(last_hidden_state=self.encoded),
                attention_mask=self.mask.long(),
                decoder_input_ids=tokens,
                past_key_values=cache,
                use_cache=True,
            )
            mask = self.mask
        else:
            mask = torch.cat([self.mask, self.mask.new_ones(tokens.shape)], dim=1)
            out = _causal(self.model, mask, cache=cache, ids=tokens)
        return out.logits, replace(self, logits=out.logits[:, -1].float(), cache=out.past_key_values, mask=mask)


@torch.no_grad()
def causal(model: PreTrainedModel, ids: Tensor | None, mask: Tensor, *, embeddings: Tensor | None = None) -> Context:
    """Reads B prompts with a causal model.

    ids: int64[B, T] with padding on the *left*, or None and embeddings [B, T, D] in their place (soft prompts).
    mask: bool[B, T], False at padding. Raises ContractError if a prompt is empty or padded on the right.
    """
    given = ids if embeddings is None else embeddings
    if given is None or (ids is not None and embeddings is not None):
        raise ContractError(needed="ids or embeddings", came="both" if ids is not None else "neither", remedy="pass one of them")
    _check_mask(mask, given)
    if not bool(mask[:, -1].all()) or not bool((mask[:, 1:] >= mask[:, :-1]).all()):
        raise ContractError(
            needed="prompts of at least one token, padded on the left", came="padding at the end or inside", remedy="shift them"
        )
    out = _causal(model, mask, ids=ids, embeddings=embeddings, last=True)
    return Context(model, out.logits[:, -1].float(), _known(out.past_key_values), mask, None, _numbers(mask))


@torch.no_grad()
def seq2seq(
    model: PreTrainedModel, ids: Tensor | None, mask: Tensor, *, start: Tensor | None = None, embeddings: Tensor | None = None
) -> Context:
    """Reads B prompts with the encoder of an encoder-decoder model and starts the decoder.

    ids: int64[B, T], padded anywhere, or None and embeddings [B, T, D]. mask: bool[B, T], False at padding.
    start: int64[S] tokens the decoder begins with, after its start token, the same for all (such as "beauty item_").
    """
    given = ids if embeddings is None else embeddings
    if given is None or (ids is not None and embeddings is not None):
        raise ContractError(needed="ids or embeddings", came="both" if ids is not None else "neither", remedy="pass one of them")
    _check_mask(mask, given)
    if not bool(mask.any(dim=1).all()):
        raise ContractError(needed="prompts of at least one token", came="an empty one", remedy="give every prompt some text")
    begin = getattr(model.config, "decoder_start_token_id", None)
    if begin is None:
        raise ContractError(needed="an encoder-decoder model", came=type(model).__name__, remedy="use decoding.causal")
    encoded = model.get_encoder()(input_ids=ids, inputs_embeds=embeddings, attention_mask=mask.long()).last_hidden_state
    first = torch.full((len(mask), 1), begin, dtype=torch.long, device=encoded.device)
    if start is not None:
        first = torch.cat([first, start.to(first).expand(len(mask), -1)], dim=1)
    from transformers.modeling_outputs import BaseModelOutput

    out = model(
        encoder_outputs=BaseModelOutput(last_hidden_state=encoded),
        attention_mask=mask.long(),
        decoder_input_ids=first,
        use_cache=True,
    )
    return Context(model, out.logits[:, -1].float(), _known(out.past_key_values), mask, encoded, _numbers(mask))


def left_padded(ids: Tensor, offsets: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """(int64[B, T], bool[B, T]): jagged prompts, flat ids int64[N] and offsets int64[B+1], as `causal` reads them."""
    lengths = offsets.diff()
    width = int(lengths.max())
    place = torch.arange(width, device=ids.device) - (width - lengths)[:, None]
    mask = place >= 0
    out = torch.full(mask.shape, pad, dtype=torch.long, device=ids.device)
    out[mask] = ids[(offsets[:-1, None] + place)[mask]].long()
    return out, mask


def _causal(
    model: PreTrainedModel,
    mask: Tensor,
    *,
    cache: Cache | None = None,
    ids: Tensor | None = None,
    embeddings: Tensor | None = None,
    last: bool = False,
) -> Any:
    """One forward pass over the last positions of the mask; of the very last one only, logits are needed if `last`."""
    new = (ids if ids is not None else embeddings).shape[1]  # type: ignore[union-attr]
    takes = inspect.signature(model.forward).parameters
    options: dict[str, Any] = {"logits_to_keep": 1} if last and "logits_to_keep" in takes else {}
    if not bool(mask.all()):
        options["attention_mask"] = mask.long()
        if "position_ids" in takes:  # else the model counts along the mask by itself
            options["position_ids"] = (mask.long().cumsum(dim=1) - 1).clamp_min(0)[:, -new:]
    return model(input_ids=ids, inputs_embeds=embeddings, past_key_values=cache, use_cache=True, **options)


def _check_mask(mask: Tensor, given: Tensor) -> None:
    if mask.dtype != torch.bool or mask.shape != given.shape[:2]:
        raise ContractError(
            needed=f"a mask of booleans of shape {tuple(given.shape[:2])}",
            came=f"{mask.dtype} of shape {tuple(mask.shape)}",
            remedy="True marks real positions",
        )


def _parts(cache: Any) -> list[Any]:
    """The caches inside: self-attention, and cross-attention where there is one."""
    from transformers.cache_utils import EncoderDecoderCache

    if isinstance(cache, EncoderDecoderCache):
        return [cache.self_attention_cache, cache.cross_attention_cache]
    return [cache]


def _known(cache: Any) -> Any:
    """The cache, if it is of a kind whose rows can be picked."""
    from transformers.cache_utils import Cache, DynamicLayer

    whole = isinstance(cache, Cache) and all(isinstance(x, DynamicLayer) for part in _parts(cache) for x in part.layers)
    if not whole:
        raise ContractError(
            needed="a model with a key/value cache of attention layers",
            came=f"a cache of {type(cache).__name__}",
            remedy="use another backbone",
        )
    return cache


def _numbers(mask: Tensor) -> Tensor:
    return torch.arange(len(mask), device=mask.device)


def _each(cache: Any, change: Callable[[Tensor], Tensor], cross: Callable[[Tensor], Tensor]) -> Any:
    """A cache of its own with every tensor passed through `change`, `cross` for cross-attention; the old one stays as it is."""
    out = copy.copy(cache)
    if len(_parts(cache)) == 2:
        out.self_attention_cache = _each(cache.self_attention_cache, change, cross)
        out.cross_attention_cache = _each(cache.cross_attention_cache, cross, cross)
        out.is_updated = dict(cache.is_updated)
        return out
    out.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in out.layers:
        layer.keys, layer.values = change(layer.keys), change(layer.values)
    return out
