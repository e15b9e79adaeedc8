"""What puts items in order beside their scores: a hash that breaks ties; and what becomes of a score that is no number."""

from __future__ import annotations

from typing import NoReturn

import numpy as np

from lmrs.errors import DivergedError

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(x: np.ndarray) -> np.ndarray:
    """uint64 -> uint64, one to one: the output function of SplitMix64 (Steele, Lea & Flood 2014, section 5)."""
    x = x ^ (x >> np.uint64(30))
    x *= np.uint64(0xBF58476D1CE4E5B9)  # in place from here on: tied rows spend their time here
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def priority(seed: int, query: np.ndarray, item: np.ndarray) -> np.ndarray:
    """uint64 hash of (seed, query, item), arrays broadcast together; no two items of a query share one.

    seed: any whole number (its low 64 bits count). query, item: integer arrays of at least one axis.
    """
    start = mix(np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64) + _GOLDEN)
    row = mix(start ^ np.asarray(query).astype(np.uint64))
    return mix(row + np.asarray(item).astype(np.uint64) * _GOLDEN)


def refuse(query: int, item: int, value: float) -> NoReturn:
    """For a score that has no place in an order. Raises DivergedError."""
    raise DivergedError(
        needed="finite scores",
        came=f"{value} for query {query}, item {item}",
        remedy="the model has diverged or divides by zero; ranking it would give a number without meaning",
    )
