"""The points of a fit as CSR rows, for the Euclidean metric.

Products with centroids are in float64; no row is ever dense.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..frame import Frame
from ..metrics import EUCLIDEAN
from ..validation import check_magnitude
from .draws import Seeding, draw_points
from .points import PENDING, STABLE, Points, Problem, Step

__all__ = ["SparsePoints", "SparseRows", "cluster_sums"]

TILE = 1 << 20  # scores that are computed together
UNSET = np.uint32(0xFFFFFFFF)


class SparseRows:
    """A CSR matrix (N, D) as a batch (1, N, D), for `Problem.x`."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows
        self.shape = (1, *rows.shape)

    def __getitem__(self, _b: int) -> Any:
        return self.rows


class SparsePoints(Points):
    """Points in CSR; only the scores of a tile of rows are dense."""

    backend = "sparse"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        rows = problem.x.rows
        self._rows = rows
        if problem.check_finite and rows.nnz:
            check_magnitude(np.abs(rows.data).max()[None], problem.given_shape)
        zeros = np.zeros((1, self.shape[2]))
        self.frame = Frame(shift=zeros, scale=np.ones(1), metric=EUCLIDEAN, centre=zeros)
        self.w = np.ones(self.shape[1])
        if problem.weights is not None:
            self.w = problem.weights[0].astype(np.float64)
        self._squares = np.asarray(rows.multiply(rows).sum(axis=1, dtype=np.float64)).reshape(-1)
        self._labels = np.full((1, self.shape[1]), UNSET, np.uint32)

    def reset(self) -> None:
        self._labels[:] = UNSET

    def labels(self) -> np.ndarray:
        return self._labels

    def inverse_norms(self, b: int) -> np.ndarray:
        norms = np.sqrt(self._squares)
        return np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)

    def rows(self, b: int, index: np.ndarray) -> np.ndarray:
        return self._rows[index].toarray().astype(np.float64)

    def sum_weights(self, b: int, index: np.ndarray) -> np.ndarray:
        return self.w[index]

    def step(self, centroids: np.ndarray, limits: np.ndarray, tol: float, skip_empty: bool) -> Step:
        before = self._labels.copy()
        self.assign(centroids, limits > 0)
        k = centroids.shape[1]
        sums, weight_sum = cluster_sums(self._rows, self.w, self._labels[0], k)
        counts = np.bincount(self._labels[0], weights=self.w > 0, minlength=k).astype(np.int64)
        status = np.array([STABLE if (before == self._labels).all() else PENDING])
        return Step(
            iterations=(limits > 0).astype(np.int64),
            status=status,
            sums=sums[None],
            weight_sum=weight_sum[None],
            counts=counts[None],
            shift=np.zeros(1),
        )

    def assign(self, centroids: np.ndarray, elements: np.ndarray) -> None:
        if not elements[0]:
            return
        c = np.asarray(centroids[0], np.float64)
        columns = np.ascontiguousarray(c.T)
        half = 0.5 * np.square(c).sum(1)
        step = max(1, TILE // len(c))
        for lo in range(0, self.shape[1], step):
            scores = self._rows[lo : lo + step] @ columns
            scores -= half
            self._labels[0, lo : lo + step] = scores.argmax(axis=1)

    def costs(self, centroids: np.ndarray, b: int) -> np.ndarray:
        out = np.empty(self.shape[1])
        step = max(1, TILE // centroids.shape[1])
        for lo in range(0, self.shape[1], step):
            rows = slice(lo, lo + step)
            squares = self.distances(centroids[b], rows)
            labels = self._labels[b, rows, None].astype(np.int64)
            out[rows] = np.take_along_axis(squares, labels, 1)[:, 0]
        return out

    def distances(self, c: np.ndarray, rows: slice) -> np.ndarray:
        """Return squared distances (n, L) from these rows to centroids c (L, D)."""
        c = np.asarray(c, np.float64)
        square = self._rows[rows] @ np.ascontiguousarray(c.T)
        square *= -2.0
        square += self._squares[rows, None] + np.square(c).sum(1)
        return np.maximum(square, 0.0, out=square)

    def inertia(self, centroids: np.ndarray) -> np.ndarray:
        return np.array([self.w @ self.costs(centroids, 0)])

    def seeding(self, first: np.ndarray, trials: int) -> SparseSeeding:
        return SparseSeeding(self, first)


class SparseSeeding(Seeding):
    """k-means++ over CSR rows."""

    def __init__(self, points: SparsePoints, first: np.ndarray) -> None:
        self.points = points
        self.nearest = np.full((1, points.shape[1]), np.inf)
        self.totals(first[:, None])
        self.take(np.zeros(1, np.int64))

    def draw(self, uniforms: np.ndarray) -> np.ndarray:
        return draw_points(self.points.w * self.nearest[0], uniforms)[None]

    def totals(self, candidates: np.ndarray) -> np.ndarray:
        tried = self.points.distances(self.points.rows(0, candidates[0]), slice(None))
        tried[candidates[0], np.arange(tried.shape[1])] = 0.0
        self.tried = np.minimum(tried, self.nearest[0][:, None])  # (N, L)
        return (self.points.w @ self.tried)[None]

    def take(self, choice: np.ndarray) -> None:
        self.nearest = self.tried[:, choice[0]][None].copy()


def cluster_sums(
    x: Any, weights: np.ndarray, labels: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sum rows by cluster.

    Args:
        x: (N, D) rows, dense or CSR.
        weights: (N,) float.
        labels: (N,) clusters.
        k: The number of clusters.

    Returns:
        Weighted sums (K, D) and the weights (K,) in them, float64.
    """
    from scipy.sparse import csr_array

    columns = labels.astype(np.int64)
    starts = np.arange(len(labels) + 1)
    weight_of_label = csr_array((weights.astype(np.float64), columns, starts), (len(labels), k))
    sums = weight_of_label.T @ x
    sums = sums if isinstance(sums, np.ndarray) else sums.toarray()
    return sums, np.bincount(labels, weights, k)
