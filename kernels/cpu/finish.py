"""Candidates of a search as results: distances in float64, sorted; lists of results, merged."""

import numpy as np

from .jit import njit
from .rows import FLOAT32, FLOAT64, read_rows, values_at
from .scores import COSINE, DOT, L1, SQUARES
from .select import insert, row_of, score_of
from .sums import sum_of_magnitudes, sum_of_products, sum_of_squares

SHORT = 16  # dimensions up to which squares are summed in order, without fused operations
NEAR = 2.0**-20  # the same as NEAR in metrics.py: 1 - cos below it is computed from differences
SMALL, UP = 2.0**-200, 2.0**300
NOTHING = np.int64(0x7FFFFFFFFFFFFFFF)  # the index of a place that no row fills


@njit
def read_wide(source, i, tile, out):
    """Read row i into out (D,) float64, neither shifted nor scaled."""
    address, row_stride, column_stride, kind, _, _, _ = source
    first = address + i * row_stride
    if kind == FLOAT32 and column_stride == 4:
        values = values_at(first, np.float32, out.size)
        for d in range(out.size):
            out[d] = values[d]
    elif kind == FLOAT64 and column_stride == 8:
        values = values_at(first, np.float64, out.size)
        for d in range(out.size):
            out[d] = values[d]
    elif kind == FLOAT32:
        for d in range(out.size):
            out[d] = values_at(first + d * column_stride, np.float32, 1)[0]
    elif kind == FLOAT64:
        for d in range(out.size):
            out[d] = values_at(first + d * column_stride, np.float64, 1)[0]
    else:
        row = read_rows(source, i, np.int64(1), tile)[0]
        for d in range(out.size):
            out[d] = row[d]


@njit(fastmath=False)
def squares_in_order(x, y):
    """Return the squared distance, a sum made term by term: trees rely on its rounding."""
    total = 0.0
    for d in range(x.size):
        gap = x[d] - y[d]
        total += gap * gap
    return total


@njit(fastmath=False)
def unit_squares_in_order(x, y, a, b):
    """Return the squared distance of a x and b y, a sum made term by term."""
    total = 0.0
    for d in range(x.size):
        gap = x[d] * a - y[d] * b
        total += gap * gap
    return total


@njit
def scale_up(x):
    """Multiply x by a power of two if its squares, summed, may be too small for float64."""
    largest = 0.0
    for d in range(x.size):
        largest = max(largest, abs(x[d]))
    while 0.0 < largest < SMALL:
        largest *= UP
        for d in range(x.size):
            x[d] *= UP


@njit
def _angle(x, y):
    """Return 1 - cos, by differences of the unit rows where it is small.

    It is 1 where x or y is 0, and 0 where float64 sees no angle.
    """
    total, a, b = sum_of_products(x, y), sum_of_products(x, x), sum_of_products(y, y)
    if a == 0.0 or b == 0.0:
        return 1.0
    total = 1.0 - total / np.sqrt(a * b)
    if total >= NEAR:
        return total
    total = unit_squares_in_order(x, y, 1.0 / np.sqrt(a), 1.0 / np.sqrt(b))
    rounding = (x.size + 8) * 2.0**-52
    return 0.5 * total if total > rounding * rounding else 0.0


@njit
def distance(op, x, y):
    """Return the squared Euclidean, l1 or linf distance, 1 - cos, or minus the product."""
    if op == SQUARES:
        return squares_in_order(x, y) if x.size <= SHORT else sum_of_squares(x, y)
    if op == L1:
        return sum_of_magnitudes(x, y)
    if op == DOT:
        return -sum_of_products(x, y)
    if op == COSINE:
        return _angle(x, y)
    total = 0.0
    for d in range(x.size):
        total = max(total, abs(x[d] - y[d]))
    return total


@njit
def finish_rows(op, queries, lo, data, keys, distances, indices, lowest, tile):
    """Compute the distances of candidates and sort them by distance, then index.

    Args:
        op: The distance, see scores.py.
        queries: Source, see rows.py; neither shifted nor scaled.
        lo: The first query.
        data: Source, alike.
        keys: (Q, K >= k) uint64 candidates, ascending; 0 for none.
        distances: Out, (Q, k) float64.
        indices: Out, (Q, k) int64; NOTHING where there is no row.
        lowest: Out, (Q,) float32 lowest score of the candidates, -inf where there are fewer than K.
        tile: (T, D) float32 scratch.
    """
    k, n_dims = distances.shape[1], tile.shape[1]
    x, y = np.empty(n_dims), np.empty(n_dims)
    values, rows = np.empty(keys.shape[1]), np.empty(keys.shape[1], np.int64)
    for q in range(keys.shape[0]):
        read_wide(queries, lo + q, tile, x)
        if op == COSINE:
            scale_up(x)
        n = 0
        for place in range(keys.shape[1] - 1, -1, -1):
            key = keys[q, place]
            if key == 0:
                break
            row = row_of(key)
            read_wide(data, row, tile, y)
            if op == COSINE:
                scale_up(y)
            insert(values, rows, n, distance(op, x, y), row)
            n += 1
        for i in range(k):
            distances[q, i] = values[i] if i < n else np.inf
            indices[q, i] = rows[i] if i < n else NOTHING
        lowest[q] = score_of(keys[q, 0])


@njit
def measure_rows(op, queries, rows, places, distances):
    """Compute the distances of queries from some of the rows.

    Args:
        op: The distance, see scores.py.
        queries: (Q, D) float32.
        rows: (N, D) float32.
        places: (Q, M) int64, the rows of each query; negative for none.
        distances: Out, (Q, M) float64; inf where there is no row.
    """
    n_dims = rows.shape[1]
    x, y = np.empty(n_dims), np.empty(n_dims)
    for q in range(places.shape[0]):
        for d in range(n_dims):
            x[d] = queries[q, d]
        if op == COSINE:
            scale_up(x)
        for i in range(places.shape[1]):
            row = places[q, i]
            if row < 0:
                distances[q, i] = np.inf
                continue
            for d in range(n_dims):
                y[d] = rows[row, d]
            if op == COSINE:
                scale_up(y)
            distances[q, i] = distance(op, x, y)


@njit
def take_nearer(op, queries, data, banned, buffers, distances, indices, tile):
    """Put candidates among the nearest rows so far, where they are not there already.

    Args:
        op: The distance, see scores.py.
        queries: Source of Q queries, see rows.py; neither shifted nor scaled.
        data: Source, alike.
        banned: (Q,) int64, the row that a query may not get.
        buffers: `Buffers` of the queries, their keys in any order.
        distances: In and out, (Q, k) float64, sorted as `finish_rows` leaves them.
        indices: In and out, (Q, k) int64.
        tile: (T, D) float32 scratch.
    """
    k, n_dims = distances.shape[1], tile.shape[1]
    x, y = np.empty(n_dims), np.empty(n_dims)
    for q in range(buffers.keys.shape[0]):
        read_wide(queries, q, tile, x)
        if op == COSINE:
            scale_up(x)
        values, rows = distances[q], indices[q]
        for place in range(buffers.counts[q]):
            row = row_of(buffers.keys[q, place])
            if row == banned[q]:
                continue
            read_wide(data, row, tile, y)
            if op == COSINE:
                scale_up(y)
            value, i = distance(op, x, y), k
            while i > 0 and (
                value < values[i - 1] or (value == values[i - 1] and row < rows[i - 1])
            ):
                i -= 1
            known = i > 0 and value == values[i - 1] and row == rows[i - 1]
            if i < k and not known:
                insert(values, rows, k - 1, value, row)


@njit
def products_with(source, lo, row, tile, out):
    """Set out (Q,) to the products of a row (D,) float64 with rows lo, lo + 1, ... as given."""
    x = np.empty(row.size)
    for q in range(out.size):
        read_wide(source, lo + q, tile, x)
        total = 0.0
        for d in range(row.size):
            total += x[d] * row[d]
        out[q] = total


@njit
def are_whole(source, lo, hi, tile):
    """Return whether all values of rows lo:hi, as they are read, are whole numbers."""
    for s in range(lo, hi, tile.shape[0]):
        rows = read_rows(source, s, min(tile.shape[0], hi - s), tile)
        for i in range(rows.shape[0]):
            for d in range(rows.shape[1]):
                if rows[i, d] != np.rint(rows[i, d]):
                    return False
    return True


@njit
def merge_lists(distances, indices, more_distances, more_indices):
    """Merge sorted results (Q, K) into others (Q, k), of which the first k are kept."""
    k, n_more = distances.shape[1], more_distances.shape[1]
    values, rows = np.empty(k), np.empty(k, np.int64)
    for q in range(distances.shape[0]):
        i, j = 0, 0
        for n in range(k):
            value, row = distances[q, i], indices[q, i]
            if j < n_more and (
                more_distances[q, j] < value
                or (more_distances[q, j] == value and more_indices[q, j] < row)
            ):
                values[n], rows[n] = more_distances[q, j], more_indices[q, j]
                j += 1
            else:
                values[n], rows[n] = value, row
                i += 1
        for n in range(k):
            distances[q, n] = values[n]
            indices[q, n] = rows[n]
