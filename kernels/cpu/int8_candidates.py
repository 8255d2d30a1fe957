"""Candidates of a search by bytes, and which of them bounds rule out.

A pair has a lower and an upper bound of its score, see int8_rows.py. The k-th highest lower bound
of a query is its limit: rows whose upper bound is below it score less than k others, and are ruled
out. The others are candidates. Where these are too many, they are scored in float32, which leaves
narrow bounds. A query whose candidates are still too many has failed: others must find its rows.
"""

from typing import NamedTuple

import numpy as np

from .int8 import EPS, rounding
from .int8_rows import INFINITY, REACH
from .ir import address, prefetch
from .jit import njit
from .lanes import POINTS, dot_at, gap_at
from .rows import read_rows
from .scores import CHORD, COSINE, DOT, SQUARES
from .select import key_of_row, row_of, score_of
from .topk import unit_rows

# Added to the number of a row that was scored in float32, and if it is the same as the query.
SCORED, EQUAL = 1 << 31, 1 << 30
MAX_ROWS = EQUAL
REFINE, FULL = 2, 4  # candidates are scored when they fill half of a buffer, lost at three quarters
LEAST, LARGEST = np.float32(1e-30), np.float32(1e30)  # of squares that round as they should
AHEAD, MAX_LENGTH = 4, 4096  # rows that are loaded into the cache beforehand, and bytes of each


class Search(NamedTuple):
    """A search: the rows, and how they score.

    Attributes:
        op: How rows score, see scores.py.
        keep: Candidates of a query that its limit comes from.
        source: The rows, see rows.py.
        centre: (D,) taken off unit rows, as in `search_rows`.
        scratch: `Scratch` of topk.py.
    """

    op: int
    keep: int
    source: tuple
    centre: np.ndarray
    scratch: tuple


class Margins(NamedTuple):
    """Distances of bounds from scores, in units of a query.

    Attributes:
        unit: The factor from scores to these units.
        error: For a row with reach 1 that was not scored in float32.
        relative: For others, as a share of the score.
        shift: What makes lower bounds scores.
        least: For others, at least.
        slope: For others, for a row with reach 1.
    """

    unit: np.float64
    error: np.float32
    relative: np.float32
    shift: np.float32
    least: np.float32
    slope: np.float32


@njit
def margins_of(op, q, queries):
    """Return the margins of a query."""
    base, size = queries.base[q], np.float64(queries.size[q])
    unit = np.float64(queries.limits[q // POINTS, 0, q % POINTS]) * (1.0 if op <= DOT else 0.5)
    slack = np.float64(rounding(queries.read.shape[1]))
    # Differences round in proportion to their sum, products in proportion to the norms.
    by_norms = 2 * slack * size if op <= DOT else 0.0  # both products and norms round
    return Margins(
        unit,
        queries.limits[q // POINTS, 1, q % POINTS],
        np.float32(4 * EPS if op <= DOT else slack),
        np.float32(base * unit),
        np.float32((by_norms * size + 16 * EPS * abs(base) + 2.0**-120) * unit),
        np.float32(by_norms * unit),
    )


@njit
def margin(lower, number, reach, margins):
    """Return how far the lower bound of a candidate may be below its score."""
    if number < SCORED:
        return margins.error * reach
    share = margins.relative * abs(lower + margins.shift)
    return share + margins.least + margins.slope * reach


@njit
def _limit_of(keys, n, keep):
    """Return a score that keep or a few more of n keys reach, and their number."""
    low, high = keys[0], keys[0]
    for j in range(n):
        low, high = min(low, keys[j]), max(high, keys[j])
    reached = n
    while reached > keep + keep // 8 and high - low > np.uint64(1):
        middle = low + ((high - low) >> np.uint64(1))
        count = 0
        for j in range(n):
            count += keys[j] >= middle
        if count >= keep:
            low, reached = middle, count
        else:
            high = middle
    return score_of(low)


@njit
def rule_out(keys, n, keep, margins, terms):
    """Drop what bounds rule out of n >= keep candidates; returns how many are left, and the limit.

    Other arguments are the margins of the query and the terms of rows.
    """
    limit = _limit_of(keys, n, keep)
    count = 0
    for j in range(n):
        key = keys[j]
        number = row_of(key)
        reach = terms[number & (MAX_ROWS - 1), REACH]
        lower = score_of(key)
        keys[count] = key  # without a branch, which no CPU could predict
        count += lower + np.float32(2) * margin(lower, number, reach, margins) >= limit
    return count, limit


@njit
def refine(q, keys, n, margins, queries, rows, search):
    """Score the first n candidates of a query in float32, where they are not yet."""
    op, _, source, centre, scratch = search
    n_dims = centre.size
    terms, base = rows.terms, queries.base[q]
    query = address(queries.read) + 4 * n_dims * q
    stride, length = source.row_stride, min(MAX_LENGTH, n_dims * abs(source.column_stride))
    for j in range(n):
        if j + AHEAD < n:
            number = row_of(keys[j + AHEAD]) & (MAX_ROWS - 1)
            prefetch(source.address + number * stride, length)
        row = row_of(keys[j])
        if row >= SCORED:
            continue
        x, norm = source.address + row * stride, np.float32(1)
        if source.direct and op == COSINE:
            square = dot_at(x, x, n_dims)
            norm = np.sqrt(square) if LEAST < square < LARGEST else np.float32(0)
        if not source.direct or op == CHORD or norm == np.float32(0):
            read, norm = read_rows(source, row, np.int64(1), scratch.tile), np.float32(1)
            if op in (COSINE, CHORD):
                read = unit_rows(source, row, np.int64(1), read, centre, scratch)
            x = address(read)
        score = dot_at(query, x, n_dims) / norm if op <= DOT else -gap_at(query, x, n_dims)
        number = row + SCORED + (EQUAL if op == SQUARES and score == np.float32(0) else 0)
        value = (np.float64(score) - base) * margins.unit
        lower = np.float32(value) - margin(np.float32(value), number, terms[row, REACH], margins)
        # Limits never sink: both are lower bounds.
        keys[j] = key_of_row(max(lower, score_of(keys[j])), number)


@njit
def count_equal(keys, n):
    """Return how many of the first n candidates equal the query."""
    count = 0
    for j in range(n):
        count += row_of(keys[j]) & EQUAL != 0
    return count


@njit
def _keep_equal(keys, n, keep):
    """Move the first of the candidates that equal the query to the front, if there are `keep`.

    Returns how many there are. Candidates are in the order of their rows.
    """
    count = count_equal(keys, n)
    if count >= keep:
        moved = 0
        for j in range(n):
            if row_of(keys[j]) & EQUAL and moved < keep:
                keys[moved] = keys[j]
                moved += 1
    return count


@njit
def make_room(q, keys, n, queries, rows, search):
    """Rule out some of n candidates of a query, and raise its limit.

    Returns how many are left, and how many were scored in float32. If they are still too many, the
    query has failed.
    """
    block, lane = q // POINTS, q % POINTS
    capacity, keep = keys.size, search.keep
    margins = margins_of(search.op, q, queries)
    count, limit = rule_out(keys, n, keep, margins, rows.terms)
    scored = 0
    if count * REFINE > capacity:
        scored = count
        refine(q, keys, count, margins, queries, rows, search)
        count, limit = rule_out(keys, count, keep, margins, rows.terms)
    if (capacity - count) * FULL < capacity:
        # Of rows that are the same as the query the first are the best: none comes before them.
        n_equal = _keep_equal(keys, count, keep)
        queries.failed[q] = n_equal < keep
        count = count if n_equal < keep else keep
        limit = INFINITY
    queries.limits[block, 2, lane] = max(limit, queries.limits[block, 2, lane])
    return count, scored
