"""How items are written as tokens: indexers, the fitted Index, and its trie."""

from lmrs.indexing.autoencoder import LearnedQuantised
from lmrs.indexing.collaborative import Collaborative
from lmrs.indexing.drawn import Independent, Random
from lmrs.indexing.hybrid import Hybrid
from lmrs.indexing.index import Collisions, Index, Indexer
from lmrs.indexing.quantised import Quantised
from lmrs.indexing.text import NumberText, Sequential, Title
from lmrs.indexing.trie import Trie

INDEXERS = (Collaborative, Hybrid, Independent, LearnedQuantised, NumberText, Quantised, Random, Sequential, Title)

__all__ = [
    "INDEXERS",
    "Collaborative",
    "Collisions",
    "Hybrid",
    "Independent",
    "Index",
    "Indexer",
    "LearnedQuantised",
    "NumberText",
    "Quantised",
    "Random",
    "Sequential",
    "Title",
    "Trie",
]
