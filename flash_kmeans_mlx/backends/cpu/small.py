"""Small problems on the CPU backend: a member's whole run is one call of a kernel, and members run in parallel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..base import Step
from .points import NO_SUMS, NOTHING, CpuPoints

__all__ = ["SmallCpuPoints"]


class SmallCpuPoints(CpuPoints):
    """CpuPoints whose kernels take slices of the batch."""

    def step(self, centroids: np.ndarray, limits: np.ndarray, tol: float, skip_empty: bool) -> Step:
        b, n, d = self.shape
        k = centroids.shape[1]
        results, moved = np.zeros((b, 2), np.int64), np.zeros(b)

        def run(slot: int, lo: int, hi: int) -> None:
            own = (
                np.empty((n, d), np.float32),
                np.empty((k, d), np.float32),
                np.empty(k, np.float32),
                np.zeros(k, np.bool_),
            )
            self.kernels.fit_members(
                self.sgemm, *self.store.kernel_frames, self.frame.shift, self.frame.scale, self.weights,
                self.metric.spherical, tol, limits, skip_empty, self.dims, lo, hi, centroids, self._labels, self.sums,
                self.mass, self.counts, results, moved, *own, self.scratch[slot],
            )  # fmt: skip

        self._run_slices(run, b)
        return Step(results[:, 0], results[:, 1], self.sums, self.mass, self.counts, moved)

    def assign(self, centroids: np.ndarray, members: np.ndarray) -> None:
        inner, bias = self.inner(centroids)
        which = np.flatnonzero(members)

        def run(slot: int, lo: int, hi: int) -> None:
            self.kernels.assign_members(
                self.sgemm, *self.store.kernel_frames, self.dims, which, lo, hi, inner, bias, self._labels,
                (NOTHING, *NO_SUMS), self.scratch[slot],
            )  # fmt: skip

        self._run_slices(run, len(which))

    def measure(self, inner: np.ndarray) -> np.ndarray:
        totals = np.zeros(self.shape[0])

        def run(slot: int, lo: int, hi: int) -> None:
            self.kernels.measure_members(
                *self.store.kernel_frames, self.weights, inner, self._labels, not self.metric.spherical, lo, hi, totals,
                NOTHING, self.scratch[slot][1],
            )  # fmt: skip

        self._run_slices(run, len(totals))
        return totals

    def _run_slices(self, task: Callable[[int, int, int], None], n: int) -> None:
        """task(slot, lo, hi) over slices of range(n), a few per thread so that they even out."""
        size = max(1, -(-n // (4 * self.plan.threads)))
        self.workers.run(lambda slot, i: task(slot, i * size, min(n, (i + 1) * size)), -(-n // size))
