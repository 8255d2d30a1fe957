"""What a fit returns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["KMeansResult"]


@dataclass(frozen=True)
class KMeansResult:
    """Result of a fit; unpacks into ``labels, centroids, n_iter``.

    Labels, centroids and inertia agree: every label is the best of the *returned* centroids, ties going to the lowest
    index. The dimension B is absent from every field if the input had two dimensions. Labels and centroids are `mx.array`
    if the input was, NumPy arrays otherwise; the others are NumPy or Python values.

    Attributes:
        labels: (B, N) uint32.
        centroids: (B, K, D) float32; unit rows for cosine and dot.
        n_iter: the most iterations (assignments) that a batch element took.
        inertia: (B,) float64, weighted sum of the points' costs: squared distances, ``1 - cos``, or ``-dot``.
        converged: (B,) bool; False where `max_iters` ended the loop.
        n_iter_per_batch: (B,) int64.
        backend: name of the backend that ran.
        strategy: how it assigned, where it has a choice: "fused" or "addmm" on "metal"; "tiles", "loop", "head 31, groups" (31
            directions bound the scores) or "groups" on "cpu".
        products: multiply-adds of points and centroids that were computed, as a share of all of them.
        seconds: wall time by phase: "seeding", "assignment" (sums and in-kernel moves included), "update" (centroids, empty
            clusters), and "choice", the part of the others that went into finding the fastest way on "cpu".
    """

    labels: Any
    centroids: Any
    n_iter: int
    inertia: np.ndarray | float
    converged: np.ndarray | bool
    n_iter_per_batch: np.ndarray | int
    backend: str
    strategy: str = ""
    products: float = 1.0
    seconds: dict[str, float] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.labels, self.centroids, self.n_iter))
