"""Points in host memory, assigned by tiles of products: what the other ways build on."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import numpy as np

from ..points import PENDING, STABLE, Problem, Step
from . import kernels
from .plan import Plan
from .rows import Piece, RowPoints
from .totals import NO_CHANGES, clear_empty, moved_centroids, no_changes

__all__ = ["NOTHING", "TiledPoints"]

# Rounding of scores relative to squared norms is EPS times a little more than the root of D.
EPS = 2.0**-24
MERGED_VALUES = 1 << 17  # of a table of sums, that are worth a thread
NOTHING = np.zeros(0, np.float32)


class TiledPoints(RowPoints):
    """Points whose shards are assigned by tiles of products.

    Attributes:
        totals: Sums of the batch.
    """

    def __init__(self, problem: Problem, plan: Plan) -> None:
        super().__init__(problem, plan)
        b, n, d = self.shape
        k = problem.n_clusters
        self._labels = np.empty((b, n), np.uint32) if problem.labels is None else problem.labels
        self.totals = kernels.tile.Totals(
            np.zeros((b, k, d)), np.zeros((b, k)), np.zeros((b, k), np.int64)
        )

    def reset(self) -> None:
        self.reset_labels()
        for total in self.totals:
            total.fill(0)

    def totals_so_far(self) -> dict[str, np.ndarray]:
        return self.totals._asdict()

    def restore(self, centroids: np.ndarray, totals: dict[str, np.ndarray]) -> None:
        super().restore(centroids, totals)
        for own, old in zip(self.totals, kernels.tile.Totals(**totals), strict=True):
            own[...] = old

    def reset_labels(self) -> None:
        """Forget the labels alone."""
        self._labels.fill(kernels.tile.UNSET)

    def labels(self) -> np.ndarray:
        return self._labels

    def step(self, centroids: np.ndarray, limits: np.ndarray, tol: float, skip_empty: bool) -> Step:
        running = np.flatnonzero(limits > 0)
        step_rows = self.prepared_step(centroids, running, int(limits.max(initial=1)))
        n_shards = len(self.shards)
        n_tasks = len(running) * n_shards
        n_clusters = self.problem.n_clusters
        changed = np.zeros(n_tasks, np.int64)
        changes = self._changes
        parts = min(self.plan.threads, 1 + n_clusters * self.shape[2] // MERGED_VALUES)
        self.problem.progress.begin(n_tasks)
        for first in range(0, n_tasks, self.plan.flight):
            end = min(first + self.plan.flight, n_tasks)

            def shard(slot: int, i: int, first: int = first) -> None:
                m, s = divmod(first + i, n_shards)
                own = kernels.tile.Changes(*(array[i] for array in changes))
                changed[first + i] = step_rows(slot, running[m], s, own)

            def merge(_slot: int, i: int, first: int = first, end: int = end) -> None:
                m, p = divmod(i, parts)
                m += first // n_shards
                clusters = n_clusters * p // parts, n_clusters * (p + 1) // parts
                part = slice(max(m * n_shards, first) - first, min((m + 1) * n_shards, end) - first)
                own = kernels.tile.Changes(*(array[part] for array in changes))
                totals = kernels.tile.Totals(*(total[running[m]] for total in self.totals))
                kernels.tile.merge(own, totals, *clusters)

            self.run_tasks(shard, end - first)
            self.workers.run(merge, parts * (-(-end // n_shards) - first // n_shards))
        for b in running.tolist():  # not before the end: another shard may bring points
            clear_empty(self.totals, b)
        status = np.full(len(limits), STABLE)
        status[running[changed.reshape(-1, n_shards).any(axis=1)]] = PENDING
        return Step(
            iterations=(limits > 0).astype(np.int64),
            status=status,
            sums=self.totals.sums,
            weight_sum=self.totals.weight_sum,
            counts=self.totals.counts,
            shift=np.zeros(len(limits)),
        )

    def assign(self, centroids: np.ndarray, elements: np.ndarray) -> None:
        which = np.flatnonzero(elements)
        self.label(centroids, which, self.prepared_step(centroids, which, 1))

    def label(
        self,
        centroids: np.ndarray,
        elements: np.ndarray,
        step_rows: Callable[[int, int, int, kernels.tile.Changes], int],
    ) -> None:
        """Label the points of these batch elements by what `prepared_step` returned."""
        del centroids
        self.run_shards(
            lambda slot, m, s: step_rows(slot, elements[m], s, NO_CHANGES), len(elements)
        )

    def prepared_step(
        self, centroids: np.ndarray, elements: np.ndarray, passes: int
    ) -> Callable[[int, int, int, kernels.tile.Changes], int]:
        """Return step_rows(slot, b, s, changes): the E-step of shard s of batch element b.

        Args:
            centroids: (B, K, D) float32.
            elements: Indices of the batch elements to assign.
            passes: How many passes like this one may follow, this one included.
        """
        del elements, passes
        return self.by_tiles(self.scored(centroids))

    def by_tiles(
        self, scored: kernels.tile.Scored
    ) -> Callable[[int, int, int, kernels.tile.Changes], int]:
        """Return step_rows(slot, b, s, changes) by tiles, as `prepared_step`."""

        def step_rows(slot: int, b: int, s: int, changes: kernels.tile.Changes) -> int:
            pieces = self.pieces(slot, b, s)
            return sum(self.step_piece(slot, b, piece, scored, changes) for piece in pieces)

        return step_rows

    def step_piece(
        self,
        slot: int,
        b: int,
        piece: Piece,
        scored: kernels.tile.Scored,
        changes: kernels.tile.Changes,
    ) -> int:
        """Do the E-step of some rows of batch element b; return how many labels changed."""
        return kernels.tile.step_rows(
            piece.source,
            self.weights[b],
            kernels.tile.Scored(scored.c[b], scored.bias[b]),
            self.scratch[slot].lanes,
            True,
            piece.lo,
            piece.hi,
            self._labels[b],
            changes,
            self.scratch[slot],
        )

    def scored(self, centroids: np.ndarray) -> kernels.tile.Scored:
        """Return centroids (B, K, D) in the frame, and their bias."""
        centroids = np.ascontiguousarray(centroids, np.float32)
        scored = kernels.tile.Scored(
            np.empty(centroids.shape, np.float32), np.empty(centroids.shape[:2], np.float32)
        )
        coordinates = self.coordinates
        if self.frame.centred:
            coordinates = coordinates._replace(centre=self.frame.centre_for(centroids))
        kernels.centroids.to_frames(centroids, coordinates, scored.c, scored.bias)
        return scored

    def means(
        self, sums: np.ndarray, weight_sum: np.ndarray, centroids: np.ndarray, elements: np.ndarray
    ) -> np.ndarray:
        return moved_centroids(sums, weight_sum, centroids, elements, self.coordinates)

    def inertia(self, centroids: np.ndarray) -> np.ndarray:
        totals = self.measure(self.measured(centroids))
        if self.metric.unit_points:
            return totals
        return totals * (self.frame.scale if self.metric.spherical else self.frame.scale**2)

    def costs(self, centroids: np.ndarray, b: int) -> np.ndarray:
        return self._costs(centroids, b, self.cost)

    def directional_costs(self, centroids: np.ndarray, b: int) -> np.ndarray:
        return self._costs(centroids, b, kernels.tile.DIRECTIONS)

    def _costs(self, centroids: np.ndarray, b: int, cost: int) -> np.ndarray:
        out = np.empty(self.shape[1], np.float32)
        c = self.measured(centroids)
        self.run_shards(lambda slot, _m, s: self._measure_shard(slot, b, s, c, out, cost), 1)
        return out

    @property
    def eps(self) -> np.float32:
        """Rounding of scores, relative to squared norms."""
        return np.float32(EPS * (8 + math.sqrt(self.shape[2])))

    @property
    def cost(self) -> int:
        """The cost of the metric, as kernels name it."""
        if self.metric.unit_points:
            return kernels.tile.DIRECTIONS
        return kernels.tile.PRODUCTS if self.metric.spherical else kernels.tile.SQUARES

    def measured(self, centroids: np.ndarray) -> np.ndarray:
        """Return centroids (B, K, D) float32 that costs are measured from."""
        if self.metric.spherical:
            return np.ascontiguousarray(centroids)
        return self.frame.to_frame(centroids)

    def measure(self, c: np.ndarray) -> np.ndarray:
        """Return (B,) weighted sums of the costs under the labels, in the frame."""
        totals = np.zeros((self.shape[0], len(self.shards)))

        def shard(slot: int, b: int, s: int) -> None:
            totals[b, s] = self._measure_shard(slot, b, s, c, NOTHING, self.cost)

        self.run_shards(shard, len(totals))
        return totals.sum(axis=1)

    def _measure_shard(
        self, slot: int, b: int, s: int, c: np.ndarray, out: np.ndarray, cost: int
    ) -> float:
        """Return the weighted sum of costs of a shard; out (N,) receives them, or is (0,)."""
        total = 0.0
        for piece in self.pieces(slot, b, s):
            total = self.measure_piece(slot, b, piece, c, out, cost, total)
        return total

    def measure_piece(
        self,
        slot: int,
        b: int,
        piece: Piece,
        c: np.ndarray,
        out: np.ndarray,
        cost: int,
        total: float,
    ) -> float:
        """Return total + the weighted costs of a piece; out (N,) receives costs, or is (0,)."""
        return kernels.tile.measure_rows(
            piece.source,
            self.cost_weights[b],
            c[b],
            self._labels[b],
            piece.lo,
            piece.hi,
            cost,
            self.norms[b],
            out,
            total,
            self.scratch[slot].rows,
        )

    @cached_property
    def _changes(self) -> kernels.tile.Changes:
        """Changes by the shards in flight; `merge` leaves them zeroed."""
        return no_changes((self.plan.flight, self.problem.n_clusters, self.shape[2]))
