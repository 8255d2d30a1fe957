"""The best k rows for every query: queries are SIMD lanes, rows of the data pass by, scores never leave the registers.

A block of ROWS rows against a vector or more of queries is scored at a time and compared with the k-th best score so far of
every query; only scores that beat it are stored. Each query collects them in a buffer, of which the best k are kept whenever
it is full. Scores are ranked with their row in one 64-bit key, so the order is total, ties go to the lowest row, and the
result does not depend on how rows and queries are cut up.
"""

import functools
import itertools

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .blas import JIT
from .rows import read_rows

# The typing context of an intrinsic is not an argument.
# pyright: reportCallIssue=false

_FEATURES = llvm.get_host_cpu_features()
# Queries in a vector register, and such vectors in a wide block; rows that fit the registers beside them, wide and narrow.
WIDTH, VECTORS = (16, 4) if _FEATURES.get("avx512f") else (8, 2) if _FEATURES.get("avx2") else (4, 4)
WIDE_ROWS, NARROW_ROWS = (6, 8) if WIDTH == 16 else (4, 8)
WIDE, NARROW = WIDTH * VECTORS, WIDTH  # queries of a block
# How a row scores: its product with the query (COSINE: both of norm 1), or minus a sum of squares or magnitudes of differences,
# or the largest of these. Differences cost as much as products where additions have units of their own, and never cancel.
COSINE, DOT, SQUARES, L1, LINF = range(5)


_NUMBER, _FLOATS, _INTS = ir.IntType(64), ir.VectorType(ir.FloatType(), WIDTH), ir.VectorType(ir.IntType(32), WIDTH)


def _pointer(builder, base, offset, kind):
    return builder.inttoptr(builder.add(base, offset), kind.as_pointer())


def _splat(builder, address, offset):
    value = builder.load(_pointer(builder, address, offset, ir.FloatType()))
    single = builder.insert_element(_FLOATS(ir.Undefined), value, ir.IntType(32)(0))
    return builder.shuffle_vector(single, _FLOATS(ir.Undefined), _INTS([0] * WIDTH))


def _vectors(builder, address, count):
    return [builder.load(_pointer(builder, address, _NUMBER(4 * WIDTH * v), _FLOATS), align=4) for v in range(count)]


def _magnitude(builder, value):
    return builder.bitcast(builder.and_(builder.bitcast(value, _INTS), _INTS([0x7FFFFFFF] * WIDTH)), _FLOATS)


def _add(builder, op, total, query, value):
    """The sum with one more dimension in it."""
    if op <= DOT:
        return builder.fadd(total, builder.fmul(query, value, flags=("contract",)), flags=("contract",))
    gap = builder.fsub(query, value)
    if op == SQUARES:
        return builder.fadd(total, builder.fmul(gap, gap, flags=("contract",)), flags=("contract",))
    gap = _magnitude(builder, gap)
    return builder.fadd(total, gap) if op == L1 else builder.select(builder.fcmp_ordered(">", gap, total), gap, total)


def _score(builder, op, shape, lanes, n_dims, x, start):
    """[row][vector] scores."""
    sums = [[cgutils.alloca_once(builder, _FLOATS) for _ in range(shape[1])] for _ in range(shape[0])]
    rows = [builder.add(x, builder.mul(_NUMBER(4 * r), n_dims)) for r in range(shape[0])]
    for r, row in enumerate(sums):
        first = _splat(builder, start, _NUMBER(4 * r))
        for total in row:
            builder.store(first, total)
    with cgutils.for_range(builder, n_dims) as loop:
        queries = _vectors(builder, builder.add(lanes, builder.mul(loop.index, _NUMBER(4 * WIDE))), shape[1])
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
        [builder.bitcast(builder.fcmp_ordered(">", score, limit), word) for score, limit in zip(row, limits, strict=True)]
        for row in found
    ]
    every = functools.reduce(builder.or_, itertools.chain.from_iterable(bits))
    some = builder.icmp_unsigned("!=", every, word(0))
    with builder.if_then(some, likely=False):
        for r, row in enumerate(found):
            mask = _NUMBER(0)
            for v, score in enumerate(row):
                builder.store(score, _pointer(builder, scores, _NUMBER(4 * (WIDE * r + WIDTH * v)), _FLOATS), align=4)
                mask = builder.or_(mask, builder.shl(builder.zext(bits[r][v], _NUMBER), _NUMBER(WIDTH * v)))
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
        return _mark(builder, _score(builder, op, shape, lanes, n_dims, x, start), least, scores, masks)

    @intrinsic
    def score(_typing, lanes, n_dims, x, start, least, scores, masks):
        return types.uint8(*[types.int64] * 7), generate

    return score


_wide_product, _wide_squares, _wide_l1, _wide_linf = (_scorer(op, WIDE_ROWS, VECTORS) for op in (DOT, SQUARES, L1, LINF))
_narrow_product, _narrow_squares = (_scorer(op, NARROW_ROWS, 1) for op in (DOT, SQUARES))


@intrinsic
def _lowest_bit(_typing, mask):
    """The place of the lowest bit set; mask is not 0."""

    def generate(_context, builder, _signature, args):
        return builder.cttz(args[0], ir.IntType(1)(1))

    return types.uint64(types.uint64), generate


@njit(**JIT)
def _score_block(op, narrow, lanes, n_dims, x, start, least, scores, masks):
    if narrow and op <= DOT:
        return _narrow_product(lanes, n_dims, x, start, least, scores, masks)
    if narrow:
        return _narrow_squares(lanes, n_dims, x, start, least, scores, masks)
    if op <= DOT:
        return _wide_product(lanes, n_dims, x, start, least, scores, masks)
    if op == SQUARES:
        return _wide_squares(lanes, n_dims, x, start, least, scores, masks)
    if op == L1:
        return _wide_l1(lanes, n_dims, x, start, least, scores, masks)
    return _wide_linf(lanes, n_dims, x, start, least, scores, masks)


@njit(**JIT)
def _keep_best(keys, k):
    """Move the k largest of keys to the front, in any order, and return the least of them (Hoare's select)."""
    lo, hi = 0, keys.size - 1
    while lo < hi:
        a, b, c = keys[lo], keys[(lo + hi) >> 1], keys[hi]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = lo, hi
        while i <= j:
            while keys[i] > pivot:
                i += 1
            while keys[j] < pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                i += 1
                j -= 1
        if k - 1 <= j:
            hi = j
        elif k - 1 >= i:
            lo = i
        else:
            break
    return keys[k - 1]


@njit(**JIT)
def _take(n_rows, first, masks, scores, skip, q0, k, keys, counts, least):
    """Put the scores that masks mark into the buffers of the queries q0 and on; row 0 is `first`."""
    bits = scores.view(np.uint32)
    for r in range(n_rows):
        mask = masks[r]
        row = first + r
        while mask:
            lane = np.int64(_lowest_bit(mask))
            mask &= mask - np.uint64(1)
            q = q0 + lane
            if row == skip + q:
                continue
            word = np.uint64(bits[r, lane])
            word ^= np.uint64(0xFFFFFFFF) if word >> np.uint64(31) else np.uint64(0x80000000)
            n = counts[q]
            keys[q, n] = (word << np.uint64(32)) | np.uint64(0xFFFFFFFF - row)
            counts[q] = n + 1
            if n + 1 == keys.shape[1]:
                last = _keep_best(keys[q], k) >> np.uint64(32)
                last ^= np.uint64(0x80000000) if last >> np.uint64(31) else np.uint64(0xFFFFFFFF)
                least.view(np.uint32)[q] = np.uint32(last)
                counts[q] = k


@njit(**JIT)
def _unit(row, out):
    """out = row of norm 1; a zero row stays zero."""
    square = 0.0
    for d in range(row.size):
        square += np.float64(row[d]) * np.float64(row[d])
    factor = 1.0 / np.sqrt(square) if square > 0.0 else 0.0
    for d in range(row.size):
        out[d] = row[d] * factor


@njit(**JIT)
def read_queries(op, source, lo, n, tile, lanes):
    """lanes (blocks, D, WIDE) = queries lo:lo+n, of norm 1 for COSINE; the last block is filled up with zeros."""
    for i in range(n, lanes.shape[0] * WIDE):
        for d in range(lanes.shape[1]):
            lanes[i // WIDE, d, i % WIDE] = 0.0
    for s in range(0, n, tile.shape[0]):
        m = min(tile.shape[0], n - s)
        rows = read_rows(source, lo + s, m, tile)
        for i in range(m):
            row = rows[i]
            if op == COSINE:
                _unit(row, tile[i])
                row = tile[i]
            block, lane = (s + i) // WIDE, (s + i) % WIDE
            for d in range(row.size):
                lanes[block, d, lane] = row[d]


@njit(**JIT)
def _largest_bits(rows):
    """The bits of the largest magnitude: as integers, since comparisons of floats are compiled as if there were no NaN."""
    peak = np.int32(0)
    words = rows.view(np.int32)
    for i in range(rows.shape[0]):
        for d in range(rows.shape[1]):
            peak = max(peak, words[i, d] & np.int32(0x7FFFFFFF))
    return peak


@njit(**JIT)
def search_rows(op, lanes, n_queries, source, lo, hi, skip, k, keys, counts, least, scratch):
    """The best k of the rows lo:hi for every query, as keys: the score's bits in an order that integers have, then ~row.

    IN lanes (blocks, D, WIDE) as `read_queries` leaves them; source of the data as in rows.py; query i may not get row
    skip + i. INOUT keys (Q, C) uint64, C > k unless that is all rows, of which counts (Q,) are filled, best ones nowhere in
    particular; least (blocks * WIDE,), what a score must exceed to be looked at. scratch: tile (T, D), scores
    (NARROW_ROWS, WIDE), masks, tail (NARROW_ROWS, D). Returns the bits of the largest magnitude among the rows.
    """
    tile, scores, masks, tail = scratch
    start = np.zeros(NARROW_ROWS, np.float32)
    tail_start = np.zeros(NARROW_ROWS, np.float32)
    peak = np.int32(0)
    few = (
        op <= SQUARES and (n_queries - 1) % WIDE < NARROW
    )  # in the last block: the other kernels are not worth compiling twice
    narrow_from = lanes.shape[0] - 1 if few else lanes.shape[0]
    for s in range(lo, hi, tile.shape[0]):
        n = min(tile.shape[0], hi - s)
        rows = read_rows(source, s, n, tile)
        peak = max(peak, _largest_bits(rows))
        if op == COSINE:
            for i in range(n):
                _unit(rows[i], tile[i])
            rows = tile[:n]
        for block in range(lanes.shape[0]):
            narrow = block >= narrow_from
            size = NARROW_ROWS if narrow else WIDE_ROWS
            for r in range(0, n, size):
                x, first = rows[r:], start
                if r + size > n:  # past the last row there may be no memory
                    _fill_up(op, rows[r:], tail, tail_start)
                    x, first = tail, tail_start
                if _score_block(
                    op, narrow, np.int64(lanes[block].ctypes.data), lanes.shape[1], np.int64(x.ctypes.data),
                    np.int64(first.ctypes.data), np.int64(least.ctypes.data) + 4 * WIDE * block,
                    np.int64(scores.ctypes.data), np.int64(masks.ctypes.data),
                ):  # fmt: skip
                    _take(size, s + r, masks, scores, skip, block * WIDE, k, keys, counts, least)
    return peak


@njit(**JIT)
def _fill_up(op, rows, tail, start):
    """tail = the last rows, followed by some whose sums start where no score gets better than -inf."""
    for i in range(tail.shape[0]):
        start[i] = 0.0 if i < rows.shape[0] else -np.inf if op <= DOT else np.inf
    for i in range(rows.shape[0]):
        for d in range(rows.shape[1]):
            tail[i, d] = rows[i, d]


@njit(**JIT)
def settle(k, keys, counts):
    """keys (Q, C): the best k of each query first, in any order, zeros after the last one there is."""
    for q in range(keys.shape[0]):
        n = counts[q]
        if n > k:
            _keep_best(keys[q, :n], k)
            n = k
        for i in range(n, k):
            keys[q, i] = 0
