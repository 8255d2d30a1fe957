"""Rows and queries of a search as bytes, with what bounds of their scores need.

Queries and rows are taken relative to a point in their middle and rounded to 8 bits, each with a
scale of its own; int8.py describes why the error of their products is known. Queries are its
points, rows its centroids.

A score is ``scale <y, z> + bias(z) + base(y)`` for the query y and the row z relative to the
middle m, scores being as scores.py has them: minus squared differences are
``2 <y, z> - |z|^2 - |y|^2``, products of unit rows ``<y, z> + <m, z> + <y + m, m>``; for DOT only
rows are relative to the middle. What is compared are scores less the base, in units of the query.
"""

from typing import NamedTuple

import numpy as np

from .int8 import (
    CENTROID_LEVELS,
    EPS,
    FACTOR,
    LEAST,
    NORM,
    RESIDUAL,
    ZERO,
    Int8Points,
    round_points,
    rounding,
)
from .jit import njit
from .lanes import POINTS
from .rows import read_rows
from .scores import CHORD, COSINE, DOT
from .select import from_bits
from .sizes import NEG_INF
from .topk import largest_square_of, unit_rows

STEP, BIAS, REACH = range(3)  # of `Int8Rows.terms`
INFINITY = np.float32(np.inf)
# Added to norms, whose squares may leave the range of float32: the roots of what is lost.
FLOOR = np.float32(2.0**-63)
MAGNITUDE = np.uint32(0x7FFFFFFF)  # the bits of a float32 but for its sign
LARGEST = 1e37  # of a bound: beyond it there may be no float32


class Int8Rows(NamedTuple):
    """Rows as bytes, and what bounds need of them.

    Attributes:
        values: (N, 4 * quads) int8, zeros beyond D.
        start: (N,) int32, what sums start from, so that ZERO cancels.
        terms: (N, 3) float32: the step between whole numbers, the bias, and the norm, rounded up,
            or what stands for it: see `set_reach`.
        residual: (N,) float32, the norm of the rounding, rounded up.
    """

    values: np.ndarray
    start: np.ndarray
    terms: np.ndarray
    residual: np.ndarray


class Int8Queries(NamedTuple):
    """Queries as bytes, in blocks of POINTS, and their bounds.

    Attributes:
        points: As in int8.py.
        read: (blocks * POINTS, D) float32, the queries as they are read.
        limits: (blocks, 3, POINTS) float32: the unit of scores, the error of a bound for a row with
            reach 1, and the limit that an upper bound must reach; Inf for no more candidates.
        base: (blocks * POINTS,) float64, what a score has beside products and biases.
        size: (blocks * POINTS,) float32, the norms of a query and the middle, rounded up.
        failed: (blocks * POINTS,) bool, whether candidates were lost.
    """

    points: Int8Points
    read: np.ndarray
    limits: np.ndarray
    base: np.ndarray
    size: np.ndarray
    failed: np.ndarray


@njit
def mean_row(op, source, n, step, centre, out, scratch):
    """Set out (D,) float32 to the mean of every step-th of n rows, as scores have them."""
    total = np.zeros(out.size)
    count = 0
    for i in range(0, n, step):
        rows = read_rows(source, i, np.int64(1), scratch.tile)
        if op in (COSINE, CHORD):
            rows = unit_rows(source, i, np.int64(1), rows, centre, scratch)
        for d in range(out.size):
            total[d] += rows[0, d]
        count += 1
    for d in range(out.size):
        out[d] = total[d] / count


@njit
def round_rows(op, source, lo, hi, centre, middle, rows, part, scratch):
    """Round rows lo:hi of a source.

    Args:
        op: How rows score, see scores.py.
        source: The rows, see rows.py.
        lo: First row.
        hi: End of the rows.
        centre: (D,) taken off unit rows, as in `search_rows`.
        middle: (D,) float32, taken off rows.
        rows: Out, `Int8Rows`; the norms of rows stand for their reach.
        part: (POINTS, D) float32 scratch.
        scratch: `Scratch` of topk.py.

    Returns:
        The bits of the largest magnitude, and the largest sum of squares, as `search_rows` does.
    """
    values, start, terms, residual = rows
    tile, n_dims = scratch.tile, part.shape[1]
    up = np.float32(1) + np.float32(n_dims + 8) * EPS
    bits = part.view(np.uint32)
    largest_bits, largest_square = np.uint32(0), np.float32(0)
    for s in range(lo, hi, tile.shape[0]):
        n = min(tile.shape[0], hi - s)
        read = read_rows(source, s, n, tile)
        words = read.view(np.uint32)
        for i in range(n):  # magnitudes as integers: those of floats take longer, and hide NaN
            for d in range(n_dims):
                largest_bits = max(largest_bits, np.uint32(words[i, d] & MAGNITUDE))
        if op == DOT:
            largest_square = max(largest_square, largest_square_of(read))
        if op in (COSINE, CHORD):
            read = unit_rows(source, s, n, read, centre, scratch)
        for i in range(n):
            row = s + i
            most = np.uint32(0)
            for d in range(n_dims):
                part[0, d] = read[i, d] - middle[d]
            for d in range(n_dims):
                most = max(most, np.uint32(bits[0, d] & MAGNITUDE))
            step = max(from_bits(most), LEAST) / CENTROID_LEVELS
            factor = np.float32(1) / step
            square, lost, along = np.float32(0), np.float32(0), np.float32(0)
            total = np.float32(0)  # of whole numbers that it holds exactly
            for d in range(n_dims):
                value = part[0, d]
                whole = np.rint(value * factor)
                values[row, d] = np.int8(np.int32(whole))
                total += whole
                gap = value - whole * step
                lost += gap * gap
                square += value * value
                along += value * middle[d]
            start[row] = -ZERO * np.int32(total)
            norm = np.sqrt(square) * up + FLOOR
            terms[row, STEP] = step
            terms[row, BIAS] = (
                along if op == COSINE else np.float32(-0.5) * square if op != DOT else np.float32(0)
            )
            terms[row, REACH] = norm
            residual[row] = np.sqrt(lost) * up + EPS * norm + FLOOR
    return np.int32(largest_bits), largest_square


@njit
def set_reach(rows, ratio):
    """Replace norms in `terms` by the reach of rows; returns the largest norm.

    The error of a bound is ``a |z| + b r``, where r is the residual. With ``r <= ratio * reach``
    and ``|z| <= reach`` it is ``(a + b ratio) reach`` at most: one number for a query, one for a
    row.
    """
    terms, residual = rows.terms, rows.residual
    largest = np.float32(0)
    for i in range(residual.size):
        norm = terms[i, REACH]
        largest = max(largest, norm)
        terms[i, REACH] = max(norm, residual[i] / ratio * (np.float32(1) + np.float32(4) * EPS))
    return largest


@njit
def round_queries(
    op, source, lo, n, centre, middle, largest, ratio, queries, norms, part, values, scratch
):
    """Round queries lo:lo+n of a source, and measure what bounds need.

    Args:
        op: How rows score, see scores.py.
        source: The queries, see rows.py.
        lo: First query.
        n: Number of queries.
        centre: (D,) taken off unit rows.
        middle: (D,) float32, taken off rows.
        largest: The largest norm of the rows.
        ratio: That of `set_reach`.
        queries: Out, `Int8Queries`; no limits yet.
        norms: Out, (n,) float64, those of the queries as they are read.
        part: (POINTS, D) float32 scratch.
        values: (4 * quads,) int8 scratch.
        scratch: `Scratch` of topk.py.
    """
    points, kept, limits, base, sizes, failed = queries
    n_dims = part.shape[1]
    slack = np.float64(rounding(n_dims))
    size = 0.0
    for d in range(n_dims):
        size += np.float64(middle[d]) * np.float64(middle[d])
    size = np.sqrt(size)
    biased = size if op == COSINE else 0.0  # whose rows have a bias in proportion to it
    step = min(POINTS, scratch.tile.shape[0])
    for i in range(n, failed.size):
        failed[i] = False
    for block in range(limits.shape[0]):
        first = block * POINTS
        m = min(POINTS, n - first)
        for s in range(0, m, step):
            count = min(step, m - s)
            read = read_rows(source, lo + first + s, count, scratch.tile)
            if op in (COSINE, CHORD):
                read = unit_rows(source, lo + first + s, count, read, centre, scratch)
            for i in range(count):
                square, apart, along = 0.0, 0.0, 0.0
                for d in range(n_dims):
                    value, origin = np.float64(read[i, d]), np.float64(middle[d])
                    gap = value - origin
                    square += value * value
                    apart += gap * gap
                    along += value * origin
                    kept[first + s + i, d] = read[i, d]
                    part[s + i, d] = read[i, d] if op == DOT else read[i, d] - middle[d]
                norms[first + s + i] = np.sqrt(square)
                base[first + s + i] = along if op <= DOT else -apart
        round_points(part, m, points, block, values)
        for i in range(POINTS):
            at = first + i
            factor = np.float64(points.measures[FACTOR, at])
            norm = np.float64(points.measures[NORM, at]) + FLOOR
            residual = np.float64(points.measures[RESIDUAL, at]) + EPS * norm + FLOOR
            error = residual + (norm + residual) * ratio + slack * (norm + largest + biased)
            sizes[at] = (norm + size) * (1 + 1e-6)
            limits[block, 0, i] = factor
            limits[block, 1, i] = factor * error * (1 + 1e-6)
            if i < m:
                spread = norm + residual + largest + size + error / ratio
                failed[at] = not factor * spread * spread < LARGEST


@njit
def start_queries(op, n, least, queries):
    """Set the limits of n queries: rows that score no more than least (n,) are excluded."""
    limits, base, failed = queries.limits, queries.base, queries.failed
    scale = 1.0 if op <= DOT else 2.0
    for i in range(limits.shape[0] * POINTS):
        block, lane = i // POINTS, i % POINTS
        limit = INFINITY
        if i < n and not failed[i]:
            limit = NEG_INF
            if least[i] > NEG_INF:
                unit, score = np.float64(limits[block, 0, lane]) / scale, np.float64(least[i])
                limit = np.float32((score - base[i] - 1e-6 * (abs(score) + abs(base[i]))) * unit)
        limits[block, 2, lane] = limit
