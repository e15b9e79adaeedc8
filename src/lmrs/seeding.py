"""Randomness as a function of (seed, place): a run can stop anywhere and go on bit for bit."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def mix(seed: int, *place: int | str) -> int:
    """A 63-bit number that depends on every argument (BLAKE2b)."""
    text = "/".join(str(part) for part in (seed, *place))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *place: int | str) -> torch.Generator:
    """A torch generator on the CPU, seeded for one place."""
    return torch.Generator().manual_seed(mix(seed, *place))


def numpy_generator(seed: int, *place: int | str) -> np.random.Generator:
    """A numpy generator, seeded for one place."""
    return np.random.default_rng(mix(seed, *place))
