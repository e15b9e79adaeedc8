"""New rows in a model's embedding table for tokens that were added."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lmrs.language.tokens import Tokens


def grow(module: PreTrainedModel, tokens: Tokens, *, rng: torch.Generator) -> int:
    """Gives the model a row for every token of `tokens`, in place; returns how many rows the table has now.

    It comes before any adapter.

    New rows of the input and of the output table are drawn around the mean of the old ones, with a tenth of their spread: equal
    rows could not be told apart by training, wide ones would be chosen before they mean anything. Old rows keep their bits. A
    table with rows enough already (T5 has some to spare) is left alone, its spare rows as they were trained.
    """
    before = _rows(module.get_input_embeddings())
    if tokens.size <= before:
        return before
    with torch.random.fork_rng(devices=[]):
        module.resize_token_embeddings(tokens.size, mean_resizing=False)
    drawn = set()
    for table in (module.get_input_embeddings(), module.get_output_embeddings()):
        if table is None or table.weight in drawn:
            continue
        weight = table.weight
        assert isinstance(weight, nn.Parameter)
        drawn.add(weight)
        with torch.no_grad():
            old = weight[:before].float()
            noise = torch.randn(tokens.size - before, old.shape[1], generator=rng).to(old.device)
            weight[before:] = (old.mean(0) + 0.1 * old.std(0) * noise).to(weight.dtype)
            bias = getattr(table, "bias", None)
            if bias is not None:
                bias[before:] = bias[:before].mean()
    return tokens.size


def _rows(table: nn.Module) -> int:
    weight = table.weight
    assert isinstance(weight, torch.Tensor)
    return weight.shape[0]
