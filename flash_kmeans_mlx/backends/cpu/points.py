"""The CPU backend's Points: Numba kernels on our own threads, BLAS inside them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np

from ...metrics import Metric
from ..base import PENDING, STABLE, Points, Step, cost_of
from ._kernels import kernels
from .blas import sgemm_address, single_threaded
from .plan import plan
from .seeds import Seeds
from .store import Store
from .workers import Workers, thread_count

__all__ = ["CpuPoints"]

NOTHING = np.zeros(0, np.float32)


class CpuPoints(Seeds, Points):
    """Points in host memory. Whole members are runs of one kernel if small, else their shards are."""

    def __init__(
        self, x: Any, n_clusters: int, metric: Metric, weights: np.ndarray | None, max_bytes: int, check_finite: bool,
        runs: int = 1,
    ) -> None:
        self.shape = b, n, d = x.shape
        self.metric, self.point_weights, self.max_bytes = metric, weights, max_bytes
        arrays = 4 + metric.spherical + (weights is not None) + (runs > 1)
        self.plan = plan(self.shape, n_clusters, arrays, 2 + int(np.log(n_clusters)), thread_count(), max_bytes)
        self.store = Store(x, metric, check_finite)
        self.frame = self.store.frame
        self.kernels = kernels()
        self.sgemm = sgemm_address()
        self.workers = Workers(self.plan.threads)
        self.dims = (0,) * d if self.plan.lanes else None
        self.scratch = [self._scratch() for _ in range(self.plan.threads)]
        self.shards = self._cut(self.plan.shards)
        self.inverse = self._inverse_norms() if metric.spherical else None
        self.weights = weights
        if self.inverse is not None and metric.unit_points:
            self.weights = self.inverse if weights is None else weights * self.inverse
        self._labels = np.empty((b, n), np.uint32)
        self.sums = np.zeros((b, n_clusters, d))
        self.mass = np.zeros((b, n_clusters))
        self.counts = np.zeros((b, n_clusters), np.int64)
        self._changes: tuple[np.ndarray, ...] | None = None
        self._exit = ExitStack()

    def __enter__(self) -> CpuPoints:
        self._exit.callback(self.workers.close)
        self._exit.enter_context(single_threaded())
        return self

    def __exit__(self, *exc: object) -> None:
        self._exit.close()

    def like(self, x: np.ndarray, weights: np.ndarray, n_clusters: int) -> CpuPoints:
        return CpuPoints(x, n_clusters, self.metric, weights, self.max_bytes, check_finite=False)

    def reset(self) -> None:
        self._labels.fill(self.kernels.UNSET)
        for total in (self.sums, self.mass, self.counts):
            total.fill(0)

    def labels(self) -> np.ndarray:
        return self._labels

    def rows(self, b: int, index: np.ndarray) -> np.ndarray:
        return self.store.decode(self.store.x[b, index]).astype(np.float64)

    def sum_weights(self, b: int, index: np.ndarray) -> np.ndarray:
        return np.ones(len(index)) if self.weights is None else self.weights[b, index].astype(np.float64)

    # Steps

    def step(self, centroids: np.ndarray, limits: np.ndarray, tol: float, skip_empty: bool) -> Step:
        if self.plan.small:
            return self._run_members(centroids, limits, tol, skip_empty)
        changed = np.zeros(len(limits), np.int64)
        inner, bias = self._inner(centroids)
        running = np.flatnonzero(limits > 0)
        changes = self._accumulators(centroids.shape[1])
        for g in range(0, len(running), self.plan.group):
            members = running[g : g + self.plan.group]
            moved = np.zeros((len(members), len(self.shards)), np.int64)

            def shard(slot: int, i: int, members: np.ndarray = members, moved: np.ndarray = moved) -> None:
                m, s = divmod(i, len(self.shards))
                moved[m, s] = self._step_rows(
                    slot, members[m], inner, bias, *self.shards[s], tuple(a[m, s] for a in changes)
                )

            def merge(_slot: int, m: int, members: np.ndarray = members) -> None:
                b = members[m]
                self.kernels.merge(*(a[m] for a in changes), self.sums[b], self.mass[b], self.counts[b])

            self.workers.run(shard, moved.size)
            self.workers.run(merge, len(members))
            changed[members] = moved.sum(axis=1)
        ones = (limits > 0).astype(np.int64)
        status = np.where(changed == 0, STABLE, PENDING)
        return Step(ones, status, self.sums, self.mass, self.counts, np.zeros(len(limits)))

    def _run_members(self, c: np.ndarray, limits: np.ndarray, tol: float, skip_empty: bool) -> Step:
        b, n, d = self.shape
        k = c.shape[1]
        results, moved = np.zeros((b, 2), np.int64), np.zeros(b)
        weights = self._weights_of_all()

        def members(slot: int, lo: int, hi: int) -> None:
            self.kernels.fit_members(
                self.sgemm, *self.store.kernel_frames, self.frame.shift, self.frame.scale, weights,
                self.metric.spherical, tol, limits, skip_empty, self.dims, lo, hi, c, self._labels, self.sums, self.mass,
                self.counts, results, moved, np.empty((n, d), np.float32), np.empty((k, d), np.float32),
                np.empty(k, np.float32), np.zeros(k, np.bool_), self.scratch[slot],
            )  # fmt: skip

        self._run_slices(members, b)
        return Step(results[:, 0], results[:, 1], self.sums, self.mass, self.counts, moved)

    def assign(self, centroids: np.ndarray, members: np.ndarray) -> None:
        inner, bias = self._inner(centroids)
        which = np.flatnonzero(members)
        unused = (np.zeros((0, 0)), np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.bool_))
        if self.plan.small:

            def part(slot: int, lo: int, hi: int) -> None:
                self.kernels.assign_members(
                    self.sgemm, *self.store.kernel_frames, self.dims, which, lo, hi, inner, bias, self._labels,
                    (NOTHING, *unused), self.scratch[slot],
                )  # fmt: skip

            return self._run_slices(part, len(which))

        def shard(slot: int, i: int) -> None:
            m, s = divmod(i, len(self.shards))
            self._step_rows(slot, which[m], inner, bias, *self.shards[s], unused)

        self.workers.run(shard, len(which) * len(self.shards))

    def _step_rows(
        self, slot: int, b: int, inner: np.ndarray, bias: np.ndarray, lo: int, hi: int, sums: tuple[np.ndarray, ...]
    ) -> int:
        weights = self._given(None if self.weights is None else self.weights[b])
        return self.kernels.step_rows(
            self.sgemm, self.store.x[b], self.store.kernel_frame(b), weights, inner[b], bias[b], self.dims,
            lo, hi, self._labels[b], True, sums[0].size > 0, *sums, self.scratch[slot],
        )  # fmt: skip

    # Costs

    def inertia(self, centroids: np.ndarray) -> np.ndarray:
        totals = self._measure(centroids, np.arange(self.shape[0]), NOTHING)
        if not self.metric.spherical:
            return totals * self.frame.scale**2
        if not self.metric.unit_points:
            return -totals * self.frame.scale
        weights = self.point_weights
        whole = self.shape[1] if weights is None else weights.sum(axis=1, dtype=np.float64)
        return whole - totals

    def costs(self, centroids: np.ndarray, b: int) -> np.ndarray:
        out = np.empty(self.shape[1], np.float32)
        self._measure(centroids, np.array([b]), out)
        inverse = self.inverse[b] if self.inverse is not None else None
        return cost_of(self.metric, out, inverse, self.frame.scale[b])

    def _measure(self, centroids: np.ndarray, members: np.ndarray, out: np.ndarray) -> np.ndarray:
        inner = self.frame.inward(centroids)
        if self.plan.small and not out.size:
            whole, weights = np.zeros(self.shape[0]), self._weights_of_all()

            def part(slot: int, lo: int, hi: int) -> None:
                self.kernels.measure_members(
                    *self.store.kernel_frames, weights, inner, self._labels, not self.metric.spherical, lo, hi, out,
                    whole, self.scratch[slot][1],
                )  # fmt: skip

            self._run_slices(part, len(whole))
            return whole
        totals = np.zeros((len(members), len(self.shards)))

        def shard(slot: int, i: int) -> None:
            m, s = divmod(i, len(self.shards))
            b = members[m]
            weights = self._given(None if self.weights is None else self.weights[b])
            totals[m, s] = self.kernels.measure_rows(
                self.store.x[b], self.store.kernel_frame(b), weights, inner[b], self._labels[b], *self.shards[s],
                not self.metric.spherical, out, self.scratch[slot][1],
            )  # fmt: skip

        self.workers.run(shard, totals.size)
        return totals.sum(axis=1)

    def _inverse_norms(self) -> np.ndarray:
        """(B, N) float32: 1 / ||row|| in the frame, 0 for zero rows."""
        norms = self.squares()
        np.sqrt(norms, out=norms)
        return np.divide(1, norms, out=norms, where=norms > 0)

    def squares(self) -> np.ndarray:
        """(B, N) float32: ||row||^2 in the frame."""
        b, n, _ = self.shape
        out = np.empty((b, n), np.float32)

        def shard(slot: int, i: int) -> None:
            m, s = divmod(i, len(self.shards))
            frame = self.store.kernel_frame(m)
            self.kernels.square_rows(self.store.x[m], frame, *self.shards[s], out[m], self.scratch[slot][1])

        self.workers.run(shard, b * len(self.shards))
        return out

    # Memory

    def _inner(self, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Centroids in the frame, and their bias."""
        inner = self.frame.inward(centroids)
        return inner, self.metric.bias(inner)

    def _scratch(self) -> tuple[np.ndarray, ...]:
        """(scores, tile, lanes, best, label, work) of kernels/cpu/tile.py for one thread."""
        t, n, d = self.plan.tile, *self.shape[1:]
        scores = np.empty((self.plan.block, t), np.float32)
        tiles = (-(-n // t) if self.plan.small else 1) if self.plan.lanes else 0
        lanes = np.empty((tiles, d, t), np.float32)
        tile, best = np.empty((t, d), np.float32), np.empty(t, np.float32)
        return scores, tile, lanes, best, np.empty(t, np.int32), np.empty(10, np.int32)

    def _accumulators(self, k: int) -> tuple[np.ndarray, ...]:
        """Zeroed (group, S, K, ...) sums, mass, counts, touched; `merge` leaves them zeroed."""
        if self._changes is None:
            lead = (self.plan.group, len(self.shards), k)
            self._changes = (
                np.zeros((*lead, self.shape[2])), np.zeros(lead), np.zeros(lead, np.int64), np.zeros(lead, np.bool_),
            )  # fmt: skip
        return self._changes

    def _cut(self, shards: int) -> list[tuple[int, int]]:
        """Row ranges of the shards; multiples of the block that seeding draws from."""
        n = self.shape[1]
        size = -(-n // shards)
        size = -(-size // self.kernels.DRAW) * self.kernels.DRAW
        return [(lo, min(lo + size, n)) for lo in range(0, n, size)]

    def _run_slices(self, task: Callable[[int, int, int], None], n: int) -> None:
        """task(slot, lo, hi) over slices of range(n), a few per thread so that they even out."""
        size = max(1, -(-n // (4 * self.plan.threads)))
        self.workers.run(lambda slot, i: task(slot, i * size, min(n, (i + 1) * size)), -(-n // size))

    def _weights_of_all(self) -> np.ndarray:
        """(B, N), or (B, 0) for all ones."""
        return np.zeros((self.shape[0], 0), np.float32) if self.weights is None else self.weights

    @staticmethod
    def _given(weights: np.ndarray | None) -> np.ndarray:
        """Kernels take an empty array for all ones."""
        return NOTHING if weights is None else weights
