"""A prompted encoder read at its masks: an item's score is the probability of its title's tokens there (LMRec)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.errors import ContractError
from lmrs.language.running import dropping
from lmrs.models.prompted import Prompted, PromptedNetwork, wide
from lmrs.prompts import Compiled, Mask
from lmrs.visibility import Visibility
from lmrs.vocab import Vocab

ROWS = 32  # prompts read at once when the catalogue is ranked


class MasksNetwork(PromptedNetwork):
    """All items are scored from one pass over a prompt: the words' probabilities at its masks, gathered by title."""

    def __init__(self, model: Prompted, vocab: Vocab) -> None:
        super().__init__(model, vocab)
        masks = sum(segment.n for segment in self.template.segments if isinstance(segment, Mask))
        if masks != model.masks.masks:
            raise ContractError(
                needed=f"{model.masks.masks} masks in the template for {model.masks!r}",
                came=f"{masks} in {model.template!r}",
                remedy=f"write [mask {model.masks.masks}]",
            )
        self.reader = model.masks.build(self.tokens, self.titles)

    def likelihood(
        self, batch: Batch, visible: Visibility, at: Tensor, target: Tensor, rng: torch.Generator | None = None
    ) -> Tensor:
        """[M]: log of the softmax of the scores over the catalogue, at the targets."""
        scores = self._scores(self.prompts(batch, at), visible, rng)
        return scores.gather(1, target[:, None])[:, 0] - scores.logsumexp(1)

    def verdicts(
        self, batch: Batch, visible: Visibility, at: Tensor, items: Tensor, rng: torch.Generator | None = None
    ) -> Tensor:
        """[M, K]: the scores of some items."""
        return self._scores(self.prompts(batch, at), visible, rng).gather(1, items)

    @torch.no_grad()
    def score(self, batch: Batch, visible: Visibility) -> Tensor:
        at = batch.channels["asked"].nonzero()[:, 0]
        found = torch.cat([self._scores(self.prompts(batch, some), visible) for some in at.split(ROWS)])
        return found - self._blank() if self.model.score == "pmi" else found

    @torch.no_grad()
    def blank(self, items: np.ndarray) -> np.ndarray:
        return self._blank().double().cpu().numpy()[items]

    def _blank(self) -> Tensor:
        """[V] scores after the prompt without history."""
        return self._scores(self.compiled(np.zeros(0, np.int64), np.zeros(2, np.int64)), None)[0]

    def _scores(self, compiled: Compiled, visible: Visibility | None, rng: torch.Generator | None = None) -> Tensor:
        """[M, V] scores of the catalogue after M prompts."""
        if visible is not None:
            self.check(visible)
        ids, mask, soft = self.padded(compiled)
        places = compiled.mask.reshape(len(compiled), -1) - compiled.offsets[1:, None] + ids.shape[1]
        inner: Any = self._language()
        with dropping(self.backbone, rng), _states_at(inner.base_model, torch.from_numpy(places).to(ids.device)):
            logits = self.run(self.embedded(ids, soft), mask).logits
        return self.reader.score(wide(logits))


@contextmanager
def _states_at(body: nn.Module, places: Tensor) -> Iterator[None]:
    """Within it a transformer gives the states at some places alone (int64[M, n]), so that the word head behind it reads n
    positions a row instead of all: the head is most of the work of a small encoder."""

    def pick(module: nn.Module, inputs: Any, out: Any) -> Any:
        states = out.last_hidden_state
        out.last_hidden_state = states.gather(1, places[..., None].expand(-1, -1, states.shape[2]))
        return out

    hook = body.register_forward_hook(pick)
    try:
        yield
    finally:
        hook.remove()
