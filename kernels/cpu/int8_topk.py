"""The rows that may be among the best k of every query, by 8-bit integers.

Rows are ruled out by bounds of their scores, see int8_candidates.py. The distances of those that
are left are computed in float64.
"""

from typing import NamedTuple

import numpy as np

from .finish import NOTHING, distance, read_wide, scale_up
from .int8 import EPS, QUAD, bound_scores
from .int8_candidates import (
    AHEAD,
    MAX_LENGTH,
    MAX_ROWS,
    count_equal,
    make_room,
    margins_of,
    refine,
    rule_out,
)
from .int8_rows import INFINITY, REACH
from .ir import address, lowest_bit, prefetch
from .jit import njit
from .lanes import POINTS, ROWS
from .rows import FLOAT32, values_at
from .scores import COSINE
from .select import keep_best, key_of_row, row_of
from .sizes import DEBUG, NEG_INF

GROWTH, SOME = 2.0, 32  # how many more candidates there may be before some are ruled out again
GIVE_UP = 16  # a search is given up when a GIVE_UP-th of its queries have failed


class Candidates(NamedTuple):
    """Candidates of some queries, and memory to find them in.

    Attributes:
        keys: (Q, capacity) uint64: lower bounds of scores, and rows.
        counts: (Q,) int64, how many of them are filled.
        room: (Q,) int64, how many may be filled before some are ruled out.
        scored: (Q,) int64, how many were scored in float32 to make room.
        bounds: (ROWS, POINTS) float32.
        masks: (ROWS,) int64.
        wide: (2, D) float64.
        values: (capacity,) float64.
        numbers: (capacity,) int64.
    """

    keys: np.ndarray
    counts: np.ndarray
    room: np.ndarray
    scored: np.ndarray
    bounds: np.ndarray
    masks: np.ndarray
    wide: np.ndarray
    values: np.ndarray
    numbers: np.ndarray


@njit
def search_bytes(queries, rows, n_queries, lo, hi, tile, skip, search, candidates):
    """Collect the rows lo:hi that may be among the best of each query.

    Args:
        queries: `Int8Queries`, with limits.
        rows: `Int8Rows`.
        n_queries: Queries that are searched for.
        lo: First row.
        hi: End of the rows.
        tile: Rows that all queries meet before they meet the next.
        skip: Query i never gets row skip + i.
        search: `Search`.
        candidates: Inout, `Candidates`.

    Returns:
        Whether it was worth its time: False if the candidates of many queries did not fit.
    """
    words, start, terms, _ = rows
    keys, counts, room, scored, bounds, masks, _, _, _ = candidates
    limits, failed = queries.limits, queries.failed
    capacity, n_quads = keys.shape[1], words.shape[1] // QUAD
    if DEBUG and (hi > start.size or n_queries > counts.size or search.keep >= capacity):
        raise IndexError("rows or queries beyond their arrays")
    lanes_at, limits_at = address(queries.points.words), address(limits)
    words_at, start_at, terms_at = address(words), address(start), address(terms)
    bounds_at, masks_at = address(bounds), address(masks)
    for s in range(lo, hi, tile):
        n = min(tile, hi - s)
        for block in range(limits.shape[0]):
            first = block * POINTS
            for k in range(0, n, ROWS):
                if not bound_scores(
                    lanes_at + block * n_quads * 4 * POINTS,
                    n_quads,
                    words_at + s * QUAD * n_quads,
                    start_at + 4 * s,
                    terms_at + 12 * s,
                    k,
                    n,
                    limits_at + block * 12 * POINTS,
                    bounds_at,
                    masks_at,
                ):
                    continue
                for r in range(min(ROWS, n - k)):
                    mask = masks[r]
                    row = s + k + r
                    reach = np.float32(2) * terms[row, REACH]
                    while mask:
                        lane = lowest_bit(mask)
                        mask &= mask - 1
                        q = first + lane
                        if row == skip + q or failed[q]:
                            continue
                        lower = bounds[r, lane] - reach * limits[block, 1, lane]
                        count = counts[q]
                        keys[q, count] = key_of_row(lower, row)
                        count += 1
                        if count == room[q]:
                            count, n_scored = make_room(q, keys[q], count, queries, rows, search)
                            scored[q] += n_scored
                            room[q] = min(capacity, int(count * GROWTH) + SOME)
                        counts[q] = count
        n_failed = 0
        for i in range(n_queries):
            n_failed += failed[i]
        if n_failed * GIVE_UP > n_queries:
            return False
    return True


@njit
def _settle(q, keys, n, queries, rows, search):
    """Rule out candidates of a query by its limit in the end.

    Returns how many are left, and a score that no row that was left out exceeds, except those that
    `start_queries` excluded: Inf where candidates were lost, -inf where none was left out.
    """
    block, lane = q // POINTS, q % POINTS
    limit, keep = queries.limits[block, 2, lane], search.keep
    margins = margins_of(search.op, q, queries)
    if n >= keep:
        keep_best(keys, n, keep, None)
        refine(q, keys, keep, margins, queries, rows, search)
        n, last = rule_out(keys, n, keep, margins, rows.terms)
        if n > keep:
            refine(q, keys, n, margins, queries, rows, search)
            n, last = rule_out(keys, n, keep, margins, rows.terms)
            keep_best(keys, n, keep, None)
            if (
                n > keep and count_equal(keys, keep) == keep
            ):  # keys of equal rows rank as their numbers do
                n, last = keep, INFINITY
        limit = max(limit, last)
    if queries.failed[q] or limit == NEG_INF:
        return n, INFINITY if queries.failed[q] else NEG_INF
    if limit == INFINITY:  # all that are left equal the query
        return n, np.float32(0)
    value, base = np.float64(limit) / margins.unit, queries.base[q]
    return n, _up(value + base + 1e-12 * (abs(value) + abs(base)))


@njit
def _measure(op, x, data, keys, n, y, tile, values, numbers):
    """Set values and numbers (n or more,) to the distances of candidates and their rows."""
    stride, length = data.row_stride, min(MAX_LENGTH, x.size * abs(data.column_stride))
    for j in range(n):
        if j + AHEAD < n:
            prefetch(data.address + (row_of(keys[j + AHEAD]) & (MAX_ROWS - 1)) * stride, length)
        row = row_of(keys[j]) & (MAX_ROWS - 1)
        if data.kind == FLOAT32 and data.column_stride == 4:  # as `read_wide` does, without a call
            given = values_at(data.address + row * stride, np.float32, x.size)
            for d in range(x.size):
                y[d] = given[d]
        else:
            read_wide(data, row, tile, y)
        if op == COSINE:
            scale_up(y)
        values[j], numbers[j] = distance(op, x, y), row


@njit
def _rank(n, values, numbers, distances, indices):
    """Put the first of n values and their rows, by value, then by row, where results are."""
    for j in range(n):
        value, row, place = values[j], numbers[j], 0
        for i in range(n):
            place += (values[i] < value) | ((values[i] == value) & (numbers[i] < row))
        if place < distances.size:
            distances[place], indices[place] = value, row
    for i in range(n, distances.size):
        distances[i], indices[i] = np.inf, NOTHING


@njit
def finish_bytes(
    n_queries, queries, rows, search, candidates, op, asked, lo, data, distances, indices, lowest
):
    """Rule out candidates by the limits in the end, and rank the others by their distances.

    Args:
        n_queries: Queries that were searched for.
        queries: `Int8Queries`.
        rows: `Int8Rows`.
        search: `Search`.
        candidates: `Candidates` that `search_bytes` found.
        op: The distance, see scores.py.
        asked: Source of the queries, see rows.py; neither shifted nor scaled.
        lo: The first query.
        data: Source of the rows, alike.
        distances: Out, (Q, k) float64, sorted.
        indices: Out, (Q, k) int64; NOTHING where there is no row.
        lowest: Out, (Q,) float32, as `_settle` returns it.
    """
    k, n_dims, capacity = distances.shape[1], search.centre.size, candidates.keys.shape[1]
    if DEBUG and (distances.strides[0] != 8 * k or indices.strides[0] != 8 * k):
        raise IndexError("results are not where they are expected")
    # Arrays without an owner, whose references need not be counted; the caller keeps the owners.
    x = values_at(address(candidates.wide), np.float64, n_dims)
    y = values_at(address(candidates.wide) + 8 * n_dims, np.float64, n_dims)
    values = values_at(address(candidates.values), np.float64, capacity)
    numbers = values_at(address(candidates.numbers), np.int64, capacity)
    keys_at, counts, tile = address(candidates.keys), candidates.counts, search.scratch.tile
    distances_at, indices_at = address(distances), address(indices)
    for q in range(n_queries):
        keys = values_at(keys_at + 8 * capacity * q, np.uint64, capacity)
        n, lowest[q] = _settle(q, keys, counts[q], queries, rows, search)
        read_wide(asked, lo + q, tile, x)
        if op == COSINE:
            scale_up(x)
        _measure(op, x, data, keys, n, y, tile, values, numbers)
        _rank(
            n,
            values,
            numbers,
            values_at(distances_at + 8 * k * q, np.float64, k),
            values_at(indices_at + 8 * k * q, np.int64, k),
        )


@njit
def _up(value):
    """Return a float32 that is no less than a float64."""
    out = np.float32(value)
    if np.float64(out) < value:
        out += abs(out) * np.float32(2) * EPS + np.float32(2.0**-148)
    return out
