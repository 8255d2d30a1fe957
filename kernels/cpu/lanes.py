"""Points as SIMD lanes: scores of a tile that never leave the registers, with what is asked of them found beside them.

BLAS is made for large products. Here one factor is a tile of points, transposed once, the other a table of centroids; the
inner loop multiplies a few vectors of points with a few centroids at a time. It is written in LLVM's language, as its
vectorizer does not keep a block of sums in registers.

A score is a chain of fused multiply-adds from bias[k] on, dimension by dimension: the same bits wherever it is computed.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .ir import FLOATS, FUSED, INTS, NUMBER, VECTORS, WIDTH, pointer, splat
from .jit import njit
from .options import INNER, JIT, NEG_INF
from .sizes import DEBUG, TILE_ROWS

ROWS = 4
POINTS = WIDTH * VECTORS  # tiles are made of these
assert TILE_ROWS % POINTS == 0


def _scores(builder, lanes, stride, n_dims, c, bias, k, n_clusters):
    """(index, scores): the centroids k:k+ROWS, the last one again where there are no more; vectors [ROWS][VECTORS]."""
    last = builder.sub(n_clusters, NUMBER(1))
    row_bytes = builder.mul(n_dims, NUMBER(4))
    index = []
    for r in range(ROWS):
        i = builder.add(k, NUMBER(r))
        index.append(builder.select(builder.icmp_signed("<", i, last), i, last))
    sums = [[cgutils.alloca_once(builder, FLOATS) for _ in range(VECTORS)] for _ in range(ROWS)]
    for r in range(ROWS):
        start = builder.load(
            pointer(builder, bias, builder.mul(index[r], NUMBER(4)), ir.FloatType())
        )
        for v in range(VECTORS):
            builder.store(splat(builder, start, FLOATS), sums[r][v])
    with cgutils.for_range(builder, n_dims) as loop:
        at = builder.add(lanes, builder.mul(loop.index, stride))
        points = [
            builder.load(pointer(builder, at, 4 * WIDTH * v, FLOATS), align=4)
            for v in range(VECTORS)
        ]
        for r in range(ROWS):
            offset = builder.add(
                builder.mul(index[r], row_bytes), builder.mul(loop.index, NUMBER(4))
            )
            factor = splat(
                builder, builder.load(pointer(builder, c, offset, ir.FloatType())), FLOATS
            )
            for v in range(VECTORS):
                product = builder.fmul(points[v], factor, flags=FUSED)
                builder.store(
                    builder.fadd(builder.load(sums[r][v]), product, flags=FUSED), sums[r][v]
                )
    return index, [[builder.load(s) for s in row] for row in sums]


@intrinsic
def _best_of_rows(_typing, lanes, stride, n_dims, c, bias, k, n_clusters, best, label):
    """Centroids k:k+ROWS against POINTS points: raise best and label where one of them scores more.

    Addresses: lanes, of the points' first coordinates, the next ones `stride` bytes on; c (K, D), bias (K,), best and label
    (POINTS,). Past the last centroid that one is tried again, which changes nothing.
    """

    def generate(context, builder, _signature, args):
        best, label = args[7:]
        index, scores = _scores(builder, *args[:7])
        for v in range(VECTORS):
            best_at, label_at = (
                pointer(builder, best, 4 * WIDTH * v, FLOATS),
                pointer(builder, label, 4 * WIDTH * v, INTS),
            )
            most, owner = builder.load(best_at, align=4), builder.load(label_at, align=4)
            for r in range(ROWS):
                better = builder.fcmp_ordered(">", scores[r][v], most)
                most = builder.select(better, scores[r][v], most)
                owner = builder.select(
                    better, splat(builder, builder.trunc(index[r], ir.IntType(32)), INTS), owner
                )
            builder.store(most, best_at, align=4)
            builder.store(owner, label_at, align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 9), generate


@intrinsic
def _store_scores(_typing, lanes, stride, n_dims, c, bias, k, n_clusters, out, out_stride):
    """The scores of centroids k:k+ROWS and POINTS points, at the address out; the next centroid's are out_stride bytes on."""

    def generate(context, builder, _signature, args):
        out, out_stride = args[7:]
        index, scores = _scores(builder, *args[:7])
        for r in range(ROWS):
            row = builder.add(out, builder.mul(index[r], out_stride))
            for v in range(VECTORS):
                builder.store(scores[r][v], pointer(builder, row, 4 * WIDTH * v, FLOATS), align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 9), generate


@intrinsic
def _rows_above(
    _typing, lanes, stride, n_dims, c, bias, k, n_clusters, threshold, own, rest, masks
):
    """Which of the centroids k:k+ROWS score more than threshold[i] at point i, own[i] apart; whether any does.

    Addresses as in `_best_of_rows`; threshold, own, rest (POINTS,), masks (ROWS,) int64: a bit per point, written if there
    is any. rest[i] is raised to the most of the scores that are neither above the threshold nor own[i]'s, which must be
    above it.
    """

    def generate(_context, builder, _signature, args):
        threshold, own, rest, masks = args[7:]
        index, scores = _scores(builder, *args[:7])

        def larger(a, b):
            return builder.select(builder.fcmp_ordered(">", a, b), a, b)

        limits = [
            builder.load(pointer(builder, threshold, 4 * WIDTH * v, FLOATS), align=4)
            for v in range(VECTORS)
        ]
        most = []
        some = None
        for v in range(VECTORS):
            column = [scores[r][v] for r in range(ROWS)]
            while len(column) > 1:
                column = [larger(*column[i : i + 2]) for i in range(0, len(column), 2)]
            most += column
            above = builder.fcmp_ordered(">", column[0], limits[v])
            some = above if some is None else builder.or_(some, above)
        found = builder.icmp_unsigned(
            "!=", builder.bitcast(some, ir.IntType(WIDTH)), ir.IntType(WIDTH)(0)
        )
        with builder.if_else(found, likely=False) as (yes, no):
            with yes:
                for r in range(ROWS):
                    real = builder.icmp_signed("==", index[r], builder.add(args[5], NUMBER(r)))
                    mask = NUMBER(0)
                    for v in range(VECTORS):
                        own_v = builder.load(pointer(builder, own, 4 * WIDTH * v, INTS), align=4)
                        other = builder.icmp_signed(
                            "!=",
                            own_v,
                            splat(builder, builder.trunc(index[r], ir.IntType(32)), INTS),
                        )
                        above = builder.fcmp_ordered(">", scores[r][v], limits[v])
                        rest_at = pointer(builder, rest, 4 * WIDTH * v, FLOATS)
                        old = builder.load(rest_at, align=4)
                        builder.store(
                            builder.select(above, old, larger(scores[r][v], old)), rest_at, align=4
                        )
                        bits = builder.zext(
                            builder.bitcast(builder.and_(above, other), ir.IntType(WIDTH)), NUMBER
                        )
                        mask = builder.or_(mask, builder.shl(bits, NUMBER(WIDTH * v)))
                    mask = builder.select(real, mask, NUMBER(0))
                    builder.store(mask, pointer(builder, masks, 8 * r, NUMBER))
            with no:
                for v in range(VECTORS):
                    rest_at = pointer(builder, rest, 4 * WIDTH * v, FLOATS)
                    builder.store(larger(most[v], builder.load(rest_at, align=4)), rest_at, align=4)
        return builder.zext(found, NUMBER)

    return types.int64(*[types.int64] * 11), generate


@intrinsic
def _score(_typing, row, c, n_dims, bias):
    """The score of one row with one centroid, at these addresses: the same bits as in a tile."""

    def generate(_context, builder, _signature, args):
        row, c, n_dims, bias = args
        total = cgutils.alloca_once_value(builder, bias)
        with cgutils.for_range(builder, n_dims) as loop:
            offset = builder.mul(loop.index, NUMBER(4))
            a, b = (
                builder.load(pointer(builder, base, offset, ir.FloatType())) for base in (row, c)
            )
            builder.store(
                builder.fadd(builder.load(total), builder.fmul(a, b, flags=FUSED), flags=FUSED),
                total,
            )
        return builder.load(total)

    return types.float32(types.int64, types.int64, types.int64, types.float32), generate


def _reduce(combine):
    """An intrinsic (row, c, n_dims) -> the sum of combine(builder, row[d], c[d]), of two rows at these addresses."""

    @intrinsic
    def reduce(_typing, row, c, n_dims):
        def generate(context, builder, _signature, args):
            row, c, n_dims = args
            zero = FLOATS([0.0] * WIDTH)
            sums = [cgutils.alloca_once_value(builder, zero) for _ in range(2)]
            left = cgutils.alloca_once_value(builder, ir.FloatType()(0.0))
            step = NUMBER(2 * WIDTH)
            whole = builder.sdiv(n_dims, step)

            def add(total, offset, kind):
                a, b = (
                    builder.load(pointer(builder, base, offset, kind), align=4) for base in (row, c)
                )
                builder.store(
                    builder.fadd(builder.load(total), combine(builder, a, b), flags=FUSED), total
                )

            with cgutils.for_range(builder, whole) as loop:
                offset = builder.mul(loop.index, NUMBER(8 * WIDTH))
                add(sums[0], offset, FLOATS)
                add(sums[1], builder.add(offset, NUMBER(4 * WIDTH)), FLOATS)
            done = builder.mul(whole, step)
            with cgutils.for_range(builder, builder.sub(n_dims, done)) as loop:
                add(left, builder.mul(builder.add(done, loop.index), NUMBER(4)), ir.FloatType())
            both = builder.fadd(builder.load(sums[0]), builder.load(sums[1]))
            kind = ir.FunctionType(ir.FloatType(), [ir.FloatType(), FLOATS])
            across = cgutils.get_or_insert_function(
                builder.module, kind, f"llvm.vector.reduce.fadd.v{WIDTH}f32"
            )
            return builder.call(across, [builder.load(left), both], fastmath=("reassoc",))

        return types.float32(types.int64, types.int64, types.int64), generate

    return reduce


def _product(builder, a, b):
    return builder.fmul(a, b, flags=FUSED)


def _square(builder, a, b):
    gap = builder.fsub(a, b, flags=FUSED)
    return builder.fmul(gap, gap, flags=FUSED)


_dot_at, _gap_at = _reduce(_product), _reduce(_square)


@njit(**INNER)
def score_at(row, c, n_dims, bias):
    """<row, c> + bias, the same bits as in a tile; row and c are addresses."""
    return _score(row, c, n_dims, bias)  # pyright: ignore[reportCallIssue]


@njit(**INNER)
def dot_at(row, c, n_dims):
    """<row, c>; addresses."""
    return _dot_at(row, c, n_dims)  # pyright: ignore[reportCallIssue]


@njit(**INNER)
def gap_at(row, c, n_dims):
    """||row - c||^2; addresses."""
    return _gap_at(row, c, n_dims)  # pyright: ignore[reportCallIssue]


@njit(**INNER)
def rows_above(lanes, stride, c, bias, k, n_clusters, threshold, own, rest, masks):
    """`_rows_above`; c, bias and masks are arrays, the others addresses."""
    return _rows_above(  # pyright: ignore[reportCallIssue]
        lanes,
        stride,
        c.shape[1],
        np.int64(c.ctypes.data),
        np.int64(bias.ctypes.data),
        k,
        n_clusters,
        threshold,
        own,
        rest,
        np.int64(masks.ctypes.data),
    )


@njit(**JIT)
def to_lanes(rows, lanes):
    """lanes (D, n) = rows (n, D) transposed."""
    for i in range(rows.shape[0]):
        for d in range(rows.shape[1]):
            lanes[d, i] = rows[i, d]


@njit(**JIT)
def best_by_lanes(n, columns, at, c, bias, best, label):
    """label[i] = argmax_k <points[i], c[k]> + bias[k] for n points, ties to the lowest k.

    Point i is columns[:, at + i]. Columns, best and label go on to the next multiple of POINTS.
    """
    if DEBUG:
        end = -(-n // POINTS) * POINTS
        if at < 0 or at + end > columns.shape[1] or end > best.size or end > label.size:
            raise IndexError("points beyond their lanes")
        if c.shape[1] > columns.shape[0] or c.shape[0] > bias.size:
            raise IndexError("dimensions or centroids beyond their arrays")
    lanes, stride = np.int64(columns.ctypes.data) + 4 * at, np.int64(columns.strides[0])
    for i in range(n):
        best[i] = NEG_INF
        label[i] = 0
    for i in range(0, n, POINTS):
        for k in range(0, c.shape[0], ROWS):
            _best_of_rows(  # pyright: ignore[reportCallIssue]
                lanes + 4 * i,
                stride,
                c.shape[1],
                np.int64(c.ctypes.data),
                np.int64(bias.ctypes.data),
                k,
                c.shape[0],
                np.int64(best.ctypes.data) + 4 * i,
                np.int64(label.ctypes.data) + 4 * i,
            )


@njit(**JIT)
def scores_by_lanes(n, columns, c, bias, out, at):
    """out[k, at + i] = <points[i], c[k]> + bias[k] for n points, columns as in `best_by_lanes`.

    Columns and out go on to the next multiple of POINTS.
    """
    if DEBUG and (at + -(-n // POINTS) * POINTS > out.shape[1] or c.shape[0] > out.shape[0]):
        raise IndexError("scores beyond their array")
    for i in range(0, n, POINTS):
        for k in range(0, c.shape[0], ROWS):
            _store_scores(  # pyright: ignore[reportCallIssue]
                np.int64(columns.ctypes.data) + 4 * i,
                np.int64(columns.strides[0]),
                c.shape[1],
                np.int64(c.ctypes.data),
                np.int64(bias.ctypes.data),
                k,
                c.shape[0],
                np.int64(out.ctypes.data) + 4 * (at + i),
                np.int64(out.strides[0]),
            )
