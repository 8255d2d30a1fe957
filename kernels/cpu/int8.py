"""Bounds of scores by 8-bit integers.

Rows and centroids are rounded to 8 bits, each with a scale of its own. Their product, an exact sum
of integers, is off by no more than ``|x - x'| |c| + |x'| |c - c'|``, where x' and c' are the
rounded ones (Cauchy-Schwarz); both errors are measured when they are rounded.
"""

from typing import NamedTuple

import numpy as np
from llvmlite import ir

from .int8_products import sums_by_pairs, sums_of_products
from .ir import FLOATS, INT8, NUMBER, VECTORS, WIDTH, address, pointer, splat
from .jit import cgutils, intrinsic, njit, types
from .lanes import POINTS, ROWS
from .rows import values_at
from .scores import store_marked
from .select import from_bits

QUAD = 4  # dimensions of a lane
# Lanes of a point that lie side by side: SMMLA multiplies two points by two centroids.
BESIDE = 2 if INT8 == "smmla" else 1
# What a point's bytes may hold: whole numbers up to LEVELS, stored plus ZERO. AVX2 adds pairs of
# products in 16 bits, which has room for seven bits times eight.
ZERO, LEVELS = {"vnni": (128, 127), "avx2": (64, 63)}.get(INT8, (0, 127))
CENTROID_LEVELS = np.float32(127)
MAX_DIMS = 1 << 15  # whose sums fit in 32 bits
LEAST = np.float32(2.0**-100)  # the least magnitude of a row that its scale follows
TINY = np.float32(2.0**-110)  # what values that are too small for float32 may add up to
LEAST_NORM = np.float32(1e-30)  # of centroids
LOST = np.float32(2.0**-149 / 1e-30)  # of a product near zero, per norm of a centroid
BEYOND = np.float32(2.0**120)  # where bounds could leave the range of float32
EPS = np.float32(2.0**-24)
FACTOR, RESIDUAL, NORM = range(3)  # of `Int8Points.measures`
STEP, BIAS, LENGTH = range(3)  # of `Int8Centroids.terms`


class Int8Points(NamedTuple):
    """Points as bytes, in blocks of POINTS; those of a batch have a leading axis B.

    Attributes:
        words: (blocks, Q, POINTS) int32, four bytes each, plus ZERO; Q is `words_of` D. Those
            of a point lie BESIDE side by side.
        measures: (3, blocks * POINTS) float32: the factor between a row and its whole numbers, the
            norm of the rounding and that of the row, both rounded up.
    """

    words: np.ndarray
    measures: np.ndarray


class Int8Centroids(NamedTuple):
    """Centroids as bytes, and what bounds need of them; those of a batch have a leading axis B.

    Attributes:
        values: (K, QUAD * Q) int8, zeros in the padding.
        start: (K,) int32, what sums start from, so that ZERO cancels.
        terms: (K, 3) float32: the step between whole numbers, the bias and the norm, rounded up.
        worst: (3,) float32: the largest norm of a rounding and the largest rounding of a bias, each
            as a share of the norm of its centroid; the largest of all norms and biases.
        top: (1,) int64, the label of a row of zeros.
    """

    values: np.ndarray
    start: np.ndarray
    terms: np.ndarray
    worst: np.ndarray
    top: np.ndarray


def _fused(builder, a, b, c):
    """Return a * b + c, rounded once."""
    fma = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(FLOATS, [FLOATS] * 3), f"llvm.fma.v{WIDTH}f32"
    )
    return builder.call(fma, [a, b, c])


def _bounder(lift):
    """Return an intrinsic that bounds the scores of POINTS points with centroids k:k+ROWS.

    Addresses: lanes, of the block; words, start and terms of the centroids; limits (3, POINTS) of
    the points. Returns whether a bound reaches its limit; OUT bounds (ROWS, POINTS) and
    masks (ROWS,) then, a bit for each that does. If `lift`, limits rise to what a score has at
    least.
    """

    def generate(_context, builder, _signature, args):
        lanes, n_quads, words, start, terms, k, n_clusters, limits, bounds, masks = args
        total = sums_by_pairs if INT8 == "smmla" else sums_of_products
        index, sums = total(builder, lanes, n_quads, words, start, k, n_clusters)

        def of_points(field, v):
            at = pointer(builder, limits, 4 * (POINTS * field + WIDTH * v), FLOATS)
            return builder.load(at, align=4)

        def of_centroid(r, field):
            offset = builder.add(builder.mul(index[r], NUMBER(12)), NUMBER(4 * field))
            value = builder.load(pointer(builder, terms, offset, ir.FloatType()))
            return splat(builder, value, FLOATS)

        values = [[of_centroid(r, field) for field in range(3)] for r in range(ROWS)]
        found = [[FLOATS(ir.Undefined)] * VECTORS for _ in range(ROWS)]
        marks = [list(row) for row in found]
        for v in range(VECTORS):
            factor, error, limit = (of_points(field, v) for field in range(3))
            for r, (step, bias, norm) in enumerate(values):
                score = _fused(
                    builder,
                    builder.sitofp(sums[r][v], FLOATS),
                    step,
                    builder.fmul(factor, bias),
                )
                bound = _fused(builder, error, norm, score)
                found[r][v] = bound
                marks[r][v] = builder.fcmp_ordered(">=", bound, limit)
                if lift:
                    least = _fused(builder, builder.fneg(error), norm, score)
                    higher = builder.fcmp_ordered(">", least, limit)
                    limit = builder.select(higher, least, limit)
            if lift:
                at = pointer(builder, limits, 4 * (POINTS * 2 + WIDTH * v), FLOATS)
                builder.store(limit, at, align=4)
        return store_marked(builder, found, marks, bounds, masks)

    @intrinsic
    def bound(_typing, lanes, n_quads, words, start, terms, k, n_clusters, limits, bounds, masks):
        return types.uint8(*[types.int64] * 10), generate

    return bound


bound_scores, _bound_and_lift = _bounder(lift=False), _bounder(lift=True)


@njit
def bound_rows(lift, lanes, n_quads, values, start, terms, k, n_clusters, limits, bounds, masks):
    """Bound the scores of a block with centroids k:k+ROWS, see `_bounder`; all are addresses."""
    if lift:
        return _bound_and_lift(
            lanes, n_quads, values, start, terms, k, n_clusters, limits, bounds, masks
        )
    return bound_scores(lanes, n_quads, values, start, terms, k, n_clusters, limits, bounds, masks)


def words_of(n_dims):
    """Return how many words of QUAD dimensions a row takes: Q."""
    return -(-n_dims // (QUAD * BESIDE)) * BESIDE


@njit
def rounding(n_dims):
    """Return by how much two ways to compute a score may differ, relative to its terms."""
    return np.float32(1.1 * n_dims + 32) * EPS


@njit
def _up(square, n_dims):
    """Return the root of a sum of squares, no less than it is."""
    return np.sqrt(square) * (np.float32(1) + np.float32(n_dims + 8) * EPS)


@njit
def round_points(rows, n, points, block, values):
    """Write n <= POINTS rows to a block of the points; the others of the block become zeros.

    values: (QUAD * Q,) int8 scratch.
    """
    shape = (points.words.shape[1] // BESIDE, POINTS, BESIDE)
    lanes = values_at(address(points.words[block]), np.int32, shape)
    measures = points.measures
    words, bits = values.view(np.int32), rows.view(np.int32)
    n_dims = rows.shape[1]
    for d in range(n_dims, values.size):
        values[d] = np.int8(ZERO)
    for i in range(POINTS):
        at = block * POINTS + i
        square, lost = np.float32(0), np.float32(0)
        factor = np.float32(1)
        if i < n:
            largest = np.int32(0)  # bits of magnitudes rank as these do, in vectors of integers
            for d in range(n_dims):
                largest = max(largest, bits[i, d] & np.int32(0x7FFFFFFF))
            if largest > 0:
                factor = np.float32(LEVELS) / max(from_bits(np.uint32(largest)), LEAST)
                square = lost = TINY
            for d in range(n_dims):
                value = rows[i, d] * factor
                whole = np.rint(value)
                values[d] = np.int8(np.int32(whole) + np.int32(ZERO))
                lost += (value - whole) * (value - whole)
                square += value * value
            for q in range(words.size):
                lanes[q // BESIDE, i, q % BESIDE] = words[q]
        measures[FACTOR, at] = factor
        measures[RESIDUAL, at] = _up(lost, n_dims) / factor
        measures[NORM, at] = _up(square, n_dims) / factor


@njit
def round_centroids(c, bias, centroids):
    """Fill `centroids` with c (K, D) and bias (K,)."""
    values, start, terms, worst, top = centroids
    n_dims = c.shape[1]
    eta = rounding(n_dims)
    worst[:] = np.float32(0)
    top[0] = 0
    bits = c.view(np.int32)
    for k in range(c.shape[0]):
        largest = np.int32(0)  # as for points
        for d in range(n_dims):
            largest = max(largest, bits[k, d] & np.int32(0x7FFFFFFF))
        step = max(from_bits(np.uint32(largest)), LEAST) / CENTROID_LEVELS
        factor = np.float32(1) / step
        square = lost = TINY
        total = np.int32(0)
        for d in range(n_dims):
            value = c[k, d] * factor
            whole = np.rint(value)
            values[k, d] = np.int8(whole)
            total += np.int32(whole)
            lost += (value - whole) * (value - whole)
            square += value * value
        start[k] = -ZERO * total
        norm = max(_up(square, n_dims) * step, LEAST_NORM)
        terms[k, STEP], terms[k, BIAS], terms[k, LENGTH] = step, bias[k], norm
        worst[0] = max(worst[0], _up(lost, n_dims) * step / norm)
        worst[1] = max(worst[1], eta * abs(bias[k]) / norm)
        worst[2] = max(worst[2], norm, abs(bias[k]))
        if bias[k] > bias[top[0]]:
            top[0] = k
