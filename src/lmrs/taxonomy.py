"""Reads the survey's training-strategy cell off a System, and proves it on the weights (Liu, Zhang & Gulla, section 3)."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from lmrs.errors import LmrsError
from lmrs.models import Model
from lmrs.system import Estimate, Stage, System
from lmrs.tuning import (
    BOTH,
    EXTRA,
    FIXED_MODEL,
    FIXED_PROMPT,
    PART,
    PRETRAIN,
    TUNING_FREE,
    WHOLE,
    Everything,
    Head,
    Nothing,
    Part,
    Tuning,
)

CONTROL = "control"


class TaxonomyError(LmrsError):
    """Parameters moved that were declared frozen, or none of the declared ones did."""


def cell(system: System) -> str:
    """The training strategy, computed from the stages: how many there are, what the last one tunes, and from what it starts.

    One stage of a model that starts from nothing is pre-training that already is the recommender. With more stages, or a model
    that was pre-trained elsewhere, the last stage's tuning names the cell; a *new* model that starts from parts of an old one
    counts as an extra part, as the survey does. A model that is asked in words of a prompt belongs to the prompting half.
    """
    if all(isinstance(stage, Estimate) for stage in system.stages):
        return CONTROL
    stages = [stage for stage in system.stages if isinstance(stage, Stage)]
    last, model = stages[-1], system.model
    assert isinstance(model, Model)
    if len(stages) == 1 and not model.pretrained:
        return PRETRAIN
    if model.prompted:
        return _prompting(last.tuning, model)
    if isinstance(last.tuning, Nothing):
        return PRETRAIN
    if last.start == "new":
        return EXTRA
    if isinstance(last.tuning, Part) and {model.group(name) for name in last.tuning.patterns} == {"head"}:
        return EXTRA
    match last.tuning:
        case Everything():
            return WHOLE
        case Part():
            return PART
        case Head():
            return EXTRA
    raise TypeError(f"not a Tuning: {last.tuning!r}")


def _prompting(tuning: Tuning, model: Model) -> str:
    """The cell of a model that is asked in words, by the groups of parameters that learn."""
    match tuning:
        case Everything():
            groups = {"model", "prompt"} if model.soft else {"model"}
        case Part(patterns):
            groups = {model.group(name) for name in patterns}
        case Head():
            groups = {"head"}
        case Nothing():
            return TUNING_FREE
    if groups == {"head"}:
        return EXTRA
    if "model" not in groups:
        return FIXED_MODEL
    return BOTH if "prompt" in groups else FIXED_PROMPT


def fingerprints(modules: nn.Module) -> dict[str, str]:
    """SHA-256 of every parameter's bytes, by name: what `check` compares."""
    found = {}
    for name, parameter in modules.named_parameters():
        raw = parameter.detach().cpu().contiguous().view(-1).view(torch.uint8)  # numpy knows no bfloat16
        found[name] = hashlib.sha256(raw.numpy().tobytes()).hexdigest()
    return found


def check(before: dict[str, str], modules: nn.Module, tuned: list[str], *, updates: int) -> dict[str, int]:
    """Compare the weights with their fingerprints from before a stage.

    Raises TaxonomyError if a frozen tensor changed by a single bit, or if no declared one moved in `updates` >= 1 updates.
    Returns counts: tensors and parameters declared tuned, those that moved, and the frozen ones.
    """
    after = fingerprints(modules)
    moved = {name for name in after if after[name] != before[name]}
    strayed = sorted(moved - set(tuned))
    if strayed:
        raise TaxonomyError(f"declared frozen but changed: {', '.join(strayed[:5])}")
    if updates and tuned and not moved:
        raise TaxonomyError(f"none of the {len(tuned)} tensors declared tuned has moved in {updates} updates")
    size = {name: p.numel() for name, p in modules.named_parameters()}
    return {
        "tensors_tuned": len(tuned),
        "tensors_moved": len(moved),
        "parameters_tuned": sum(size[name] for name in tuned),
        "parameters_moved": sum(size[name] for name in moved),
        "parameters_frozen": sum(size.values()) - sum(size[name] for name in tuned),
    }
