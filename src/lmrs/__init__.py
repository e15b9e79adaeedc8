"""lmrs: language-modelling paradigms for recommender systems, on one platform.

The public names are those of `PUBLIC`; they are imported on first use, so that `import lmrs` is quick and needs no torch.
Parts of systems are in `lmrs.models`, `lmrs.objectives`, `lmrs.losses`, `lmrs.views`, `lmrs.tasks`, `lmrs.tuning`; measures in
`lmrs.measures`; the catalogue in `lmrs.systems`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

PUBLIC = {
    # data
    "Dataset": "lmrs.dataset",
    "load": "lmrs.sources",
    "synthetic": "lmrs.sources.synthetic",
    "Split": "lmrs.split",
    "Queries": "lmrs.split",
    "leave_one_out": "lmrs.split",
    "by_time": "lmrs.split",
    "by_user": "lmrs.split",
    "k_core": "lmrs.split",
    # systems
    "System": "lmrs.system",
    "Stage": "lmrs.system",
    "Estimate": "lmrs.system",
    "Budget": "lmrs.system",
    "Paper": "lmrs.system",
    "cell": "lmrs.taxonomy",
    # training, judging, using
    "fit": "lmrs.fit",
    "Fitted": "lmrs.fit",
    "Execution": "lmrs.fit",
    "evaluate": "lmrs.evaluate",
    "Evaluation": "lmrs.evaluate",
    "compare": "lmrs.compare",
    "Recommender": "lmrs.recommender",
    "Recommendations": "lmrs.recommendations",
    "QuickRecommender": "lmrs.quick",
    # what goes wrong
    "LmrsError": "lmrs.errors",
    "UserError": "lmrs.errors",
}

if TYPE_CHECKING:
    from lmrs.compare import compare
    from lmrs.dataset import Dataset
    from lmrs.errors import LmrsError, UserError
    from lmrs.evaluate import Evaluation, evaluate
    from lmrs.fit import Execution, Fitted, fit
    from lmrs.quick import QuickRecommender
    from lmrs.recommendations import Recommendations
    from lmrs.recommender import Recommender
    from lmrs.sources import load
    from lmrs.sources.synthetic import synthetic
    from lmrs.split import Queries, Split, by_time, by_user, k_core, leave_one_out
    from lmrs.system import Budget, Estimate, Paper, Stage, System
    from lmrs.taxonomy import cell

__all__ = [
    "Budget", "Dataset", "Estimate", "Evaluation", "Execution", "Fitted", "LmrsError", "Paper", "Queries", "QuickRecommender",
    "Recommendations", "Recommender", "Split", "Stage", "System", "UserError", "by_time", "by_user", "cell", "compare",
    "evaluate", "fit", "k_core", "leave_one_out", "load", "synthetic",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'lmrs' has no attribute {name!r}")
    return getattr(import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC})


def _function(name: str) -> property:
    """`lmrs.fit` is the function, although `lmrs/fit.py` is a module and the import system would put it there."""
    return property(lambda package: __getattr__(name), lambda package, module: None)


class _Package(ModuleType):
    compare, evaluate, fit = _function("compare"), _function("evaluate"), _function("fit")


sys.modules[__name__].__class__ = _Package
