"""A prompted language model read by its state: the vector after the prompt, times a table of items."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.language.running import dropping
from lmrs.losses import Output
from lmrs.models.network import Network
from lmrs.models.prompted import Prompted, PromptedNetwork, wide
from lmrs.visibility import Visibility
from lmrs.vocab import Vocab


class StateNetwork(PromptedNetwork):
    """items [V, D], item_bias [V]: the table. States are those of the last token, or the mean over the prompt."""

    likelihood = Network.likelihood
    verdicts = Network.verdicts

    def __init__(self, model: Prompted, vocab: Vocab) -> None:
        super().__init__(model, vocab)
        self.items = nn.Embedding(vocab.n_items, self.dim)
        nn.init.normal_(self.items.weight, std=0.02, generator=self.rng)
        self.item_bias = nn.Parameter(torch.zeros(vocab.n_items))

    def forward(self, batch: Batch, visible: Visibility, rng: torch.Generator | None = None, at: Tensor | None = None) -> Tensor:
        self.check(visible)
        if not batch.n_positions or (at is not None and not len(at)):
            return self.items.weight[:0]
        ids, mask, soft = self.padded(self.prompts(batch, at))
        with dropping(self.backbone, rng):
            states = self.run(self.embedded(ids, soft), mask).last_hidden_state
        if self.model.pooling == "last":
            return wide(states[:, -1])
        return wide((states * mask[..., None]).sum(1)) / mask.sum(1, keepdim=True)

    def output(self) -> Output:
        return Output(self.items.weight, self.item_bias)
