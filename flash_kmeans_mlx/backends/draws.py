"""Weighted random draws of points, for seeding and backends; the interface of k-means++."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

__all__ = ["OVERSAMPLING", "ROUNDS", "SEED_ROWS", "Seeding", "chunks", "draw_points", "greedy"]

OVERSAMPLING = 2.0  # candidates of a round of k-means||, in units of K (Bahmani et al., 2012)
ROUNDS = 5  # of k-means||
SEED_ROWS = 256  # of a sample for k-means++, for each cluster: 0.2% more inertia than with all rows
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


class Seeding(ABC):
    """A run of k-means++ with the distance of every point to its nearest centre so far.

    Spherical metrics seed by the squared distance of unit rows, ``2 - 2 cos``; dot weighs a row by
    its norm as well.
    """

    @abstractmethod
    def draw(self, uniforms: np.ndarray) -> np.ndarray:
        """Return candidates (B, L), drawn by weight times squared distance to the nearest centre.

        Args:
            uniforms: (L,) random numbers in [0, 1).

        Returns:
            (B, L) int64 points; -1 where every point coincides with a centre.
        """

    @abstractmethod
    def totals(self, candidates: np.ndarray) -> np.ndarray:
        """Return (B, L) float64 weighted sums of squared distances with one more centre.

        Args:
            candidates: (B, L) points; each is tried as that centre.
        """

    @abstractmethod
    def take(self, choice: np.ndarray) -> None:
        """Make candidate choice[b] of the last `totals` a centre."""


def greedy(state: Seeding, first: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Return what `Points.kmeans_plusplus` does, by a seeding that has the first centres."""
    chosen = np.full((len(first), len(uniforms)), -1, np.int64)
    chosen[:, 0] = first
    for k in range(1, len(uniforms)):
        candidates = state.draw(uniforms[k])
        found = candidates[:, 0] >= 0
        if not found.any():
            break
        best = state.totals(np.maximum(candidates, 0)).argmin(axis=1)
        state.take(best)
        chosen[found, k] = candidates[found, best[found]]
    return chosen
