"""Scores set right and scores put together: the prior of a prompt without content taken off, the votes of several prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lmrs.errors import ContractError


def content_free_prior(scores: Tensor) -> Tensor:
    """[C]: log of the mean class probabilities over prompts whose data was replaced by nothing ("N/A", "", a mask).

    scores: [M, C] of a verbaliser for M such prompts, at least one.
    """
    if scores.ndim != 2 or not len(scores):
        raise ContractError(needed="scores [M, C] of at least one content-free prompt", came=f"shape {tuple(scores.shape)}")
    return scores.log_softmax(1).logsumexp(0) - torch.tensor(float(len(scores))).log()


def calibrated(scores: Tensor, prior: Tensor) -> Tensor:
    """[M, C]: log p(class) - log prior(class), what data adds to the model's habit (Zhao et al. 2021, "Calibrate before use").

    The paper's diagonal W = 1 / prior, in logarithms; softmax of the result is its probability. scores: [M, C]. prior: [C].
    """
    if prior.shape != scores.shape[1:]:
        raise ContractError(needed=f"a prior of shape {tuple(scores.shape[1:])}", came=f"{tuple(prior.shape)}")
    return scores.log_softmax(1) - prior


def ensemble(scores: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """[M, C]: weighted mean of class probabilities, sum_k w_k softmax(scores_k) / sum_k w_k (Prompt4NR, section 3.4).

    scores: [M, C] of each template. weights: one a template, none negative, not all zero; None: equal.
    """
    given = [1.0] * len(scores) if weights is None else list(weights)
    if not scores or len({each.shape for each in scores}) != 1:
        raise ContractError(
            needed="scores of one shape, of at least one template", came=f"{[tuple(each.shape) for each in scores]}"
        )
    if len(given) != len(scores) or min(given) < 0 or not 0 < sum(given) < float("inf"):
        raise ContractError(needed=f"{len(scores)} weights, none negative, not all zero", came=f"{given}")
    return torch.stack([each.softmax(1) * weight for each, weight in zip(scores, given, strict=True)]).sum(0) / sum(given)
