"""Lloyd's loop (Lloyd, 1982): assign points, move centroids, stop.

There is one loop for every backend and metric. Backends may run several iterations by themselves,
on a GPU or in one CPU kernel. They follow the stop rules of this loop and return to it where it has
a decision to make: at a limit, and where a cluster has no points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ..backends.points import MOVED, PENDING, SETTLED, STABLE, Points, Step
from ..files.mapped import check_mapped
from .empty_clusters import relocate, split

__all__ = ["Fit", "Iteration", "LoopState", "lloyd"]

FinalMeans = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Fit(NamedTuple):
    """Outcome of one run; the labels are in the `Points`.

    Attributes:
        centroids: (B, K, D) float32, or as `final_means` returned them.
        n_iter: (B,) int64.
        converged: (B,) bool.
        exhausted: (B,) bool, whether a cluster stayed empty because no point was left for it.
    """

    centroids: np.ndarray
    n_iter: np.ndarray
    converged: np.ndarray
    exhausted: np.ndarray


class LoopState(NamedTuple):
    """The state of a run between two iterations: with it, a run goes on as if it never stopped.

    Attributes:
        centroids: (B, K, D) float32 of the next E-step.
        labelled: (B, K, D) float32, the centroids that the labels belong to.
        state: (B,) int64, a `backends.points.State` each.
        n_iter: (B,) int64.
        exhausted: (B,) bool.
        totals: Arrays that `Points.totals_so_far` returned.
    """

    centroids: np.ndarray
    labelled: np.ndarray
    state: np.ndarray
    n_iter: np.ndarray
    exhausted: np.ndarray
    totals: dict[str, np.ndarray]


@dataclass(frozen=True)
class Iteration:
    """The state of a run after an iteration, as a callback gets it.

    Attributes:
        n_iter: Iterations so far.
        shift: The largest move of a centroid in any batch element that runs.
        sizes: (B, K) int64, the points of positive weight of each cluster.
        n_empty: Clusters without points in batch elements that run.
        n_running: Batch elements that run.
    """

    n_iter: int
    shift: float
    sizes: np.ndarray
    n_empty: int
    n_running: int
    _inertia: Callable[[], float]

    @cached_property
    def inertia(self) -> float:
        """The sum over the batch, before the centroids moved; a pass over the points finds it.

        It can only be asked for within the callback.
        """
        return self._inertia()


def lloyd(
    points: Points,
    centroids: np.ndarray,
    max_iters: int,
    tol: float,
    empty: str,
    callback: Callable[[Iteration], object] | None = None,
    final_means: FinalMeans | None = None,
    resumed: LoopState | None = None,
    save: Callable[[LoopState], None] | None = None,
) -> Fit:
    """Run Lloyd's loop; on return the labels in `points` are those of the returned centroids.

    Every batch element is in one of the states of `backends.points.State`. It runs while it is
    MOVED or PENDING and below `max_iters`, and has converged once it is STABLE or SETTLED.

    Args:
        points: The points to cluster.
        centroids: (B, K, D) to start from.
        max_iters: The most iterations.
        tol: A batch element stops once no centroid moves farther than this; with
            `Problem.summed_shift`, once the norm of all moves together is no larger.
        empty: The name in `empty_clusters.POLICIES` of what becomes of a cluster without points.
        callback: Called after every iteration; the loop then goes one iteration at a time. It stops
            once the callback returns a true value.
        final_means: ``final_means(labels, centroids)`` computes the final centroids (B, K, D) in
            more than float32. It is called once, before the last labels are found.
        resumed: The state to go on from, in place of `centroids`.
        save: Called with the state before and after every iteration; the loop then goes one
            iteration at a time.
    """
    c, state, n_iter, exhausted = _start(points, centroids, resumed)
    one_by_one = callback is not None or save is not None
    if save and resumed is None:
        save(LoopState(c, c, state, n_iter, exhausted, points.totals_so_far()))
    moved: list[tuple[int, int, int]] = []
    progress = points.problem.progress
    while (running := (state <= PENDING) & (n_iter < max_iters)).any():
        before = c.copy() if one_by_one else c
        limits = np.where(running, 1 if one_by_one else max_iters - n_iter, 0)
        check_mapped(points.problem.x)
        progress.phase("iteration", int(n_iter.max()) + 1, max_iters)
        with points.timed("assignment"):
            step = points.step(c, limits, tol, empty == "keep")
        n_iter += step.iterations
        state = np.where(running, step.status, state)
        moving = running & (state == PENDING)
        stuck = lacking = None
        if empty != "keep" and not step.counts.all():
            lacking = running & (step.counts == 0).any(-1)
            stuck = (state == STABLE) & lacking  # converged, but for a cluster that needs a place
            moving |= stuck
        shift = step.shift
        exhausted[running] = False
        moved = []
        if moving.any():
            with points.timed("update"):
                new, moved = _move(points, step, c, moving, lacking, exhausted, empty)
            shift = np.where(moving, _shift(new, c, points.problem.summed_shift), shift)
            c = new
            state[moving] = np.where(shift[moving] <= tol, SETTLED, MOVED)
            if stuck is not None:
                state[stuck] = np.where(shift[stuck] == 0, STABLE, MOVED)
        stop = callback is not None and callback(
            Iteration(
                n_iter=int(n_iter.max()),
                shift=float(np.where(state == STABLE, 0.0, shift)[running].max()),
                sizes=step.counts.copy(),
                n_empty=int((step.counts[running] == 0).sum()),
                n_running=int(running.sum()),
                _inertia=lambda: float(points.inertia(before).sum()),  # noqa: B023
            )
        )
        if one_by_one and (state == SETTLED).any():
            points.assign(c, state == SETTLED)  # the next inertia counts them too
            before[state == SETTLED] = c[state == SETTLED]
            state[state == SETTLED] = STABLE
        if save:
            save(LoopState(c, before, state, n_iter, exhausted, points.totals_so_far()))
        if stop:
            break
    if final_means is not None:
        labels = points.labels().copy()
        for b, i, k in moved:
            labels[b, i] = k
        c = final_means(labels, c)
    unlabelled = state != STABLE
    if unlabelled.any():
        with points.timed("assignment"):
            points.assign(c, unlabelled)
    return Fit(c, n_iter, state > PENDING, exhausted)


def _start(
    points: Points, centroids: np.ndarray, resumed: LoopState | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return (centroids, state, n_iter, exhausted) of a run that begins, or goes on."""
    points.reset()
    if resumed is None:
        c = points.metric.start(centroids).astype(np.float32)
        b = len(c)
        return c, np.array([PENDING] * b), np.zeros(b, np.int64), np.zeros(b, bool)
    c, labelled, state, n_iter, exhausted, totals = resumed
    if n_iter.any():
        points.restore(labelled, totals)
    return c, state, n_iter, exhausted


def _move(
    points: Points,
    step: Step,
    centroids: np.ndarray,
    moving: np.ndarray,
    lacking: np.ndarray | None,
    exhausted: np.ndarray,
    empty: str,
) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """Do the M-step of the batch elements `moving` (B,), and find places for their empty clusters.

    Args:
        points: The points.
        step: The last E-step.
        centroids: (B, K, D) float32.
        moving: (B,) bool.
        lacking: (B,) bool, which of them have clusters that need a place, or None for none.
        exhausted: (B,) bool, set where a cluster stays empty.
        empty: As in `lloyd`.

    Returns:
        New centroids (B, K, D); (b, point, cluster) for every point that was moved to an empty
        cluster.
    """
    sums = step.sums
    weight_sum = step.weight_sum
    moved = []
    repaired = [] if lacking is None else np.flatnonzero(moving & lacking).tolist()
    if empty == "farthest" and repaired:
        sums = sums.copy()
        weight_sum = weight_sum.copy()
        for b in repaired:
            filled, pairs = relocate(points, centroids, b, sums[b], weight_sum[b], step.counts[b])
            exhausted[b] = not filled
            moved += pairs
    new = points.means(sums, weight_sum, centroids, moving)
    if empty == "split":
        for b in repaired:
            exhausted[b] = not split(points, centroids, new, b, step.counts[b])
    return new, moved


def _shift(new: np.ndarray, old: np.ndarray, summed: bool) -> np.ndarray:
    """Return (B,) norms of the largest move of centroids (B, K, D), or of all moves together."""
    moves = np.subtract(new, old, dtype=np.float64)
    squares = np.square(moves, out=moves).sum(-1)
    return np.sqrt(squares.sum(-1) if summed else squares.max(-1))
