"""Weighted random draws of points, for seeding and backends."""

from __future__ import annotations

import numpy as np

__all__ = ["OVERSAMPLING", "ROUNDS", "chunks", "draw_points"]

OVERSAMPLING = 2.0  # candidates of a round of k-means||, in units of K (Bahmani et al., 2012)
ROUNDS = 5  # of k-means||
CHUNK = 1 << 18  # points that are summed together


def draw_points(potential: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Draw points in proportion to their potential.

    Args:
        potential: (N,) non-negative float.
        uniforms: (L,) random numbers in [0, 1).

    Returns:
        (L,) int64 points, or -1 where the potential is 0 everywhere.
    """
    sums = np.array([potential[c].sum(dtype=np.float64) for c in chunks(len(potential))])
    ends = np.cumsum(sums)
    if ends[-1] <= 0:
        return np.full(len(uniforms), -1, np.int64)
    drawn = uniforms * ends[-1]
    chunk = np.minimum(np.searchsorted(ends, drawn, side="right"), np.flatnonzero(sums)[-1])
    out = np.empty(len(uniforms), np.int64)
    for c in np.unique(chunk):
        part = potential[c * CHUNK : (c + 1) * CHUNK]
        last = len(part) - 1 - int((part[::-1] > 0).argmax())  # rounding must not draw beyond it
        cumulative = np.cumsum(part, dtype=np.float64)
        start = ends[c] - sums[c]
        within = np.searchsorted(cumulative, drawn[chunk == c] - start, side="right")
        out[chunk == c] = c * CHUNK + np.minimum(within, last)
    return out


def chunks(n: int) -> list[slice]:
    """Return slices of CHUNK points that cover n points."""
    return [slice(lo, min(lo + CHUNK, n)) for lo in range(0, n, CHUNK)]
