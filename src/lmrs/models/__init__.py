"""Descriptions of models and, below each, its module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmrs.lazily import lazily

if TYPE_CHECKING:
    from lmrs.models.adaptor import Adaptor
    from lmrs.models.answering import Answering
    from lmrs.models.blocks import Gated, PostNorm, PreNorm, QueryNorm
    from lmrs.models.caser import Caser
    from lmrs.models.ease import EASE
    from lmrs.models.ensemble import Ensemble
    from lmrs.models.features import Features
    from lmrs.models.fused_prompt import FusedPrompt
    from lmrs.models.generative import Generative, Scratch
    from lmrs.models.markov import Markov
    from lmrs.models.named_entities import NamedEntities
    from lmrs.models.neighbours import ItemKNN
    from lmrs.models.network import Control, ControlScorer, Model, Network, Scorer
    from lmrs.models.news import News
    from lmrs.models.path_lm import PathLM
    from lmrs.models.pepler import Pepler
    from lmrs.models.peter import Peter
    from lmrs.models.popularity import Popularity, RecentPopularity
    from lmrs.models.profile_prompt import ProfilePrompt
    from lmrs.models.prompted import Prompted
    from lmrs.models.recurrent import Recurrent
    from lmrs.models.relational import Relational
    from lmrs.models.reward_prompt import RewardPrompt
    from lmrs.models.text_clicks import TextClicks
    from lmrs.models.text_items import TextItems
    from lmrs.models.text_towers import TextTowers
    from lmrs.models.transformer import Transformer
    from lmrs.models.walks import Walks

__all__ = [
    "Adaptor",
    "Answering",
    "Caser",
    "Control",
    "ControlScorer",
    "EASE",
    "Ensemble",
    "Features",
    "FusedPrompt",
    "Generative",
    "Gated",
    "ItemKNN",
    "Markov",
    "Model",
    "NamedEntities",
    "Network",
    "News",
    "PathLM",
    "Pepler",
    "Peter",
    "Popularity",
    "PostNorm",
    "PreNorm",
    "ProfilePrompt",
    "Prompted",
    "QueryNorm",
    "RecentPopularity",
    "Recurrent",
    "RewardPrompt",
    "Relational",
    "Scorer",
    "Scratch",
    "TextClicks",
    "TextItems",
    "TextTowers",
    "Transformer",
    "Walks",
]

_WHERE = {
    "Adaptor": "adaptor",
    "Answering": "answering",
    "Caser": "caser",
    "Control": "network",
    "ControlScorer": "network",
    "EASE": "ease",
    "Ensemble": "ensemble",
    "Features": "features",
    "FusedPrompt": "fused_prompt",
    "Gated": "blocks",
    "Generative": "generative",
    "ItemKNN": "neighbours",
    "Markov": "markov",
    "Model": "network",
    "NamedEntities": "named_entities",
    "Network": "network",
    "News": "news",
    "PathLM": "path_lm",
    "Pepler": "pepler",
    "Peter": "peter",
    "Popularity": "popularity",
    "PostNorm": "blocks",
    "PreNorm": "blocks",
    "ProfilePrompt": "profile_prompt",
    "Prompted": "prompted",
    "QueryNorm": "blocks",
    "RecentPopularity": "popularity",
    "Recurrent": "recurrent",
    "Relational": "relational",
    "RewardPrompt": "reward_prompt",
    "Scorer": "network",
    "Scratch": "generative",
    "TextClicks": "text_clicks",
    "TextItems": "text_items",
    "TextTowers": "text_towers",
    "Transformer": "transformer",
    "Walks": "walks",
}

if not TYPE_CHECKING:  # to a type checker a module with __getattr__ has every name
    __getattr__, __dir__ = lazily(__name__, _WHERE)
