"""RewardedNext: the next item given the return that followed, each charged by what it paid (PRL, Xin et al., SIGIR 2022)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.losses import Charge, FullSoftmax
from lmrs.models.network import Network
from lmrs.objectives.looking_back import LookingBack
from lmrs.objectives.next_item import charge_targets, with_negatives
from lmrs.vocab import Vocab

TOLD = ("reward", "return")


@dataclass(frozen=True)
class RewardedNext(LookingBack):
    """-sum_t r_{t+1} log p(x_{t+1} | x_<=t, t, R_{t+1}): supervised learning of what was done to get that return.

    hidden: nothing; the target of a place is the next event, and the place is told the return from that event on (channel
    `return`). weigh: by the reward of the target, as published; False charges all alike, as a released file does. The sum is
    divided by the number of targets, not of rewards.
    A question carries no return: the model says which one to aim at.
    """

    loss: Charge = FullSoftmax()  # noqa: RUF009 - a frozen value
    weigh: bool = True

    needs: tuple[str, ...] = ("item", *TOLD)

    @property
    def weights(self) -> dict[str, float]:
        return {"next": 1.0}

    def corrupt(self, batch: Batch, vocab: Vocab, rng: torch.Generator) -> Batch:
        inputs = torch.ones(batch.n_positions, dtype=torch.bool)
        inputs[batch.last] = False
        following = {name: batch.channels[name].roll(-1)[inputs] for name in ("item", *TOLD)}
        prepared = batch.keep(inputs).with_channels(target=following.pop("item"), **following)
        return with_negatives(prepared, self.loss, vocab, rng)

    def counts(self, prepared: Batch) -> dict[str, int]:
        return {"next": prepared.n_positions}

    def charge(
        self, network: Network, head: nn.Module | None, prepared: Batch, vocab: Vocab, rng: torch.Generator | None
    ) -> dict[str, Tensor]:
        states = network(prepared, self.visible, rng)
        if not self.weigh:
            return {"next": charge_targets(network, states, prepared, self.loss, vocab)}
        reward, target = prepared.channels["reward"], prepared.channels["target"]
        total = states.sum() * 0.0
        for paid in torch.unique(reward).tolist():  # two kinds of events: each with the loss of its own, which stays fast
            here = reward == paid
            some = prepared.with_channels(target=torch.where(here, target, -1))
            total = total + paid * charge_targets(network, states[here], some, self.loss, vocab)
        return {"next": total}

    def ask(self, batch: Batch, vocab: Vocab) -> Batch:
        bare = {name: values for name, values in batch.channels.items() if name not in TOLD}
        return super().ask(replace(batch, channels=bare), vocab)
