"""Candidates of a search as results: distances in float64 from the rows as they were given, sorted; lists merged."""

import numpy as np

from .jit import njit
from .options import JIT
from .rows import FLOAT32, FLOAT64, _values, read_rows
from .scores import COSINE, DOT, L1, SQUARES

STRICT = {**JIT, "fastmath": False}
SHORT = 16  # dimensions up to which squares are summed term by term, without fused operations: trees rely on it
NOTHING = np.int64(0x7FFFFFFFFFFFFFFF)  # the index of a place that no row fills


@njit(**JIT)
def _read(source, i, tile, out):
    """out = row i in float64, neither shifted nor scaled."""
    address, row_stride, column_stride, kind = source[:4]
    first = address + i * row_stride
    if kind == FLOAT32:
        for d in range(out.size):
            out[d] = _values(first + d * column_stride, np.float32, 1)[0]
    elif kind == FLOAT64:
        for d in range(out.size):
            out[d] = _values(first + d * column_stride, np.float64, 1)[0]
    else:
        row = read_rows(source, i, min(1, tile.shape[0]), tile)[0]  # a literal 1 would be compiled separately
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
        a, b = 0.0, 0.0
        for d in range(x.size):
            total += x[d] * y[d]
            a += x[d] * x[d]
            b += y[d] * y[d]
        total = max(0.0, 1.0 - total / (np.sqrt(a) * np.sqrt(b))) if a > 0.0 and b > 0.0 else 1.0
    else:
        for d in range(x.size):
            total = max(total, abs(x[d] - y[d]))
    return total


@njit(**JIT)
def finish_rows(op, queries, lo, data, keys, distances, indices, tile):
    """distances and indices (Q, k) of the candidates keys (Q, K >= k), ascending as np.sort leaves them, of queries lo and on.

    IN queries, data: sources that are neither shifted nor scaled. OUT distances in float64; sorted by distance, then index.
    """
    k, n_dims = distances.shape[1], tile.shape[1]
    x, y = np.empty(n_dims), np.empty(n_dims)
    value, row = np.empty(keys.shape[1]), np.empty(keys.shape[1], np.int64)
    for q in range(keys.shape[0]):
        _read(queries, lo + q, tile, x)
        n = 0
        for place in range(keys.shape[1] - 1, -1, -1):
            key = keys[q, place]
            if key == 0:
                break
            index = np.int64(np.uint64(0xFFFFFFFF) - (key & np.uint64(0xFFFFFFFF)))
            _read(data, index, tile, y)
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


@njit(**JIT)
def merge_lists(distances, indices, more_distances, more_indices):
    """The first k of two sorted lists for every query, in the first one, (Q, k) and (Q, K)."""
    k, other = distances.shape[1], more_distances.shape[1]
    value, row = np.empty(k), np.empty(k, np.int64)
    for q in range(distances.shape[0]):
        i, j = 0, 0
        for n in range(k):
            u, a = distances[q, i], indices[q, i]
            if j < other and (more_distances[q, j] < u or (more_distances[q, j] == u and more_indices[q, j] < a)):
                value[n], row[n] = more_distances[q, j], more_indices[q, j]
                j += 1
            else:
                value[n], row[n] = u, a
                i += 1
        for n in range(k):
            distances[q, n] = value[n]
            indices[q, n] = row[n]
