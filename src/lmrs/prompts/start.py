"""Where soft prompts begin: at the embeddings of words that describe the task, or of words drawn from the vocabulary.

Vectors that no text could give are slow to train; both starts of Lester et al. 2021 (section 3.2) are here. Put them into a
source with `module.start(vectors)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lmrs.errors import ContractError

if TYPE_CHECKING:
    from lmrs.language.tokens import Tokens


def from_words(words: str, tokens: Tokens, table: Tensor, length: int) -> Tensor:
    """[length, D]: the rows of the embedding table for a text's tokens, again from the first where the text is shorter.

    table: [W, D]. Raises ContractError for a text without tokens.
    """
    ids = tokens.encode(words)
    if not ids:
        raise ContractError(needed="words to start a soft prompt from", came=repr(words))
    return table.detach()[torch.tensor(ids)[torch.arange(length) % len(ids)]].clone()


def from_vocabulary(tokens: Tokens, table: Tensor, length: int, rng: torch.Generator) -> Tensor:
    """[length, D]: rows of the embedding table drawn without replacement among the tokens that text can give.

    Raises ContractError if there are fewer than `length`.
    """
    meant = {*tokens.marks.values()}
    plain = torch.tensor([each for each in range(tokens.size - len(tokens.words)) if each not in meant])
    if len(plain) < length:
        raise ContractError(needed=f"a vocabulary of at least {length} words", came=f"{len(plain)}")
    return table.detach()[plain[torch.randperm(len(plain), generator=rng)[:length]]].clone()
