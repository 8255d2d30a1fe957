"""Tell which points a candidate of k-means++ could be nearer to than their nearest centre.

By features of the points (features.py) or by their bytes (int8.py): both bound the product of a
point and a candidate from above. Points that no bound concerns are not read. No point that
candidates.py would find nearer is missed.
"""

from typing import NamedTuple

import numpy as np

from .int8 import (
    BEYOND,
    FACTOR,
    LOST,
    NORM,
    RESIDUAL,
    Int8Points,
    bound_rows,
    round_centroids,
    round_points,
    rounding,
)
from .ir import address, lowest_bit
from .jit import njit
from .lanes import POINTS, ROWS, rows_above
from .rows import read_rows
from .sizes import DEBUG

HALF, TWO = np.float32(0.5), np.float32(2)
TINY = np.float32(2.0**-120)  # more than what squares and sums lose as they have no more bits
LEAST = np.float32(2.0**-120)  # inverse norms up to it are those of rows of zeros


class Filters(NamedTuple):
    """Bytes or features of one batch element's points, or neither.

    Attributes:
        columns: (Q, N + padding) float32 features, or (0, 0).
        points: The points as bytes, or no blocks of them.
    """

    columns: np.ndarray
    points: Int8Points


@njit
def fill_rows(source, points, lo, hi, tile, values):
    """Round rows lo:hi to the bytes of all points; lo is a multiple of POINTS.

    Scratch: tile (rows, D) float32; values as in `round_points`.
    """
    for s in range(lo, hi, tile.shape[0]):
        n = min(tile.shape[0], hi - s)
        rows = read_rows(source, s, n, tile)
        for a in range(0, n, POINTS):
            m = min(POINTS, n - a)
            round_points(rows[a : a + m], m, points, (s + a) // POINTS, values)


@njit(inline="always")
def threshold_of(own, inverse, distance, eps):
    """Return what a product must reach where a candidate may be nearer than `distance`.

    A candidate c is nearer to a row x if ``own + norm - 2 inverse (<x, c> + start) < distance``, up
    to rounding of eps times these and of the product: if ``<x, c> + start`` reaches this threshold
    plus ``norm / (2 inverse)``.
    """
    if inverse <= LEAST:
        return np.float32(-np.inf)  # a row of zeros: it is always tried
    return (own - distance - TWO * eps * (own + distance)) * (HALF / inverse) - TINY


@njit(inline="always")
def prepare_candidates(candidates, measure):
    """Round the candidates of a round to bytes, for `_near_by_bytes`."""
    rows, bias, lanes, norms = candidates.rows, candidates.bias, candidates.lanes, candidates.norms
    count = candidates.number[0]
    eps = measure.eps
    least = np.float32(np.inf)
    for c in range(count):
        for d in range(lanes.shape[0]):
            rows[c, d] = lanes[d, c]
        low = norms[0, c] - TWO * eps * abs(norms[0, c]) - TWO * norms[2, c]
        bias[c] = norms[1, c]
        if measure.inverse.size > 1:
            least = min(least, low)
        else:
            bias[c] -= HALF * low
            least = np.float32(0)
    candidates.least[0] = least
    round_centroids(rows[:count], bias[:count], candidates.table)


@njit(inline="always")
def points_to_try(filters, measure, candidates, s, n, threshold, scratch):
    """Write to index[:m] those of points s:s+n that a candidate could be near; return m.

    They are all points where nothing is kept of them, or there are no centres yet.
    """
    if filters.points.words.shape[0] and candidates.number[0] > 1:
        return _near_by_bytes(filters.points, measure, candidates, s, n, threshold, scratch)
    if filters.columns.shape[0]:
        return _near_by_features(
            filters.columns,
            candidates.features,
            candidates.bias,
            candidates.number[0],
            s,
            n,
            threshold,
            scratch.none,
            scratch.idle,
            scratch.masks,
            scratch.points,
        )
    index = scratch.points
    for i in range(n):
        index[i] = s + i
    return n


@njit(inline="always")
def _near_by_bytes(points, measure, candidates, s, n, threshold, scratch):
    """Write to index[:m] those of points s:s+n that a candidate could be near; return m."""
    values, start, terms, worst, _ = candidates.table
    masks, index, limits, bounds = scratch.masks, scratch.points, scratch.limits, scratch.bounds
    measures, inverse = points.measures, measure.inverse
    count, least = candidates.number[0], candidates.least[0]
    n_quads = points.words.shape[1]
    block_bytes = 4 * n_quads * POINTS
    eta = rounding(values.shape[1])
    rounded, of_bias, lost = worst[0], worst[1], np.float32(values.shape[1]) * LOST
    if DEBUG and s + -(-n // POINTS) * POINTS > min(measures.shape[1], threshold.size):
        raise IndexError("points beyond their bytes")
    m = 0
    for b in range(s, s + n, POINTS):
        size = min(POINTS, s + n - b)
        for i in range(POINTS):
            factor = measures[FACTOR, b + i]
            residual, norm = measures[RESIDUAL, b + i], measures[NORM, b + i]
            error = residual + (norm + residual) * rounded + norm * eta + of_bias + lost
            limits[0, i] = factor
            limits[1, i] = factor * error
            limits[2, i] = factor * threshold[b + i]
            if (factor + limits[1, i]) * worst[2] > BEYOND:  # the point is tried
                limits[0, i] = limits[1, i] = np.float32(0)
                limits[2, i] = np.float32(-np.inf)
        if inverse.size > 1:
            for i in range(size):
                limits[2, i] += limits[0, i] * (least * (HALF / max(inverse[b + i], LEAST)))
        bits = np.int64(0)
        for k in range(0, count, ROWS):
            if bound_rows(
                np.bool_(False),
                address(points.words) + (b // POINTS) * block_bytes,
                n_quads,
                address(values),
                address(start),
                address(terms),
                k,
                count,
                address(limits),
                address(bounds),
                address(masks),
            ):
                for a in range(ROWS):
                    bits |= masks[a]
        if size < POINTS:
            bits &= (np.int64(1) << size) - 1
        while bits:
            index[m] = b + lowest_bit(bits)
            m += 1
            bits &= bits - 1
    return m


@njit  # a call counts the references of every array: it takes no more than it needs
def _near_by_features(columns, features, bias, count, s, n, threshold, none, idle, masks, index):
    """Write to index[:m] those of points s:s+n that a candidate could be near; return m."""
    m = 0
    if DEBUG and s + -(-n // POINTS) * POINTS > min(columns.shape[1], threshold.size):
        raise IndexError("points beyond their columns")
    for b in range(s, s + n, POINTS):
        bits = np.int64(0)
        for k in range(0, count, ROWS):
            if rows_above(
                address(columns) + 4 * b,
                columns.strides[0],
                features,
                bias,
                k,
                count,
                address(threshold) + 4 * b,
                address(none),
                address(idle),
                masks,
            ):
                for a in range(ROWS):
                    bits |= masks[a]
        while bits:
            index[m] = b + lowest_bit(bits)
            m += 1
            bits &= bits - 1
    return m
