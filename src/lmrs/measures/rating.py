"""Measures of predicted ratings: how far a number is from the number the user gave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lmrs.errors import ContractError


def rmse(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Root of the mean squared difference. Both float [N], N >= 1, in the rating's unit; nothing is clipped."""
    return float(np.sqrt(np.mean(_differences(prediction, truth) ** 2)))


def mae(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Mean absolute difference. Both float [N], N >= 1, in the rating's unit; nothing is clipped."""
    return float(np.mean(np.abs(_differences(prediction, truth))))


@dataclass(frozen=True)
class RMSE:
    """Root mean squared error over pairs of (prediction, rating): one number, 0 is best."""

    reads: ClassVar[str] = "pairs"
    per_query: ClassVar[bool] = False

    def __str__(self) -> str:
        return "RMSE"

    def __call__(self, prediction: np.ndarray, truth: np.ndarray) -> float:
        return rmse(prediction, truth)


@dataclass(frozen=True)
class MAE:
    """Mean absolute error over pairs of (prediction, rating): one number, 0 is best."""

    reads: ClassVar[str] = "pairs"
    per_query: ClassVar[bool] = False

    def __str__(self) -> str:
        return "MAE"

    def __call__(self, prediction: np.ndarray, truth: np.ndarray) -> float:
        return mae(prediction, truth)


def _differences(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    prediction, truth = np.asarray(prediction, np.float64), np.asarray(truth, np.float64)
    if prediction.ndim != 1 or prediction.shape != truth.shape or not len(truth):
        raise ContractError(needed="as many predictions as ratings, at least one", came=f"{prediction.shape} and {truth.shape}")
    off = prediction - truth
    if not np.isfinite(off).all():
        at = int(np.argmin(np.isfinite(off)))
        raise ContractError(needed="finite predictions and ratings", came=f"{prediction[at]} for {truth[at]} at place {at}")
    return off
