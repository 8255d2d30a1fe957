"""An order of centroids in which alike ones are neighbours, for bounds of groups."""

from __future__ import annotations

import numpy as np

__all__ = ["halved"]


def halved(c: np.ndarray, size: int) -> np.ndarray:
    """Return an order (K,) int32 of centroids (K, D) in which groups of `size` lie close together.

    Centroids are halved again and again, at multiples of `size`, along the direction in which they
    extend most.
    """

    def cut(part: np.ndarray) -> list[np.ndarray]:
        if len(part) <= size:
            return [part]
        rows = c[part] - c[part].mean(0)
        start = np.random.default_rng(len(part)).standard_normal(len(part)).astype(np.float32)
        direction = rows.T @ start
        for _ in range(4):
            direction = rows.T @ (rows @ direction)
            direction /= np.linalg.norm(direction) + 1e-30
        ranked = part[np.argsort(rows @ direction, kind="stable")]
        half = -(-len(part) // size) // 2 * size
        return cut(ranked[:half]) + cut(ranked[half:])

    return np.concatenate(cut(np.arange(len(c)))).astype(np.int32)
