"""Weighted draws of points, as seeding and backends make them, and how many k-means|| makes."""

from __future__ import annotations

import numpy as np

__all__ = ["OVERSAMPLING", "ROUNDS", "chunks", "draw_points"]

OVERSAMPLING = 2.0  # candidates per round of k-means||, in units of K (Bahmani et al., 2012)
ROUNDS = 5  # of k-means||
CHUNK = 1 << 18  # points whose potentials exist at a time


def draw_points(potential: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Indices at uniforms (L,) in [0, 1) of the cumulative potential (N,), or -1 where there is none."""
    sums = np.array([potential[c].sum(dtype=np.float64) for c in chunks(len(potential))])
    ends = np.cumsum(sums)
    if ends[-1] <= 0:
        return np.full(len(uniforms), -1, np.int64)
    drawn = uniforms * ends[-1]
    chunk = np.minimum(np.searchsorted(ends, drawn, side="right"), np.flatnonzero(sums)[-1])
    out = np.empty(len(uniforms), np.int64)
    for c in np.unique(chunk):
        inside = potential[c * CHUNK : (c + 1) * CHUNK]
        last = (
            len(inside) - 1 - int((inside[::-1] > 0).argmax())
        )  # rounding must not draw beyond it
        within = np.searchsorted(
            np.cumsum(inside, dtype=np.float64),
            drawn[chunk == c] - (ends[c] - sums[c]),
            side="right",
        )
        out[chunk == c] = c * CHUNK + np.minimum(within, last)
    return out


def chunks(n: int) -> list[slice]:
    """Slices of CHUNK points that cover n."""
    return [slice(lo, min(lo + CHUNK, n)) for lo in range(0, n, CHUNK)]
