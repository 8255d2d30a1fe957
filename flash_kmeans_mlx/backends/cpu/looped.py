"""Smaller problems on the CPU backend: a batch element's whole loop is one call of a kernel, by one thread or by a team."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..points import Problem, Step
from . import kernels
from .plan import PAD, Plan
from .points import NO_SUMS, NOTHING, CpuPoints
from .seeds import sched_yield
from .store import empty_lines

__all__ = ["LoopedCpuPoints"]

ALONE = 50_000_000  # products of one pass over a batch element that are not worth waking other threads for
CALL = 3_000_000_000  # products in one call of a kernel, some 50 ms: Ctrl-C waits for its end


class LoopedCpuPoints(CpuPoints):
    """CpuPoints whose kernels run Lloyd's loop: over slices of the batch, or with all threads on one batch element after another."""

    def __init__(self, problem: Problem, plan: Plan) -> None:
        super().__init__(problem, plan)
        self.strategy = "loop"
        self._cuts = np.array([lo for lo, _ in self.shards] + [self.shape[1]])
        self._work = self.shape[1] * self.shape[2] * problem.n_clusters

    def step(self, centroids: np.ndarray, limits: np.ndarray, tol: float, skip_empty: bool) -> Step:
        b = len(limits)
        limits = np.minimum(limits, max(1, CALL // self._work))
        outcomes = np.zeros((b, 3))
        totals = (self.sums, self.weight_sum, self.counts)

        def run(slot: int, lo: int, hi: int, shared: tuple, team: tuple) -> None:
            kernels.loop.fit_elements(
                self.store.sources,
                self.frame.shift,
                self.frame.scale,
                self.frame.centre,
                self.weights,
                self.kind,
                tol,
                self.problem.summed_shift,
                limits,
                skip_empty,
                self._cuts,
                lo,
                hi,
                centroids,
                self._labels,
                totals,
                outcomes,
                shared,
                team,
                self.lanes[slot],
                self.scratch[slot],
            )

        if self.plan.team:
            for m in np.flatnonzero(limits > 0).tolist():
                self._run_team(m, run)
        else:
            work = max(1, int(limits.max()) * self._work)

            def alone(slot: int, lo: int, hi: int) -> None:
                run(slot, lo, hi, self._shared(), (np.zeros(3, np.int64), 0, 1, 0))

            self._run_slices(alone, b, max(1, CALL // work))
        return Step(
            outcomes[:, 0].astype(np.int64),
            outcomes[:, 1],
            self.sums,
            self.weight_sum,
            self.counts,
            outcomes[:, 2],
        )

    def _run_team(self, m: int, run: Callable[[int, int, int, tuple, tuple], None]) -> None:
        size = min(self.plan.threads, len(self.shards))
        shared, state = self._shared(), np.zeros(3, np.int64)

        def join(slot: int, _i: int) -> None:
            run(slot, m, m + 1, shared, (state, slot, size, sched_yield()))

        def abort() -> None:
            state[kernels.team.ABORTED] = 1

        self.workers.run(join, size, abort)

    def _shared(self) -> tuple[np.ndarray, ...]:
        """What a team shares: see `fit_element` of kernels/cpu/loop.py."""
        (_, n, d), k, s = self.shape, self.problem.n_clusters, len(self.shards)
        rows = n if self.plan.resident and not self.store.direct.all() else 0
        tiles = -(-n // self.plan.tile) if self.plan.resident else 0
        changes = (
            np.zeros((s, k, d)),
            np.zeros((s, k)),
            np.zeros((s, k), np.int64),
            np.zeros((s, k), np.bool_),
        )
        return (
            np.empty((rows, d), np.float32),
            empty_lines((tiles, d, self.plan.tile + PAD)),
            np.empty((k, d), np.float32),
            np.empty(k, np.float32),
            np.zeros(s, np.int64),
            *changes,
        )

    def assign(self, centroids: np.ndarray, elements: np.ndarray) -> None:
        if self._work > ALONE:
            super().assign(centroids, elements)
            return
        inner, bias = self.inner(centroids)
        which = np.flatnonzero(elements)
        if len(which) == 1:
            self.step_rows(0, which[0], (0, self.shape[1]), inner, bias, NO_SUMS)
            return

        def run(slot: int, lo: int, hi: int) -> None:
            kernels.loop.assign_elements(
                self.store.sources,
                which,
                lo,
                hi,
                inner,
                bias,
                self._labels,
                False,
                (NOTHING, *NO_SUMS),
                self.lanes[slot],
                self.scratch[slot],
            )

        self._run_slices(run, len(which))

    def measure(self, c: np.ndarray) -> np.ndarray:
        if self._work > ALONE:
            return super().measure(c)
        totals = np.zeros((self.shape[0], len(self.shards)))

        def run(slot: int, lo: int, hi: int) -> None:
            kernels.loop.measure_elements(
                self.store.sources,
                self.cost_weights,
                c,
                self._labels,
                self.cost,
                self.norms,
                self._cuts,
                lo,
                hi,
                totals,
                NOTHING,
                self.scratch[slot][0],
            )

        self._run_slices(run, len(totals))
        return totals.sum(axis=1)

    def _run_slices(
        self, task: Callable[[int, int, int], None], n: int, most: int = 1 << 30
    ) -> None:
        """task(slot, lo, hi) over slices of range(n), a few per thread so that they even out, of at most `most`."""
        size = min(most, max(1, -(-n // (4 * self.plan.threads))))
        self.workers.run(
            lambda slot, i: task(slot, i * size, min(n, (i + 1) * size)), -(-n // size)
        )
