"""Exact search for a few queries: each row is scored by itself, its dimensions as SIMD lanes.

A row's distance is computed in float64, unless its score in float32 proves that the row is farther
than the k-th nearest so far. So the result needs no proof in the end.
"""

import numpy as np

from .finish import NOTHING, distance, scale_up
from .jit import njit
from .proofs import EPS, EPS64, TINY, largest_score, least_distance
from .scores import COSINE, DOT, SQUARES
from .select import bits_of, insert

TILE_VALUES = 1 << 13  # of the rows that all queries meet before they meet the next
INFINITE_BITS, MAGNITUDE = np.uint32(0x7F800000), np.uint32(0x7FFFFFFF)
# Sums of squares of rows of cosine: others lose bits at the ends of float32's range.
LEAST_SQUARE, LARGEST_SQUARE = 2.0**-60, 2.0**100


@njit
def _sum_of_squares(x, y):
    total = np.float32(0.0)
    for d in range(x.size):
        gap = x[d] - y[d]
        total += gap * gap
    return total


@njit
def _sum_of_magnitudes(x, y):
    total = np.float32(0.0)
    for d in range(x.size):
        total += abs(x[d] - y[d])
    return total


@njit
def _products(x, y):
    """Return <x, y> and <y, y>."""
    product, square = np.float32(0.0), np.float32(0.0)
    for d in range(x.size):
        product += x[d] * y[d]
        square += y[d] * y[d]
    return product, square


@njit
def _least_distance(op, product, square, norm, n_dims):
    """Return what a row's distance is at least, by its product with the query and its square."""
    product, square = np.float64(product), np.float64(square)
    if op == COSINE:
        if not LEAST_SQUARE <= square <= LARGEST_SQUARE:
            return -np.inf
        rounded = (n_dims + 8) * (EPS + 4 * EPS64)  # of the root
        return least_distance(op, product / np.sqrt(square), 1.0, 1.0, rounded, n_dims)
    reach = np.sqrt(square + n_dims * TINY) * (1.0 + (n_dims + 8) * EPS)
    return least_distance(op, product, norm, reach, 0.0, n_dims)


@njit
def _look(op, query, row, norm, limit):
    """Return whether a row is certainly too far, and the bits of its largest score.

    The limit is a distance for COSINE and DOT, otherwise a score.
    """
    if op in (COSINE, DOT):
        product, square = _products(query, row)
        bits = max(bits_of(product) & MAGNITUDE, bits_of(square))
        if bits >= INFINITE_BITS:
            return False, bits
        return _least_distance(op, product, square, norm, np.int64(row.size)) > limit, bits
    score = _sum_of_squares(query, row) if op == SQUARES else _sum_of_magnitudes(query, row)
    bits = bits_of(score)
    return bits < INFINITE_BITS and np.float64(score) > limit, bits


@njit
def _as_scored(op, queries, wide, norms):
    """Return queries (Q, D) float32 as they are scored: for COSINE, divided by their norms.

    Set `wide` (Q, D) float64 to what their distances are computed from, and their norms (Q,).
    """
    out = queries.copy()
    for q in range(norms.size):
        square = 0.0
        for d in range(wide.shape[1]):
            wide[q, d] = queries[q, d]
        if op == COSINE:
            scale_up(wide[q])
        for d in range(wide.shape[1]):
            square += wide[q, d] * wide[q, d]
        norms[q] = np.sqrt(square)
        factor = 1.0 / norms[q] if op == COSINE and square > 0.0 else 1.0
        for d in range(wide.shape[1]):
            out[q, d] = wide[q, d] * factor
    return out


@njit
def nearest_rows(op, queries, rows, first, skip, distances, indices):
    """Find the nearest rows of each query.

    Args:
        op: The distance: SQUARES, COSINE, DOT or L1 of scores.py.
        queries: (Q, D) float32.
        rows: (N, D) float32.
        first: The index of the first row.
        skip: Query i never gets the row of index skip + i.
        distances: Out, (Q, k) float64, sorted, then by index; inf where there is no row.
        indices: Out, (Q, k) int64, likewise NOTHING.

    Returns:
        Whether all scores are finite. They are not where a row holds NaN or Inf.
    """
    k, n_queries, n_dims = distances.shape[1], queries.shape[0], rows.shape[1]
    wide, y = np.empty((n_queries, n_dims)), np.empty(n_dims)
    norms = np.empty(n_queries)
    scored = _as_scored(op, queries, wide, norms)
    counts = np.zeros(n_queries, np.int64)
    limits = np.full(n_queries, np.inf)
    most_bits = np.uint32(0)
    distances[:] = np.inf
    indices[:] = NOTHING
    tile = max(np.int64(1), TILE_VALUES // n_dims)
    for lo in range(0, rows.shape[0], tile):
        hi = min(rows.shape[0], lo + tile)
        for q in range(n_queries):
            values, names, n, limit = distances[q], indices[q], counts[q], limits[q]
            query, norm, x = scored[q], norms[q], wide[q]
            for i in range(lo, hi):
                row = rows[i]
                is_far, bits = _look(op, query, row, norm, limit)
                most_bits = max(most_bits, bits)
                if is_far or first + i == skip + q:
                    continue
                for d in range(n_dims):
                    y[d] = row[d]
                if op == COSINE:
                    scale_up(y)
                value = distance(op, x, y)
                if n == k and not value < values[k - 1]:
                    continue
                insert(values, names, min(n, k - 1), value, first + i)
                n = min(n + 1, k)
                if n == k:
                    limit = values[k - 1]
                    if op not in (COSINE, DOT):
                        limit = largest_score(op, limit, n_dims)
            counts[q], limits[q] = n, limit
    return most_bits < INFINITE_BITS
