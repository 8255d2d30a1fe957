"""A tree of boxes over rows of few dimensions: LEAF rows to a leaf, FAN children to a node, all children's boxes seen at once.

Rows are columns here, (D + 1, columns) float64, the last line their indices: medians split them into leaves that follow one
another. Distances are the sums of finish.py's `_short_squares`, term by term, and so are the bounds of boxes: rounding is
monotonous, so no bound exceeds a distance within its box, and that of a box around equal rows is their distance. What is
left to the order of equal distances is the index, which boxes bound too.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .finish import NOTHING, STRICT, _short_squares
from .jit import njit
from .options import JIT
from .topk import _lowest_bit

# The typing context of an intrinsic is not an argument.
# pyright: reportCallIssue=false

LEAF, FAN = 32, 8
NEAR = 64  # queries that may ask in any order
FAR = np.finfo(
    np.float64
).max  # more than any distance, less than those of places that are not filled

_NUMBER, _DOUBLE = ir.IntType(64), ir.DoubleType()
_DOUBLES = ir.VectorType(_DOUBLE, FAN)


def _pointer(builder, base, offset, kind):
    return builder.inttoptr(builder.add(base, offset), kind.as_pointer())


def _splat(builder, value):
    single = builder.insert_element(_DOUBLES(ir.Undefined), value, ir.IntType(32)(0))
    return builder.shuffle_vector(
        single, _DOUBLES(ir.Undefined), ir.VectorType(ir.IntType(32), FAN)([0] * FAN)
    )


def _load(builder, base, offset):
    return builder.load(_pointer(builder, base, offset, _DOUBLES), align=8)


def _largest(builder, a, b):
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _squares(vectors, gaps):
    """An intrinsic: out = sums of squares of gaps, of `vectors` vectors; returns a bit for each that is no more than the limit.

    Addresses: first, of values whose lines are `stride` bytes apart; query (n_dims,) and out, float64.
    """

    def generate(_context, builder, _signature, args):
        first, stride, query, n_dims, out, limit = args
        sums = [cgutils.alloca_once_value(builder, _DOUBLES([0.0] * FAN)) for _ in range(vectors)]
        with cgutils.for_range(builder, n_dims) as loop:
            offset = builder.mul(loop.index, _NUMBER(8))
            value = _splat(builder, builder.load(_pointer(builder, query, offset, _DOUBLE)))
            line = builder.add(first, builder.mul(loop.index, stride))
            for gap, total in zip(gaps(builder, line, value), sums, strict=True):
                builder.store(builder.fadd(builder.load(total), builder.fmul(gap, gap)), total)
        mask, limits = _NUMBER(0), _splat(builder, limit)
        for v, total in enumerate(map(builder.load, sums)):
            builder.store(total, _pointer(builder, out, _NUMBER(8 * FAN * v), _DOUBLES), align=8)
            bits = builder.bitcast(builder.fcmp_ordered("<=", total, limits), ir.IntType(FAN))
            mask = builder.or_(mask, builder.shl(builder.zext(bits, _NUMBER), _NUMBER(FAN * v)))
        return mask

    @intrinsic
    def squares(_typing, first, stride, query, n_dims, out, limit):
        return types.uint64(*[types.int64] * 5, types.float64), generate

    return squares


def _to_rows(builder, line, value):
    return [
        builder.fsub(value, _load(builder, line, _NUMBER(8 * FAN * v))) for v in range(LEAF // FAN)
    ]


def _to_boxes(builder, line, value):
    below = builder.fsub(_load(builder, line, _NUMBER(0)), value)
    above = builder.fsub(value, _load(builder, line, _NUMBER(8 * FAN)))
    return [_largest(builder, _largest(builder, below, above), _DOUBLES([0.0] * FAN))]


_every_row, _every_box = _squares(LEAF // FAN, _to_rows), _squares(1, _to_boxes)


@njit(**STRICT)  # Numba adds the flags of a function to the instructions of its intrinsics
def _row_squares(first, stride, query, n_dims, out, limit):
    return _every_row(first, stride, query, n_dims, out, limit)


@njit(**STRICT)
def _box_squares(first, stride, query, n_dims, out, limit):
    return _every_box(first, stride, query, n_dims, out, limit)


@njit(**JIT)
def _select(x, lo, hi, place, dim):
    """Sort columns lo:hi of x so far that no value of line dim left of `place` exceeds one right of it (Hoare's select)."""
    keys = x[dim]
    hi -= 1
    while lo < hi:
        a, b, c = keys[lo], keys[(lo + hi) >> 1], keys[hi]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = lo, hi
        while i <= j:
            while keys[i] < pivot:
                i += 1
            while keys[j] > pivot:
                j -= 1
            if i <= j:
                for d in range(x.shape[0]):
                    x[d, i], x[d, j] = x[d, j], x[d, i]
                i += 1
                j -= 1
        if place <= j:
            hi = j
        elif place >= i:
            lo = i
        else:
            break


@njit(**JIT)
def _range(values):
    least, most = values[0], values[0]
    for i in range(values.size):
        least, most = min(least, values[i]), max(most, values[i])
    return least, most


@njit(**JIT)
def split_rows(x, lo, hi, size, stop):
    """Split columns lo:hi of x, in pieces of `size`, in halves until they are of `stop`, along their widest dimension.

    Pieces of equal rows are split by index. Sizes are LEAF times a power of two, so only the last piece may be shorter.
    """
    while size > stop:
        half = size // 2
        for first in range(lo, hi, size):
            last = min(first + size, hi)
            if first + half < last:
                widest, dim = 0.0, x.shape[0] - 1
                for d in range(x.shape[0] - 1):
                    least, most = _range(x[d, first:last])
                    if most - least > widest:
                        widest, dim = most - least, d
                _select(x, first, last, first + half, dim)
        size = half


@njit(**JIT)
def bound_nodes(x, n, boxes, children, least):
    """Boxes over n columns of x as `split_rows` leaves them.

    OUT boxes (nodes, D, 2, FAN), lower and upper ends of a node's children; children (nodes,), the first of them: leaves are
    numbered from 0, nodes from there on, the root last; least (leaves + nodes,), the smallest index in them.
    """
    n_dims, leaves = x.shape[0] - 1, -(-n // LEAF)
    boxes[:, :, 0] = np.inf
    boxes[:, :, 1] = -np.inf
    first, last, node = 0, leaves, 0
    while True:  # a level: its children are first:last
        for child in range(first, last):
            home, place = node + (child - first) // FAN, (child - first) % FAN
            if place == 0:
                children[home] = child
            if child < leaves:
                lo, hi = child * LEAF, min(n, child * LEAF + LEAF)
                least[child] = _range(x[n_dims, lo:hi])[0]
                for d in range(n_dims):
                    boxes[home, d, 0, place], boxes[home, d, 1, place] = _range(x[d, lo:hi])
            else:
                own = child - leaves
                elements = min(
                    FAN, first - children[own]
                )  # the level below ends where this one begins
                least[child] = _range(least[children[own] : children[own] + elements])[0]
                for d in range(n_dims):
                    boxes[home, d, 0, place] = _range(boxes[own, d, 0, :elements])[0]
                    boxes[home, d, 1, place] = _range(boxes[own, d, 1, :elements])[1]
        node += -(-(last - first) // FAN)
        first, last = last, leaves + node
        if last - first == 1:
            break
    own = last - 1 - leaves
    least[last - 1] = _range(least[children[own] : last - 1])[0]


@njit(**JIT)
def search_tree(x, boxes, children, least, queries, order, skip, distances, indices):
    """Fill distances and indices (Q, k) of the queries `order`; query i may not get row skip + i.

    IN x and boxes as `bound_nodes` leaves them, places without a row Inf; queries (Q, D) float64.
    """
    k, n_dims, leaves = distances.shape[1], x.shape[0] - 1, least.size - children.size
    value, row = np.empty(k), np.empty(k)
    bounds, nodes = np.empty(128), np.empty(128, np.int64)
    found = np.empty(LEAF)
    out = np.int64(found.ctypes.data)
    for at in range(order.size):
        q = np.int64(order[at])
        query = np.int64(queries[q].ctypes.data)
        own, limit = np.float64(skip + q), FAR
        if (
            skip <= -queries.shape[0] and at > 0 and value[k - 1] < FAR
        ):  # the last query's rows are not much farther from here
            step = np.sqrt(_short_squares(queries[q], queries[np.int64(order[at - 1])]))
            limit = (np.sqrt(value[k - 1]) + step) ** 2 * (1.0 + 1e-9) + 1e-300
        value[:] = FAR
        row[:] = np.inf
        bounds[0], nodes[0], depth = 0.0, least.size - 1, 1
        while depth > 0:
            depth -= 1
            node, worst = nodes[depth], min(limit, value[k - 1])
            if bounds[depth] > worst or (bounds[depth] == worst and least[node] > row[k - 1]):
                continue
            if node >= leaves:
                node -= leaves
                mask = _box_squares(
                    np.int64(boxes[node].ctypes.data), 16 * FAN, query, n_dims, out, worst
                )
                bottom = depth
                while mask:
                    place = np.int64(_lowest_bit(mask))
                    mask &= mask - np.uint64(1)
                    bound, i = found[place], depth
                    while (
                        i > bottom and bound >= bounds[i - 1]
                    ):  # the nearest on top, of equal ones the first
                        bounds[i], nodes[i] = bounds[i - 1], nodes[i - 1]
                        i -= 1
                    bounds[i], nodes[i] = bound, children[node] + place
                    depth += 1
                continue
            mask = _row_squares(
                np.int64(x.ctypes.data) + 8 * LEAF * node, x.strides[0], query, n_dims, out, worst
            )
            while mask:
                place = np.int64(_lowest_bit(mask))
                mask &= mask - np.uint64(1)
                v, index, i = found[place], x[n_dims, LEAF * node + place], k - 1
                if index == own or v > value[i] or (v == value[i] and index > row[i]):
                    continue
                while i > 0 and (v < value[i - 1] or (v == value[i - 1] and index < row[i - 1])):
                    value[i], row[i] = value[i - 1], row[i - 1]
                    i -= 1
                value[i], row[i] = v, index
        for i in range(k):
            some = value[i] < FAR
            distances[q, i] = value[i] if some else np.inf
            indices[q, i] = np.int64(row[i]) if some else NOTHING
