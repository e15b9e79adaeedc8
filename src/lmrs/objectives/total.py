"""Total: several signals on the same rows, added with weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.errors import ContractError
from lmrs.models.network import Network
from lmrs.objectives.objective import Objective
from lmrs.visibility import Causal, Visibility
from lmrs.vocab import Vocab


@dataclass(frozen=True)
class Total:
    """L = sum_i weight_i L_i, each signal with its own corruption, visibility and head, each divided by its own count.

    signals: (name, weight, objective) triples; names are distinct words and weights >= 0. The parts of the loss are called
    "name.part". The first signal answers at test time.

    Signals that look further ahead need longer rows; the others then leave out the oldest events of rows longer than two, so that
    no input is longer than the model.
    """

    signals: tuple[tuple[str, float, Objective], ...]

    def __post_init__(self) -> None:
        names = [name for name, _, _ in self.signals]
        if not names or len(set(names)) < len(names) or any("." in name or not name for name in names):
            raise ContractError(needed="signals with distinct names without dots", came=repr(names))
        for name, weight, _ in self.signals:
            if weight < 0:
                raise ContractError(needed="weights of at least 0", came=f"{name} with {weight}")

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(need for _, _, signal in self.signals for need in signal.needs))

    @property
    def ahead(self) -> int:
        return max(signal.ahead for _, _, signal in self.signals)

    @property
    def asks(self) -> int:
        return self.signals[0][2].asks

    @property
    def weights(self) -> dict[str, float]:
        return {f"{name}.{part}": weight * own for name, weight, signal in self.signals for part, own in signal.weights.items()}

    @property
    def visible(self) -> Visibility:
        """What a model must allow: the first visibility that looks further than the past, if any signal has one."""
        seen = [signal.visible for _, _, signal in self.signals]
        return next((visible for visible in seen if not isinstance(visible, Causal)), seen[0])

    @property
    def asked_visible(self) -> Visibility:
        return self.signals[0][2].asked_visible

    def head(self, vocab: Vocab, dim: int) -> nn.Module | None:
        heads = {name: signal.head(vocab, dim) for name, _, signal in self.signals}
        found = {name: head for name, head in heads.items() if head is not None}
        return nn.ModuleDict(found) if found else None

    def corrupt(self, batch: Batch, vocab: Vocab, rng: torch.Generator) -> Batch:
        parts = {}
        for name, _, signal in self.signals:
            parts[name] = signal.corrupt(_without_oldest(batch, self.ahead - signal.ahead), vocab, rng)
        return replace(batch, parts=parts)

    def counts(self, prepared: Batch) -> dict[str, int]:
        return {
            f"{name}.{part}": count
            for name, _, signal in self.signals
            for part, count in signal.counts(prepared.parts[name]).items()
        }

    def charge(
        self, network: Network, head: nn.Module | None, prepared: Batch, vocab: Vocab, rng: torch.Generator | None
    ) -> dict[str, Tensor]:
        charged = {}
        for name, _, signal in self.signals:
            own = head[name] if isinstance(head, nn.ModuleDict) and name in head else None
            for part, value in signal.charge(network, own, prepared.parts[name], vocab, rng).items():
                charged[f"{name}.{part}"] = value
        return charged

    def ask(self, batch: Batch, vocab: Vocab) -> Batch | None:
        return self.signals[0][2].ask(batch, vocab)


def _without_oldest(batch: Batch, count: int) -> Batch:
    """Rows without their `count` oldest events, down to two that are left; positions are numbered anew."""
    for _ in range(count):
        first = torch.arange(batch.n_positions) == batch.offsets[:-1][batch.row_of]
        long = (batch.lengths > 2)[batch.row_of]
        kept = ~(first & long)
        batch = batch.with_channels(position=batch.channels["position"] - long.long()).keep(kept)
    return batch
