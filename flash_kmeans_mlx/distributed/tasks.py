"""The work on a shard: functions of (job, shard, centroids) whose results add up.

A shard has points of its own on its worker, kept from one pass to the next. Labels are a cache:
where they are not those of the previous centroids, they are found again, so that any worker can
do any shard at any time.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ..backends.cpu.plan import plan
from ..backends.cpu.streamed import StreamedCpuPoints
from ..backends.cpu.totals import no_changes
from ..backends.points import Problem
from ..backends.stream import RowStream
from ..frame import Frame
from ..metrics import METRICS
from ..shards.base import Source
from .part import PartSource

__all__ = ["Changes", "Extreme", "Job", "digest", "forget"]

KEPT_FITS = 2  # of which a worker keeps labels
SHARD_BYTES = 16 << 20  # for memory that only saves time, without a cap


@dataclass(frozen=True)
class Job:
    """The problem as every task of a fit gets it.

    Attributes:
        fit: A name that no other fit has.
        rows: The source.
        n_clusters: K.
        metric: The name of the metric.
        cuts: First row of each shard, and N.
        frame: The coordinates, or None for the survey that they are chosen from.
        weight_unit: What weights of cosine are divided by, so that sums stay in float32's range.
        max_bytes: A cap on the memory of a shard; 0 for none.
        strategy: As in `Problem`.
        check_finite: Whether to look for NaN and Inf.
    """

    fit: str
    rows: Source
    n_clusters: int
    metric: str
    cuts: tuple[int, ...]
    frame: Frame | None
    weight_unit: np.float32
    max_bytes: int
    strategy: str | None
    check_finite: bool


class Changes(NamedTuple):
    """Changes of the sums by a shard, of the clusters that it touched.

    Attributes:
        changed: How many labels changed.
        touched: (T,) int64, clusters.
        sums: (T, D) float64.
        weight_sum: (T,) float64.
        counts: (T,) int64.
    """

    changed: int
    touched: np.ndarray
    sums: np.ndarray
    weight_sum: np.ndarray
    counts: np.ndarray


class Extreme(NamedTuple):
    """Some points of large cost.

    Attributes:
        costs: (n,) float32.
        points: (n,) int64, rows of the source.
        labels: (n,) uint32.
        rows: (n, D) in the dtype of the source.
        factors: (n,) float64, `Points.sum_weights` of them.
    """

    costs: np.ndarray
    points: np.ndarray
    labels: np.ndarray
    rows: np.ndarray
    factors: np.ndarray


class ShardPoints(StreamedCpuPoints):
    """The points of one shard, in a frame that was chosen for all."""

    def __init__(self, job: Job, s: int, weights: np.ndarray | None) -> None:
        lo, hi = job.cuts[s : s + 2]
        rows = PartSource(job.rows, lo, hi)
        problem = Problem(
            x=RowStream(rows),
            n_clusters=job.n_clusters,
            metric=METRICS[job.metric],
            given_shape=rows.shape,
            weights=weights,
            max_bytes=job.max_bytes,
            check_finite=job.check_finite,
            strategy=job.strategy,
        )
        cut = plan(problem, 1)
        # The cuts are those of all points. Tasks, not threads, are at work at the same time.
        spare = cut.spare if job.max_bytes else min(cut.spare, SHARD_BYTES)
        super().__init__(problem, replace(cut, cuts=(0, hi - lo), threads=1, flight=1, spare=spare))
        self._given = job.frame
        self._unit = job.weight_unit
        self.lock = threading.Lock()
        self._entered = False
        self._forgotten = False
        self.labelled = b""  # digest of the centroids that the labels belong to

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep other threads of this worker away for a block."""
        with self.lock:
            try:
                if not self._entered:
                    self.__enter__()
                    self._entered = True
                yield
            except BaseException:
                self._forgotten = True
                raise
            finally:
                self.close_cursors()
                self._close_forgotten()

    def forget(self) -> None:
        """Free everything, at once or once the thread that is at work has ended."""
        self._forgotten = True
        if self.lock.acquire(blocking=False):
            try:
                self._close_forgotten()
            finally:
                self.lock.release()

    def _close_forgotten(self) -> None:
        if self._forgotten and self._entered:
            self._entered = False
            self.__exit__()

    def open_rows(self) -> Frame:
        return super().open_rows() if self._given is None else self._given

    def _sum_weights(self) -> np.ndarray:
        if self.point_weights is None or self.inverse is None or not self.metric.unit_points:
            return super()._sum_weights()
        return self.point_weights / self._unit * self.inverse

    def label_by(self, centroids: np.ndarray | None) -> None:
        """Make the labels those of these centroids, or forget them for None."""
        if self.labelled == digest(centroids):
            return
        self.labelled = b""  # in case of an error
        self.reset_labels()
        if centroids is not None:
            self.assign(centroids, np.ones(1, bool))
        self.labelled = digest(centroids)

    def changes(self, previous: np.ndarray | None, c: np.ndarray, passes: int) -> Changes:
        """Move the labels from those of `previous` to those of c, and return what it changes."""
        self.label_by(previous)
        self.labelled = b""
        changes = no_changes((self.problem.n_clusters, self.shape[2]))
        step_rows = self.prepared_step(c, np.zeros(1, np.int64), passes)
        changed = step_rows(0, 0, 0, changes)
        self.tuner.count(1)
        self.labelled = digest(c)
        touched = np.flatnonzero(changes.touched)
        sums, weight_sum, counts = (array[touched] for array in changes[:3])
        return Changes(changed, touched, sums, weight_sum, counts)


_points: dict[str, dict[int, ShardPoints]] = {}  # of each fit and shard
_lock = threading.Lock()


@contextmanager
def _shard(job: Job, s: int, weights: np.ndarray | None) -> Iterator[ShardPoints]:
    """Yield the points of a shard, which no other thread of this worker uses meanwhile."""
    with _lock:
        shards = _points.setdefault(job.fit, {})
        for fit in list(_points)[:-KEPT_FITS]:
            for points in _points.pop(fit).values():
                points.forget()
        points = shards.get(s)
        if points is None:
            points = shards[s] = ShardPoints(job, s, weights)
    try:
        with points.in_use():
            yield points
    except BaseException:  # the next task of this shard begins anew
        with _lock:
            shards.pop(s, None)
        raise


def forget(fit: str) -> None:
    """Free what this worker keeps of a fit."""
    with _lock:
        shards = _points.pop(fit, {})
    for points in shards.values():
        points.forget()  # without waiting: Dask calls this where it also answers the scheduler


def digest(centroids: np.ndarray | None) -> bytes:
    """Return a name of some centroids."""
    if centroids is None:
        return b"none"
    return hashlib.blake2b(np.ascontiguousarray(centroids).data, digest_size=16).digest()


def magnitude(job: Job, s: int, weights: Any) -> float:
    """Return the largest absolute value of a shard, whose values must be finite."""
    del weights
    points = ShardPoints(replace(job, check_finite=False), s, None)
    try:
        return points.magnitude()
    finally:
        points.close_cursors()


def norms(job: Job, s: int, weights: Any) -> tuple[float, float]:
    """Return the smallest and the largest 1 / ||row|| in the frame, for spherical metrics."""
    with _shard(job, s, weights) as points:
        assert points.inverse is not None
        return float(points.inverse.min()), float(points.inverse.max())


def step(
    job: Job, s: int, weights: Any, previous: np.ndarray | None, c: np.ndarray, passes: int
) -> Changes:
    """Do the E-step of a shard for centroids c, whose labels are those of `previous`."""
    with _shard(job, s, weights) as points:
        return points.changes(previous, c, passes)


def assign(job: Job, s: int, weights: Any, c: np.ndarray) -> None:
    """Label a shard."""
    with _shard(job, s, weights) as points:
        points.label_by(c)


def labels(job: Job, s: int, weights: Any, c: np.ndarray) -> np.ndarray:
    """Return the labels (n,) of a shard."""
    with _shard(job, s, weights) as points:
        points.label_by(c)
        return points.labels()[0].copy()


def total_cost(job: Job, s: int, weights: Any, labelled: np.ndarray, c: np.ndarray) -> float:
    """Return the weighted sum of the costs to c of a shard labelled by `labelled`, in the frame."""
    with _shard(job, s, weights) as points:
        points.label_by(labelled)
        return float(points.measure(points.measured(c))[0])


def costs(
    job: Job, s: int, weights: Any, labelled: np.ndarray, c: np.ndarray, directional: bool
) -> np.ndarray:
    """Return the costs (n,) of a shard, or 1 - cos."""
    with _shard(job, s, weights) as points:
        points.label_by(labelled)
        return points.directional_costs(c, 0) if directional else points.costs(c, 0)


def inverse_norms(job: Job, s: int, weights: Any) -> np.ndarray:
    """Return (n,) float32, 1 / ||row|| in the frame."""
    with _shard(job, s, weights) as points:
        return points.inverse_norms(0).copy()


def farthest(
    job: Job, s: int, weights: Any, labelled: np.ndarray, c: np.ndarray, n: int
) -> Extreme:
    """Return the n farthest points of a shard, in order; with n = 0 that of each cluster."""
    with _shard(job, s, weights) as points:
        points.label_by(labelled)
        index, cost = (
            points.farthest_and_costs(c, n) if n else points.farthest_of_clusters_and_costs(c)
        )
        cost, index = cost[index >= 0], index[index >= 0]
        rows = points.sample(index)
        factors = points.sum_weights(0, index)
        return Extreme(cost, index + job.cuts[s], points.labels()[0, index], rows, factors)
