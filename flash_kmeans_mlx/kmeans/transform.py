"""Distances of points to centroids."""

from __future__ import annotations

import numpy as np

from .. import validation
from ..backends.stream import RowStream
from .running import tiles

__all__ = ["distances_to"]


def distances_to(
    data: validation.Data, c: np.ndarray, name: str, max_mem_gb: float, check_finite: bool
) -> np.ndarray:
    """Return the distance (B, N, K) float32 of every point to every centroid.

    Args:
        data: The points.
        c: Centroids (K, D), or those of every batch element.
        name: The name of the metric.
        max_mem_gb: A cap on what is allocated, the result included.
        check_finite: Refuse NaN and Inf.
    """
    b, n, _ = data.shape
    c = np.broadcast_to(c.reshape(-1, *c.shape[-2:]), (b, *c.shape[-2:]))
    step = _rows(data, c.shape[1], validation.cap(max_mem_gb))
    out = np.empty((b, n, c.shape[1]), np.float32)
    metric = validation.metric(name)
    for i in range(b):
        centroids = c[i].astype(np.float64)
        for lo, part in tiles(data.x, i, step):
            rows = np.asarray(part, np.float64)
            if check_finite:
                validation.check_magnitude(np.abs(rows).max(), data.given_shape)
            out[i, lo : lo + step] = metric.distances(rows, centroids)
    return out


def _rows(data: validation.Data, k: int, limit: int) -> int:
    """Return the rows of a tile that fit the cap beside the result."""
    b, n, d = data.shape
    bytes_in_use = data.copied + 4 * b * n * k * (1 + data.mlx) + 64 * b * k * d + (1 << 16)
    row = 8 * (6 * d + 4 * k)
    if isinstance(data.x, RowStream):
        one = data.x.rows.reading_bytes(1)
        bytes_in_use += one
        row += data.x.rows.reading_bytes(2) - one
    validation.check_cap(
        limit,
        bytes_in_use + min(n, 64) * row,
        data.given_shape,
        k,
        "for its distances",
        "transform fewer points",
    )
    most = max(64, (1 << 20) // max(k, d))
    return min(most, (limit - bytes_in_use) // row) if limit else most
