"""Scans of scalar-quantized codes: a byte or a float16 a dimension, for 16 rows at a time.

Codes lie in blocks of 16 rows, byte by byte, as in codes.py. A score is the product of the query
with what a code adds to the centroid of its list, plus what depends on the list or the row alone.

Bytes are multiplied as integers. Each weight of a query, its value times the step between codes,
is rounded to a whole number of 15 bits (14 with AVX2), in two bytes. Sums are exact then, and the
error of a score is known. Float16 are multiplied as float32, whose rounding is bounded. What ranks
rows is an upper bound of their scores: a row that is left out has a score of at most the least that
was kept.
"""

from typing import NamedTuple

import numpy as np

from .codes import MINUS, NONE, read_floats
from .ir import address
from .jit import njit
from .lists import BLOCK, queries_of_lists
from .scalar_sums import (
    BASE,
    HIGH,
    QUAD,
    QUERIES,
    UNSIGNED,
    ZERO,
    one_by_bytes,
    one_by_halves,
    some_by_bytes,
    some_by_halves,
)
from .scores import SQUARES
from .select import key_of_row, push, score_of
from .sizes import NEG_INF

EPS = 2.0**-24
ROUNDINGS = 32.0  # of a score, in units of EPS: more than there are
TINY = 2.0**-126  # below it float32 loses bits


class Scalar(NamedTuple):
    """The meaning of the rows of the lists; see backends/codes.py.

    Attributes:
        tail: What follows a code, as in `codes.Coding`.
        middle: (D,) float64, what the code ZERO stands for; empty for float16.
        steps: (D,) float64, between codes; empty for float16.
        reach: The largest norm of what the codes in the lists that are probed add to centroids.
        centroids: (nlist, D) float32.
        mean: (D,) float32, taken off the queries before they are multiplied.
    """

    tail: int
    middle: np.ndarray
    steps: np.ndarray
    reach: float
    centroids: np.ndarray
    mean: np.ndarray


class Weights(NamedTuple):
    """Queries as they are multiplied.

    Attributes:
        words: (Q, 2, QUAD * quads) int8, the weights' higher and lower parts; for bytes.
        weights: (Q, D) float32; for float16.
        start: (Q, 2) int32, what sums start from, so that ZERO cancels.
        units: (Q,) float32, the step between weights.
        bases: (Q,) float64, an addend of all scores, with the error of rounded weights.
        norms: (Q, 2) float64, of the query and of the query less the mean.
    """

    words: np.ndarray
    weights: np.ndarray
    start: np.ndarray
    units: np.ndarray
    bases: np.ndarray
    norms: np.ndarray


@njit
def _weigh(scalar, query, out, i):
    """Set what is multiplied for a query (D,) float32, as out[i]."""
    by_bytes = scalar.steps.size > 0
    n_dims = query.size
    square, spread, total, largest = 0.0, 0.0, 0.0, 0.0
    for d in range(n_dims):
        x = np.float64(query[d])
        y = x - np.float64(scalar.mean[d])
        square += x * x
        spread += y * y
        if by_bytes:
            total += y * scalar.middle[d]
            largest = max(largest, abs(y * scalar.steps[d]))
        else:
            out.weights[i, d] = y
    out.norms[i, 0], out.norms[i, 1] = np.sqrt(square), np.sqrt(spread)
    if by_bytes:
        unit = np.float32(largest / (BASE * HIGH))
        if unit == 0.0:
            unit = np.float32(1.0)
        high_sum, low_sum, error = np.int64(0), np.int64(0), 0.0
        for d in range(n_dims):
            weight = (np.float64(query[d]) - np.float64(scalar.mean[d])) * scalar.steps[d]
            whole = np.int64(np.rint(weight / np.float64(unit)))
            whole = max(min(whole, np.int64(BASE * HIGH)), np.int64(-BASE * HIGH))
            error += abs(weight - np.float64(unit) * whole)
            high = (whole + BASE // 2) // BASE
            low = whole - BASE * high
            out.words[i, 0, d] = high
            out.words[i, 1, d] = low
            high_sum += high
            low_sum += low
        out.units[i] = unit
        if UNSIGNED:
            out.start[i, 0], out.start[i, 1] = -ZERO * high_sum, -ZERO * low_sum
        total += ZERO * error  # codes less ZERO are at most ZERO
    out.bases[i] = total


@njit
def _base(op, scalar, queries, q, number, prepared):
    """Return what the scores of a list's rows have in common, raised by all errors."""
    query, norms = queries[q], prepared.norms[q]
    product, gap, length, offset = 0.0, 0.0, 0.0, 0.0
    for d in range(query.size):
        x, c = np.float64(query[d]), np.float64(scalar.centroids[number, d])
        product += x * c
        gap += (x - c) * (x - c)
        length += c * c
        offset += (c - np.float64(scalar.mean[d])) * (c - np.float64(scalar.mean[d]))
    length = np.sqrt(length)
    if op == SQUARES:
        size = norms[0] + length + np.sqrt(offset) + scalar.reach
        near = norms[1] + np.sqrt(offset) + scalar.reach
        common = -0.5 * gap
    else:
        size, near = norms[0], length + scalar.reach
        common = product
    common += prepared.bases[q]
    if scalar.steps.size == 0:  # sums in float32
        common += (query.size + 8) * EPS * norms[1] * scalar.reach
    return np.float32(common + ROUNDINGS * EPS * size * near + (query.size + 1) * TINY)


@njit
def _prepared(scalar, queries):
    """Return the queries (Q, D) float32 as `Weights`."""
    n_queries, n_dims = queries.shape
    n_bytes = QUAD * -(-n_dims // QUAD)
    by_bytes = scalar.steps.size > 0
    out = Weights(
        np.zeros((n_queries if by_bytes else 0, 2, n_bytes), np.int8),
        np.empty((0 if by_bytes else n_queries, n_dims), np.float32),
        np.zeros((n_queries, 2), np.int32),
        np.ones(n_queries, np.float32),
        np.zeros(n_queries),
        np.zeros((n_queries, 2)),
    )
    for q in range(n_queries):
        _weigh(scalar, queries[q], out, q)
    return out


@njit
def _products(by_bytes, one, codes_at, n_dims, rest, words_at, stride, start_at, totals):
    """Set totals (QUERIES, BLOCK) to sums of products, for one query or for QUERIES."""
    if by_bytes:
        n_quads, n_rest = n_dims // QUAD, n_dims % QUAD
        rest_at = address(rest) if n_rest else np.int64(0)
        out = address(totals)
        if one:
            one_by_bytes(codes_at, n_quads, rest_at, words_at, stride, start_at, out)
        else:
            some_by_bytes(codes_at, n_quads, rest_at, words_at, stride, start_at, out)
    elif one:
        one_by_halves(codes_at, n_dims, words_at, address(totals))
    else:
        some_by_halves(codes_at, n_dims, words_at, address(totals))


@njit
def _push_rows(tail, base, unit, totals, factors, n_rows, first_slot, q, keep, buffers):
    """Push the rows of a block that score enough, from sums of products (BLOCK,)."""
    keys, counts, least = buffers
    best = NEG_INF
    for lane in range(BLOCK):
        score = base + unit * totals[lane]
        if tail == MINUS:
            score -= factors[lane]
        elif tail != NONE:
            score *= factors[lane]
        totals[lane] = score
        best = max(best, score)
    if best < least[q]:
        return
    for lane in range(n_rows):
        if totals[lane] >= least[q]:
            key = key_of_row(totals[lane], first_slot + lane)
            if push(key, q, keep, keys, counts, None):
                least[q] = score_of(keys[q, keep - 1])


@njit
def scan_scalar(op, scalar, queries, lists, probes, keep, buffers):
    """Push the `keep` rows of the lists that each query probes whose bounds are best, with slots.

    Args:
        op: How rows score, see scores.py: COSINE, DOT or SQUARES.
        scalar: `Scalar`.
        queries: (Q, D) float32, of norm 1 for COSINE.
        lists: `Lists` of codes.
        probes: (Q, P) lists.
        keep: Candidates of a query.
        buffers: `Buffers` of the queries; here scores need to reach, not exceed, `least`, which is
            in and out.
    """
    payload, _, _, following, first, sizes = lists
    n_queries, n_dims = queries.shape
    by_bytes = scalar.steps.size > 0
    tail = scalar.tail
    prepared = _prepared(scalar, queries)
    words, weights, start, units, _, _ = prepared
    stride = words.shape[2]
    words_at, word_bytes = address(words), 2 * stride
    if not by_bytes:
        words_at, word_bytes = address(weights), 4 * n_dims
    bases = np.empty(n_queries, np.float32)
    totals = np.empty((QUERIES, BLOCK), np.float32)
    factors = np.zeros(BLOCK, np.float32)
    rest = np.zeros((QUAD, BLOCK), np.uint8)
    places, starts_at = np.zeros(QUERIES, np.int64), np.zeros(QUERIES, np.int64)
    code_bytes = (n_dims if by_bytes else 2 * n_dims) * BLOCK
    first_block = address(payload)
    block_bytes = payload.shape[1] * BLOCK
    numbers, starts, probing = queries_of_lists(probes, 0, probes.shape[1], sizes.size)
    for place in range(numbers.size):
        number = numbers[place]
        block = np.int64(first[number])
        rows_left = sizes[number]
        for i in range(starts[place], starts[place + 1] if rows_left else 0):
            bases[probing[i]] = _base(op, scalar, queries, probing[i], number, prepared)
        while rows_left > 0:
            codes_at = first_block + block * block_bytes
            if by_bytes:
                for d in range(n_dims // QUAD * QUAD, n_dims):
                    for lane in range(BLOCK):
                        rest[d % QUAD, lane] = payload[block, d, lane]
            if tail != NONE:
                read_floats(codes_at + code_bytes, address(factors))
            for i in range(starts[place], starts[place + 1], QUERIES):
                n = min(np.int64(QUERIES), starts[place + 1] - i)
                for r in range(QUERIES):
                    q = probing[i + min(r, n - 1)]
                    places[r] = words_at + word_bytes * q
                    starts_at[r] = address(start) + 8 * q
                _products(
                    by_bytes,
                    n == 1,
                    codes_at,
                    n_dims,
                    rest,
                    address(places),
                    stride,
                    address(starts_at),
                    totals,
                )
                for r in range(n):
                    q = probing[i + r]
                    _push_rows(
                        tail,
                        bases[q],
                        units[q],
                        totals[r],
                        factors,
                        min(np.int64(BLOCK), rows_left),
                        block * BLOCK,
                        q,
                        keep,
                        buffers,
                    )
            block = np.int64(following[block])
            rows_left -= BLOCK
