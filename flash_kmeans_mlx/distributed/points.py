"""Points whose shards are visited by the workers of a cluster."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .. import frame as frames
from ..backends.cpu import kernels
from ..backends.cpu.plan import cut_rows
from ..backends.cpu.totals import clear_empty, coordinates_of, moved_centroids
from ..backends.points import PENDING, STABLE, Points, Problem, Step
from ..backends.values import unit_weights
from ..frame import Frame
from . import tasks
from .tasks import Extreme, Job, digest

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Executor", "ShardedPoints"]


class Executor(Protocol):
    """Visits all shards of a job, wherever that is."""

    def begin(self, job: Job, weights: np.ndarray | None) -> None:
        """Take the job, and weights (N,), that the next visits are about."""
        ...

    def visit(self, task: Any, *arguments: Any) -> Iterator[Any]:
        """Yield task(job, s, weights, *arguments) of every shard, in order."""
        ...

    def end(self, fit: str) -> None:
        """Free what is kept of a fit."""
        ...


class ShardedPoints(Points):
    """Points of which only sums, costs and labels come here.

    The cuts and the order of additions are those of the same points in memory on the CPU backend,
    and so are the bits.
    """

    backend = "cpu"
    sampled_seeds = True

    def __init__(self, problem: Problem, executor: Executor) -> None:
        super().__init__(problem)
        _, n, d = self.shape
        k = problem.n_clusters
        self._executor = executor
        self._rows = problem.x.rows
        weights = problem.weights
        unit = np.float32(1) if weights is None else unit_weights(weights)[1][0, 0]
        self._job = Job(
            fit=uuid.uuid4().hex,
            rows=self._rows,
            n_clusters=k,
            metric=self.metric.name,
            cuts=cut_rows(n, k, d),
            frame=None,
            weight_unit=unit,
            max_bytes=problem.max_bytes,
            strategy=problem.strategy,
            check_finite=problem.check_finite,
        )
        self.strategy = "shards"
        self.totals = kernels.tile.Totals(
            np.zeros((1, k, d)), np.zeros((1, k)), np.zeros((1, k), np.int64)
        )
        self._labelled: np.ndarray | None = None  # centroids (1, K, D) that the labels belong to
        self._labels = problem.labels
        self._gathered = b""  # digest of the centroids of the labels that were gathered
        self._known: dict[int, tuple[int, np.ndarray, float]] = {}  # label, row, factor in sums

    def __enter__(self) -> Self:
        try:
            self._use(self._choose_frame())
        except BaseException:
            self._executor.end(self._job.fit)
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._executor.end(self._job.fit)

    def _choose_frame(self) -> Frame:
        """Return the frame that points in memory would have."""
        n = self.shape[1]
        sample = self._rows.take(np.arange(0, n, frames.sample_step(n)))[None]
        magnitude = np.abs(sample).reshape(1, -1).max(1).astype(np.float64)
        weights = None if self.problem.weights is None else self.problem.weights[0]
        self._executor.begin(self._job, weights)
        if self.problem.check_finite:
            magnitude = np.array([max(self._visit(tasks.magnitude))])
        frame = frames.choose(sample, magnitude, self.metric)
        if self.metric.spherical:
            self._use(frame)
            norms = np.array(list(self._visit(tasks.norms)))
            smallest, largest = norms[:, 0].min(), norms[:, 1].max()
            self.known_directions = bool(smallest > 0)
            if frame.shifted:
                least = np.array([1 / largest if smallest > 0 else 0.0], np.float32)
                frame = frame.unshifted(frame.short(least))
        return frame

    def _use(self, frame: Frame) -> None:
        """Read rows in this frame from now on."""
        if self._job.frame is not None and np.array_equal(self._job.frame.shift, frame.shift):
            return
        self._executor.end(self._job.fit)
        self.frame = frame
        self._coordinates = coordinates_of(frame)
        self._job = replace(self._job, frame=frame, fit=uuid.uuid4().hex)
        weights = None if self.problem.weights is None else self.problem.weights[0]
        self._executor.begin(self._job, weights)

    def _visit(self, task: Any, *arguments: Any) -> Iterator[Any]:
        """Yield what a task returns for every shard, in order."""
        self.problem.progress.begin(len(self._job.cuts) - 1)
        for found in self._executor.visit(task, *arguments):
            yield found
            self.problem.progress.advance(1)

    def reset(self) -> None:
        self._labelled = None
        for total in self.totals:
            total.fill(0)

    def totals_so_far(self) -> dict[str, np.ndarray]:
        return self.totals._asdict()

    def restore(self, centroids: np.ndarray, totals: dict[str, np.ndarray]) -> None:
        self._labelled = centroids.copy()
        for own, old in zip(self.totals, kernels.tile.Totals(**totals), strict=True):
            own[...] = old

    def step(self, centroids: np.ndarray, limits: np.ndarray, tol: float, skip_empty: bool) -> Step:
        c = centroids.copy()
        changed = 0
        sums, weight_sum, counts = (total[0] for total in self.totals)
        passes = int(limits.max())
        for part in self._visit(tasks.step, self._labelled, c, passes):
            sums[part.touched] += part.sums
            weight_sum[part.touched] += part.weight_sum
            counts[part.touched] += part.counts
            changed += part.changed
        clear_empty(self.totals, 0)
        self._labelled = c
        return Step(
            iterations=np.ones(1, np.int64),
            status=np.array([PENDING if changed else STABLE]),
            sums=self.totals.sums,
            weight_sum=self.totals.weight_sum,
            counts=self.totals.counts,
            shift=np.zeros(1),
        )

    def means(
        self, sums: np.ndarray, weight_sum: np.ndarray, centroids: np.ndarray, elements: np.ndarray
    ) -> np.ndarray:
        return moved_centroids(sums, weight_sum, centroids, elements, self._coordinates)

    def assign(self, centroids: np.ndarray, elements: np.ndarray) -> None:
        if elements[0]:
            self._labelled = centroids.copy()  # shards find the labels when they need them

    def labels(self) -> np.ndarray:
        if self._labels is None:
            self._labels = np.empty(self.shape[:2], np.uint32)
        if self._labelled is not None and self._gathered != digest(self._labelled):
            self._gather(tasks.labels, self._labels[0], self._labelled)
            self._gathered = digest(self._labelled)
        return self._labels

    def labels_at(self, b: int, index: np.ndarray) -> np.ndarray:
        if all(int(i) in self._known for i in index):
            return np.array([self._known[int(i)][0] for i in index])
        return super().labels_at(b, index)

    def inertia(self, centroids: np.ndarray) -> np.ndarray:
        found = self._visit(tasks.total_cost, self._labelled, centroids.copy())
        totals = np.array([list(found)]).sum(axis=1)
        if self.metric.unit_points:
            return totals
        return totals * (self.frame.scale if self.metric.spherical else self.frame.scale**2)

    def costs(self, centroids: np.ndarray, b: int) -> np.ndarray:
        return self._costs(centroids, directional=False)

    def directional_costs(self, centroids: np.ndarray, b: int) -> np.ndarray:
        return self._costs(centroids, directional=True)

    def _costs(self, centroids: np.ndarray, directional: bool) -> np.ndarray:
        out = np.empty(self.shape[1], np.float32)
        c = np.array(centroids)
        return self._gather(tasks.costs, out, self._labelled, c, directional)

    def inverse_norms(self, b: int) -> np.ndarray:
        return self._gather(tasks.inverse_norms, np.empty(self.shape[1], np.float32))

    def _gather(self, task: Any, out: np.ndarray, *arguments: Any) -> np.ndarray:
        """Fill `out` (N,) with what a task returns for every shard."""
        cuts = self._job.cuts
        for s, part in enumerate(self._visit(task, *arguments)):
            out[cuts[s] : cuts[s + 1]] = part
        return out

    def rows(self, b: int, index: np.ndarray) -> np.ndarray:
        if all(int(i) in self._known for i in index):
            return np.stack([self._known[int(i)][1] for i in index]).astype(np.float64)
        return self._rows.take(index).astype(np.float64)

    def sample(self, index: np.ndarray) -> np.ndarray:
        return self._rows.take(index)

    def sum_weights(self, b: int, index: np.ndarray) -> np.ndarray:
        return np.array([self._known[int(i)][2] for i in index])

    def farthest(self, centroids: np.ndarray, b: int, n: int) -> np.ndarray:
        found = self._extremes(centroids, n)
        return found.points[np.lexsort((found.points, -found.costs))[:n]]

    def farthest_of_clusters(self, centroids: np.ndarray, b: int) -> np.ndarray:
        found = self._extremes(centroids, 0)
        order = np.lexsort((-found.points, found.costs))
        out = np.full(centroids.shape[1], -1)
        out[found.labels[order]] = found.points[order]  # the last of a cluster stays
        return out

    def _extremes(self, centroids: np.ndarray, n: int) -> Extreme:
        """Return the farthest points of all shards, n of each or of each cluster; keep them."""
        visited = self._visit(tasks.farthest, self._labelled, centroids.copy(), n)
        found = Extreme(*(np.concatenate(arrays) for arrays in zip(*visited, strict=True)))
        known = zip(found.labels.tolist(), found.rows, found.factors.tolist(), strict=True)
        self._known = dict(zip(found.points.tolist(), known, strict=True))
        return found
