"""Scores of a few rows against a block of queries, in registers: stored only where one of them matters.

Queries are SIMD lanes. Written in LLVM's language, as its vectorizer does not keep a block of sums in registers.
"""

import functools
import itertools

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .jit import njit
from .options import JIT

# The typing context of an intrinsic is not an argument.
# pyright: reportCallIssue=false

_FEATURES = llvm.get_host_cpu_features()
# Queries in a vector register, and such vectors in a wide block; rows that fit the registers beside them, wide and narrow.
WIDTH, VECTORS = (
    (16, 4) if _FEATURES.get("avx512f") else (8, 2) if _FEATURES.get("avx2") else (4, 4)
)
WIDE_ROWS, NARROW_ROWS = (6, 8) if WIDTH == 16 else (4, 8)
WIDE, NARROW = WIDTH * VECTORS, WIDTH  # queries of a block
# How a row scores: its product with the query (COSINE: both of norm 1), or minus a sum of squares or magnitudes of differences
# (CHORD: squares, both of norm 1), or the largest of these. Differences cost as much as products where additions have units
# of their own, and never cancel.
COSINE, DOT, SQUARES, CHORD, L1, LINF = range(6)


_NUMBER, _FLOATS, _INTS = (
    ir.IntType(64),
    ir.VectorType(ir.FloatType(), WIDTH),
    ir.VectorType(ir.IntType(32), WIDTH),
)


def _pointer(builder, base, offset, kind):
    return builder.inttoptr(builder.add(base, offset), kind.as_pointer())


def _splat(builder, address, offset):
    value = builder.load(_pointer(builder, address, offset, ir.FloatType()))
    single = builder.insert_element(_FLOATS(ir.Undefined), value, ir.IntType(32)(0))
    return builder.shuffle_vector(single, _FLOATS(ir.Undefined), _INTS([0] * WIDTH))


def _vectors(builder, address, count):
    return [
        builder.load(_pointer(builder, address, _NUMBER(4 * WIDTH * v), _FLOATS), align=4)
        for v in range(count)
    ]


def _magnitude(builder, value):
    return builder.bitcast(
        builder.and_(builder.bitcast(value, _INTS), _INTS([0x7FFFFFFF] * WIDTH)), _FLOATS
    )


def _add(builder, op, total, query, value):
    """The sum with one more dimension in it."""
    if op <= DOT:
        return builder.fadd(
            total, builder.fmul(query, value, flags=("contract",)), flags=("contract",)
        )
    gap = builder.fsub(query, value)
    if op == SQUARES:
        return builder.fadd(total, builder.fmul(gap, gap, flags=("contract",)), flags=("contract",))
    gap = _magnitude(builder, gap)
    return (
        builder.fadd(total, gap)
        if op == L1
        else builder.select(builder.fcmp_ordered(">", gap, total), gap, total)
    )


def _score(builder, op, shape, lanes, n_dims, x, start):
    """[row][vector] scores."""
    sums = [
        [cgutils.alloca_once(builder, _FLOATS) for _ in range(shape[1])] for _ in range(shape[0])
    ]
    rows = [builder.add(x, builder.mul(_NUMBER(4 * r), n_dims)) for r in range(shape[0])]
    for r, row in enumerate(sums):
        first = _splat(builder, start, _NUMBER(4 * r))
        for total in row:
            builder.store(first, total)
    with cgutils.for_range(builder, n_dims) as loop:
        queries = _vectors(
            builder, builder.add(lanes, builder.mul(loop.index, _NUMBER(4 * WIDE))), shape[1]
        )
        for r, row in enumerate(sums):
            value = _splat(builder, rows[r], builder.mul(loop.index, _NUMBER(4)))
            for query, total in zip(queries, row, strict=True):
                builder.store(_add(builder, op, builder.load(total), query, value), total)
    scores = [[builder.load(total) for total in row] for row in sums]
    return scores if op <= DOT else [[builder.fneg(score) for score in row] for row in scores]


def _mark(builder, found, least, scores, masks):
    """Whether any score exceeds its query's `least`; only then all are stored, with a mask of bits for every row."""
    word = ir.IntType(WIDTH)
    limits = _vectors(builder, least, len(found[0]))
    bits = [
        [
            builder.bitcast(builder.fcmp_ordered(">", score, limit), word)
            for score, limit in zip(row, limits, strict=True)
        ]
        for row in found
    ]
    every = functools.reduce(builder.or_, itertools.chain.from_iterable(bits))
    some = builder.icmp_unsigned("!=", every, word(0))
    with builder.if_then(some, likely=False):
        for r, row in enumerate(found):
            mask = _NUMBER(0)
            for v, score in enumerate(row):
                builder.store(
                    score,
                    _pointer(builder, scores, _NUMBER(4 * (WIDE * r + WIDTH * v)), _FLOATS),
                    align=4,
                )
                mask = builder.or_(
                    mask, builder.shl(builder.zext(bits[r][v], _NUMBER), _NUMBER(WIDTH * v))
                )
            builder.store(mask, _pointer(builder, masks, _NUMBER(8 * r), _NUMBER))
    return builder.zext(some, ir.IntType(8))


def _scorer(op, *shape):
    """An intrinsic that scores some rows against some vectors of queries, shape = (rows, vectors).

    Addresses: lanes (D, WIDE), of the first query in them; x (rows, n_dims); start (rows,), what sums start from; least
    (queries,), what a score must exceed; scores (rows, WIDE); masks (rows,) uint64. Returns whether any score does; scores
    and masks are written only then.
    """

    def generate(_context, builder, _signature, args):
        lanes, n_dims, x, start, least, scores, masks = args
        return _mark(
            builder, _score(builder, op, shape, lanes, n_dims, x, start), least, scores, masks
        )

    @intrinsic
    def score(_typing, lanes, n_dims, x, start, least, scores, masks):
        return types.uint8(*[types.int64] * 7), generate

    return score


_wide_product, _wide_squares, _wide_l1, _wide_linf = (
    _scorer(op, WIDE_ROWS, VECTORS) for op in (DOT, SQUARES, L1, LINF)
)
_narrow_product, _narrow_squares = (_scorer(op, NARROW_ROWS, 1) for op in (DOT, SQUARES))


@njit(**JIT)
def score_block(op, narrow, lanes, n_dims, x, start, least, scores, masks):
    """`_scorer` of WIDE_ROWS rows and WIDE queries or, if `narrow` (not for L1 and LINF), of NARROW_ROWS and NARROW ones."""
    if narrow and op <= DOT:
        return _narrow_product(lanes, n_dims, x, start, least, scores, masks)
    if narrow:
        return _narrow_squares(lanes, n_dims, x, start, least, scores, masks)
    if op <= DOT:
        return _wide_product(lanes, n_dims, x, start, least, scores, masks)
    if op <= CHORD:
        return _wide_squares(lanes, n_dims, x, start, least, scores, masks)
    if op == L1:
        return _wide_l1(lanes, n_dims, x, start, least, scores, masks)
    return _wide_linf(lanes, n_dims, x, start, least, scores, masks)
