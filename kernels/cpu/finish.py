"""Candidates of a search as results: distances in float64 from the rows as they were given, sorted; lists merged."""

import numpy as np

from .jit import njit
from .options import JIT
from .rows import FLOAT32, FLOAT64, read_rows, values_at
from .scores import COSINE, DOT, L1, SQUARES

STRICT = {**JIT, "fastmath": False}
SHORT = 16  # dimensions up to which squares are summed term by term, without fused operations: trees rely on it
NEAR = 2.0**-20  # 1 - cos below which it is computed from differences, as in proximity.py
SMALL, UP = 2.0**-200, 2.0**300
NOTHING = np.int64(0x7FFFFFFFFFFFFFFF)  # the index of a place that no row fills


@njit(**JIT)
def read_wide(source, i, tile, out):
    """out = row i in float64, neither shifted nor scaled."""
    address, row_stride, column_stride, kind = source[:4]
    first = address + i * row_stride
    if kind == FLOAT32:
        for d in range(out.size):
            out[d] = values_at(first + d * column_stride, np.float32, 1)[0]
    elif kind == FLOAT64:
        for d in range(out.size):
            out[d] = values_at(first + d * column_stride, np.float64, 1)[0]
    else:
        row = read_rows(source, i, min(1, tile.shape[0]), tile)[
            0
        ]  # a literal 1 would be compiled separately
        for d in range(out.size):
            out[d] = row[d]


@njit(**STRICT)
def _short_squares(x, y):
    total = 0.0
    for d in range(x.size):
        gap = x[d] - y[d]
        total += gap * gap
    return total


@njit(**JIT)
def scale_up(x):
    """Multiply x by a power of two if its squares, summed, may be too small for float64."""
    most = 0.0
    for d in range(x.size):
        most = max(most, abs(x[d]))
    while 0.0 < most < SMALL:
        most *= UP
        for d in range(x.size):
            x[d] *= UP


@njit(**JIT)
def _angle(x, y):
    """1 - cos, by differences of the unit rows where it is small; 1 where x or y is 0; 0 where float64 sees no angle."""
    total, a, b = 0.0, 0.0, 0.0
    for d in range(x.size):
        total += x[d] * y[d]
        a += x[d] * x[d]
        b += y[d] * y[d]
    if a == 0.0 or b == 0.0:
        return 1.0
    total = 1.0 - total / np.sqrt(a * b)
    if total >= NEAR:
        return total
    total, a, b = 0.0, 1.0 / np.sqrt(a), 1.0 / np.sqrt(b)
    for d in range(x.size):
        gap = x[d] * a - y[d] * b
        total += gap * gap
    rounding = (x.size + 8) * 2.0**-52
    return 0.5 * total if total > rounding * rounding else 0.0


@njit(**JIT)
def _distance(op, x, y):
    """Squared Euclidean, l1 or linf distance, 1 - cos, or minus the product."""
    total = 0.0
    if op == SQUARES and x.size <= SHORT:
        total = _short_squares(x, y)
    elif op == SQUARES:
        for d in range(x.size):
            total += (x[d] - y[d]) * (x[d] - y[d])
    elif op == L1:
        for d in range(x.size):
            total += abs(x[d] - y[d])
    elif op == DOT:
        for d in range(x.size):
            total -= x[d] * y[d]
    elif op == COSINE:
        total = _angle(x, y)
    else:
        for d in range(x.size):
            total = max(total, abs(x[d] - y[d]))
    return total


@njit(**JIT)
def put_score(key, out, q):
    """out[q] = the score in a key as kernels make them, -inf for no key."""
    word = np.uint32(key >> np.uint64(32))
    word ^= np.uint32(0x80000000) if word >> np.uint32(31) else np.uint32(0xFFFFFFFF)
    out.view(np.uint32)[q] = word
    if key == 0:
        out[q] = -np.inf


@njit(**JIT)
def finish_rows(op, queries, lo, data, keys, distances, indices, lowest, tile):
    """distances and indices (Q, k) of the candidates keys (Q, K >= k), ascending as np.sort leaves them, of queries lo and on.

    IN queries, data: sources that are neither shifted nor scaled. OUT distances in float64; sorted by distance, then index;
    lowest (Q,), the lowest score of the candidates, -inf where there is no more.
    """
    k, n_dims = distances.shape[1], tile.shape[1]
    x, y = np.empty(n_dims), np.empty(n_dims)
    value, row = np.empty(keys.shape[1]), np.empty(keys.shape[1], np.int64)
    for q in range(keys.shape[0]):
        read_wide(queries, lo + q, tile, x)
        if op == COSINE:
            scale_up(x)
        n = 0
        for place in range(keys.shape[1] - 1, -1, -1):
            key = keys[q, place]
            if key == 0:
                break
            index = np.int64(np.uint64(0xFFFFFFFF) - (key & np.uint64(0xFFFFFFFF)))
            read_wide(data, index, tile, y)
            if op == COSINE:
                scale_up(y)
            value[n] = _distance(op, x, y)
            v, i = value[n], n  # insertion: they are nearly in order
            while i > 0 and (v < value[i - 1] or (v == value[i - 1] and index < row[i - 1])):
                value[i], row[i] = value[i - 1], row[i - 1]
                i -= 1
            value[i], row[i] = v, index
            n += 1
        for i in range(k):
            distances[q, i] = value[i] if i < n else np.inf
            indices[q, i] = row[i] if i < n else NOTHING
        put_score(keys[q, 0], lowest, q)


@njit(**JIT)
def take_nearer(op, queries, data, banned, keys, counts, distances, indices, tile):
    """Put rows among the nearest so far, distances and indices (Q, k), sorted as `finish_rows` leaves them.

    IN queries, data as there, of Q queries; keys (Q, C), of which counts (Q,) are filled, in any order; query i may not get
    row banned[i]. Rows that are among the nearest already are left out.
    """
    k, n_dims = distances.shape[1], tile.shape[1]
    x, y = np.empty(n_dims), np.empty(n_dims)
    for q in range(keys.shape[0]):
        read_wide(queries, q, tile, x)
        if op == COSINE:
            scale_up(x)
        value, row = distances[q], indices[q]
        for place in range(counts[q]):
            index = np.int64(np.uint64(0xFFFFFFFF) - (keys[q, place] & np.uint64(0xFFFFFFFF)))
            if index == banned[q]:
                continue
            read_wide(data, index, tile, y)
            if op == COSINE:
                scale_up(y)
            v, i = _distance(op, x, y), k
            while i > 0 and (v < value[i - 1] or (v == value[i - 1] and index < row[i - 1])):
                i -= 1
            if i == k or (i > 0 and v == value[i - 1] and index == row[i - 1]):
                continue
            for j in range(k - 1, i, -1):
                value[j], row[j] = value[j - 1], row[j - 1]
            value[i], row[i] = v, index


@njit(**JIT)
def products_with(source, lo, row, tile, out):
    """out (Q,) = products of the rows lo and on, neither shifted nor scaled, with a row (D,) float64."""
    x = np.empty(row.size)
    for q in range(out.size):
        read_wide(source, lo + q, tile, x)
        total = 0.0
        for d in range(row.size):
            total += x[d] * row[d]
        out[q] = total


@njit(**JIT)
def are_whole(source, lo, hi, tile):
    """Whether all values of rows lo:hi, as they are read, are whole numbers."""
    for s in range(lo, hi, tile.shape[0]):
        rows = read_rows(source, s, min(tile.shape[0], hi - s), tile)
        for i in range(rows.shape[0]):
            for d in range(rows.shape[1]):
                if rows[i, d] != np.rint(rows[i, d]):
                    return False
    return True


@njit(**JIT)
def merge_lists(distances, indices, more_distances, more_indices):
    """The first k of two sorted lists for every query, in the first one, (Q, k) and (Q, K)."""
    k, other = distances.shape[1], more_distances.shape[1]
    value, row = np.empty(k), np.empty(k, np.int64)
    for q in range(distances.shape[0]):
        i, j = 0, 0
        for n in range(k):
            u, a = distances[q, i], indices[q, i]
            if j < other and (
                more_distances[q, j] < u or (more_distances[q, j] == u and more_indices[q, j] < a)
            ):
                value[n], row[n] = more_distances[q, j], more_indices[q, j]
                j += 1
            else:
                value[n], row[n] = u, a
                i += 1
        for n in range(k):
            distances[q, n] = value[n]
            indices[q, n] = row[n]
