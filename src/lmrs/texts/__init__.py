"""Item texts to vectors: which text, which encoder, and when it is run (jointly, from a bounded cache, or once for all)."""

from lmrs.texts.encoder import Encoder, TextEncoder, Tokenised
from lmrs.texts.frozen import Frozen, encoded
from lmrs.texts.item_text import Coverage, ItemText, ItemTexts, without_words
from lmrs.texts.policies import Cached, ItemVectors, Joint
from lmrs.texts.pooling import Attention

Policy = Joint | Cached | Frozen

__all__ = [
    "Attention",
    "Cached",
    "Coverage",
    "Encoder",
    "Frozen",
    "ItemText",
    "ItemTexts",
    "ItemVectors",
    "Joint",
    "Policy",
    "TextEncoder",
    "Tokenised",
    "encoded",
    "without_words",
]
