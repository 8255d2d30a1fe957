"""Lloyd's loop (Lloyd, 1982): step, repair empty clusters, move, stop. One loop for every backend and metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..backends.points import PENDING, SETTLED, STABLE, Points, Step
from ..validation import check_mapped

__all__ = ["EMPTY_POLICIES", "Fit", "Iteration", "lloyd"]

EMPTY_POLICIES = ("farthest", "split", "keep")
HALF_ULP = 0.51 * float(np.finfo(np.float32).eps)
SPLIT_STEP = (
    1 / 16
)  # how far towards its farthest point a split cluster's twin starts, as a share of the way


class Fit(NamedTuple):
    """Outcome of one run: labels are in the Points."""

    centroids: np.ndarray  # (B, K, D) float32, or what `means` gave
    n_iter: np.ndarray  # (B,)
    converged: np.ndarray  # (B,) bool
    exhausted: np.ndarray  # (B,) bool: a cluster stayed empty because no point was left to give it


@dataclass(frozen=True)
class Iteration:
    """What `report` is told after every iteration."""

    n_iter: int
    shift: float  # the largest over the batch elements still running
    inertia: float  # the sum over the batch, before the centroids moved
    n_empty: int
    n_running: int


def lloyd(
    points: Points,
    centroids: np.ndarray,
    max_iters: int,
    tol: float,
    empty: str,
    report: Callable[[Iteration], None] | None = None,
    means: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> Fit:
    """Run from `centroids` (B, K, D); on return the labels in `points` are those of the returned centroids.

    A batch element stops by itself when an assignment changed no label or no centroid moved by more than `tol`
    (`Problem.summed_shift`: all of them together).
    With `report` the loop goes one iteration at a time. `means(labels, centroids)` is asked once, before the last labels are
    found, for the final M-step in more than float32; a cluster without points keeps its centroid.
    """
    points.reset()
    c = points.metric.start(centroids).astype(np.float32)
    n_batch = len(c)
    n_iter = np.zeros(n_batch, np.int64)
    fresh, converged, exhausted = np.zeros((3, n_batch), bool)  # fresh: labels are those of c
    moved: list[tuple[int, int, int]] = []
    while True:
        limits = np.where(converged, 0, max_iters - n_iter)
        running = limits > 0
        if not running.any():
            break
        before = c.copy() if report else c
        check_mapped(points.problem.x)
        with points.timed("assignment"):
            step = points.step(c, np.minimum(limits, 1) if report else limits, tol, empty == "keep")
        n_iter += np.where(running, step.iterations, 0)
        settled, moved = running & (step.status == SETTLED), []
        stable = running & (step.status == STABLE)
        hollow = stable & (step.counts == 0).any(-1) if empty != "keep" else np.zeros_like(stable)
        pending = hollow | (running & (step.status == PENDING))
        shift = np.where(settled, step.shift, 0.0)
        inertia = points.inertia(before).sum() if report else 0.0
        if pending.any():
            with points.timed("update"):
                new, exhausted[pending], moved = _move(points, step, c, pending, empty)
            squares = np.square(new.astype(np.float64) - c).sum(-1)
            shift[pending] = np.sqrt(
                squares.sum(-1) if points.problem.summed_shift else squares.max(-1)
            )[pending]
            c[pending] = new[pending]
            settled |= pending & ~hollow & (shift <= tol)
        exhausted[running & (step.counts > 0).all(-1)] = False
        stable &= ~hollow | (shift == 0)  # an empty cluster was given a place: on with it
        fresh |= stable
        converged |= stable | settled
        if report:
            points.assign(c, settled)  # the next line counts these batch elements' inertia too
            fresh |= settled
            n_empty = int((step.counts[running] == 0).sum())
            report(
                Iteration(
                    int(n_iter.max()),
                    float(shift.max()),
                    float(inertia),
                    n_empty,
                    int(running.sum()),
                )
            )
    if means is not None:
        labels = points.labels().copy()
        for b, i, k in moved:
            labels[b, i] = k
        c = means(labels, c)
    if not fresh.all():
        with points.timed("assignment"):
            points.assign(c, ~fresh)
    return Fit(c, n_iter, converged, exhausted)


def _move(
    points: Points, step: Step, c: np.ndarray, pending: np.ndarray, empty: str
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int, int]]]:
    """M-step: centroids (B, K, D), with empty clusters given a place; which of the `pending` had none to give; what moved."""
    sums, weight_sum = step.sums, step.weight_sum
    exhausted = np.zeros(len(c), bool)
    moved: list[tuple[int, int, int]] = []
    holes = pending & (step.counts == 0).any(-1)
    if empty == "farthest" and holes.any():
        sums, weight_sum = sums.copy(), weight_sum.copy()
        for b in np.flatnonzero(holes).tolist():
            exhausted[b] = not _relocate(
                points, c, b, sums[b], weight_sum[b], step.counts[b].copy(), moved
            )
    new = points.means(sums, weight_sum, c, pending)
    if empty == "split":
        for b in np.flatnonzero(holes).tolist():
            exhausted[b] = not _split(points, c, new, b, step.counts[b])
    return new, exhausted[pending], moved


def _relocate(
    points: Points,
    c: np.ndarray,
    b: int,
    sums: np.ndarray,
    weight_sum: np.ndarray,
    counts: np.ndarray,
    moved: list[tuple[int, int, int]],
) -> bool:
    """Move the points with the largest cost, farthest first, into the empty clusters of batch element b; False if too few.

    `moved` takes a line (b, point, cluster) for each.
    """
    candidates = iter(_farthest(points, c, b, 4 * int((counts == 0).sum()) + 64))
    for k in np.flatnonzero(counts == 0):
        for i in candidates:
            donor = int(points.labels()[b, i])
            if counts[donor] > 1 and _apart(points, c, b, i, donor):
                break
        else:
            return False
        weight = points.sum_weights(b, np.array([i]))[0]
        row = weight * points.frame.rows(points.rows(b, np.array([i])), b)[0]
        sums[donor] -= row
        weight_sum[donor] -= weight
        counts[donor] -= 1
        sums[k], weight_sum[k], counts[k] = row, weight, 1
        moved.append((b, int(i), int(k)))
    return True


def _farthest(points: Points, c: np.ndarray, b: int, n: int) -> np.ndarray:
    """The n points of batch element b that count and cost most, in order; ties to the lowest index."""
    cost = points.excess(c, b)
    if points.point_weights is not None:
        cost = np.where(points.point_weights[b] > 0, cost, -np.inf)
    n = min(n, int((cost > -np.inf).sum()))
    some = np.flatnonzero(cost >= np.partition(cost, -n)[-n])
    return some[np.argsort(-cost[some], kind="stable")][:n]


def _apart(points: Points, c: np.ndarray, b: int, i: int, k: int) -> bool:
    """Whether point i would make a centroid, and another one than c[b, k]."""
    raw, frame = points.rows(b, np.array([i])), points.frame
    own = points.metric.start(raw)[
        0
    ]  # rounded to float32, a centroid misses its point by up to HALF_ULP
    row = frame.scale[b] * frame.rows(raw, b)[0]  # whose copies were added up
    if points.metric.spherical:
        if not own.any():
            return False
        row /= np.linalg.norm(raw)
    gap = own - c[b, k]
    return float(gap @ gap) > max(
        points.rounding**2 * float(row @ row), HALF_ULP**2 * float(own @ own)
    )


def _split(points: Points, c: np.ndarray, new: np.ndarray, b: int, counts: np.ndarray) -> bool:
    """Give empty clusters of batch element b half of the largest ones: a twin a little towards the farthest point.

    A cluster is cut once per iteration, those of one distinct point never; False if none could be cut.
    """
    cost = points.costs(c, b)
    labels = points.labels()[b]
    counted = None if points.point_weights is None else points.point_weights[b] > 0
    holes = np.flatnonzero(counts == 0).tolist()
    donors = np.argsort(-counts, kind="stable")[: len(counts) - len(holes)].tolist()
    cut = False
    while holes and donors:
        donor = donors.pop(0)
        inside = labels == donor if counted is None else (labels == donor) & counted
        i = int(np.where(inside, cost, -np.inf).argmax())
        if _apart(points, new, b, i, donor):
            towards = points.metric.start(points.rows(b, np.array([i])))[0] - new[b, donor]
            new[b, holes.pop(0)] = new[b, donor] + SPLIT_STEP * towards
            cut = True
    if points.metric.spherical:
        new[b] = points.metric.start(new[b])
    return cut
