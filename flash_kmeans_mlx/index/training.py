"""The sample that a k-means inside an index is trained on."""

from __future__ import annotations

import warnings

import numpy as np

from ..kmeans.fit import caller_level
from .sources import TrainingRows

__all__ = ["drawn", "sample"]

ADVISED = 39  # training points per centroid, as in faiss


def sample(
    rows: TrainingRows, n_centroids: int, max_points_per_centroid: int, seed: int
) -> np.ndarray:
    """Return the rows to train centroids on: all, or a sample drawn by the seed, in order.

    Args:
        rows: (N, D) training vectors; of a source, only those of the sample are read.
        n_centroids: Number of centroids.
        max_points_per_centroid: Rows of the sample for each centroid.
        seed: Of the sample.

    Raises:
        ValueError: There are fewer rows than centroids.

    Warns:
        UserWarning: There are fewer than 39 rows per centroid.
    """
    n = len(rows)
    if n < n_centroids:
        raise ValueError(
            f"x must have N >= {n_centroids} training vectors for {n_centroids} centroids,"
            f" got N={n}"
        )
    advised = ADVISED * n_centroids
    if n < advised:
        warnings.warn(
            f"{n} training vectors for {n_centroids} centroids: {advised} or more are advised",
            UserWarning,
            stacklevel=caller_level(),
        )
    return drawn(rows, max_points_per_centroid * n_centroids, seed)


def drawn(rows: TrainingRows, n_sample: int, seed: int) -> np.ndarray:
    """Return all rows, or n_sample of more that are drawn by the seed, in order."""
    n = len(rows)
    if n <= n_sample:
        return rows if isinstance(rows, np.ndarray) else rows[np.arange(n)]
    chosen = np.random.default_rng(seed).choice(n, n_sample, replace=False)
    return rows[np.sort(chosen)]
