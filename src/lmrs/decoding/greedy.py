"""The likeliest token at every step, and no n-gram twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


@torch.no_grad()
def greedy(
    first: Tensor,
    step: Callable[[Tensor], Tensor],
    *,
    end: int,
    most: int,
    unrepeated: int = 0,
    unwritten: Sequence[int] = (),
) -> list[list[int]]:
    """The tokens that B texts go on with, `end` left out.

    first: [B, W] logits of the first token. step: from the tokens chosen last, int64[B], to logits [B, W] of the next; of texts
    that have ended it is asked, too, and what it says of them is ignored. most: tokens at most.
    unrepeated: n >= 1: a text never has the same n tokens in a row twice (its prompt does not count); 0: it may.
    unwritten: tokens that are never chosen.
    """
    said: list[list[int]] = [[] for _ in range(len(first))]
    ended = [False] * len(first)
    logits, never = first.clone(), list(unwritten)
    for at in range(most):
        logits[:, never] = -torch.inf
        for row, text in enumerate(said):
            if unrepeated and not ended[row]:
                logits[row, sorted(again(text, unrepeated))] = -torch.inf
        chosen = logits.argmax(1)
        for row, token in enumerate(chosen.tolist()):
            ended[row] = ended[row] or token == end
            if not ended[row]:
                said[row].append(token)
        if all(ended) or at + 1 == most:
            break
        logits = step(chosen).clone()
    return said


def again(text: Sequence[int], n: int) -> set[int]:
    """The tokens that would end a run of n that the text has already."""
    last = tuple(text[len(text) - n + 1 :])
    return {text[at + n - 1] for at in range(len(text) - n + 1) if tuple(text[at : at + n - 1]) == last}
