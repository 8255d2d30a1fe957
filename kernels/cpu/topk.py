"""The best k rows for every query: queries are SIMD lanes, rows of the data pass by, scores never leave the registers.

A block of ROWS rows against a vector or more of queries is scored at a time and compared with the k-th best score so far of
every query; only scores that beat it are stored: in order where k is small, otherwise in a buffer of which the best k are
kept whenever it is full. Scores are ranked with their row in one 64-bit key, so the order is total, ties go to the lowest
row, and the result does not depend on how rows and queries are cut up.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .finish import read_wide, scale_up
from .jit import njit
from .options import JIT
from .rows import FLOAT64, read_rows
from .scores import CHORD, COSINE, DOT, L1, LINF, NARROW, NARROW_ROWS, WIDE, WIDE_ROWS, score_block

# The typing context of an intrinsic is not an argument.
# pyright: reportCallIssue=false


@intrinsic
def _lowest_bit(_typing, mask):
    """The place of the lowest bit set; mask is not 0."""

    def generate(_context, builder, _signature, args):
        return builder.cttz(args[0], ir.IntType(1)(1))

    return types.uint64(types.uint64), generate


@njit(**JIT)
def _keep_best(keys, k):
    """Move the k largest of keys to the front, the least of them last of these (Hoare's select)."""
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


@njit(**JIT)
def _take(n_rows, first, masks, scores, skip, q0, k, keys, counts, least):
    """Put the scores that masks mark into the buffers of the queries q0 and on; row 0 is `first`.

    A few are kept in order as they come; more are collected, and the best selected whenever their buffer is full.
    """
    bits = scores.view(np.uint32)
    sort = keys.shape[1] == k
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
            key = (word << np.uint64(32)) | np.uint64(0xFFFFFFFF - row)
            if sort:
                if n == k and key < keys[q, k - 1]:  # which has risen since the mask was made
                    continue
                last = min(n, k - 1)
                while last > 0 and keys[q, last - 1] < key:
                    keys[q, last] = keys[q, last - 1]
                    last -= 1
                keys[q, last] = key
                counts[q] = min(n + 1, k)
                full = n + 1 >= k
            else:
                keys[q, n] = key
                counts[q] = n + 1
                full = n + 1 == keys.shape[1]
                if full:
                    _keep_best(keys[q], k)
                    counts[q] = k
            if full:
                word = keys[q, k - 1] >> np.uint64(32)
                word ^= np.uint64(0x80000000) if word >> np.uint64(31) else np.uint64(0xFFFFFFFF)
                least.view(np.uint32)[q] = np.uint32(word)


@njit(**JIT)
def _unit(row, centre, out):
    """out = row of norm 1, or zeros for a zero row, less the centre."""
    square = 0.0
    for d in range(row.size):
        square += np.float64(row[d]) * np.float64(row[d])
    factor = 1.0 / np.sqrt(square) if square > 0.0 else 0.0
    for d in range(row.size):
        out[d] = row[d] * factor - centre[d]


@njit(**JIT)
def _unit_rows(source, lo, n, rows, centre, wide, tile):
    """tile = rows lo:lo+n of norm 1 less the centre; `rows` are the same as float32, (n, D), which may be tile's memory."""
    for i in range(n):
        if source[3] == FLOAT64:
            read_wide(source, lo + i, tile, wide)
            scale_up(wide)
            _unit(wide, centre, tile[i])
        else:
            _unit(rows[i], centre, tile[i])
    return tile[:n]


@njit(**JIT)
def read_queries(op, source, lo, n, tile, lanes, centre, wide):
    """lanes (blocks, D, WIDE) = queries lo:lo+n; the last block is filled up with zeros.

    For COSINE and CHORD they are of norm 1, less the centre (D,). `wide` (D,) float64 is scratch.
    """
    for i in range(n, lanes.shape[0] * WIDE):
        for d in range(lanes.shape[1]):
            lanes[i // WIDE, d, i % WIDE] = 0.0
    for s in range(0, n, tile.shape[0]):
        m = min(tile.shape[0], n - s)
        rows = read_rows(source, lo + s, m, tile)
        if op in (COSINE, CHORD):
            rows = _unit_rows(source, lo + s, m, rows, centre, wide, tile)
        for i in range(m):
            row = rows[i]
            block, lane = (s + i) // WIDE, (s + i) % WIDE
            for d in range(row.size):
                lanes[block, d, lane] = row[d]


@njit(**JIT)
def measure_queries(op, lanes, norms):
    """norms (Q,) float64 of the queries in lanes, in the norm of how rows score."""
    for q in range(norms.size):
        norms[q] = 0.0
    for block in range(lanes.shape[0]):
        own = norms[block * WIDE : (block + 1) * WIDE]
        for d in range(lanes.shape[1]):
            for lane in range(own.size):
                value = abs(np.float64(lanes[block, d, lane]))
                own[lane] = (
                    max(own[lane], value)
                    if op == LINF
                    else own[lane] + (value if op == L1 else value * value)
                )
    if op <= CHORD:
        for q in range(norms.size):
            norms[q] = np.sqrt(norms[q])


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
def _largest_square(rows):
    """The largest sum of squares of a row."""
    most = np.float32(0.0)
    for i in range(rows.shape[0]):
        square = np.float32(0.0)
        for d in range(rows.shape[1]):
            square += rows[i, d] * rows[i, d]
        most = max(most, square)
    return most


@njit(**JIT)
def search_rows(
    op, lanes, n_queries, source, lo, hi, skip, k, keys, counts, least, centre, scratch
):
    """The best k of the rows lo:hi for every query, as keys: the score's bits in an order that integers have, then ~row.

    IN lanes (blocks, D, WIDE) as `read_queries` leaves them, with the same centre; source of the data as in rows.py; query
    i may not get row skip + i. INOUT keys (Q, C) uint64, of which counts (Q,) are filled: with C = k in order, otherwise the
    best nowhere in particular; least (blocks * WIDE,), what a score must exceed to be looked at. scratch: tile (T, D),
    scores (NARROW_ROWS, WIDE), masks, tail (NARROW_ROWS, D), wide (D,). Returns the bits of the largest magnitude among the
    rows and, for DOT, the largest sum of squares of a row.
    """
    tile, scores, masks, tail, wide = scratch
    start = np.zeros(NARROW_ROWS, np.float32)
    tail_start = np.zeros(NARROW_ROWS, np.float32)
    peak, square = np.int32(0), np.float32(0.0)
    few = (
        op <= CHORD and (n_queries - 1) % WIDE < NARROW
    )  # in the last block: the other kernels are not worth compiling twice
    narrow_from = lanes.shape[0] - 1 if few else lanes.shape[0]
    for s in range(lo, hi, tile.shape[0]):
        n = min(tile.shape[0], hi - s)
        rows = read_rows(source, s, n, tile)
        peak = max(peak, _largest_bits(rows))
        if op == DOT:
            square = max(square, _largest_square(rows))
        if op in (COSINE, CHORD):
            rows = _unit_rows(source, s, n, rows, centre, wide, tile)
        for block in range(lanes.shape[0]):
            narrow = block >= narrow_from
            size = NARROW_ROWS if narrow else WIDE_ROWS
            for r in range(0, n, size):
                x, first = rows[r:], start
                if r + size > n:  # past the last row there may be no memory
                    _fill_up(op, rows[r:], tail, tail_start)
                    x, first = tail, tail_start
                if score_block(
                    op,
                    narrow,
                    np.int64(lanes[block].ctypes.data),
                    lanes.shape[1],
                    np.int64(x.ctypes.data),
                    np.int64(first.ctypes.data),
                    np.int64(least.ctypes.data) + 4 * WIDE * block,
                    np.int64(scores.ctypes.data),
                    np.int64(masks.ctypes.data),
                ):
                    _take(size, s + r, masks, scores, skip, block * WIDE, k, keys, counts, least)
    return peak, square


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
