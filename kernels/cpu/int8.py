"""The best centroid of every row by 8-bit integers: exact, as what they can't decide is computed.

Rows and centroids are rounded to 8 bits, each with a scale of its own. Their product, an exact sum
of integers, is off by no more than ``|x - x'| |c| + |x'| |c - c'|``, where x' and c' are the
rounded ones (Cauchy-Schwarz); both errors are measured when they are rounded. A centroid whose
score can't reach that of the best one so far is ruled out. The others, one or two a row, are
compared by products in float32 or, where rounding could decide, by the scores of tile.py: the
labels are those of `tile.step_rows`, bit for bit.

Points are SIMD lanes, four dimensions of a point to a lane. Written in LLVM's language, as its
vectorizer knows no products of bytes.
"""

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .ir import FLOATS, INT8, INTS, NUMBER, VECTORS, WIDTH, address, lowest_bit, pointer, splat
from .jit import njit
from .lanes import POINTS, ROWS, dot_at, score_at
from .options import INNER, JIT, NEG_INF
from .rows import read_rows
from .scores import store_marked
from .select import from_bits
from .sizes import DEBUG
from .tile import UNSET, take_labels

# The typing context of an intrinsic is not an argument.
# pyright: reportCallIssue=false

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
BEYOND = np.float32(2.0**120)  # where bounds could leave the range of float32
LEAST_NORM = np.float32(1e-30)  # of centroids
LOST = np.float32(2.0**-149 / 1e-30)  # of a product near zero, per norm of a centroid
EPS = np.float32(2.0**-24)
NONE = np.int32(-1)  # the label of a point that has none yet; below it are guesses
PENDING = 2048  # candidates that are kept before they are compared
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


class Int8Scratch(NamedTuple):
    """Memory of one thread.

    Attributes:
        values: (QUAD * Q,) int8, a row as whole numbers.
        limits: (3, POINTS) float32: the factor, the error per norm of a centroid, and the least
            bound that counts, of a block's points.
        best: (2, POINTS) float32: the score of the label, and its rounding.
        chain: (POINTS,) float32, the score of the label as tile.py has it, where it is known.
        known: (POINTS,) bool.
        wanted: (POINTS,) bool.
        bounds: (ROWS, POINTS) float32.
        masks: (ROWS,) int64.
        point: (PENDING + ROWS * POINTS,) int32 of the candidates.
        rival: Int32 alike, their centroids.
        reach: Float32 alike, their bounds.
    """

    values: np.ndarray
    limits: np.ndarray
    best: np.ndarray
    chain: np.ndarray
    known: np.ndarray
    wanted: np.ndarray
    bounds: np.ndarray
    masks: np.ndarray
    point: np.ndarray
    rival: np.ndarray
    reach: np.ndarray


def multiply(builder, total, points, centroids):
    """Return total plus the products of four bytes each, by int32."""
    module = builder.module
    if INT8 == "vnni":
        kind = ir.FunctionType(INTS, [INTS, INTS, INTS])
        name = f"llvm.x86.avx512.vpdpbusd.{32 * WIDTH}"
        return builder.call(
            cgutils.get_or_insert_function(module, kind, name), [total, points, centroids]
        )
    bytes_ = ir.VectorType(ir.IntType(8), 4 * WIDTH)
    points, centroids = builder.bitcast(points, bytes_), builder.bitcast(centroids, bytes_)
    if INT8 == "sdot":
        kind = ir.FunctionType(INTS, [INTS, bytes_, bytes_])
        name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
        return builder.call(
            cgutils.get_or_insert_function(module, kind, name), [total, points, centroids]
        )
    shorts = ir.VectorType(ir.IntType(16), 2 * WIDTH)
    kind = ir.FunctionType(shorts, [bytes_, bytes_])
    pairs = cgutils.get_or_insert_function(module, kind, "llvm.x86.avx2.pmadd.ub.sw")
    kind = ir.FunctionType(INTS, [shorts, shorts])
    quads = cgutils.get_or_insert_function(module, kind, "llvm.x86.avx2.pmadd.wd")
    products = builder.call(pairs, [points, centroids])
    ones = shorts([1] * shorts.count)
    return builder.add(total, builder.call(quads, [products, ones]))


def _rows(builder, n_quads, words, k, n_clusters):
    """Return indices and addresses of centroids k:k+ROWS, the last one again past the end."""
    last = builder.sub(n_clusters, NUMBER(1))
    index, rows = [], []
    for r in range(ROWS):
        i = builder.add(k, NUMBER(r))
        index.append(builder.select(builder.icmp_signed("<", i, last), i, last))
        rows.append(builder.add(words, builder.mul(builder.mul(index[r], n_quads), NUMBER(4))))
    return index, rows


def _sums(builder, lanes, n_quads, words, start, k, n_clusters):
    """Return indices of centroids k:k+ROWS, and sums of products [ROWS][VECTORS] int32."""
    index, rows = _rows(builder, n_quads, words, k, n_clusters)
    sums = [[cgutils.alloca_once(builder, INTS) for _ in range(VECTORS)] for _ in range(ROWS)]
    for r in range(ROWS):
        at = pointer(builder, start, builder.mul(index[r], NUMBER(4)), ir.IntType(32))
        for v in range(VECTORS):
            builder.store(splat(builder, builder.load(at), INTS), sums[r][v])
    with cgutils.for_range(builder, n_quads) as loop:
        at = builder.add(lanes, builder.mul(loop.index, NUMBER(4 * POINTS)))
        points = [
            builder.load(pointer(builder, at, 4 * WIDTH * v, INTS), align=4) for v in range(VECTORS)
        ]
        offset = builder.mul(loop.index, NUMBER(4))
        for r in range(ROWS):
            word = builder.load(pointer(builder, rows[r], offset, ir.IntType(32)))
            factor = splat(builder, word, INTS)
            for v in range(VECTORS):
                total = multiply(builder, builder.load(sums[r][v]), points[v], factor)
                builder.store(total, sums[r][v])
    return index, [[builder.load(s) for s in row] for row in sums]


def _sums_by_pairs(builder, lanes, n_quads, words, _start, k, n_clusters):
    """Return `_sums` by SMMLA: two points times two centroids, eight dimensions at a time."""
    index, rows = _rows(builder, n_quads, words, k, n_clusters)
    bytes_, pair = ir.VectorType(ir.IntType(8), 16), ir.VectorType(NUMBER, 2)
    kind = ir.FunctionType(INTS, [INTS, bytes_, bytes_])
    name = "llvm.aarch64.neon.smmla.v4i32.v16i8"
    multiply = cgutils.get_or_insert_function(builder.module, kind, name)
    zero = INTS([0] * WIDTH)  # what sums start from, as ZERO is 0
    sums = [
        [cgutils.alloca_once_value(builder, zero) for _ in range(2 * VECTORS)]
        for _ in range(ROWS // 2)
    ]
    with cgutils.for_range(builder, builder.sdiv(n_quads, NUMBER(2))) as loop:
        at = builder.add(lanes, builder.mul(loop.index, NUMBER(8 * POINTS)))
        offset = builder.mul(loop.index, NUMBER(8))
        for r in range(ROWS // 2):
            both = pair(ir.Undefined)
            for j in range(2):
                eight = builder.load(pointer(builder, rows[2 * r + j], offset, NUMBER), align=4)
                both = builder.insert_element(both, eight, ir.IntType(32)(j))
            factor = builder.bitcast(both, bytes_)
            for v in range(2 * VECTORS):
                points = builder.load(pointer(builder, at, 16 * v, bytes_), align=4)
                total = builder.call(multiply, [builder.load(sums[r][v]), points, factor])
                builder.store(total, sums[r][v])
    found = []
    for r in range(ROWS):  # of one centroid, each other value
        taken = ir.VectorType(ir.IntType(32), WIDTH)([2 * i + r % 2 for i in range(WIDTH)])
        totals = [builder.load(total) for total in sums[r // 2]]
        found.append(
            [builder.shuffle_vector(*totals[2 * v : 2 * v + 2], taken) for v in range(VECTORS)]
        )
    return index, found


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
        total = _sums_by_pairs if INT8 == "smmla" else _sums
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


_bound_scores, _bound_and_lift = _bounder(lift=False), _bounder(lift=True)


@njit(**JIT)
def bound_rows(lift, lanes, n_quads, values, start, terms, k, n_clusters, limits, bounds, masks):
    """Bound the scores of a block with centroids k:k+ROWS, see `_bounder`; all are addresses."""
    if lift:
        return _bound_and_lift(
            lanes, n_quads, values, start, terms, k, n_clusters, limits, bounds, masks
        )
    return _bound_scores(lanes, n_quads, values, start, terms, k, n_clusters, limits, bounds, masks)


def words_of(n_dims):
    """Return how many words of QUAD dimensions a row takes: Q."""
    return -(-n_dims // (QUAD * BESIDE)) * BESIDE


@njit(**INNER)
def rounding(n_dims):
    """Return by how much two ways to compute a score may differ, relative to its terms."""
    return np.float32(1.1 * n_dims + 32) * EPS


@njit(**INNER)
def _up(square, n_dims):
    """Return the root of a sum of squares, no less than it is."""
    return np.sqrt(square) * (np.float32(1) + np.float32(n_dims + 8) * EPS)


@njit(**JIT)
def round_points(rows, n, points, block, values):
    """Write n <= POINTS rows to a block of the points; the others of the block become zeros.

    values: (QUAD * Q,) int8 scratch.
    """
    lanes = points.words[block].reshape((points.words.shape[1] // BESIDE, POINTS, BESIDE))
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


@njit(**JIT)
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


@njit(inline="always", **INNER)
def _score_labels(rows, row_size, scored, label, terms, eta, norms, scratch):
    """Compute the scores of the points of a block that are wanted with their labels."""
    limits, best, known, wanted = scratch.limits, scratch.best, scratch.known, scratch.wanted
    c, bias = scored.c, scored.bias
    base, size, n_dims = address(c), np.int64(c.strides[0]), c.shape[1]
    for i in range(label.size):
        if not wanted[i]:
            continue
        k = label[i]
        best[0, i] = dot_at(rows + i * row_size, base + k * size, n_dims) + bias[k]
        best[1, i] = eta * (norms[i] * terms[k, LENGTH] + abs(terms[k, BIAS])) + TINY
        known[i] = False
        limits[2, i] = max(limits[2, i], limits[0, i] * (best[0, i] - best[1, i]))


@njit(**INNER)
def _settle(rows, count, first, scored, terms, eta, norms, label, scratch):
    """Compare the candidates by their scores; return how many were compared.

    If `first`, points without a label start from the candidate of the highest bound.
    """
    limits, best, chain, known = scratch.limits, scratch.best, scratch.chain, scratch.known
    point, rival, reach, wanted = scratch.point, scratch.rival, scratch.reach, scratch.wanted
    c, bias = scored.c, scored.bias
    n_dims, size, base = c.shape[1], np.int64(c.strides[0]), address(c)
    row_base, row_size = address(rows), np.int64(rows.strides[0])
    if first:
        for j in range(count):
            i = point[j]
            if label[i] == NONE or (label[i] < NONE and reach[j] > chain[i]):
                label[i], chain[i] = NONE - 1 - rival[j], reach[j]
        for i in range(label.size):
            wanted[i] = label[i] < NONE
            if wanted[i]:
                label[i] = NONE - 1 - label[i]
        _score_labels(row_base, row_size, scored, label, terms, eta, norms, scratch)
    compared = 0
    for j in range(count):
        i, k = np.int64(point[j]), np.int64(rival[j])
        own = np.int64(label[i])
        if reach[j] < limits[2, i] or k == own:
            continue
        compared += 1
        row = row_base + i * row_size
        score = dot_at(row, base + k * size, n_dims) + bias[k]
        error = eta * (norms[i] * terms[k, LENGTH] + abs(bias[k])) + TINY
        gap, window = score - best[0, i], error + best[1, i]
        if gap < -window:
            continue
        if gap <= window:  # rounding could decide: then it shall be that of tile.py
            if not known[i]:
                chain[i] = score_at(row, base + own * size, n_dims, bias[own])
                known[i] = True
            value = score_at(row, base + k * size, n_dims, bias[k])
            if value < chain[i] or (value == chain[i] and k > own):
                continue
            chain[i] = value
        else:
            known[i] = False
        label[i] = k
        best[0, i], best[1, i] = score, error
        limits[2, i] = max(limits[2, i], limits[0, i] * (score - error))
    return compared


@njit(**INNER)
def _label_by_scores(row, scored):
    """Return the label of a row, which is an address, by the scores of tile.py alone."""
    c, bias = scored.c, scored.bias
    best, label = NEG_INF, 0
    for k in range(c.shape[0]):
        score = score_at(row, address(c) + k * np.int64(c.strides[0]), c.shape[1], bias[k])
        if score > best:
            best, label = score, k
    return label


@njit(inline="always", **INNER)
def _set_limits(rows, n, points, block, scored, centroids, first, label, eta, scratch):
    """Set what bounds of a block are made of, and what they must reach; mark points to score."""
    worst, limits, wanted = centroids.worst, scratch.limits, scratch.wanted
    measures = points.measures
    for i in range(POINTS):
        at = block * POINTS + i
        factor, residual, norm = measures[FACTOR, at], measures[RESIDUAL, at], measures[NORM, at]
        error = residual + (norm + residual) * worst[0] + norm * eta + worst[1]
        error += np.float32(rows.shape[1]) * LOST
        real = i < n and norm > np.float32(0)
        limits[0, i] = factor
        limits[1, i] = factor * error
        limits[2, i] = NEG_INF if real else np.float32(np.inf)
        wanted[i] = real and not first
        if i < n and not real:
            label[i] = centroids.top[0]
        elif real and first:
            label[i] = NONE
        if real and (factor + limits[1, i]) * worst[2] > BEYOND:
            limits[0, i] = limits[1, i] = np.float32(0)
            limits[2, i] = np.float32(np.inf)
            wanted[i] = False
            label[i] = _label_by_scores(address(rows) + i * np.int64(rows.strides[0]), scored)


@njit(**JIT)
def label_block(rows, n, points, block, scored, centroids, first, label, scratch):
    """Find the labels of n <= POINTS rows, which are a block of the points.

    INOUT label (n,) int32: labels that rows may have kept; not read if `first`. Returns how many
    pairs were compared by their scores.
    """
    masks, bounds = scratch.masks, scratch.bounds
    point, rival, reach = scratch.point, scratch.rival, scratch.reach
    terms = centroids.terms
    n_clusters, n_dims = scored.c.shape[0], scored.c.shape[1]
    if DEBUG and (n > POINTS or label.size != n or block >= points.words.shape[0]):
        raise IndexError("points beyond their block")
    if DEBUG and not first and (label.min() < 0 or label.max() >= n_clusters):
        raise IndexError("a label of other centroids")
    eta = rounding(n_dims)
    norms = points.measures[NORM, block * POINTS : (block + 1) * POINTS]
    _set_limits(rows, n, points, block, scored, centroids, first, label, eta, scratch)
    row_size = np.int64(rows.strides[0])
    _score_labels(address(rows), row_size, scored, label, terms, eta, norms, scratch)
    lanes, n_quads = address(points.words[block]), centroids.values.shape[1] // QUAD
    values, start, terms_at = address(centroids.values), address(centroids.start), address(terms)
    limits_at, bounds_at, masks_at = address(scratch.limits), address(bounds), address(masks)
    count, compared = 0, 0
    for k in range(0, n_clusters, ROWS):
        if bound_rows(
            first,
            lanes,
            n_quads,
            values,
            start,
            terms_at,
            k,
            n_clusters,
            limits_at,
            bounds_at,
            masks_at,
        ):
            for r in range(min(ROWS, n_clusters - k)):
                mask = masks[r]
                while mask:
                    i = lowest_bit(mask)
                    mask &= mask - 1
                    point[count], rival[count], reach[count] = i, k + r, bounds[r, i]
                    count += 1
        if count >= PENDING or k + ROWS >= n_clusters:
            compared += _settle(rows, count, first, scored, terms, eta, norms, label, scratch)
            count = 0
    return compared


@njit(**JIT)
def step_rows(
    source, weights, scored, centroids, points, kept, fill, lo, hi, labels, changes, scratch, own
):
    """Do the E-step of rows lo:hi, with the labels and sums of `tile.step_rows`.

    Returns (how many labels changed, how many pairs were compared by their scores). `points` are
    all rows, where lo is a multiple of POINTS, if `kept`; otherwise memory for those of a tile.
    They are rounded here if `fill`. INOUT labels (N,) uint32 and changes. scratch: a `TileScratch`;
    own: an `Int8Scratch`.
    """
    tile, label, moved = scratch.rows, scratch.label, scratch.moved
    changed, compared = 0, 0
    for s in range(lo, hi, tile.shape[0]):
        n = min(tile.shape[0], hi - s)
        rows = read_rows(source, s, n, tile)
        block = s // POINTS if kept else np.int64(0)
        for a in range(0, n, POINTS):
            m = min(POINTS, n - a)
            part, mine = rows[a : a + m], label[a : a + m]
            if fill:
                round_points(part, m, points, block, own.values)
            first = labels[s + a] == UNSET
            for i in range(m):
                mine[i] = labels[s + a + i]
            compared += label_block(part, m, points, block, scored, centroids, first, mine, own)
            block += 1
        changed += take_labels(rows, s, weights, label, labels, changes, moved)
    return changed, compared
