"""Smaller problems on the CPU backend: a batch element's whole loop is one call of a kernel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..points import Problem, Step
from . import kernels
from .int8 import (
    empty_centroids,
    empty_points,
    empty_scratch,
    int8_bytes,
    is_worthwhile,
    most_compared,
)
from .plan import PAD, Plan
from .points import CpuPoints
from .rows import Piece
from .store import empty_lines
from .team import CALL, alone, run_team
from .tiles import NOTHING
from .totals import NO_CHANGES, no_changes

__all__ = ["LoopedCpuPoints"]

# Products of one pass over a batch element that are not worth waking other threads for.
ALONE = 50_000_000


class LoopedCpuPoints(CpuPoints):
    """Points whose kernels run Lloyd's loop.

    Each thread takes slices of the batch, or all threads run one batch element after another
    together.
    """

    def __init__(self, problem: Problem, plan: Plan) -> None:
        super().__init__(problem, plan)
        self.strategy = "loop"
        _, n, d = self.shape
        k = problem.n_clusters
        self._work = n * d * k
        self._as_bytes = False
        if kernels.ir.INT8 and problem.strategy is None and is_worthwhile(d, k, labelled=True):
            sets = 1 if plan.team else plan.threads
            size = int8_bytes((sets, n, d), k, plan.tile, plan.threads, kept=True)
            self._as_bytes = size <= plan.spare

    def step(self, centroids: np.ndarray, limits: np.ndarray, tol: float, skip_empty: bool) -> Step:
        b = len(limits)
        self.tuner.int8 = None  # those of seeding: the loop has its own
        self.tuner.reset()  # bounds of an assignment before: the kernel labels without them
        limits = np.minimum(limits, max(1, CALL // self._work))
        outcomes = np.zeros((b, 3))
        batch = kernels.loop.Batch(
            sources=self.sources,
            weights=self.weights,
            coordinates=self.coordinates,
            cuts=self.cuts,
            labels=self._labels,
            totals=self.totals,
            tol=tol,
            summed=self.problem.summed_shift,
            skip_empty=skip_empty,
        )

        def run(
            slot: int,
            lo: int,
            hi: int,
            shared: kernels.loop.Shared,
            by_bytes: kernels.loop.Bytes | None,
            team: kernels.team.Team,
        ) -> None:
            if by_bytes:
                by_bytes = by_bytes._replace(scratch=empty_scratch(self.shape[2]))
            kernels.loop.fit_elements(
                batch,
                limits,
                lo,
                hi,
                centroids,
                outcomes,
                shared,
                by_bytes,
                team,
                self.scratch[slot],
            )

        if self.plan.team:
            size = min(self.plan.threads, len(self.shards))
            for m in np.flatnonzero(limits > 0).tolist():
                memory = self._shared(0), self._by_bytes()
                run_team(
                    self.workers,
                    size,
                    lambda slot, team, m=m, memory=memory: run(slot, m, m + 1, *memory, team),
                )
        else:
            work = max(1, int(limits.max()) * self._work)
            self._run_slices(
                lambda slot, lo, hi: run(
                    slot, lo, hi, self._shared(slot), self._by_bytes(), alone()
                ),
                b,
                max(1, CALL // work),
            )
        return Step(
            iterations=outcomes[:, 0].astype(np.int64),
            status=outcomes[:, 1],
            sums=self.totals.sums,
            weight_sum=self.totals.weight_sum,
            counts=self.totals.counts,
            shift=outcomes[:, 2],
        )

    def products(self) -> float:
        return 1.0

    def _shared(self, slot: int) -> kernels.loop.Shared:
        """Return memory for a team whose first thread is `slot`."""
        _, n, d = self.shape
        k = self.problem.n_clusters
        s = len(self.shards)
        n_rows = n if self.plan.resident and not self.sources.direct.all() else 0
        n_tiles = -(-n // self.plan.tile) if self.plan.resident and not self._as_bytes else 0
        lanes = self.scratch[slot].lanes  # which hold one tile
        if n_tiles != 1:
            lanes = empty_lines((n_tiles, d, self.plan.tile + PAD))
        return kernels.loop.Shared(
            rows=np.empty((n_rows, d), np.float32),
            lanes=lanes,
            scored=kernels.tile.Scored(np.empty((k, d), np.float32), np.empty(k, np.float32)),
            changed=np.zeros(s, np.int64),
            changes=no_changes((s, k, d)),
        )

    def _by_bytes(self) -> kernels.loop.Bytes | None:
        """Return memory for a team that assigns by bytes, or None; each thread adds its scratch."""
        if not self._as_bytes:
            return None
        _, n, d = self.shape
        k = self.problem.n_clusters
        return kernels.loop.Bytes(
            points=empty_points(n, d),
            centroids=empty_centroids(k, d),
            compared=np.zeros(len(self.shards), np.int64),
            most=np.array([most_compared(n, k, d)]),
            scratch=empty_scratch(d),
        )

    def assign(self, centroids: np.ndarray, elements: np.ndarray) -> None:
        if self._work > ALONE:
            super().assign(centroids, elements)
            self.strategy = "loop"
            return
        scored = self.scored(centroids)
        which = elements.nonzero()[0]
        if len(which) == 1:
            b = int(which[0])
            source = self.source(b)
            self.step_piece(0, b, Piece(0, self.shape[1], source, source), scored, NO_CHANGES)
            return

        def run(slot: int, lo: int, hi: int) -> None:
            kernels.loop.assign_elements(
                self.sources,
                which,
                lo,
                hi,
                scored,
                self._labels,
                (NOTHING, NO_CHANGES),
                self.scratch[slot],
            )

        self._run_slices(run, len(which))

    def measure(self, c: np.ndarray) -> np.ndarray:
        if self._work > ALONE:
            return super().measure(c)
        totals = np.zeros((self.shape[0], len(self.shards)))

        def run(slot: int, lo: int, hi: int) -> None:
            kernels.loop.measure_elements(
                self.sources,
                self.cost_weights,
                c,
                self._labels,
                self.cost,
                self.norms,
                self.cuts,
                lo,
                hi,
                totals,
                NOTHING,
                self.scratch[slot].rows,
            )

        self._run_slices(run, len(totals))
        return totals.sum(axis=1)

    def _run_slices(
        self, task: Callable[[int, int, int], None], n: int, most: int = 1 << 30
    ) -> None:
        """Call task(slot, lo, hi) over slices of range(n), at most `most` long.

        Each thread gets a few, so that all end at about the same time.
        """
        size = min(most, max(1, -(-n // (4 * self.plan.threads))))
        if size >= n:
            task(0, 0, n)
            return
        self.workers.run(
            lambda slot, i: task(slot, i * size, min(n, (i + 1) * size)), -(-n // size)
        )
