"""Descriptions of models and, below each, its module."""

from lmrs.models.blocks import Gated, PostNorm, PreNorm, QueryNorm
from lmrs.models.features import Features
from lmrs.models.network import Control, ControlScorer, Model, Network, Scorer
from lmrs.models.transformer import Transformer

__all__ = [
    "Control",
    "ControlScorer",
    "Features",
    "Gated",
    "Model",
    "Network",
    "PostNorm",
    "PreNorm",
    "QueryNorm",
    "Scorer",
    "Transformer",
]
