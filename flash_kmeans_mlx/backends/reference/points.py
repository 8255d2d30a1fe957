"""The points of a fit in float64, untiled and plain: the oracle of the tests."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ... import frame as frames
from ...frame import Frame
from ...metrics import directional_costs, unit_rows
from ...validation import check_cap, check_magnitude
from ..draws import Seeding, draw_points
from ..points import PENDING, STABLE, Points, Problem, Step

__all__ = ["ReferencePoints"]

UNSET = np.uint32(0xFFFFFFFF)


class ReferencePoints(Points):
    """Points as float64; cosine normalises them, as its definition says."""

    backend = "reference"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        b, n, d = self.shape
        x = problem.x
        n_clusters = problem.n_clusters
        metric = problem.metric
        weights = problem.weights
        need = problem.bytes_in_use + b * n * (2 * n_clusters + 6 * d + 8) * 8 + (1 << 18)
        where = "on the reference backend, which does not tile"
        check_cap(
            problem.max_bytes, need, problem.given_shape, n_clusters, where, "use another backend"
        )
        raw = np.array(x.astype(mx.float32) if isinstance(x, mx.array) else x, np.float64)
        if problem.check_finite:
            check_magnitude(np.abs(raw).max((1, 2)), problem.given_shape)
        dtype = np.float64 if x.dtype == np.float64 else np.float32
        sample = raw[:, :: frames.sample_step(n)].astype(dtype)
        frames.choose(sample, np.ones(b), metric)  # which refuses what float32 can't resolve
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
        sums = np.zeros((n_batch, k, d))
        weight_sum = np.zeros((n_batch, k))
        counts = np.zeros((n_batch, k), np.int64)
        for b in range(n_batch):
            weight = self.sum_weights(b, np.arange(self.shape[1]))
            np.add.at(sums[b], self._labels[b], weight[:, None] * self.raw[b])
            np.add.at(weight_sum[b], self._labels[b], weight)
            np.add.at(counts[b], self._labels[b], weight > 0)
        status = np.where((before == self._labels).all(axis=1), STABLE, PENDING)
        return Step(
            iterations=(limits > 0).astype(np.int64),
            status=status,
            sums=sums,
            weight_sum=weight_sum,
            counts=counts,
            shift=np.zeros(n_batch),
        )

    def assign(self, centroids: np.ndarray, elements: np.ndarray) -> None:
        for b in np.flatnonzero(elements).tolist():
            costs = self.metric.costs(self.x[b], centroids[b].astype(np.float64))
            self._labels[b] = costs.argmin(axis=1)

    def costs(self, centroids: np.ndarray, b: int) -> np.ndarray:
        return self._of_labels(self.metric.costs(self.x[b], centroids[b].astype(np.float64)), b)

    def directional_costs(self, centroids: np.ndarray, b: int) -> np.ndarray:
        costs = directional_costs(unit_rows(self.raw[b]), centroids[b].astype(np.float64))
        return self._of_labels(costs, b)

    def _of_labels(self, costs: np.ndarray, b: int) -> np.ndarray:
        """Return the costs (N,) under the labels, from all costs (N, K)."""
        labels = self._labels[b][:, None].astype(np.int64)
        return np.take_along_axis(costs, labels, axis=1)[:, 0]

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
        ones = np.ones(points.shape[1])
        self.w = np.stack([ones if w is None else w.astype(np.float64) for w in weights])
        if points.metric.spherical and not points.metric.unit_points:
            self.w *= norms
        self.nearest = np.full(points.shape[:2], np.inf)
        self.totals(first[:, None])
        self.take(np.zeros(len(first), np.int64))

    def draw(self, uniforms: np.ndarray) -> np.ndarray:
        return np.stack([draw_points(potential, uniforms) for potential in self.w * self.nearest])

    def totals(self, candidates: np.ndarray) -> np.ndarray:
        squares = [
            np.square(self.x[b][None] - self.x[b, i][:, None]).sum(-1)
            for b, i in enumerate(candidates)
        ]
        self.tried = np.minimum(np.stack(squares), self.nearest[:, None])  # (B, L, N)
        return np.einsum("bn,bln->bl", self.w, self.tried)

    def take(self, choice: np.ndarray) -> None:
        self.nearest = self.tried[np.arange(len(choice)), choice]
