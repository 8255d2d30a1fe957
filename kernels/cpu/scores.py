"""Scores of a few rows against a block of queries, in registers: stored only where one counts.

Queries are SIMD lanes. Written in LLVM's language, as its vectorizer does not keep a block of sums
in registers.
"""

import functools
import itertools

from llvmlite import ir

from .ir import FLOATS, FUSED, INTS, NUMBER, VECTORS, WIDTH, pointer, splat
from .jit import cgutils, intrinsic, njit, types

# Rows that fit the registers beside a block of queries, of all vectors or only one.
WIDE_ROWS, NARROW_ROWS = (6, 8) if WIDTH == 16 else (4, 8)
WIDE, NARROW = WIDTH * VECTORS, WIDTH  # queries of a block
# How a row scores: by its product with the query (COSINE: both of norm 1), or by minus a sum of
# squares or magnitudes of differences (CHORD: squares, both of norm 1), or the largest of these.
# Differences never cancel, and cost as much as products where additions have units of their own.
COSINE, DOT, SQUARES, CHORD, L1, LINF = range(6)


def _load_splat(builder, base, offset):
    """Return a vector of the float32 at base + offset."""
    return splat(builder, builder.load(pointer(builder, base, offset, ir.FloatType())), FLOATS)


def _load_vectors(builder, base, count):
    return [
        builder.load(pointer(builder, base, 4 * WIDTH * v, FLOATS), align=4) for v in range(count)
    ]


def _magnitude(builder, value):
    bits = builder.bitcast(value, INTS)
    return builder.bitcast(builder.and_(bits, INTS([0x7FFFFFFF] * WIDTH)), FLOATS)


def _add(builder, op, total, query, value):
    """Return the sum with one more dimension in it."""
    if op <= DOT:
        return builder.fadd(total, builder.fmul(query, value, flags=FUSED), flags=FUSED)
    gap = builder.fsub(query, value)
    if op == SQUARES:
        return builder.fadd(total, builder.fmul(gap, gap, flags=FUSED), flags=FUSED)
    gap = _magnitude(builder, gap)
    if op == L1:
        return builder.fadd(total, gap)
    return builder.select(builder.fcmp_ordered(">", gap, total), gap, total)


def _score(builder, op, shape, lanes, n_dims, x, start):
    """Return scores [row][vector], for shape = (rows, vectors)."""
    n_rows, n_vectors = shape
    sums = [[cgutils.alloca_once(builder, FLOATS) for _ in range(n_vectors)] for _ in range(n_rows)]
    rows = [builder.add(x, builder.mul(NUMBER(4 * r), n_dims)) for r in range(n_rows)]
    for r, row in enumerate(sums):
        first = _load_splat(builder, start, 4 * r)
        for total in row:
            builder.store(first, total)
    with cgutils.for_range(builder, n_dims) as loop:
        line = builder.add(lanes, builder.mul(loop.index, NUMBER(4 * WIDE)))
        queries = _load_vectors(builder, line, n_vectors)
        for r, row in enumerate(sums):
            value = _load_splat(builder, rows[r], builder.mul(loop.index, NUMBER(4)))
            for query, total in zip(queries, row, strict=True):
                builder.store(_add(builder, op, builder.load(total), query, value), total)
    scores = [[builder.load(total) for total in row] for row in sums]
    return scores if op <= DOT else [[builder.fneg(score) for score in row] for row in scores]


def store_marked(builder, found, marks, scores, masks):
    """Store scores and masks if any score is marked; returns whether one is.

    Args:
        builder: LLVM's.
        found: Vectors of scores, [row][vector].
        marks: Vectors of bits alike, 1 for the scores that count.
        scores: Address of (rows, WIDE) float32.
        masks: Address of (rows,) int64, the marks of a row.
    """
    word = ir.IntType(WIDTH)
    marks = [[builder.bitcast(bits, word) for bits in row] for row in marks]
    every = functools.reduce(builder.or_, itertools.chain.from_iterable(marks))
    any_marked = builder.icmp_unsigned("!=", every, word(0))
    with builder.if_then(any_marked, likely=False):
        for r, row in enumerate(found):
            mask = NUMBER(0)
            for v, score in enumerate(row):
                at = pointer(builder, scores, 4 * (WIDE * r + WIDTH * v), FLOATS)
                builder.store(score, at, align=4)
                bits = builder.shl(builder.zext(marks[r][v], NUMBER), NUMBER(WIDTH * v))
                mask = builder.or_(mask, bits)
            builder.store(mask, pointer(builder, masks, 8 * r, NUMBER))
    return builder.zext(any_marked, ir.IntType(8))


def _scorer(op, *shape):
    """Return an intrinsic that scores some rows for some queries, shape = (rows, vectors).

    Addresses: lanes (D, WIDE), of the first query in them; x (rows, n_dims); start (rows,), what
    sums start from; least (queries,), what a score must exceed; scores (rows, WIDE); masks (rows,).
    Returns whether any score does; scores and masks are written only then.
    """

    def generate(_context, builder, _signature, args):
        lanes, n_dims, x, start, least, scores, masks = args
        found = _score(builder, op, shape, lanes, n_dims, x, start)
        limits = _load_vectors(builder, least, shape[1])
        marks = [
            [
                builder.fcmp_ordered(">", score, limit)
                for score, limit in zip(row, limits, strict=True)
            ]
            for row in found
        ]
        return store_marked(builder, found, marks, scores, masks)

    @intrinsic
    def score(_typing, lanes, n_dims, x, start, least, scores, masks):
        return types.uint8(*[types.int64] * 7), generate

    return score


_wide_product, _wide_squares, _wide_l1, _wide_linf = (
    _scorer(op, WIDE_ROWS, VECTORS) for op in (DOT, SQUARES, L1, LINF)
)
_narrow_product, _narrow_squares = (_scorer(op, NARROW_ROWS, 1) for op in (DOT, SQUARES))


@njit
def score_block(op, narrow, lanes, n_dims, x, start, least, scores, masks):
    """Score WIDE_ROWS rows for WIDE queries or, if `narrow`, NARROW_ROWS for NARROW.

    Arguments and result are those of `_scorer`. There is no narrow kernel for L1 and LINF.
    """
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
