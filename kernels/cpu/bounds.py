"""Bounds of distances, the centroids they are of, and how they are carried over to new centroids.

See prune.py, which uses them.
"""

from typing import NamedTuple

import numpy as np

from .jit import njit

# Factors for the rounding of a bound that is carried over.
UP = np.float32(1 + 2.0**-22)
DOWN = np.float32(1 - 2.0**-22)


class Table(NamedTuple):
    """Centroids of one batch element, in all the forms that bounds need.

    Centroid order[p] is at place p; groups are `width` places each.

    Attributes:
        c: (K, D) float32, centroids that bounds are of.
        inner: (K, D) float32, centroids that tile.py scores.
        bias: (K,) float32, their bias.
        order: (K,) int32.
        position: (K,) int32, the inverse of `order`.
        width: Places of a group.
        rows: (K, Q) float32, features by place.
        columns: (Q, K) float32, `rows` transposed.
        row_bias: (K,) float32, bias of the features by place.
        drift: (K,) float32, how far each centroid has moved since the bounds were made.
        group_drift: (G,) float32, the largest drift of each group.
        eps: Rounding of scores, relative to squared norms.
        most: The largest squared norm of a centroid.
        exact: Whether own distances are found in all dimensions from the start.
        spherical: Whether centroids are unit vectors.
    """

    c: np.ndarray
    inner: np.ndarray
    bias: np.ndarray
    order: np.ndarray
    position: np.ndarray
    width: int
    rows: np.ndarray
    columns: np.ndarray
    row_bias: np.ndarray
    drift: np.ndarray
    group_drift: np.ndarray
    eps: np.float32
    most: np.float32
    exact: bool
    spherical: bool


class Bounds(NamedTuple):
    """Bounds of the points of one batch element.

    Attributes:
        square: (N,) float32, ||row||^2, or (0,) where rows are unit rows.
        inverse: (N,) float32, 1 / ||row||, or (0,) where rows are taken as they are.
        upper: (N,) float32, at least the distance to the own centroid.
        lower: (G, N) float32, at most the distance to the other centroids of each group.
    """

    square: np.ndarray
    inverse: np.ndarray
    upper: np.ndarray
    lower: np.ndarray


class PruneScratch(NamedTuple):
    """Memory of one thread for a tile of T points.

    Arrays by point are (T + POINTS,), by chosen point too: those that a group may concern.

    Attributes:
        gathered: (Q, T + padding) float32, lanes of the chosen points.
        reach: Float32 by point, its least lower bound.
        threshold: Float32 by point, the score that a rival must exceed.
        gaps: Float32 by point, squared distance of its own centroid.
        lost: Float32 by point, lower bound of the distance to the centroid that it left.
        slack: Float32 by point, rounding of a score.
        bound: Float32 by point, bound of its distance; -inf if its label can't change.
        rest: Float32 by chosen point, the most of the scores that do not exceed `limit`.
        limit: Float32 by chosen point, its threshold.
        label: Int32 by point.
        place: Int32 by point, the place of its own centroid.
        chosen: Int32, the chosen points.
        mine: Int32 by chosen point, its place, or -1 if it came along only.
        known: Bool by point, whether `gaps` is found in all dimensions.
        row: (1, D) float32.
        masks: (ROWS,) int64.
    """

    gathered: np.ndarray
    reach: np.ndarray
    threshold: np.ndarray
    gaps: np.ndarray
    lost: np.ndarray
    slack: np.ndarray
    bound: np.ndarray
    rest: np.ndarray
    limit: np.ndarray
    label: np.ndarray
    place: np.ndarray
    chosen: np.ndarray
    mine: np.ndarray
    known: np.ndarray
    row: np.ndarray
    masks: np.ndarray


@njit
def own_scores(features, s, index, m, place, table, out):
    """Write to out[:m] lower bounds of the scores of points s + index[:m] with their own centroids.

    Dimensions are the outer loop: neighbouring points share pages.
    """
    columns, row_bias = table.columns, table.row_bias
    for j in range(m):
        out[j] = row_bias[place[index[j]]]
    for d in range(columns.shape[0]):
        sign = np.float32(-1.0 if d == columns.shape[0] - 1 else 1.0)  # the remainder
        column, row = features[d, s:], columns[d]
        for j in range(m):
            i = np.uint32(index[j])
            out[j] += sign * column[i] * row[np.uint32(place[i])]


@njit
def carry(upper, lower, drift, group_drift, label, s, n, reach):
    """Loosen the bounds of points s:s+n by the drift; reach (n,) = the least of the lower ones."""
    for i in range(n):
        upper[s + i] = (upper[s + i] + drift[label[i]]) * UP
        reach[i] = np.float32(np.inf)
    for g in range(lower.shape[0]):
        for i in range(n):
            v = lower[g, s + i] * DOWN - group_drift[g]
            lower[g, s + i] = v
            reach[i] = min(reach[i], v)
