"""The result of a fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["KMeansResult"]


@dataclass(frozen=True)
class KMeansResult:
    """Result of a fit; unpacks, indexes and slices like ``(labels, centroids, n_iter)``.

    Labels, centroids and inertia agree: every label is the best of the *returned* centroids, and
    ties go to the lowest index. The dimension B is absent from every field if the input had two
    dimensions, and stands for B, H if it had four. Labels and centroids are `mx.array` if the input
    was, NumPy arrays otherwise; other fields are NumPy or Python values.

    Attributes:
        labels: (B, N) uint32.
        centroids: (B, K, D) float32; unit rows for cosine and dot.
        n_iter: The most iterations (assignments) that a batch element took.
        inertia: (B,) float64, the weighted sum of the points' costs: squared distances,
            ``1 - cos``, or ``-dot``.
        converged: (B,) bool; False where `max_iters` ended the loop.
        n_iter_per_batch: (B,) int64.
        backend: The name of the backend that ran.
        strategy: The way in which it assigned, where it has several: "fused", "addmm" or "groups"
            on "metal"; "tiles", "loop", "int8" or "head 31" (31 directions bound the scores) on
            "cpu".
        products: The share of the products of points and centroids that was computed in float32.
        seconds: Wall time by phase: "seeding", "assignment" (with sums, and with the moves that
            kernels make), "update" (centroids, empty clusters), and "choice", the part of the
            others that was spent on finding the fastest strategy on "cpu".
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

    @property
    def cluster_sizes(self) -> np.ndarray:
        """(B, K) int64, the number of points of each cluster, whatever their weights."""
        *batch, k, _ = self.centroids.shape
        labels = np.asarray(self.labels).reshape(-1, self.labels.shape[-1])
        sizes = np.stack([np.bincount(row, minlength=k) for row in labels])
        return sizes.reshape(*batch, k)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.labels, self.centroids, self.n_iter))

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: Any) -> Any:
        return tuple(self)[index]
