"""A tree of boxes over rows of few dimensions, whose nodes see all their children's boxes at once.

Rows are columns here, (D + 1, columns) float64, the last line their indices: medians split them
into leaves of LEAF that follow one another; a node has FAN children. Distances are sums as
`finish.squares_in_order` makes them, and so are the bounds of boxes: rounding is monotonous, so no
bound exceeds a distance within its box, and that of a box around equal rows is their distance.
Equal distances are ranked by index, which boxes bound too.
"""

from typing import NamedTuple

import numpy as np
from llvmlite import ir

from .finish import NOTHING, squares_in_order
from .ir import NUMBER, address, lowest_bit, pointer, splat
from .jit import cgutils, intrinsic, njit, types
from .select import insert, make_select

LEAF, FAN = 32, 8
NEAR = 64  # queries that may be searched for in any order
FAR = np.finfo(np.float64).max  # more than any distance, less than that of an empty place

DOUBLE = ir.DoubleType()
DOUBLES = ir.VectorType(DOUBLE, FAN)


class Tree(NamedTuple):
    """Leaves are numbered from 0, nodes from there on, the root last.

    Attributes:
        columns: (D + 1, columns) float64 rows and their indices, Inf where there is no row.
        boxes: (nodes, D, 2, FAN) lower and upper ends of a node's children.
        children: (nodes,) int64, the first of them.
        least: (leaves + nodes,) the smallest index in them.
    """

    columns: np.ndarray
    boxes: np.ndarray
    children: np.ndarray
    least: np.ndarray


def _load(builder, base, offset):
    return builder.load(pointer(builder, base, offset, DOUBLES), align=8)


def _larger(builder, a, b):
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _squares(vectors, gaps):
    """Return an intrinsic that sums squares of gaps, in `vectors` vectors.

    Addresses: first, of values whose lines are `stride` bytes apart; query (n_dims,) and out,
    float64. Returns a bit for each sum that is no more than the limit.
    """

    def generate(_context, builder, _signature, args):
        first, stride, query, n_dims, out, limit = args
        sums = [cgutils.alloca_once_value(builder, DOUBLES([0.0] * FAN)) for _ in range(vectors)]
        with cgutils.for_range(builder, n_dims) as loop:
            at = pointer(builder, query, builder.mul(loop.index, NUMBER(8)), DOUBLE)
            value = splat(builder, builder.load(at), DOUBLES)
            line = builder.add(first, builder.mul(loop.index, stride))
            for gap, total in zip(gaps(builder, line, value), sums, strict=True):
                builder.store(builder.fadd(builder.load(total), builder.fmul(gap, gap)), total)
        mask = NUMBER(0)
        limits = splat(builder, limit, DOUBLES)
        for v, total in enumerate(map(builder.load, sums)):
            builder.store(total, pointer(builder, out, 8 * FAN * v, DOUBLES), align=8)
            bits = builder.bitcast(builder.fcmp_ordered("<=", total, limits), ir.IntType(FAN))
            mask = builder.or_(mask, builder.shl(builder.zext(bits, NUMBER), NUMBER(FAN * v)))
        return mask

    @intrinsic
    def squares(_typing, first, stride, query, n_dims, out, limit):
        return types.int64(*[types.int64] * 5, types.float64), generate

    return squares


def _to_rows(builder, line, value):
    return [builder.fsub(value, _load(builder, line, 8 * FAN * v)) for v in range(LEAF // FAN)]


def _to_boxes(builder, line, value):
    below = builder.fsub(_load(builder, line, 0), value)
    above = builder.fsub(value, _load(builder, line, 8 * FAN))
    return [_larger(builder, _larger(builder, below, above), DOUBLES([0.0] * FAN))]


_every_row = _squares(LEAF // FAN, _to_rows)
_every_box = _squares(1, _to_boxes)


@njit(fastmath=False)  # Numba adds the flags of a function to the instructions of its intrinsics
def _row_squares(first, stride, query, n_dims, out, limit):
    return _every_row(first, stride, query, n_dims, out, limit)


@njit(fastmath=False)
def _box_squares(first, stride, query, n_dims, out, limit):
    return _every_box(first, stride, query, n_dims, out, limit)


@njit
def _smaller(a, b, _columns):
    return a < b


@njit
def _swap_columns(_line, i, j, columns):
    for d in range(columns.shape[0]):
        columns[d, i], columns[d, j] = columns[d, j], columns[d, i]


_select_columns = make_select(_smaller, _swap_columns)


@njit
def _range(values):
    smallest, largest = values[0], values[0]
    for i in range(values.size):
        smallest = min(smallest, values[i])
        largest = max(largest, values[i])
    return smallest, largest


@njit
def split_rows(columns, lo, hi, size, stop):
    """Split columns lo:hi, in pieces of `size`, in halves along their widest dimension.

    Pieces of equal rows are split by index. Halves are split again until they are of `stop`. Sizes
    are LEAF times a power of two, so only the last piece may be shorter.
    """
    while size > stop:
        half = size // 2
        for first in range(lo, hi, size):
            last = min(first + size, hi)
            if first + half < last:
                widest, dim = 0.0, columns.shape[0] - 1
                for d in range(columns.shape[0] - 1):
                    smallest, largest = _range(columns[d, first:last])
                    if largest - smallest > widest:
                        widest, dim = largest - smallest, d
                _select_columns(columns[dim], first, last, first + half, columns)
        size = half


@njit
def bound_nodes(tree, n):
    """Fill boxes, children and least of a tree whose n columns are as `split_rows` leaves them."""
    columns, boxes, children, least = tree
    n_dims, leaves = columns.shape[0] - 1, -(-n // LEAF)
    boxes[:, :, 0] = np.inf
    boxes[:, :, 1] = -np.inf
    first, last, level = 0, leaves, 0
    while True:  # the nodes from `level` on have the children first:last
        for child in range(first, last):
            node, place = level + (child - first) // FAN, (child - first) % FAN
            if place == 0:
                children[node] = child
            if child < leaves:
                lo, hi = child * LEAF, min(n, child * LEAF + LEAF)
                least[child] = _range(columns[n_dims, lo:hi])[0]
                for d in range(n_dims):
                    boxes[node, d, 0, place], boxes[node, d, 1, place] = _range(columns[d, lo:hi])
            else:
                inner = child - leaves
                size = min(FAN, first - children[inner])  # its children end where its level begins
                least[child] = _range(least[children[inner] : children[inner] + size])[0]
                for d in range(n_dims):
                    boxes[node, d, 0, place] = _range(boxes[inner, d, 0, :size])[0]
                    boxes[node, d, 1, place] = _range(boxes[inner, d, 1, :size])[1]
        level += -(-(last - first) // FAN)
        first, last = last, leaves + level
        if last - first == 1:
            break
    root = last - 1
    least[root] = _range(least[children[root - leaves] : root])[0]


@njit
def search_tree(tree, queries, order, skip, distances, indices):
    """Find the nearest rows of some queries.

    Args:
        tree: `Tree` as `bound_nodes` leaves it.
        queries: (Q, D) float64.
        order: (queries,) float64, those to search for.
        skip: Query i never gets row skip + i.
        distances: Out, (Q, k) float64, sorted by distance, then index.
        indices: Out, (Q, k) int64; NOTHING where there is no row.
    """
    columns, boxes, children, least = tree
    k, n_dims, leaves = distances.shape[1], columns.shape[0] - 1, least.size - children.size
    values, rows = np.empty(k), np.empty(k)
    bounds, nodes = np.empty(128), np.empty(128, np.int64)  # a stack
    found = np.empty(LEAF)
    for at in range(order.size):
        q = np.int64(order[at])
        query = address(queries[q])
        banned = np.float64(skip + q)
        limit = FAR
        # The rows of the query before this one are not much farther from here.
        if skip <= -queries.shape[0] and at > 0 and values[k - 1] < FAR:
            step = np.sqrt(squares_in_order(queries[q], queries[np.int64(order[at - 1])]))
            limit = (np.sqrt(values[k - 1]) + step) ** 2 * (1.0 + 1e-9) + 1e-300
        values[:] = FAR
        rows[:] = np.inf
        bounds[0], nodes[0], depth = 0.0, least.size - 1, 1
        while depth > 0:
            depth -= 1
            node, worst = nodes[depth], min(limit, values[k - 1])
            if bounds[depth] > worst or (bounds[depth] == worst and least[node] > rows[k - 1]):
                continue
            if node >= leaves:
                node -= leaves
                box = address(boxes[node])
                mask = _box_squares(box, 16 * FAN, query, n_dims, address(found), worst)
                bottom = depth
                while mask:
                    place = lowest_bit(mask)
                    mask &= mask - 1
                    bound, i = found[place], depth
                    # The nearest on top; of equal ones, the first.
                    while i > bottom and bound >= bounds[i - 1]:
                        bounds[i], nodes[i] = bounds[i - 1], nodes[i - 1]
                        i -= 1
                    bounds[i], nodes[i] = bound, children[node] + place
                    depth += 1
                continue
            leaf = address(columns) + 8 * LEAF * node
            mask = _row_squares(leaf, columns.strides[0], query, n_dims, address(found), worst)
            while mask:
                place = lowest_bit(mask)
                mask &= mask - 1
                value, row, last = found[place], columns[n_dims, LEAF * node + place], k - 1
                if (
                    row != banned
                    and value <= values[last]
                    and (value < values[last] or row <= rows[last])
                ):
                    insert(values, rows, last, value, row)
        for i in range(k):
            real = values[i] < FAR
            distances[q, i] = values[i] if real else np.inf
            indices[q, i] = np.int64(rows[i]) if real else NOTHING
