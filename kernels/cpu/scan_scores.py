"""Scores of POINTS rows of inverted lists, as SIMD lanes, for one query or a few, in registers."""

from llvmlite import ir

from .ir import FLOATS, FUSED, NUMBER, VECTORS, WIDTH, pointer, splat
from .jit import cgutils, intrinsic, njit, types
from .lanes import POINTS
from .lists import BLOCK
from .scores import CHORD, COSINE, DOT, SQUARES, store_marked

BLOCKS = POINTS // BLOCK  # that fill the registers beside QUERIES queries
QUERIES = 4


def _multiply(builder, vectors, others):
    return [builder.fmul(a, b, flags=FUSED) for a, b in zip(vectors, others, strict=True)]


def _terms(builder, op, values, factor):
    """Return what a dimension adds to scores: products, or squares of differences."""
    if op <= DOT:
        return _multiply(builder, values, [factor] * len(values))
    gaps = [builder.fsub(factor, value, flags=FUSED) for value in values]
    return _multiply(builder, gaps, gaps)


def _scores(builder, op, sums, inverse):
    """Return scores from sums of terms."""
    if op > DOT:
        return [[builder.fneg(value) for value in row] for row in sums]
    return [_multiply(builder, row, inverse) for row in sums] if op == COSINE else sums


def _scanner(op, n_queries):
    """Return an intrinsic that scores POINTS rows for some queries.

    Addresses: queries (n_queries,) and blocks (BLOCKS,), of addresses; limits (n_queries,), what a
    score must reach; scores (n_queries, POINTS); masks (n_queries,). Returns whether any score
    does; scores and masks are written only then.
    """

    def generate(_context, builder, _signature, args):
        queries, blocks, n_dims, limits, scores, masks = args
        single = ir.FloatType()
        queries = [builder.load(pointer(builder, queries, 8 * r, NUMBER)) for r in range(n_queries)]
        blocks = [builder.load(pointer(builder, blocks, 8 * b, NUMBER)) for b in range(BLOCKS)]
        places = [divmod(WIDTH * v, BLOCK) for v in range(VECTORS)]  # (block, lane in it)

        def rows(offset):
            lines = [builder.add(block, offset) for block in blocks]
            return [
                builder.load(pointer(builder, lines[b], 4 * lane, FLOATS), align=4)
                for b, lane in places
            ]

        zero = FLOATS([0.0] * WIDTH)
        inverse = rows(builder.mul(n_dims, NUMBER(4 * BLOCK))) if op in (COSINE, CHORD) else None
        sums = [[cgutils.alloca_once_value(builder, zero) for _ in places] for _ in queries]
        with cgutils.for_range(builder, n_dims) as loop:
            values = rows(builder.mul(loop.index, NUMBER(4 * BLOCK)))
            if op == CHORD:
                values = _multiply(builder, values, inverse)
            for query, totals in zip(queries, sums, strict=True):
                at = pointer(builder, query, builder.mul(loop.index, NUMBER(4)), single)
                factor = splat(builder, builder.load(at), FLOATS)
                for term, total in zip(_terms(builder, op, values, factor), totals, strict=True):
                    builder.store(builder.fadd(builder.load(total), term, flags=FUSED), total)
        totals = [[builder.load(total) for total in row] for row in sums]
        found = _scores(builder, op, totals, inverse)
        marks = []
        for r, row in enumerate(found):
            limit = splat(builder, builder.load(pointer(builder, limits, 4 * r, single)), FLOATS)
            marks.append([builder.fcmp_ordered(">=", score, limit) for score in row])
        return store_marked(builder, found, marks, scores, masks)

    @intrinsic
    def scanner(_typing, queries, blocks, n_dims, limits, scores, masks):
        return types.uint8(*[types.int64] * 6), generate

    return scanner


_squares, _products, _cosines, _chords = (
    _scanner(op, QUERIES) for op in (SQUARES, DOT, COSINE, CHORD)
)
_one_squares, _one_products, _one_cosines, _one_chords = (
    _scanner(op, 1) for op in (SQUARES, DOT, COSINE, CHORD)
)


@njit
def score_rows(op, one, queries, blocks, n_dims, limits, scores, masks):
    """Score rows as `_scanner` does, for one query or for QUERIES."""
    if one:
        return _score_for_one(op, queries, blocks, n_dims, limits, scores, masks)
    if op == SQUARES:
        return _squares(queries, blocks, n_dims, limits, scores, masks)
    if op == DOT:
        return _products(queries, blocks, n_dims, limits, scores, masks)
    if op == CHORD:
        return _chords(queries, blocks, n_dims, limits, scores, masks)
    return _cosines(queries, blocks, n_dims, limits, scores, masks)


@njit
def _score_for_one(op, queries, blocks, n_dims, limits, scores, masks):
    if op == SQUARES:
        return _one_squares(queries, blocks, n_dims, limits, scores, masks)
    if op == DOT:
        return _one_products(queries, blocks, n_dims, limits, scores, masks)
    if op == CHORD:
        return _one_chords(queries, blocks, n_dims, limits, scores, masks)
    return _one_cosines(queries, blocks, n_dims, limits, scores, masks)
