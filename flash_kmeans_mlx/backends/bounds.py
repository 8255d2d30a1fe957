"""What a row must score in float32 so that it may be nearer, in float64, than a distance: candidates are proven with it.

A search keeps the best candidates by score and computes their distances. It has found the nearest rows for certain if the
rows that it left out score no more than `least_by_...` of the k-th distance. Bounds are those of sums in any order
(Higham, Accuracy and Stability of Numerical Algorithms, 3.1), with room for the rounding of what is summed.
"""

from __future__ import annotations

import os

import mlx.core as mx
import numpy as np

from ..frame import EPS
from ..metrics import Proximity

__all__ = [
    "TINY",
    "WIDE",
    "least_by_differences",
    "least_by_expansion",
    "least_by_products",
    "product_rounding",
]

WIDE = 2.0**-53  # the same in float64
TINY = 2.0**-126  # below it float32 loses bits
TF32 = 2.0**-10  # what rounding the factors to TF32 changes in products


def least_by_differences(
    proximity: Proximity,
    tau: np.ndarray,
    norms: np.ndarray | float,
    d: int,
    scale: float,
    *,
    rounded: bool,
) -> np.ndarray:
    """(Q,) float32: rows that score no more are farther than tau. Scores are minus sums of differences, or of their squares.

    Args:
        proximity: the distance; for "cosine", differences are those of unit rows.
        tau: (Q,) float64 distances.
        norms: (Q,) of the queries as they are read, in the norm of the distance.
        d: dimensions.
        scale: rows are read as ``(x - shift) / scale``.
        rounded: reading them rounds.
    """
    squared = proximity.unit or proximity.name == "euclidean"
    off = EPS * rounded
    left = 1.0 - (4 if proximity.name == "linf" else d + 8) * EPS - off
    if left <= 0.5:
        return np.full(len(tau), -np.inf, np.float32)
    with np.errstate(all="ignore"):
        size = (np.sqrt(tau) if squared else tau) * (
            (2.0**0.5 if proximity.unit else 1.0) / (scale * left)
        )
        size += (
            d * TINY + (d + 8) * WIDE * proximity.unit
        ) / left  # 1 - cos is half the square of the chord
        if rounded:
            size += norms * (2.001 * off / left)
        return _down(-(size * size + d * TINY) if squared else -size)


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
    """(Q,) float32: rows that score no more are farther than tau, or as far. Scores are products with rows less a shift.

    Args:
        proximity: "dot", or "cosine" with queries and rows of norm 1 or 0.
        tau: (Q,) float64 distances.
        norms: (Q,) of the queries as they are read.
        d: dimensions.
        bases: (Q,) products of the queries, as given, with the shift.
        reach: the largest norm of the rows as they are read.
        offset: the norm of the shift as rows are read.
        scale: a product of rows as given is this many times their score.
        rounded: relative error of the products beyond that of sums in float32.
    """
    with np.errstate(all="ignore"):
        exact = (1.0 - tau) if proximity.unit else (-tau - bases) / scale
        off = ((d + 8) * EPS + rounded) * norms * reach + 4 * (d + 8) * WIDE * norms * (
            reach + offset
        )
        return _down(exact - off - d * TINY * (1.0 + norms + reach))


def least_by_expansion(
    tau: np.ndarray, norms: np.ndarray, d: int, scale: float, reach: float, *, rounded: float = 0.0
) -> np.ndarray:
    """(Q,) float32: rows that score no more are farther than tau. Scores are ``<q, x> - ||x||^2 / 2``; arguments as above."""
    with np.errstate(all="ignore"):
        off = ((d + 12) * EPS + rounded) * np.square(norms + reach) + d * TINY * (
            1.0 + norms + reach
        )
        return _down((np.square(norms) - tau / scale**2) / 2 - off)


def product_rounding() -> float:
    """The relative error that MLX's products may have beyond that of float32."""
    return (
        TF32
        if mx.default_device().type == mx.DeviceType.gpu
        and os.environ.get("MLX_ENABLE_TF32") != "0"
        else 0.0
    )


def _down(least: np.ndarray) -> np.ndarray:
    """As float32, no larger."""
    return np.nextafter(least.astype(np.float32), np.float32(-np.inf))
