"""NumPy in float64, untiled and obvious: the oracle the other backends are judged by."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ... import frame as frames
from ...frame import Frame
from ...metrics import unit_rows
from ...validation import check_cap, check_magnitude
from ..draws import draw_points
from ..points import PENDING, STABLE, Points, Problem, Seeding, Step

__all__ = ["ReferencePoints"]

UNSET = np.uint32(0xFFFFFFFF)


class ReferencePoints(Points):
    """Points as float64; cosine normalises them, as in the definition."""

    backend = "reference"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        b, n, d = self.shape
        x, n_clusters, metric, weights = (
            problem.x,
            problem.n_clusters,
            problem.metric,
            problem.weights,
        )
        need = problem.bytes_in_use + b * n * (2 * n_clusters + 6 * d + 8) * 8 + (1 << 18)
        where = "on the reference backend, which does not tile"
        check_cap(
            problem.max_bytes, need, problem.given_shape, n_clusters, where, "use another backend"
        )
        raw = np.array(x.astype(mx.float32) if isinstance(x, mx.array) else x, np.float64)
        if problem.check_finite:
            check_magnitude(np.abs(raw).max((1, 2)), problem.given_shape)
        sample = raw[:, :: frames.sample_step(n)].astype(
            np.float64 if x.dtype == np.float64 else np.float32
        )
        frames.choose(sample, np.ones(b), metric)  # for its refusal
        self.frame = Frame(np.zeros((b, d)), np.ones(b), metric, np.zeros((b, d)))
        self.raw = raw
        self.x = unit_rows(raw) if metric.unit_points else raw
        self.w = np.ones((b, n)) if weights is None else weights.astype(np.float64)
        self._labels = np.full((b, n), UNSET, np.uint32)

    def reset(self) -> None:
        self._labels[:] = UNSET

    def labels(self) -> np.ndarray:
        return self._labels

    def inverse_norms(self, b: int) -> np.ndarray:
        norms = np.linalg.norm(self.raw[b], axis=-1)
        return np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)

    def rows(self, b: int, index: np.ndarray) -> np.ndarray:
        return self.raw[b, index]

    def sum_weights(self, b: int, index: np.ndarray) -> np.ndarray:
        if not self.metric.unit_points:
            return self.w[b, index]
        return self.w[b, index] * self.inverse_norms(b)[index]

    def step(self, centroids: np.ndarray, limits: np.ndarray, tol: float, skip_empty: bool) -> Step:
        n_batch, k, d = centroids.shape
        before = self._labels.copy()
        self.assign(centroids, limits > 0)
        sums, weight_sum = np.zeros((n_batch, k, d)), np.zeros((n_batch, k))
        counts = np.zeros((n_batch, k), np.int64)
        for b in range(n_batch):
            weight = self.sum_weights(b, np.arange(self.shape[1]))
            np.add.at(sums[b], self._labels[b], weight[:, None] * self.raw[b])
            np.add.at(weight_sum[b], self._labels[b], weight)
            np.add.at(counts[b], self._labels[b], weight > 0)
        status = np.where((before == self._labels).all(axis=1), STABLE, PENDING)
        return Step(
            (limits > 0).astype(np.int64), status, sums, weight_sum, counts, np.zeros(n_batch)
        )

    def assign(self, centroids: np.ndarray, elements: np.ndarray) -> None:
        for b in np.flatnonzero(elements).tolist():
            self._labels[b] = self._distances(b, centroids[b].astype(np.float64)).argmin(axis=1)

    def _distances(self, b: int, c: np.ndarray) -> np.ndarray:
        """(N, K) costs."""
        if self.metric.spherical and not self.metric.unit_points:
            return -self.x[b] @ c.T
        if self.metric.unit_points:
            return self._angles(self.x[b], c)
        return np.stack([np.square(self.x[b] - row).sum(axis=1) for row in c], axis=1)

    def _angles(self, x: np.ndarray, c: np.ndarray) -> np.ndarray:
        """(N, K) 1 - cos of unit rows (N, D) and c (K, D): half the squared differences; 1 without a direction."""
        half = np.stack([np.square(x - row).sum(axis=1) / 2 for row in unit_rows(c)], axis=1)
        return np.where(np.outer(x.any(1), c.any(1)), half, 1.0)

    def costs(self, centroids: np.ndarray, b: int) -> np.ndarray:
        return self._own(self._distances(b, centroids[b].astype(np.float64)), b)

    def directional_costs(self, centroids: np.ndarray, b: int) -> np.ndarray:
        return self._own(self._angles(unit_rows(self.raw[b]), centroids[b].astype(np.float64)), b)

    def _own(self, distances: np.ndarray, b: int) -> np.ndarray:
        return np.take_along_axis(distances, self._labels[b][:, None].astype(np.int64), axis=1)[
            :, 0
        ]

    def inertia(self, centroids: np.ndarray) -> np.ndarray:
        return np.array([self.w[b] @ self.costs(centroids, b) for b in range(self.shape[0])])

    def seeding(self, first: np.ndarray, trials: int) -> ReferenceSeeding:
        return ReferenceSeeding(self, first)


class ReferenceSeeding(Seeding):
    """Distances by subtraction."""

    def __init__(self, points: ReferencePoints, first: np.ndarray) -> None:
        norms = np.linalg.norm(points.raw, axis=-1)
        self.x = unit_rows(points.raw) if points.metric.spherical else points.raw
        weights = [points.draw_weights(b) for b in range(points.shape[0])]
        self.w = np.stack(
            [np.ones(points.shape[1]) if w is None else w.astype(np.float64) for w in weights]
        )
        if points.metric.spherical and not points.metric.unit_points:
            self.w *= norms
        self.nearest = np.full(points.shape[:2], np.inf)
        self.totals(first[:, None])
        self.take(np.zeros(len(first), np.int64))

    def draw(self, uniforms: np.ndarray) -> np.ndarray:
        return np.stack([draw_points(potential, uniforms) for potential in self.w * self.nearest])

    def totals(self, candidates: np.ndarray) -> np.ndarray:
        x = self.x
        tried = np.stack(
            [np.square(x[b][None] - x[b, i][:, None]).sum(-1) for b, i in enumerate(candidates)]
        )
        self.tried = np.minimum(tried, self.nearest[:, None])  # (B, L, N)
        return np.einsum("bn,bln->bl", self.w, self.tried)

    def take(self, choice: np.ndarray) -> None:
        self.nearest = self.tried[np.arange(len(choice)), choice]
