"""Several prompted models that answer together: one prompt each, weights of their own (Prompt4NR, section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.errors import ContractError
from lmrs.losses import Output
from lmrs.models.network import Model, Network
from lmrs.models.prompted import Prompted
from lmrs.models.unread import Unread
from lmrs.visibility import Visibility
from lmrs.vocab import Vocab


@dataclass(frozen=True)
class Ensemble(Model):
    """score(h, i) = mean over members m of p_m(yes | h, i), p_m = sig(log-odds): the same order as their sum.

    members: at least one, of read="words". max_len: of all of them.
    """

    members: tuple[Prompted, ...]
    max_len: int = 50

    def __post_init__(self) -> None:
        if not self.members or any(each.read != "words" or each.max_len != self.max_len for each in self.members):
            raise ContractError(
                needed=f"one or more Prompted(read='words', max_len={self.max_len}) as members",
                came=", ".join(f"read={each.read!r}, max_len={each.max_len}" for each in self.members) or "none",
            )

    @property
    def knows_new(self) -> bool:
        return all(each.knows_new for each in self.members)

    @property
    def pretrained(self) -> bool:
        return any(each.pretrained for each in self.members)

    @property
    def prompted(self) -> bool:
        return True

    @property
    def soft(self) -> bool:
        return any(each.soft for each in self.members)

    @property
    def by_item(self) -> bool:
        return True

    @property
    def origin(self) -> str:
        return " ".join(dict.fromkeys(each.origin for each in self.members))

    def given(self, name: str) -> bool:
        at, own = _own(name)
        return self.members[at].given(own) if own else False

    def group(self, name: str) -> str:
        at, own = _own(name)
        return self.members[at].group(own)

    def allows(self, visible: Visibility) -> bool:
        return all(each.allows(visible) for each in self.members)

    def build(self, vocab: Vocab) -> EnsembleNetwork:
        return EnsembleNetwork(self, vocab)


def _own(name: str) -> tuple[int, str]:
    """("members.2.prompt.x") -> (2, "prompt.x"); a pattern that names no member is about the first."""
    _, _, rest = name.partition("members.")
    at, _, own = rest.partition(".")
    return (int(at), own) if at.isdigit() else (0, own)


class EnsembleNetwork(Network):
    """members: the networks, each with a backbone of its own."""

    def __init__(self, about: Ensemble, vocab: Vocab) -> None:
        super().__init__()
        self.members = nn.ModuleList(each.build(vocab) for each in about.members)
        self.n_items, self.dim = vocab.n_items, max(each.dim for each in members(self))
        self.unread = Unread(without_title=vocab.untitled)
        for each in members(self):
            each.unread = self.unread  # one count for all

    def verdicts(
        self, batch: Batch, visible: Visibility, at: Tensor, items: Tensor, rng: torch.Generator | None = None
    ) -> Tensor:
        """The log-odds of the mean probability."""
        sure = torch.stack([each.verdicts(batch, visible, at, items, rng).sigmoid() for each in members(self)]).mean(0)
        return torch.logit(sure, eps=1e-7)

    def score(self, batch: Batch, visible: Visibility) -> Tensor:
        return torch.stack([each.score(batch, visible).sigmoid() for each in members(self)]).mean(0)

    def score_among(self, batch: Batch, visible: Visibility, candidates: Tensor) -> Tensor:
        return torch.stack([each.score_among(batch, visible, candidates).sigmoid() for each in members(self)]).mean(0)

    def forward(self, batch: Batch, visible: Visibility, rng: torch.Generator | None = None, at: Tensor | None = None) -> Tensor:
        raise _missing("states")

    def output(self) -> Output:
        raise _missing("a table of items")


def _missing(what: str) -> ContractError:
    return ContractError(needed=f"a network with {what}", came="Ensemble", remedy="its objective is Shown(by_item=True)")


def members(network: Network) -> Sequence[Network]:
    """The networks that learn side by side: the members of an ensemble, else the network alone."""
    if not isinstance(network, EnsembleNetwork):
        return [network]
    return [each for each in network.members if isinstance(each, Network)]
