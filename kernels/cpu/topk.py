"""The best k rows for every query: queries are SIMD lanes, the rows are scored tile by tile.

A block of rows is scored against a vector or more of queries at a time. Scores never leave the
registers unless one of them exceeds the k-th best so far of its query; then they are ranked with
their rows, as select.py describes.
"""

from typing import NamedTuple

import numpy as np

from .finish import read_wide, scale_up
from .ir import address, lowest_bit
from .jit import njit
from .rows import FLOAT64, read_rows
from .scores import CHORD, COSINE, DOT, L1, LINF, NARROW, NARROW_ROWS, WIDE, WIDE_ROWS, score_block
from .select import keep_best, key_of_row, score_of


class Scratch(NamedTuple):
    """Memory that `read_queries` and `search_rows` work in.

    Attributes:
        tile: (T, D) float32, rows that are read at a time.
        scores: (NARROW_ROWS, WIDE) float32.
        masks: (NARROW_ROWS,) int64, a bit for each score that counts.
        tail: (NARROW_ROWS, D) float32, the last rows, filled up to a block.
        wide: (D,) float64, a row.
    """

    tile: np.ndarray
    scores: np.ndarray
    masks: np.ndarray
    tail: np.ndarray
    wide: np.ndarray


@njit
def _push_marked(n_rows, first_row, first_query, skip, k, buffers, scratch):
    """Push the scores that the masks mark, of n_rows rows for WIDE queries.

    Not by select.push: for every call, Numba counts references to arrays, which takes a tenth to a
    third of a search.
    """
    keys, counts, least = buffers
    scores, masks = scratch.scores, scratch.masks
    in_order = keys.shape[1] == k
    for r in range(n_rows):
        mask = masks[r]
        row = first_row + r
        while mask:
            lane = lowest_bit(mask)
            mask &= mask - 1
            q = first_query + lane
            if row == skip + q:
                continue
            key = key_of_row(scores[r, lane], row)
            n = counts[q]
            if in_order:
                if n == k and key < keys[q, k - 1]:  # the least has risen since the mask was made
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
                    keep_best(keys[q], n + 1, k, None)
                    counts[q] = k
            if full:
                least[q] = score_of(keys[q, k - 1])


@njit
def unit_rows(source, lo, n, rows, centre, scratch):
    """Return rows lo:lo+n, divided by their norms, less the centre, in the tile.

    Rows of zeros are left. `rows` (n, D) holds them as float32, perhaps in the tile; those of
    float64 are read once more.
    """
    tile, wide = scratch.tile, scratch.wide
    for i in range(n):
        if source.kind == FLOAT64:
            read_wide(source, lo + i, tile, wide)
            scale_up(wide)
        else:
            for d in range(wide.size):
                wide[d] = rows[i, d]
        square = 0.0
        for d in range(wide.size):
            square += wide[d] * wide[d]
        factor = 1.0 / np.sqrt(square) if square > 0.0 else 0.0
        for d in range(wide.size):
            tile[i, d] = wide[d] * factor - centre[d]
    return tile[:n]


@njit
def read_queries(op, source, lo, n, lanes, centre, scratch):
    """Fill lanes (blocks, D, WIDE) with queries lo:lo+n; the last block is filled up with zeros.

    For COSINE and CHORD, queries are divided by their norms, less the centre (D,).
    """
    for i in range(n, lanes.shape[0] * WIDE):
        for d in range(lanes.shape[1]):
            lanes[i // WIDE, d, i % WIDE] = 0.0
    tile = scratch.tile
    for s in range(0, n, tile.shape[0]):
        m = min(tile.shape[0], n - s)
        rows = read_rows(source, lo + s, m, tile)
        if op in (COSINE, CHORD):
            rows = unit_rows(source, lo + s, m, rows, centre, scratch)
        for i in range(m):
            row = rows[i]
            block = (s + i) // WIDE
            lane = (s + i) % WIDE
            for d in range(row.size):
                lanes[block, d, lane] = row[d]


@njit
def measure_queries(op, lanes, norms):
    """Set norms (Q,) float64 to those of the queries in lanes, in the norm that scores are of."""
    for q in range(norms.size):
        norms[q] = 0.0
    for block in range(lanes.shape[0]):
        block_norms = norms[block * WIDE : (block + 1) * WIDE]
        for d in range(lanes.shape[1]):
            for lane in range(block_norms.size):
                value = abs(np.float64(lanes[block, d, lane]))
                if op == LINF:
                    block_norms[lane] = max(block_norms[lane], value)
                else:
                    block_norms[lane] += value if op == L1 else value * value
    if op <= CHORD:
        for q in range(norms.size):
            norms[q] = np.sqrt(norms[q])


@njit
def _largest_bits(rows):
    """Return the bits of the largest magnitude, as an int32.

    Comparisons of floats are compiled as if there were no NaN; those of integers find it.
    """
    largest = np.int32(0)
    words = rows.view(np.int32)
    for i in range(rows.shape[0]):
        for d in range(rows.shape[1]):
            largest = max(largest, words[i, d] & np.int32(0x7FFFFFFF))
    return largest


@njit
def largest_square_of(rows):
    """Return the largest sum of squares of a row."""
    largest = np.float32(0.0)
    for i in range(rows.shape[0]):
        square = np.float32(0.0)
        for d in range(rows.shape[1]):
            square += rows[i, d] * rows[i, d]
        largest = max(largest, square)
    return largest


@njit
def search_rows(op, lanes, source, lo, hi, skip, k, buffers, centre, scratch):
    """Push the best k of rows lo:hi into the buffers of every query.

    Args:
        op: How rows score, see scores.py.
        lanes: (blocks, D, WIDE) queries as `read_queries` leaves them, with the same centre.
        source: The rows, see rows.py.
        lo: First row.
        hi: End of the rows.
        skip: Query i never gets row skip + i.
        k: Candidates of a query.
        buffers: `Buffers` of the queries; `least` (blocks * WIDE,).
        centre: (D,) taken off unit rows, for COSINE and CHORD.
        scratch: `Scratch`.

    Returns:
        The bits of the largest magnitude among the rows as they are read and, for DOT, the largest
        sum of squares of a row.
    """
    tile = scratch.tile
    start = np.zeros(NARROW_ROWS, np.float32)
    tail_start = np.zeros(NARROW_ROWS, np.float32)
    largest_bits = np.int32(0)
    largest_square = np.float32(0.0)
    # Only the last block may be narrow. L1 and LINF have no such kernel: it takes time to compile.
    has_narrow_block = op <= CHORD and (buffers.keys.shape[0] - 1) % WIDE < NARROW
    narrow_from = lanes.shape[0] - 1 if has_narrow_block else lanes.shape[0]
    for s in range(lo, hi, tile.shape[0]):
        n = min(tile.shape[0], hi - s)
        rows = read_rows(source, s, n, tile)
        largest_bits = max(largest_bits, _largest_bits(rows))
        if op == DOT:
            largest_square = max(largest_square, largest_square_of(rows))
        if op in (COSINE, CHORD):
            rows = unit_rows(source, s, n, rows, centre, scratch)
        for block in range(lanes.shape[0]):
            narrow = block >= narrow_from
            size = NARROW_ROWS if narrow else WIDE_ROWS
            for r in range(0, n, size):
                x, first = rows[r:], start
                if r + size > n:  # past the last row there may be no memory
                    _fill_tail(op, rows[r:], scratch.tail, tail_start)
                    x, first = scratch.tail, tail_start
                if score_block(
                    op,
                    narrow,
                    address(lanes[block]),
                    lanes.shape[1],
                    address(x),
                    address(first),
                    address(buffers.least) + 4 * WIDE * block,
                    address(scratch.scores),
                    address(scratch.masks),
                ):
                    _push_marked(size, s + r, block * WIDE, skip, k, buffers, scratch)
    return largest_bits, largest_square


@njit
def _fill_tail(op, rows, tail, start):
    """Copy the last rows, and let the rest start where no score gets better than -inf."""
    for i in range(tail.shape[0]):
        start[i] = 0.0 if i < rows.shape[0] else -np.inf if op <= DOT else np.inf
    for i in range(rows.shape[0]):
        for d in range(rows.shape[1]):
            tail[i, d] = rows[i, d]
