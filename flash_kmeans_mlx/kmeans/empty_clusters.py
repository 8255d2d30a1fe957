"""Places for clusters without points.

"farthest" gives them the points of largest cost: it runs before the M-step and moves points from
one sum to another. "split" gives them half of the largest clusters: it runs after the M-step and
moves centroids. "keep" does nothing: a cluster without points keeps its centroid.
"""

from __future__ import annotations

import numpy as np

from ..backends.points import Points

__all__ = ["POLICIES", "relocate", "split"]

POLICIES = ("farthest", "split", "keep")
HALF_ULP = 0.51 * float(np.finfo(np.float32).eps)
SPLIT_STEP = 1 / 16  # of the way to its farthest point, that half of a split cluster moves


def relocate(
    points: Points,
    centroids: np.ndarray,
    b: int,
    sums: np.ndarray,
    weight_sum: np.ndarray,
    counts: np.ndarray,
) -> tuple[bool, list[tuple[int, int, int]]]:
    """Move the points of largest cost, farthest first, into the empty clusters of batch element b.

    Args:
        points: They are labelled by `centroids`.
        centroids: (B, K, D) float32.
        b: The batch element.
        sums: (K, D) float64 of its points in the frame; changed in place.
        weight_sum: (K,) float64, the weights in `sums`; changed in place.
        counts: (K,) int64, points with a positive weight.

    Returns:
        Whether every cluster has a point now, and (b, point, cluster) for every point that moved.
    """
    counts = counts.copy()
    empty = np.flatnonzero(counts == 0).tolist()
    candidates = iter(points.farthest(centroids, b, 4 * len(empty) + 64))
    moved = []
    for k in empty:
        for i in candidates:
            donor = int(points.labels_at(b, np.array([i]))[0])
            if counts[donor] > 1 and _would_differ(points, centroids, b, i, donor):
                break
        else:
            return False, moved
        weight = points.sum_weights(b, np.array([i]))[0]
        row = weight * points.frame.rows(points.rows(b, np.array([i])), b)[0]
        sums[donor] -= row
        weight_sum[donor] -= weight
        counts[donor] -= 1
        sums[k] = row
        weight_sum[k] = weight
        counts[k] = 1
        moved.append((b, int(i), k))
    return True, moved


def split(
    points: Points, centroids: np.ndarray, new: np.ndarray, b: int, counts: np.ndarray
) -> bool:
    """Move centroids of empty clusters of batch element b next to those of the largest clusters.

    A new centroid lies a little way from the cluster's own towards its farthest point. A cluster is
    split once per iteration, and never if all its points are equal.

    Args:
        points: They are labelled by `centroids`.
        centroids: (B, K, D) float32.
        new: (B, K, D) float32, the centroids after the M-step; changed in place.
        b: The batch element.
        counts: (K,) int64, points with a positive weight.

    Returns:
        Whether any cluster was split.
    """
    farthest = points.farthest_of_clusters(centroids, b)
    empty = np.flatnonzero(counts == 0).tolist()
    donors = np.argsort(-counts, kind="stable")[: len(counts) - len(empty)].tolist()
    found = False
    while empty and donors:
        donor = donors.pop(0)
        i = int(farthest[donor])
        if _would_differ(points, new, b, i, donor):
            point = points.metric.start(points.rows(b, np.array([i])))[0]
            new[b, empty.pop(0)] = new[b, donor] + SPLIT_STEP * (point - new[b, donor])
            found = True
    if points.metric.spherical:
        new[b] = points.metric.start(new[b])
    return found


def _would_differ(points: Points, centroids: np.ndarray, b: int, i: int, k: int) -> bool:
    """Return whether a centroid at point i would differ from centroid k by more than rounding."""
    raw = points.rows(b, np.array([i]))
    frame = points.frame
    centroid = points.metric.start(raw)[0]
    # The mean of copies of the point misses it by up to `points.rounding` of what was added up,
    # and by up to half a unit in the last place once it is rounded to float32.
    row = frame.scale[b] * frame.rows(raw, b)[0]
    if points.metric.spherical:
        if not centroid.any():
            return False
        row /= np.linalg.norm(raw)
    gap = centroid - centroids[b, k]
    rounding = max(points.rounding**2 * float(row @ row), HALF_ULP**2 * float(centroid @ centroid))
    return float(gap @ gap) > rounding
