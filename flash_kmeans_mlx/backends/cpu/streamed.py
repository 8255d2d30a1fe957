"""Points on the CPU backend that are read from a stream in each pass, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from threading import Lock, Semaphore
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import frame as frames
from ...files import Cursor
from ...frame import Frame
from ...shards.copied import CopiedSource, copied
from ...validation import check_magnitude, surely_fine
from ..points import Problem, Step
from ..stream import RowStream
from ..values import most_costly
from . import kernels
from .blas import single_threaded
from .plan import Plan
from .points import CpuPoints
from .rows import Piece
from .store import Rows, source_of
from .tiles import NOTHING

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["StreamedCpuPoints", "with_copy"]

CHECKED_VALUES = 1 << 16  # looked at together
FIRST_ROWS = 8  # of a piece, that show that it is not all small
LARGEST = float(np.finfo(np.float32).max)


def with_copy(problem: Problem, threads: int) -> Problem:
    """Return a problem that reads a copy of its stream, if that saves time.

    The problem has a plan without a copy too.
    """
    room = 0
    if problem.max_bytes:
        weights = 0 if problem.weights is None else problem.weights.nbytes
        room = problem.max_bytes - problem.bytes_in_use - weights
    rows = copied(problem.x.rows, problem.passes, threads, room, problem.progress)
    return replace(problem, x=RowStream(rows))


class StreamedCpuPoints(CpuPoints):
    """Points that are never all in memory: labels, weights and bounds are.

    A pass visits the same shards as in memory, and gives the same bits. One thread more than
    compute is at work: it reads.
    """

    sampled_seeds = True

    def __init__(self, problem: Problem, plan: Plan) -> None:
        super().__init__(problem, plan)
        self._stream = problem.x.rows
        self._cursors: list[Cursor | None] = [None] * plan.threads
        self._gate = Semaphore(max(1, plan.threads - 1))
        # Centroids, and the costs (1, S) of the shards under the labels that they gave.
        self._measuring: tuple[np.ndarray, np.ndarray] | None = None
        self._measured: tuple[np.ndarray, np.ndarray] | None = None
        # Of pieces, by their dtype and strides.
        self._sources: dict[Any, list[kernels.rows.Source]] = {}
        self._taken: dict[int, np.ndarray] = {}  # rows that will be asked for again

    def open_rows(self) -> Frame:
        n = self.shape[1]
        sample = self._stream.take(np.arange(0, n, frames.sample_step(n)))[None]
        magnitude = np.abs(sample).reshape(1, -1).max(1).astype(np.float64)
        if self.problem.check_finite:
            magnitude = np.array([self.magnitude()])
        return frames.choose(sample, magnitude, self.metric)

    def magnitude(self) -> float:
        """Return the largest absolute value of all rows; refuse those that are not finite.

        It may be that of some rows, if these show that it is neither large nor small for a frame.
        """
        known = self._stream.magnitude
        if known is not None and known <= LARGEST:
            return known
        step = max(1, CHECKED_VALUES // self.shape[2])
        largest_of = np.zeros(len(self.shards))

        def shard(slot: int, _b: int, s: int) -> None:
            for lo, _, rows in self._read(slot, s):
                first = float(np.abs(rows[:FIRST_ROWS]).max())
                if first >= frames.SMALL and surely_fine(rows):
                    largest_of[s] = max(largest_of[s], first)
                    continue
                for at in range(0, len(rows), step):
                    found = float(np.abs(rows[at : at + step]).max())
                    if not found <= LARGEST:
                        self._refuse(rows[at : at + step], lo + at)
                    largest_of[s] = max(largest_of[s], found)

        with single_threaded():
            self.run_shards(shard, 1)
        return float(largest_of.max())

    def _refuse(self, rows: np.ndarray, first: int) -> None:
        """Raise the error that names the first of these rows, from row `first` on, that is bad."""
        sizes = np.abs(rows).max(1).astype(np.float64)
        i = int((~(sizes <= LARGEST)).argmax())
        place = self._stream.place(first + i)
        check_magnitude(sizes[i : i + 1], self.problem.given_shape, place=place)

    def locate_rows(self) -> None:
        """Forget the sources of another frame: rows are found when they are read."""
        self._sources.clear()

    def __enter__(self) -> Self:
        try:
            return super().__enter__()
        except BaseException:
            self._close()
            raise

    def __exit__(self, *exc: object) -> None:
        self._close()
        super().__exit__(*exc)

    def _close(self) -> None:
        self.close_cursors()
        if isinstance(self._stream, CopiedSource):
            self._stream.close()

    def close_cursors(self) -> None:
        """Free the memory of the cursors; the next pass opens new ones."""
        for slot, cursor in enumerate(self._cursors):
            self._cursors[slot] = None
            if cursor is not None:
                cursor.close()

    def run_tasks(self, task: Callable[[int, int], object], n_tasks: int) -> None:
        # Each thread takes tasks that follow one another, so that its cursor goes on.
        size = max(1, -(-n_tasks // self.plan.threads))

        def run(slot: int, r: int) -> None:
            for i in range(r * size, min(n_tasks, (r + 1) * size)):
                task(slot, i)

        self.workers.run(run, -(-n_tasks // size))

    def reset_labels(self) -> None:
        self._measured = None
        super().reset_labels()

    def step(self, centroids: np.ndarray, limits: np.ndarray, tol: float, skip_empty: bool) -> Step:
        self._measured = None
        return super().step(centroids, limits, tol, skip_empty)

    def label(self, centroids: np.ndarray, elements: np.ndarray, step_rows: Any) -> None:
        # A fit asks for the inertia next: this saves it a pass.
        self._measured = None
        if self.problem.passes > 1 and len(elements):
            self._measuring = self.measured(centroids), np.zeros((1, len(self.shards)))
        try:
            super().label(centroids, elements, step_rows)
            self._measured = self._measuring
        finally:
            self._measuring = None

    def measure(self, c: np.ndarray) -> np.ndarray:
        if self._measured and np.array_equal(c, self._measured[0]):
            return self._measured[1].sum(axis=1)
        return super().measure(c)

    def pieces(self, slot: int, b: int, s: int) -> Iterator[Piece]:
        total = 0.0
        for lo, hi, rows in self._read(slot, s):
            # All but the address is the same for every piece.
            key = rows.dtype, rows.strides
            sources = self._sources.get(key)
            if sources is None:
                batch = Rows(rows[None])
                both = self.frame, self.unshifted_frame()
                sources = [source_of(batch.sources(frame), b) for frame in both]
                self._sources[key] = sources
            # Kernels count rows from the first one of all.
            begin = rows.__array_interface__["data"][0] - lo * rows.strides[0]
            piece = Piece(lo, hi, *(source._replace(address=begin) for source in sources))
            yield piece
            if self._measuring:  # it has its last labels now, and is still in memory
                c, totals = self._measuring
                total = self.measure_piece(slot, b, piece, c, NOTHING, self.cost, total)
                totals[b, s] = total

    def _read(self, slot: int, s: int) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield (lo, hi, rows lo:hi) of shard s."""
        first, end = self.shards[s]
        cursor = self._cursors[slot]
        if cursor is None:
            cursor = self._cursors[slot] = self._stream.cursor()
        for lo in range(first, end, self.plan.piece):
            hi = min(lo + self.plan.piece, end)
            rows = cursor.read(lo, hi)
            with self._gate:
                yield lo, hi, rows
            self.problem.progress.advance((hi - lo) / (end - first))

    def rows(self, b: int, index: np.ndarray) -> np.ndarray:
        del b
        if all(int(i) in self._taken for i in index):
            return np.stack([self._taken[int(i)] for i in index]).astype(np.float64)
        return self.sample(index).astype(np.float64)

    def sample(self, index: np.ndarray) -> np.ndarray:
        self.close_cursors()
        return self._stream.take(index)

    def bytes_in_use(self) -> int:
        return self.plan.held

    def _take(self, index: np.ndarray) -> None:
        """Read rows together that will be asked for one by one."""
        self._taken = dict(zip(index.tolist(), self.sample(index), strict=True))

    def farthest(self, centroids: np.ndarray, b: int, n: int) -> np.ndarray:
        del b
        index, _ = self.farthest_and_costs(centroids, n)
        self._take(index)
        return index

    def farthest_and_costs(self, centroids: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return what `farthest` does, and the excess (n,) float32 of these points."""
        index = np.zeros(0, np.int64)
        costs = np.zeros(0, np.float32)

        def merge(lo: int, _labels: np.ndarray, found: np.ndarray) -> None:
            nonlocal index, costs
            best = most_costly(found, n)
            index = np.concatenate([index, lo + best])
            costs = np.concatenate([costs, found[best]])
            order = np.lexsort((index, -costs))[:n]  # pieces come in any order
            index, costs = index[order], costs[order]

        weighing = self.metric.spherical and not self.metric.unit_points
        self._measure_pieces(centroids, merge, excess=weighing)
        return index, costs

    def farthest_of_clusters(self, centroids: np.ndarray, b: int) -> np.ndarray:
        del b
        index, _ = self.farthest_of_clusters_and_costs(centroids)
        self._take(index[index >= 0])
        return index

    def farthest_of_clusters_and_costs(
        self, centroids: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what `farthest_of_clusters` does, and the costs (K,) float32 of these points."""
        k = centroids.shape[1]
        index = np.full(k, -1)
        costs = np.full(k, -np.inf, np.float32)

        def merge(lo: int, labels: np.ndarray, found: np.ndarray) -> None:
            order = np.lexsort((-np.arange(len(found)), found))
            best = np.full(k, -1)
            best[labels[order]] = order  # the last of a cluster stays
            has = np.flatnonzero(best >= 0)
            cost = found[best[has]]
            first = (cost == costs[has]) & (lo + best[has] < index[has])
            has = has[(cost > costs[has]) | first]
            index[has], costs[has] = lo + best[has], found[best[has]]

        self._measure_pieces(centroids, merge, excess=False)
        return index, costs

    def _measure_pieces(
        self,
        centroids: np.ndarray,
        merge: Callable[[int, np.ndarray, np.ndarray], None],
        excess: bool,
    ) -> None:
        """Call merge(lo, labels, costs) for every piece, one at a time.

        Costs are -inf for points without weight; with `excess` they are those of `excess`.
        """
        c = self.measured(centroids)
        lock = Lock()

        def shard(slot: int, b: int, s: int) -> None:
            for piece in self.pieces(slot, b, s):
                part = slice(piece.lo, piece.hi)
                costs = np.empty(piece.hi - piece.lo, np.float32)
                source = piece.source
                kernels.tile.measure_rows(
                    source._replace(address=source.address + piece.lo * source.row_stride),
                    NOTHING,
                    c[b],
                    self._labels[b, part],
                    0,
                    len(costs),
                    kernels.tile.DIRECTIONS if excess else self.cost,
                    self.norms[b, part],
                    costs,
                    0.0,
                    self.scratch[slot].rows,
                )
                if excess:
                    norms = self.norms[b, part]
                    costs = np.divide(costs, norms, out=np.zeros_like(costs), where=norms > 0)
                if self.point_weights is not None:
                    costs[self.point_weights[b, part] <= 0] = -np.inf
                with lock:
                    merge(piece.lo, self._labels[b, part], costs)

        self.run_shards(shard, 1)
