"""The CPU backend's Points: Numba kernels on our own threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..points import PENDING, STABLE, Points, Problem, Step, unit_weights
from . import kernels
from .blas import single_threaded
from .plan import PAD, Plan
from .seeds import kmeans_plusplus, seed_scratch
from .store import Store, empty_lines
from .tuner import NO_SUMS, PruningTuner
from .workers import Workers

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["NOTHING", "NO_SUMS", "CpuPoints"]

EPS = (
    2.0**-24
)  # rounding of scores, relative to the squared norms: times a little more than the root of D
NOTHING = np.zeros(0, np.float32)


class CpuPoints(Points):
    """Points in host memory; the rows of a batch element are cut into shards, and a shard is one call of a kernel."""

    backend = "cpu"

    def __init__(self, problem: Problem, plan: Plan) -> None:
        super().__init__(problem)
        b, n, d = self.shape
        k = problem.n_clusters
        self.plan = plan
        self.store = Store(problem.x, self.metric, problem.check_finite, problem.given_shape)
        self.frame = self.store.frame
        self.workers = Workers(plan.threads)
        self.shards = self._cut(plan.shards)
        self.scratch = [self._scratch() for _ in range(plan.threads)]
        self.lanes = [empty_lines((1, d, plan.tile + PAD)) for _ in range(plan.threads)]
        self.seed_scratch = [seed_scratch(self) for _ in range(plan.threads)]
        self.eps = np.float32(EPS * (8 + np.sqrt(d)))
        self._labels = np.empty((b, n), np.uint32)
        self.sums, self.weight_sum, self.counts = (
            np.zeros((b, k, d)),
            np.zeros((b, k)),
            np.zeros((b, k), np.int64),
        )
        self._none = np.zeros((b, 0), np.float32)
        self.kind = self.metric.spherical, self.metric.unit_points
        self._changes: tuple[np.ndarray, ...] = ()
        self.tuner = PruningTuner(self, problem.strategy)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self.workers.close)
            if (
                self.tuner.open
            ):  # bounds are prepared by NumPy's BLAS, whose threads would take the place of ours
                stack.enter_context(single_threaded())
            self.inverse = (
                self._per_row(kernels.tile.inverse_norm_rows) if self.metric.spherical else None
            )
            if self.inverse is not None and self.frame.shifted:
                largest = self.inverse.max(1)  # 0 where every row is zero
                least = np.where(
                    self.inverse.min(1) > 0, 1 / np.where(largest > 0, largest, 1), 0.0
                )
                self.store.use(self.frame.unshifted(self.frame.short(least)))
                self.frame = self.store.frame
            self.weights = self._sum_weights()
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self.tuner.close()
        self._exit.close()

    def products(self) -> float:
        return self.tuner.share

    def reset(self) -> None:
        self.tuner.reset()
        self.reset_labels()
        for total in (self.sums, self.weight_sum, self.counts):
            total.fill(0)

    def reset_labels(self) -> None:
        """Forget the labels alone."""
        self._labels.fill(kernels.tile.UNSET)

    def labels(self) -> np.ndarray:
        return self._labels

    def inverse_norms(self, b: int) -> np.ndarray:
        assert self.inverse is not None
        return self.inverse[b]

    def rows(self, b: int, index: np.ndarray) -> np.ndarray:
        return self.store.decode(self.store.x[b, index]).astype(np.float64)

    def sum_weights(self, b: int, index: np.ndarray) -> np.ndarray:
        return (
            self.weights[b, index].astype(np.float64) if self.weights.size else np.ones(len(index))
        )

    def kmeans_plusplus(self, first: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        return kmeans_plusplus(self, first, uniforms, self.tuner.for_seeding())

    def step(self, centroids: np.ndarray, limits: np.ndarray, tol: float, skip_empty: bool) -> Step:
        running = np.flatnonzero(limits > 0)
        step_rows = self.prepared_step(centroids, running, int(limits.max(initial=1)))
        n_shards = len(self.shards)
        n_tasks = len(running) * n_shards
        changed = np.zeros(n_tasks, np.int64)
        changes = self._accumulators(centroids.shape[1])
        for first in range(0, n_tasks, self.plan.flight):
            end = min(first + self.plan.flight, n_tasks)

            def shard(slot: int, i: int, first: int = first) -> None:
                m, s = divmod(first + i, n_shards)
                changed[first + i] = step_rows(slot, running[m], s, tuple(a[i] for a in changes))

            def merge(_slot: int, i: int, first: int = first, end: int = end) -> None:
                m = first // n_shards + i
                part = slice(max(m * n_shards, first) - first, min((m + 1) * n_shards, end) - first)
                totals = (
                    self.sums[running[m]],
                    self.weight_sum[running[m]],
                    self.counts[running[m]],
                )
                kernels.tile.merge(*(a[part] for a in changes), *totals, 0, self.sums.shape[1])
                kernels.tile.clear_empty(*totals, 0, self.sums.shape[1])

            self.workers.run(shard, end - first)
            self.workers.run(merge, -(-end // n_shards) - first // n_shards)
        status = np.full(len(limits), STABLE)
        status[running[changed.reshape(-1, n_shards).any(axis=1)]] = PENDING
        self.tuner.count(len(running))
        iterations = (limits > 0).astype(np.int64)
        return Step(
            iterations, status, self.sums, self.weight_sum, self.counts, np.zeros(len(limits))
        )

    def assign(self, centroids: np.ndarray, elements: np.ndarray) -> None:
        which = np.flatnonzero(elements)
        step_rows = self.prepared_step(centroids, which, 1)
        self.run_shards(lambda slot, m, s: step_rows(slot, which[m], s, NO_SUMS), len(which))
        self.tuner.count(len(which))

    def prepared_step(
        self, centroids: np.ndarray, elements: np.ndarray, passes: int
    ) -> Callable[..., int]:
        """step_rows(slot, b, s, sums) of a pass over `batch elements`, maybe the first of several: the E-step of a shard."""
        inner, bias = self.inner(centroids)
        pruning = self.tuner.prepare(centroids, (inner, bias), elements, passes)
        if pruning is not None:
            return pruning.step_rows

        def step_rows(slot: int, b: int, s: int, sums: tuple[np.ndarray, ...]) -> int:
            return self.step_rows(slot, b, self.shards[s], inner, bias, sums)

        return step_rows

    def step_rows(
        self,
        slot: int,
        b: int,
        rows: tuple[int, int],
        inner: np.ndarray,
        bias: np.ndarray,
        sums: tuple[np.ndarray, ...],
    ) -> int:
        """The E-step of some rows of batch element b by tiles; how many labels changed."""
        return kernels.tile.step_rows(
            self.store.source(b),
            self.weights[b],
            inner[b],
            bias[b],
            self.lanes[slot],
            True,
            *rows,
            self._labels[b],
            sums[0].size > 0,
            *sums,
            self.scratch[slot],
        )

    def few(self, rows: np.ndarray) -> CpuPoints:
        """Some rows (M, D) float32 as points of their own, for one thread, to try something out on."""
        problem = Problem(
            rows[None],
            self.problem.n_clusters,
            self.metric,
            (1, *rows.shape),
            check_finite=False,
            strategy="tiles",
        )
        return CpuPoints(problem, replace(self.plan, threads=1, shards=1, flight=1))

    def inertia(self, centroids: np.ndarray) -> np.ndarray:
        totals = self.measure(self._measured(centroids))
        if self.metric.unit_points:
            return totals
        return totals * (self.frame.scale if self.metric.spherical else self.frame.scale**2)

    def costs(self, centroids: np.ndarray, b: int) -> np.ndarray:
        return self._costs(centroids, b, self.cost)

    def directional_costs(self, centroids: np.ndarray, b: int) -> np.ndarray:
        return self._costs(centroids, b, kernels.tile.DIRECTIONS)

    def _costs(self, centroids: np.ndarray, b: int, cost: int) -> np.ndarray:
        out, c = np.empty(self.shape[1], np.float32), self._measured(centroids)
        self.run_shards(
            lambda slot, _m, s: self.measure_rows(slot, b, self.shards[s], c, out, cost), 1
        )
        return out

    @property
    def cost(self) -> int:
        """What the kernels measure."""
        return (
            kernels.tile.DIRECTIONS
            if self.metric.unit_points
            else kernels.tile.PRODUCTS
            if self.metric.spherical
            else kernels.tile.SQUARES
        )

    def _measured(self, centroids: np.ndarray) -> np.ndarray:
        """Centroids (B, K, D) float32 that costs are measured from."""
        return (
            np.ascontiguousarray(centroids)
            if self.metric.spherical
            else self.frame.to_frame(centroids)
        )

    def measure(self, c: np.ndarray) -> np.ndarray:
        """(B,) weighted sums of the costs under the labels, in the frame."""
        totals = np.zeros((self.shape[0], len(self.shards)))

        def shard(slot: int, b: int, s: int) -> None:
            totals[b, s] = self.measure_rows(slot, b, self.shards[s], c, NOTHING, self.cost)

        self.run_shards(shard, len(totals))
        return totals.sum(axis=1)

    def measure_rows(
        self, slot: int, b: int, rows: tuple[int, int], c: np.ndarray, out: np.ndarray, cost: int
    ) -> float:
        """`measure` for some rows of batch element b; out (N,) receives the values, or (0,)."""
        return kernels.tile.measure_rows(
            self.store.source(b),
            self.cost_weights[b],
            c[b],
            self._labels[b],
            *rows,
            cost,
            self.norms[b],
            out,
            self.scratch[slot][0],
        )

    @property
    def cost_weights(self) -> np.ndarray:
        """(B, N) float32 weights of costs, or (B, 0) for all ones."""
        return self._none if self.point_weights is None else self.point_weights

    @property
    def norms(self) -> np.ndarray:
        """(B, N) float32 inverse norms for spherical metrics, otherwise (B, 0)."""
        return self._none if self.inverse is None else self.inverse

    def squares(self) -> np.ndarray:
        """(B, N) float32: ||row||^2 in the frame."""
        return self._per_row(kernels.tile.square_rows)

    def from_centres(self) -> np.ndarray:
        """(B, N) float32: squared distances of unit rows from the frame's centres, 0 for zero rows; (B, 0) without centres."""
        if not self.frame.centred:
            return self._none
        out = np.zeros(self.shape[:2], np.float32)
        for b in np.flatnonzero(self.frame.centre.any(-1)).tolist():
            centre, inverse = self.frame.centre[b], self.inverse_norms(b)

            def shard(
                slot: int,
                _m: int,
                s: int,
                b: int = b,
                centre: np.ndarray = centre,
                inverse: np.ndarray = inverse,
            ) -> None:
                source, tile = self.store.source(b), self.scratch[slot][0]
                kernels.tile.from_centre_rows(
                    source, centre, inverse, *self.shards[s], out[b], tile
                )

            self.run_shards(shard, 1)
        return out

    def _per_row(self, kernel: Callable) -> np.ndarray:
        out = np.empty(self.shape[:2], np.float32)

        def shard(slot: int, b: int, s: int) -> None:
            kernel(self.store.unshifted(b), *self.shards[s], out[b], self.scratch[slot][0])

        self.run_shards(shard, len(out))
        return out

    def inner(self, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Centroids in the frame, and their bias."""
        centroids, frame = np.ascontiguousarray(centroids, np.float32), self.frame
        inner, bias = (
            np.empty(centroids.shape, np.float32),
            np.empty(centroids.shape[:2], np.float32),
        )
        kernels.centroids.to_frames(
            centroids, frame.shift, frame.scale, frame.centre_for(centroids), self.kind, inner, bias
        )
        return inner, bias

    def means(
        self, sums: np.ndarray, weight_sum: np.ndarray, centroids: np.ndarray, elements: np.ndarray
    ) -> np.ndarray:
        new, frame = centroids.copy(), self.frame
        for b in np.flatnonzero(elements):
            kernels.centroids.move_one(
                new[b],
                sums[b],
                weight_sum[b],
                frame.shift[b],
                frame.scale[b],
                frame.centre[b],
                self.metric.spherical,
                False,
            )
        return new

    def for_bounds(self, b: int, index: np.ndarray) -> np.ndarray:
        """Rows (n, D) float32 of batch element b as bounds see them: of norm 1 where centroids are, otherwise in the frame."""
        rows = self.rows(b, index)
        return (
            self.metric.start(rows) if self.metric.spherical else self.frame.rows(rows, b)
        ).astype(np.float32)

    def run_shards(self, task: Callable[[int, int, int], object], n_batch: int) -> None:
        """task(slot, m, s) for every m < n_batch and every shard s."""
        n = len(self.shards)
        self.workers.run(lambda slot, i: task(slot, *divmod(i, n)), n_batch * n)

    # Memory

    def _sum_weights(self) -> np.ndarray:
        """(B, N) float32, what a point weighs in the sums, or (B, 0) for all ones."""
        weights = self.point_weights
        if self.metric.unit_points and self.inverse is not None:
            if weights is None:
                return self.inverse
            weights, _ = unit_weights(weights)
            return np.multiply(weights, self.inverse, out=weights)
        return self._none if weights is None else weights

    def _scratch(self) -> tuple[np.ndarray, ...]:
        """(tile, best, label, moved) of kernels/cpu/tile.py for one thread."""
        t = self.plan.tile
        return (
            empty_lines((t, self.shape[2])),
            empty_lines((t,)),
            empty_lines((t,), np.int32),
            empty_lines((t,), np.int32),
        )

    def _accumulators(self, k: int) -> Sequence[np.ndarray]:
        """Zeroed (flight, K, ...) sums, weight_sum, counts, touched; `merge` leaves them zeroed."""
        if not self._changes:
            lead = (self.plan.flight, k)
            sums, weight_sum = np.zeros((*lead, self.shape[2])), np.zeros(lead)
            self._changes = (sums, weight_sum, np.zeros(lead, np.int64), np.zeros(lead, np.bool_))
        return self._changes

    def _cut(self, shards: int) -> list[tuple[int, int]]:
        """Row ranges of the shards."""
        n = self.shape[1]
        size = -(-n // shards)
        size = -(-size // kernels.sizes.SHARD_ROWS) * kernels.sizes.SHARD_ROWS
        return [(lo, min(lo + size, n)) for lo in range(0, n, size)]
