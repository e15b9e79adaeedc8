"""Reply: what is said next in a dialogue, word by word (UniCRS section 4.4, KBRD section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.measures.words import WORDS
from lmrs.models.network import Network
from lmrs.models.speaker import speaker
from lmrs.objectives.looking_back import LookingBack
from lmrs.vocab import Vocab


@dataclass(frozen=True)
class Reply(LookingBack):
    """-log p(response | dialogue) a word, the end counted as one, over the batches of views.Replies, with models that speak.

    hidden: nothing. seen: the dialogue so far, and of the response what a token comes after. Words are those of the measures of
    text, whatever tokens a model writes (an item is one): what is charged is divided by the same number for all of them.
    Asked for items it asks as NextItem does. Sibling: Explanation.
    """

    ahead = 0

    @property
    def weights(self) -> dict[str, float]:
        return {"reply": 1.0}

    def corrupt(self, batch: Batch, vocab: Vocab, rng: torch.Generator) -> Batch:
        """Nothing is hidden; `rows["words"]` counts the words of each response, the end included."""
        words = torch.tensor([1 + len(WORDS["words"](text or "")) for text in batch.texts["response"]], dtype=torch.int64)
        return replace(batch, rows={**batch.rows, "words": words})

    def counts(self, prepared: Batch) -> dict[str, int]:
        return {"reply": int(prepared.rows["words"].sum())}

    def charge(
        self, network: Network, head: nn.Module | None, prepared: Batch, vocab: Vocab, rng: torch.Generator | None
    ) -> dict[str, Tensor]:
        return {"reply": -speaker(network).tell(prepared, rng).total.sum()}
