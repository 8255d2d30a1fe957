"""Lloyd's loop (Lloyd, 1982): assign points, move centroids, stop.

There is one loop for every backend and metric. Backends may run several iterations by themselves,
on a GPU or in one CPU kernel. They follow the stop rules of this loop and return to it where it has
a decision to make: at a limit, and where a cluster has no points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..backends.points import PENDING, SETTLED, STABLE, Points, Step
from ..files.mapped import check_mapped
from .empty_clusters import relocate, split

__all__ = ["Fit", "Iteration", "lloyd"]

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


@dataclass(frozen=True)
class Iteration:
    """The state of a run after an iteration, as `report` gets it.

    Attributes:
        n_iter: Iterations so far.
        shift: The largest move of a centroid in any batch element that runs.
        inertia: The sum over the batch, before the centroids moved.
        n_empty: Clusters without points in batch elements that run.
        n_running: Batch elements that run.
    """

    n_iter: int
    shift: float
    inertia: float
    n_empty: int
    n_running: int


def lloyd(
    points: Points,
    centroids: np.ndarray,
    max_iters: int,
    tol: float,
    empty: str,
    report: Callable[[Iteration], None] | None = None,
    final_means: FinalMeans | None = None,
) -> Fit:
    """Run Lloyd's loop; on return the labels in `points` are those of the returned centroids.

    Every batch element is in one of the states of `backends.points.State`. It runs while it is
    PENDING and below `max_iters`, and has converged once it is STABLE or SETTLED.

    Args:
        points: The points to cluster.
        centroids: (B, K, D) to start from.
        max_iters: The most iterations.
        tol: A batch element stops once no centroid moves farther than this; with
            `Problem.summed_shift`, once the norm of all moves together is no larger.
        empty: The name in `empty_clusters.POLICIES` of what becomes of a cluster without points.
        report: Called after every iteration; the loop then goes one iteration at a time.
        final_means: ``final_means(labels, centroids)`` computes the final centroids (B, K, D) in
            more than float32. It is called once, before the last labels are found.
    """
    points.reset()
    c = points.metric.start(centroids).astype(np.float32)
    state = np.full(len(c), PENDING)
    n_iter = np.zeros(len(c), np.int64)
    exhausted = np.zeros(len(c), bool)
    moved: list[tuple[int, int, int]] = []
    while (running := (state == PENDING) & (n_iter < max_iters)).any():
        before = c.copy() if report else c
        limits = np.where(running, 1 if report else max_iters - n_iter, 0)
        check_mapped(points.problem.x)
        with points.timed("assignment"):
            step = points.step(c, limits, tol, empty == "keep")
        n_iter += np.where(running, step.iterations, 0)
        inertia = points.inertia(before).sum() if report else 0.0
        state = np.where(running, step.status, state)
        has_empty = running & (step.counts == 0).any(-1) & (empty != "keep")
        stuck = (state == STABLE) & has_empty  # converged, but for a cluster that needs a place
        moving = running & ((state == PENDING) | stuck)
        shift = np.where(running & (state == SETTLED), step.shift, 0.0)
        exhausted[running] = False
        moved = []
        if moving.any():
            with points.timed("update"):
                new, exhausted[moving], moved = _move(points, step, c, moving, has_empty, empty)
            shift[moving] = _shift(new - c.astype(np.float64), points.problem.summed_shift)[moving]
            c[moving] = new[moving]
            state[moving & (shift <= tol)] = SETTLED
            state[stuck] = np.where(shift[stuck] == 0, STABLE, PENDING)
        if report:
            points.assign(c, state == SETTLED)  # the next report counts their inertia too
            state[state == SETTLED] = STABLE
            n_empty = int((step.counts[running] == 0).sum())
            report(
                Iteration(
                    n_iter=int(n_iter.max()),
                    shift=float(shift.max()),
                    inertia=float(inertia),
                    n_empty=n_empty,
                    n_running=int(running.sum()),
                )
            )
    if final_means is not None:
        labels = points.labels().copy()
        for b, i, k in moved:
            labels[b, i] = k
        c = final_means(labels, c)
    if (state != STABLE).any():
        with points.timed("assignment"):
            points.assign(c, state != STABLE)
    return Fit(c, n_iter, state != PENDING, exhausted)


def _move(
    points: Points,
    step: Step,
    centroids: np.ndarray,
    moving: np.ndarray,
    has_empty: np.ndarray,
    empty: str,
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int, int]]]:
    """Do the M-step of the batch elements `moving` (B,), and find places for their empty clusters.

    Returns:
        Centroids (B, K, D); for each of those that move, whether a cluster stayed empty; (b, point,
        cluster) for every point that was moved to an empty cluster.
    """
    sums = step.sums
    weight_sum = step.weight_sum
    exhausted = np.zeros(len(centroids), bool)
    moved = []
    repaired = np.flatnonzero(moving & has_empty).tolist()
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
    return new, exhausted[moving], moved


def _shift(moves: np.ndarray, summed: bool) -> np.ndarray:
    """Return (B,) norms of the largest move (B, K, D) of a centroid, or of all moves together."""
    squares = np.square(moves).sum(-1)
    return np.sqrt(squares.sum(-1) if summed else squares.max(-1))
