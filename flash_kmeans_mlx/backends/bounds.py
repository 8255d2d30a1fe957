"""Proofs that a search missed no neighbour: the least score that a nearer row may have.

A search ranks rows by scores in float32, keeps the best as candidates, and computes their distances
in float64. It has found the nearest rows for certain if the rows that it left out score no more
than `least_by_...` of the k-th distance. The bounds are those of sums in any order (Higham,
Accuracy and Stability of Numerical Algorithms, 3.1), with room for the rounding of what is summed.
"""

from __future__ import annotations

import os

import mlx.core as mx
import numpy as np

from ..frame import EPS
from ..metrics import Proximity

__all__ = [
    "EPS64",
    "TINY",
    "least_by_differences",
    "least_by_expansion",
    "least_by_products",
    "product_rounding",
]

EPS64 = 2.0**-53  # half a unit in the last place of 1 in float64
TINY = 2.0**-126  # below it float32 loses bits
TF32 = 2.0**-10  # relative change of a product whose factors are rounded to TF32


def least_by_differences(
    proximity: Proximity,
    tau: np.ndarray,
    norms: np.ndarray | float,
    d: int,
    scale: float,
    *,
    rounded: bool,
) -> np.ndarray:
    """Return (Q,) float32 scores: rows that score no more are farther than tau.

    Scores are minus sums of differences, or of their squares.

    Args:
        proximity: The distance; for "cosine", differences are those of unit rows.
        tau: (Q,) float64 distances.
        norms: (Q,) norms of the queries as they are read, in the norm of the distance.
        d: Dimensions.
        scale: Rows are read as ``(x - shift) / scale``.
        rounded: Whether reading them rounds.
    """
    squared = proximity.unit or proximity.name == "euclidean"
    reading = EPS * rounded
    remaining = 1.0 - (4 if proximity.name == "linf" else d + 8) * EPS - reading
    if remaining <= 0.5:
        return np.full(len(tau), -np.inf, np.float32)
    with np.errstate(all="ignore"):
        # 1 - cos is half the square of the difference of unit rows.
        factor = (2.0**0.5 if proximity.unit else 1.0) / (scale * remaining)
        size = (np.sqrt(tau) if squared else tau) * factor
        size += (d * TINY + (d + 8) * EPS64 * proximity.unit) / remaining
        if rounded:
            size += norms * (2.001 * reading / remaining)
        return _round_down(-(size * size + d * TINY) if squared else -size)


def least_by_products(
    proximity: Proximity,
    tau: np.ndarray,
    norms: np.ndarray | float,
    d: int,
    *,
    bases: np.ndarray | float = 0.0,
    reach: float = 1.0,
    offset: float = 0.0,
    scale: float = 1.0,
    rounded: float = 0.0,
) -> np.ndarray:
    """Return (Q,) float32 scores: rows that score no more are at tau or farther.

    Scores are products with rows less a shift.

    Args:
        proximity: "dot", or "cosine" with queries and rows of norm 1 or 0.
        tau: (Q,) float64 distances.
        norms: (Q,) norms of the queries as they are read.
        d: Dimensions.
        bases: (Q,) products of the queries, as given, with the shift.
        reach: The largest norm of the rows as they are read.
        offset: The norm of the shift as rows are read.
        scale: A product of rows as given is this many times their score.
        rounded: The relative error of the products beyond that of sums in float32.
    """
    with np.errstate(all="ignore"):
        exact = (1.0 - tau) if proximity.unit else (-tau - bases) / scale
        error = ((d + 8) * EPS + rounded) * norms * reach
        error += 4 * (d + 8) * EPS64 * norms * (reach + offset)
        return _round_down(exact - error - d * TINY * (1.0 + norms + reach))


def least_by_expansion(
    tau: np.ndarray,
    norms: np.ndarray,
    d: int,
    scale: float,
    reach: float,
    *,
    rounded: float = 0.0,
) -> np.ndarray:
    """Return (Q,) float32 scores: rows that score no more are farther than tau.

    Scores are ``<q, x> - ||x||^2 / 2``; arguments are as in `least_by_products`.
    """
    with np.errstate(all="ignore"):
        error = ((d + 12) * EPS + rounded) * np.square(norms + reach)
        error += d * TINY * (1.0 + norms + reach)
        return _round_down((np.square(norms) - tau / scale**2) / 2 - error)


def product_rounding() -> float:
    """Return the relative error that MLX's products may have beyond that of float32."""
    is_gpu = mx.default_device().type == mx.DeviceType.gpu
    return TF32 if is_gpu and os.environ.get("MLX_ENABLE_TF32") != "0" else 0.0


def _round_down(least: np.ndarray) -> np.ndarray:
    """Return float32 values that are no larger."""
    return np.nextafter(least.astype(np.float32), np.float32(-np.inf))
