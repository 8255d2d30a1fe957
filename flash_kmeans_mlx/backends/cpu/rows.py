"""The rows of a fit on the CPU backend: shards, threads, and what is known of every row."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...frame import Frame
from ..points import Points, Problem
from ..values import unit_weights
from . import kernels
from .plan import PAD, Plan
from .store import Rows, choose_frame, empty_lines, source_of
from .totals import coordinates_of
from .workers import Workers

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Piece", "RowPoints"]


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


class RowPoints(Points):
    """Points whose batch elements are cut into shards of rows, each visited by one thread.

    Attributes:
        plan: Sizes of the fit.
        workers: Threads.
        shards: First row of each shard, and its last row + 1.
        cuts: (S + 1,) int64, the first row of each shard, and N.
        scratch: Memory of each thread for a tile.
        sources: Rows in the frame, as kernels take them.
        coordinates: The frame, as kernels take it.
        inverse: (B, N) float32, 1 / ||row||, 0 for zero rows; None unless spherical.
        weights: (B, N) float32, weights in sums, or (B, 0) for all ones.
    """

    backend = "cpu"

    def __init__(self, problem: Problem, plan: Plan) -> None:
        super().__init__(problem)
        self.plan = plan
        self.workers = Workers(plan.threads, problem.progress)
        self.shards = list(itertools.pairwise(plan.cuts))
        self.cuts = np.array(plan.cuts)
        self.scratch = [self._scratch() for _ in range(plan.threads)]
        self._none = np.zeros((self.shape[0], 0), np.float32)

    def open_rows(self) -> Frame:
        """Look at the rows and return the frame to read them in."""
        problem = self.problem
        self._rows = Rows(problem.x)
        return choose_frame(self._rows, self.metric, problem.check_finite, problem.given_shape)

    def read_in(self, frame: Frame) -> None:
        """Read rows in this frame."""
        self.frame = frame
        self.locate_rows()
        self.coordinates = coordinates_of(frame)

    def locate_rows(self) -> None:
        """Find the rows in the frame."""
        self.sources = self._unshifted = self._rows.sources(self.frame)
        frame = self.unshifted_frame()
        if frame is not self.frame:
            self._unshifted = self._rows.sources(frame)

    def unshifted_frame(self) -> Frame:
        """Return the frame, without a shift if centroids are unit vectors."""
        if self.metric.spherical and self.frame.shifted:
            return self.frame.unshifted(np.ones(self.shape[0], bool))
        return self.frame

    def __enter__(self) -> Self:
        try:
            self.read_in(self.open_rows())
            self.inverse: np.ndarray | None = None
            if self.metric.spherical:
                self.inverse = self._per_row(kernels.tile.inverse_norm_rows)
                if self.frame.shifted:
                    least = np.zeros(self.shape[0], np.float32)  # where a row is zero
                    np.divide(1, self.inverse.max(1), least, where=self.inverse.min(1) > 0)
                    self.read_in(self.frame.unshifted(self.frame.short(least)))
            self.weights = self._sum_weights()
        except BaseException:
            self.workers.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.workers.close()

    def source(self, b: int) -> kernels.rows.Source:
        """Return the rows of batch element b as kernels take them."""
        return source_of(self.sources, b)

    def pieces(self, slot: int, b: int, s: int) -> Iterator[Piece]:
        """Yield the rows of shard s of batch element b, in order; thread `slot` uses them."""
        del slot
        lo, hi = self.shards[s]
        yield Piece(lo, hi, self.source(b), source_of(self._unshifted, b))

    def inverse_norms(self, b: int) -> np.ndarray:
        return self.norms[b]

    def rows(self, b: int, index: np.ndarray) -> np.ndarray:
        return self._rows.decode(self._rows.x[b, index]).astype(np.float64)

    def sum_weights(self, b: int, index: np.ndarray) -> np.ndarray:
        if self.weights.size:
            return self.weights[b, index].astype(np.float64)
        return np.ones(len(index))

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
        self.problem.progress.begin(n_elements * n)
        self.run_tasks(lambda slot, i: task(slot, *divmod(i, n)), n_elements * n)

    def run_tasks(self, task: Callable[[int, int], object], n_tasks: int) -> None:
        """Call task(slot, i) for i in range(n_tasks), each of which visits a shard."""
        self.workers.run(task, n_tasks, work=n_tasks)

    def _sum_weights(self) -> np.ndarray:
        """Return (B, N) float32 weights of points in sums, or (B, 0) for all ones."""
        if not self.metric.unit_points:
            return self.cost_weights
        if self.point_weights is None:
            return self.norms
        weights, _ = unit_weights(self.point_weights)
        return np.multiply(weights, self.norms, out=weights)

    def _scratch(self) -> kernels.tile.TileScratch:
        tile = self.plan.tile
        d = self.shape[2]
        a = tile * d
        b = a + d * (tile + PAD)
        values = empty_lines((b + 3 * tile,))  # all parts are whole lines
        best, label, moved = values[b:].reshape(3, tile)
        return kernels.tile.TileScratch(
            rows=values[:a].reshape(tile, d),
            lanes=values[a:b].reshape(1, d, tile + PAD),
            best=best,
            label=label.view(np.int32),
            moved=moved.view(np.int32),
        )
