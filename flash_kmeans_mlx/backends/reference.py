"""NumPy in float64, untiled and obvious: the oracle the other backends are judged by."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from ..frame import Frame
from ..metrics import Metric, unit_rows
from ..validation import check_magnitude
from .base import PENDING, STABLE, Points, Step

__all__ = ["ReferencePoints"]

UNSET = np.uint32(0xFFFFFFFF)


class ReferencePoints(Points):
    """Points as float64; cosine normalises them, as in the definition."""

    def __init__(
        self, x: Any, n_clusters: int, metric: Metric, weights: np.ndarray | None, max_bytes: int, check_finite: bool
    ) -> None:
        raw = np.array(x.astype(mx.float32) if isinstance(x, mx.array) else x, np.float64)
        self.shape = b, n, d = raw.shape
        need = b * n * (n_clusters + 3 * d) * 8
        if max_bytes and need > max_bytes:
            raise ValueError(
                f"max_mem_gb={max_bytes / 1e9:g} must be >= {need / 1e9:.3g} GB for x.shape={self.shape} with"
                f" n_clusters={n_clusters} on the reference backend, which does not tile; use another backend"
            )
        if check_finite:
            check_magnitude(np.abs(raw).max((1, 2)), self.shape)
        self.metric, self.point_weights = metric, weights
        self.frame = Frame(np.zeros((b, d)), np.ones(b), metric.spherical)
        self.raw = raw
        self.x = unit_rows(raw) if metric.unit_points else raw
        self.w = np.ones((b, n)) if weights is None else weights.astype(np.float64)
        self._labels = np.full((b, n), UNSET, np.uint32)

    def like(self, x: np.ndarray, weights: np.ndarray, n_clusters: int) -> ReferencePoints:
        return ReferencePoints(x, n_clusters, self.metric, weights, 0, check_finite=False)

    def reset(self) -> None:
        self._labels[:] = UNSET

    def labels(self) -> np.ndarray:
        return self._labels

    def rows(self, b: int, index: np.ndarray) -> np.ndarray:
        return self.raw[b, index]

    def sum_weights(self, b: int, index: np.ndarray) -> np.ndarray:
        if not self.metric.unit_points:
            return self.w[b, index]
        norms = np.linalg.norm(self.raw[b, index], axis=-1)
        return np.divide(self.w[b, index], norms, out=np.zeros_like(norms), where=norms > 0)

    def step(self, centroids: np.ndarray, limits: np.ndarray, tol: float, skip_empty: bool) -> Step:
        n_members, k, d = centroids.shape
        before = self._labels.copy()
        self.assign(centroids, limits > 0)
        sums, mass = np.zeros((n_members, k, d)), np.zeros((n_members, k))
        counts = np.zeros((n_members, k), np.int64)
        for b in range(n_members):
            weight = self.sum_weights(b, np.arange(self.shape[1]))
            np.add.at(sums[b], self._labels[b], weight[:, None] * self.raw[b])
            np.add.at(mass[b], self._labels[b], weight)
            np.add.at(counts[b], self._labels[b], weight > 0)
        status = np.where((before == self._labels).all(axis=1), STABLE, PENDING)
        return Step((limits > 0).astype(np.int64), status, sums, mass, counts, np.zeros(n_members))

    def assign(self, centroids: np.ndarray, members: np.ndarray) -> None:
        for b in np.flatnonzero(members):
            self._labels[b] = self._distances(b, centroids[b].astype(np.float64)).argmin(axis=1)

    def _distances(self, b: int, c: np.ndarray) -> np.ndarray:
        """(N, K) costs."""
        if self.metric.spherical:
            return (1.0 if self.metric.unit_points else 0.0) - self.x[b] @ c.T
        return np.stack([np.square(self.x[b] - row).sum(axis=1) for row in c], axis=1)

    def costs(self, centroids: np.ndarray, b: int) -> np.ndarray:
        distances = self._distances(b, centroids[b].astype(np.float64))
        return np.take_along_axis(distances, self._labels[b][:, None].astype(np.int64), axis=1)[:, 0]

    def inertia(self, centroids: np.ndarray) -> np.ndarray:
        return np.array([self.w[b] @ self.costs(centroids, b) for b in range(self.shape[0])])

    # k-means++: spherical metrics seed by the squared distance of unit rows, dot weighs a row by its norm as well.

    def seed_start(self, index: np.ndarray, trials: int) -> None:
        self._seed_x = unit_rows(self.raw) if self.metric.spherical else self.raw
        norms = np.linalg.norm(self.raw, axis=-1)
        self._seed_w = self.w * (norms > 0) if self.metric.spherical else self.w
        if self.metric.spherical and not self.metric.unit_points:
            self._seed_w = self.w * norms
        self._tried = self._to(index[:, None])
        self.seed_take(np.zeros(len(index), np.int64))

    def _to(self, index: np.ndarray) -> np.ndarray:
        """(B, L, N) squared distances to the points index (B, L)."""
        x = self._seed_x
        return np.stack([np.square(x[b][None] - x[b, i][:, None]).sum(-1) for b, i in enumerate(index)])

    def seed_draw(self, uniforms: np.ndarray) -> np.ndarray:
        out = np.full((self.shape[0], len(uniforms)), -1, np.int64)
        for b, potential in enumerate(self._seed_w * self._nearest):
            total = np.cumsum(potential)
            if total[-1] > 0:
                last = np.flatnonzero(potential)[-1]
                out[b] = np.minimum(np.searchsorted(total, uniforms * total[-1], side="right"), last)
        return out

    def seed_try(self, index: np.ndarray) -> np.ndarray:
        self._tried = np.minimum(self._to(index), self._nearest[:, None])
        return np.einsum("bn,bln->bl", self._seed_w, self._tried)

    def seed_take(self, choice: np.ndarray) -> None:
        self._nearest = self._tried[np.arange(len(choice)), choice]

    def seed_end(self) -> None:
        del self._seed_x, self._seed_w, self._tried, self._nearest
