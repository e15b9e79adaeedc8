"""Which parameters learn: the survey's axis of training strategies, as values."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

from torch import nn

from lmrs.errors import ContractError

# The cells of the survey's Table 1, in its words; `taxonomy.cell` computes which one a System is in.
PRETRAIN = "pre-train only"
WHOLE = "fine-tune whole"
PART = "fine-tune part"
EXTRA = "fine-tune extra part"
FIXED_MODEL = "fixed-model prompt tuning"
FIXED_PROMPT = "fixed-prompt model tuning"
TUNING_FREE = "tuning-free prompting"
BOTH = "prompt + model tuning"
STRATEGIES = (PRETRAIN, WHOLE, PART, EXTRA, FIXED_MODEL, FIXED_PROMPT, TUNING_FREE, BOTH)


@dataclass(frozen=True)
class Everything:
    """All parameters of the network and of the objective's head."""

    def chooses(self, name: str) -> bool:
        return True


@dataclass(frozen=True)
class Part:
    """Parameters of the network whose name matches a pattern (shell style: "adapter.*", "blocks.1.*"), and the head's."""

    patterns: tuple[str, ...]

    def chooses(self, name: str) -> bool:
        return name.startswith("head.") or any(fnmatch.fnmatchcase(name.removeprefix("network."), p) for p in self.patterns)


@dataclass(frozen=True)
class Head:
    """Only the parameters of the objective's head; the network is frozen."""

    def chooses(self, name: str) -> bool:
        return name.startswith("head.")


@dataclass(frozen=True)
class Nothing:
    """No parameter: what was pre-trained answers as it is."""

    def chooses(self, name: str) -> bool:
        return False


Tuning = Everything | Part | Head | Nothing


def apply(tuning: Tuning, modules: nn.Module) -> tuple[list[str], list[str]]:
    """Set requires_grad by name; returns (tuned, frozen) names. Raises ContractError if a Part matches nothing."""
    tuned: list[str] = []
    frozen: list[str] = []
    for name, parameter in modules.named_parameters():
        parameter.requires_grad_(tuning.chooses(name))
        (tuned if parameter.requires_grad else frozen).append(name)
    if isinstance(tuning, Part) and not any(n.startswith("network.") for n in tuned):
        names = sorted({n.removeprefix("network.").split(".")[0] for n in tuned + frozen if n.startswith("network.")})
        raise ContractError(
            needed=f"parameters that match {', '.join(tuning.patterns)}",
            came=f"a network of {', '.join(names)}",
            remedy="change Part(...)",
        )
    return tuned, frozen
