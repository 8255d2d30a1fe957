"""Points in host memory, assigned by tiles of products: what everything else here builds on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...frame import Frame
from ..points import PENDING, STABLE, Points, Problem, Step, unit_weights
from . import kernels
from .plan import PAD, Plan
from .store import Rows, choose_frame, empty_lines, source_of
from .workers import Workers

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["NOTHING", "NO_CHANGES", "Piece", "TiledPoints", "no_changes"]

# Rounding of scores relative to squared norms is EPS times a little more than the root of D.
EPS = 2.0**-24
MERGED_VALUES = 1 << 17  # of a table of sums, that are worth a thread
NOTHING = np.zeros(0, np.float32)
# For passes that only label.
NO_CHANGES = kernels.tile.Changes(
    np.zeros((0, 0)), np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.bool_)
)


class Piece(NamedTuple):
    """Rows lo:hi of a batch element, in memory.

    Attributes:
        lo: The first row.
        hi: The last row + 1.
        source: The rows in the frame, as kernels take them.
        unshifted: The same without a shift if centroids are unit vectors: the directions of rows
            are found from those.
    """

    lo: int
    hi: int
    source: kernels.rows.Source
    unshifted: kernels.rows.Source


class TiledPoints(Points):
    """Points whose batch elements are cut into shards of rows; a shard is one call of a kernel.

    Attributes:
        plan: Sizes of the fit.
        workers: Threads.
        shards: First row of each shard, and its last row + 1.
        cuts: (S + 1,) int64, the first row of each shard, and N.
        scratch: Memory of each thread for a tile.
        sources: Rows in the frame, as kernels take them.
        eps: Rounding of scores, relative to squared norms.
        totals: Sums of the batch.
        inverse: (B, N) float32, 1 / ||row||, 0 for zero rows; None unless spherical.
        weights: (B, N) float32, weights in sums, or (B, 0) for all ones.
    """

    backend = "cpu"

    def __init__(self, problem: Problem, plan: Plan) -> None:
        super().__init__(problem)
        b, n, d = self.shape
        k = problem.n_clusters
        self.plan = plan
        self.workers = Workers(plan.threads)
        self.shards = list(itertools.pairwise(plan.cuts))
        self.cuts = np.array(plan.cuts)
        self.scratch = [self._scratch() for _ in range(plan.threads)]
        self.eps = np.float32(EPS * (8 + np.sqrt(d)))
        self._labels = np.empty((b, n), np.uint32) if problem.labels is None else problem.labels
        self.totals = kernels.tile.Totals(
            np.zeros((b, k, d)), np.zeros((b, k)), np.zeros((b, k), np.int64)
        )
        self._none = np.zeros((b, 0), np.float32)
        self._changes: kernels.tile.Changes | None = None

    def open_rows(self) -> Frame:
        """Look at the rows and return the frame to read them in."""
        problem = self.problem
        self._rows = Rows(problem.x)
        return choose_frame(self._rows, self.metric, problem.check_finite, problem.given_shape)

    def read_in(self, frame: Frame) -> None:
        """Read rows in this frame."""
        metric = self.metric
        self.frame = frame
        self.locate_rows()
        self.coordinates = kernels.centroids.Coordinates(
            frame.shift, frame.scale, frame.centre, metric.spherical, metric.unit_points
        )

    def locate_rows(self) -> None:
        """Find the rows in the frame."""
        self.sources = self._rows.sources(self.frame)
        self._unshifted = self._rows.sources(self.unshifted_frame())

    def unshifted_frame(self) -> Frame:
        """Return the frame, without a shift if centroids are unit vectors."""
        if self.metric.spherical and self.frame.shifted:
            return self.frame.unshifted(np.ones(self.shape[0], bool))
        return self.frame

    def __enter__(self) -> Self:
        with ExitStack() as on_error:
            on_error.callback(self.workers.close)
            self.read_in(self.open_rows())
            self.inverse: np.ndarray | None = None
            if self.metric.spherical:
                self.inverse = self._per_row(kernels.tile.inverse_norm_rows)
                if self.frame.shifted:
                    largest = self.inverse.max(1)  # 0 where every row is zero
                    least = np.where(
                        self.inverse.min(1) > 0, 1 / np.where(largest > 0, largest, 1), 0.0
                    )
                    self.read_in(self.frame.unshifted(self.frame.short(least)))
            self.weights = self._sum_weights()
            on_error.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self.workers.close()

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

    def source(self, b: int) -> kernels.rows.Source:
        """Return the rows of batch element b as kernels take them."""
        return source_of(self.sources, b)

    def pieces(self, slot: int, b: int, s: int) -> Iterator[Piece]:
        """Yield the rows of shard s of batch element b, in order; thread `slot` uses them."""
        del slot
        lo, hi = self.shards[s]
        yield Piece(lo, hi, self.source(b), source_of(self._unshifted, b))

    def inverse_norms(self, b: int) -> np.ndarray:
        assert self.inverse is not None
        return self.inverse[b]

    def rows(self, b: int, index: np.ndarray) -> np.ndarray:
        return self._rows.decode(self._rows.x[b, index]).astype(np.float64)

    def sum_weights(self, b: int, index: np.ndarray) -> np.ndarray:
        if self.weights.size:
            return self.weights[b, index].astype(np.float64)
        return np.ones(len(index))

    def step(self, centroids: np.ndarray, limits: np.ndarray, tol: float, skip_empty: bool) -> Step:
        running = np.flatnonzero(limits > 0)
        step_rows = self.prepared_step(centroids, running, int(limits.max(initial=1)))
        n_shards = len(self.shards)
        n_tasks = len(running) * n_shards
        n_clusters = self.problem.n_clusters
        changed = np.zeros(n_tasks, np.int64)
        changes = self._flight(n_clusters)
        parts = min(self.plan.threads, 1 + n_clusters * self.shape[2] // MERGED_VALUES)
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
        for b in running:  # not before the end: another shard may bring points
            kernels.tile.clear_empty(
                kernels.tile.Totals(*(total[b] for total in self.totals)), 0, n_clusters
            )
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
        new = centroids.copy()
        for b in np.flatnonzero(elements):
            kernels.centroids.move_element(b, new, sums, weight_sum, self.coordinates)
        return new

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

    @property
    def cost_weights(self) -> np.ndarray:
        """(B, N) float32 weights of costs, or (B, 0) for all ones."""
        return self._none if self.point_weights is None else self.point_weights

    @property
    def norms(self) -> np.ndarray:
        """(B, N) float32 inverse norms for spherical metrics, otherwise (B, 0)."""
        return self._none if self.inverse is None else self.inverse

    def squares(self) -> np.ndarray:
        """Return (B, N) float32: ||row||^2 in the frame."""
        return self._per_row(kernels.tile.square_rows)

    def _per_row(self, kernel: Callable[..., None]) -> np.ndarray:
        out = np.empty(self.shape[:2], np.float32)

        def shard(slot: int, b: int, s: int) -> None:
            for piece in self.pieces(slot, b, s):
                kernel(piece.unshifted, piece.lo, piece.hi, out[b], self.scratch[slot].rows)

        self.run_shards(shard, len(out))
        return out

    def run_shards(self, task: Callable[[int, int, int], object], n_elements: int) -> None:
        """Call task(slot, m, s) for every m < n_elements and every shard s."""
        n = len(self.shards)
        self.run_tasks(lambda slot, i: task(slot, *divmod(i, n)), n_elements * n)

    def run_tasks(self, task: Callable[[int, int], object], n_tasks: int) -> None:
        """Call task(slot, i) for i in range(n_tasks), each of which visits a shard."""
        self.workers.run(task, n_tasks)

    def _sum_weights(self) -> np.ndarray:
        """Return (B, N) float32 weights of points in sums, or (B, 0) for all ones."""
        weights = self.point_weights
        if self.metric.unit_points and self.inverse is not None:
            if weights is None:
                return self.inverse
            weights, _ = unit_weights(weights)
            return np.multiply(weights, self.inverse, out=weights)
        return self._none if weights is None else weights

    def _scratch(self) -> kernels.tile.TileScratch:
        tile = self.plan.tile
        d = self.shape[2]
        return kernels.tile.TileScratch(
            rows=empty_lines((tile, d)),
            lanes=empty_lines((1, d, tile + PAD)),
            best=empty_lines((tile,)),
            label=empty_lines((tile,), np.int32),
            moved=empty_lines((tile,), np.int32),
        )

    def _flight(self, k: int) -> kernels.tile.Changes:
        """Return zeroed changes by the shards in flight; `merge` leaves them zeroed."""
        if self._changes is None:
            self._changes = no_changes((self.plan.flight, k, self.shape[2]))
        return self._changes


def no_changes(shape: tuple[int, ...]) -> kernels.tile.Changes:
    """Return zeroed changes of sums (..., K, D)."""
    clusters = shape[:-1]
    return kernels.tile.Changes(
        np.zeros(shape), np.zeros(clusters), np.zeros(clusters, np.int64), np.zeros(clusters, bool)
    )
