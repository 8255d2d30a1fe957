"""Vectors as indexes take them, and those that a k-means inside an index is trained on."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from .. import validation
from ..backends.neighbours import largest
from ..kmeans.fit import caller_level

__all__ = ["sample", "vectors"]

ADVISED = 39  # training points per centroid, as faiss has it


def vectors(x: Any, d: int, name: str = "x") -> tuple[np.ndarray, bool]:
    """((N, d) float32 in C order, whether x is an `mx.array`)."""
    data = validation.data(x, name=name)
    if data.batched or data.shape[2] != d:
        raise ValueError(f"{name} must have shape (N, D)=(N, {d}), got {data.given_shape}")
    validation.check_magnitude(largest(data.x), data.given_shape, name)
    return np.ascontiguousarray(validation.to_numpy(data.x[0]), np.float32), data.mlx


def sample(rows: np.ndarray, n_centroids: int, most_each: int, seed: int) -> np.ndarray:
    """Rows (N, D) to train that many centroids on: all, or `most_each` per centroid, drawn by the seed, in order.

    Raises:
        ValueError: there are fewer rows than centroids.
    """
    n = len(rows)
    if n < n_centroids:
        raise ValueError(
            f"x must have N >= {n_centroids} training vectors for {n_centroids} centroids, got N={n}"
        )
    if n < ADVISED * n_centroids:
        warnings.warn(
            f"{n} training vectors for {n_centroids} centroids: {ADVISED * n_centroids} or more are advised",
            UserWarning,
            stacklevel=caller_level(),
        )
    if n <= most_each * n_centroids:
        return rows
    return rows[
        np.sort(np.random.default_rng(seed).choice(n, most_each * n_centroids, replace=False))
    ]
