"""Score points as SIMD lanes: the best centroids are found while scores are in registers.

One factor is a tile of points, transposed once, the other a table of centroids. The inner loop
multiplies a few vectors of points with a few centroids at a time. It is written in LLVM's language,
as LLVM's vectorizer does not keep a block of sums in registers.

A score is a chain of fused multiply-adds from bias[k] on, dimension by dimension: it has the same
bits wherever it is computed.
"""

import numpy as np
from llvmlite import ir

from .ir import FLOATS, FUSED, INTS, NUMBER, VECTORS, WIDTH, address, pointer, splat
from .jit import cgutils, intrinsic, njit, types
from .sizes import DEBUG, NEG_INF, TILE_ROWS

ROWS = 4  # centroids at a time
POINTS = WIDTH * VECTORS  # points at a time; tiles are made of these
assert TILE_ROWS % POINTS == 0


def _scores(builder, lanes, stride, n_dims, c, bias, k, n_clusters):
    """Return (index, scores) of centroids k:k+ROWS, the last one again past the end.

    Scores are vectors [ROWS][VECTORS].
    """
    last = builder.sub(n_clusters, NUMBER(1))
    row_bytes = builder.mul(n_dims, NUMBER(4))
    index = []
    for r in range(ROWS):
        i = builder.add(k, NUMBER(r))
        index.append(builder.select(builder.icmp_signed("<", i, last), i, last))
    sums = [[cgutils.alloca_once(builder, FLOATS) for _ in range(VECTORS)] for _ in range(ROWS)]
    for r in range(ROWS):
        bias_at = pointer(builder, bias, builder.mul(index[r], NUMBER(4)), ir.FloatType())
        start = builder.load(bias_at)
        for v in range(VECTORS):
            builder.store(splat(builder, start, FLOATS), sums[r][v])
    with cgutils.for_range(builder, n_dims) as loop:
        at = builder.add(lanes, builder.mul(loop.index, stride))
        points = [
            builder.load(pointer(builder, at, 4 * WIDTH * v, FLOATS), align=4)
            for v in range(VECTORS)
        ]
        for r in range(ROWS):
            row = builder.mul(index[r], row_bytes)
            offset = builder.add(row, builder.mul(loop.index, NUMBER(4)))
            value = builder.load(pointer(builder, c, offset, ir.FloatType()))
            factor = splat(builder, value, FLOATS)
            for v in range(VECTORS):
                product = builder.fmul(points[v], factor, flags=FUSED)
                total = builder.fadd(builder.load(sums[r][v]), product, flags=FUSED)
                builder.store(total, sums[r][v])
    return index, [[builder.load(s) for s in row] for row in sums]


@intrinsic
def _best_of_rows(_typing, lanes, stride, n_dims, c, bias, k, n_clusters, best, label):
    """Raise best and label of POINTS points where one of centroids k:k+ROWS scores more.

    Addresses: lanes, of the points' first coordinates, the next ones `stride` bytes on; c (K, D),
    bias (K,), best and label (POINTS,). Past the end the last centroid is tried again, which
    changes nothing.
    """

    def generate(context, builder, _signature, args):
        best, label = args[7:]
        index, scores = _scores(builder, *args[:7])
        for v in range(VECTORS):
            best_at = pointer(builder, best, 4 * WIDTH * v, FLOATS)
            label_at = pointer(builder, label, 4 * WIDTH * v, INTS)
            most = builder.load(best_at, align=4)
            winner = builder.load(label_at, align=4)
            for r in range(ROWS):
                better = builder.fcmp_ordered(">", scores[r][v], most)
                most = builder.select(better, scores[r][v], most)
                rival = splat(builder, builder.trunc(index[r], ir.IntType(32)), INTS)
                winner = builder.select(better, rival, winner)
            builder.store(most, best_at, align=4)
            builder.store(winner, label_at, align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 9), generate


@intrinsic
def _store_scores(_typing, lanes, stride, n_dims, c, bias, k, n_clusters, out, out_stride):
    """Store the scores of centroids k:k+ROWS and POINTS points at the address `out`.

    The next centroid's scores are out_stride bytes on.
    """

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
    """Mark which of centroids k:k+ROWS score more than threshold[i] at point i, own[i] apart.

    Returns whether any does. Addresses as in `_best_of_rows`; threshold, own and rest (POINTS,);
    masks (ROWS,) int64: a bit per point, written if there is any. rest[i] is raised to the most of
    the scores that are neither above the threshold nor own[i]'s, which must be above it.
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
        any_above = None
        for v in range(VECTORS):
            column = [scores[r][v] for r in range(ROWS)]
            while len(column) > 1:
                column = [larger(*column[i : i + 2]) for i in range(0, len(column), 2)]
            most += column
            above = builder.fcmp_ordered(">", column[0], limits[v])
            any_above = above if any_above is None else builder.or_(any_above, above)
        bits = builder.bitcast(any_above, ir.IntType(WIDTH))
        found = builder.icmp_unsigned("!=", bits, ir.IntType(WIDTH)(0))
        with builder.if_else(found, likely=False) as (yes, no):
            with yes:
                for r in range(ROWS):
                    real = builder.icmp_signed("==", index[r], builder.add(args[5], NUMBER(r)))
                    mask = NUMBER(0)
                    for v in range(VECTORS):
                        own_v = builder.load(pointer(builder, own, 4 * WIDTH * v, INTS), align=4)
                        rival = splat(builder, builder.trunc(index[r], ir.IntType(32)), INTS)
                        other = builder.icmp_signed("!=", own_v, rival)
                        above = builder.fcmp_ordered(">", scores[r][v], limits[v])
                        rest_at = pointer(builder, rest, 4 * WIDTH * v, FLOATS)
                        old = builder.load(rest_at, align=4)
                        new = builder.select(above, old, larger(scores[r][v], old))
                        builder.store(new, rest_at, align=4)
                        marked = builder.bitcast(builder.and_(above, other), ir.IntType(WIDTH))
                        bits = builder.shl(builder.zext(marked, NUMBER), NUMBER(WIDTH * v))
                        mask = builder.or_(mask, bits)
                    mask = builder.select(real, mask, NUMBER(0))
                    builder.store(mask, pointer(builder, masks, 8 * r, NUMBER))
            with no:
                for v in range(VECTORS):
                    rest_at = pointer(builder, rest, 4 * WIDTH * v, FLOATS)
                    new = larger(most[v], builder.load(rest_at, align=4))
                    builder.store(new, rest_at, align=4)
        return builder.zext(found, NUMBER)

    return types.int64(*[types.int64] * 11), generate


@intrinsic
def _score(_typing, row, c, n_dims, bias):
    """Return the score of one row with one centroid, at these addresses: the bits of a tile's."""

    def generate(_context, builder, _signature, args):
        row, c, n_dims, bias = args
        total = cgutils.alloca_once_value(builder, bias)
        with cgutils.for_range(builder, n_dims) as loop:
            offset = builder.mul(loop.index, NUMBER(4))
            a = builder.load(pointer(builder, row, offset, ir.FloatType()))
            b = builder.load(pointer(builder, c, offset, ir.FloatType()))
            product = builder.fmul(a, b, flags=FUSED)
            builder.store(builder.fadd(builder.load(total), product, flags=FUSED), total)
        return builder.load(total)

    return types.float32(types.int64, types.int64, types.int64, types.float32), generate


def _reduce(combine):
    """Return an intrinsic (row, c, n_dims): the sum of combine(builder, row[d], c[d]).

    Row and c are addresses.
    """

    @intrinsic
    def reduce(_typing, row, c, n_dims):
        def generate(context, builder, _signature, args):
            row, c, n_dims = args
            zero = FLOATS([0.0] * WIDTH)
            sums = [cgutils.alloca_once_value(builder, zero) for _ in range(2)]
            remainder = cgutils.alloca_once_value(builder, ir.FloatType()(0.0))
            step = NUMBER(2 * WIDTH)
            whole = builder.sdiv(n_dims, step)

            def add(total, offset, kind):
                a = builder.load(pointer(builder, row, offset, kind), align=4)
                b = builder.load(pointer(builder, c, offset, kind), align=4)
                term = combine(builder, a, b)
                builder.store(builder.fadd(builder.load(total), term, flags=FUSED), total)

            with cgutils.for_range(builder, whole) as loop:
                offset = builder.mul(loop.index, NUMBER(8 * WIDTH))
                add(sums[0], offset, FLOATS)
                add(sums[1], builder.add(offset, NUMBER(4 * WIDTH)), FLOATS)
            done = builder.mul(whole, step)
            with cgutils.for_range(builder, builder.sub(n_dims, done)) as loop:
                offset = builder.mul(builder.add(done, loop.index), NUMBER(4))
                add(remainder, offset, ir.FloatType())
            both = builder.fadd(builder.load(sums[0]), builder.load(sums[1]))
            kind = ir.FunctionType(ir.FloatType(), [ir.FloatType(), FLOATS])
            across = cgutils.get_or_insert_function(
                builder.module, kind, f"llvm.vector.reduce.fadd.v{WIDTH}f32"
            )
            return builder.call(across, [builder.load(remainder), both], fastmath=("reassoc",))

        return types.float32(types.int64, types.int64, types.int64), generate

    return reduce


def _product(builder, a, b):
    return builder.fmul(a, b, flags=FUSED)


def _square(builder, a, b):
    gap = builder.fsub(a, b, flags=FUSED)
    return builder.fmul(gap, gap, flags=FUSED)


_dot_at = _reduce(_product)
_gap_at = _reduce(_square)


@njit
def score_at(row, c, n_dims, bias):
    """Return <row, c> + bias, the same bits as in a tile; row and c are addresses."""
    return _score(row, c, n_dims, bias)


@njit
def dot_at(row, c, n_dims):
    """Return <row, c>; row and c are addresses."""
    return _dot_at(row, c, n_dims)


@njit
def gap_at(row, c, n_dims):
    """Return ||row - c||^2; row and c are addresses."""
    return _gap_at(row, c, n_dims)


@njit
def rows_above(lanes, stride, c, bias, k, n_clusters, threshold, own, rest, masks):
    """Return `_rows_above`; c, bias and masks are arrays, the others addresses."""
    return _rows_above(
        lanes,
        stride,
        c.shape[1],
        address(c),
        address(bias),
        k,
        n_clusters,
        threshold,
        own,
        rest,
        address(masks),
    )


@njit
def to_lanes(rows, lanes):
    """Write rows (n, D) transposed to lanes (D, n)."""
    for i in range(rows.shape[0]):
        for d in range(rows.shape[1]):
            lanes[d, i] = rows[i, d]


@njit
def best_by_lanes(n, columns, at, c, bias, best, label):
    """Find label[i] = argmax_k <points[i], c[k]> + bias[k] for n points, ties to the lowest k.

    Point i is columns[:, at + i]. Columns, best and label go on to the next multiple of POINTS.
    """
    if DEBUG:
        end = -(-n // POINTS) * POINTS
        if at < 0 or at + end > columns.shape[1] or end > best.size or end > label.size:
            raise IndexError("points beyond their lanes")
        if c.shape[1] > columns.shape[0] or c.shape[0] > bias.size:
            raise IndexError("dimensions or centroids beyond their arrays")
    lanes = address(columns) + 4 * at
    stride = np.int64(columns.strides[0])
    for i in range(n):
        best[i] = NEG_INF
        label[i] = 0
    for i in range(0, n, POINTS):
        for k in range(0, c.shape[0], ROWS):
            _best_of_rows(
                lanes + 4 * i,
                stride,
                c.shape[1],
                address(c),
                address(bias),
                k,
                c.shape[0],
                address(best) + 4 * i,
                address(label) + 4 * i,
            )


@njit
def scores_by_lanes(n, columns, c, bias, out, at):
    """Write out[k, at + i] = <points[i], c[k]> + bias[k] for n points.

    Columns as in `best_by_lanes`; they and out go on to the next multiple of POINTS.
    """
    if DEBUG and (at + -(-n // POINTS) * POINTS > out.shape[1] or c.shape[0] > out.shape[0]):
        raise IndexError("scores beyond their array")
    for i in range(0, n, POINTS):
        for k in range(0, c.shape[0], ROWS):
            _store_scores(
                address(columns) + 4 * i,
                np.int64(columns.strides[0]),
                c.shape[1],
                address(c),
                address(bias),
                k,
                c.shape[0],
                address(out) + 4 * (at + i),
                np.int64(out.strides[0]),
            )
