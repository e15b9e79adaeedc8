"""lmrs: language-modelling paradigms for recommender systems, on one platform."""

from __future__ import annotations

__version__ = "0.1.0"
