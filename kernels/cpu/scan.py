"""Scans of inverted lists: list by list, the queries that probe it against its rows as SIMD lanes.

A few queries meet a register-full of rows at a time. Only scores that reach the k-th best so far
of their query are stored, and ranked with the slots of their rows, as select.py describes.
Their distances are computed in float64, list by list or in the end.
"""

from typing import NamedTuple

import numpy as np
from llvmlite import ir

from .finish import distance
from .ir import FLOATS, FUSED, NUMBER, VECTORS, WIDTH, address, lowest_bit, pointer, splat
from .jit import cgutils, intrinsic, njit, types
from .lanes import POINTS
from .lists import BLOCK
from .scores import CHORD, COSINE, DOT, SQUARES, store_marked
from .select import insert, keep_best, make_key, number_of, score_of
from .sizes import NEG_INF

BLOCKS = POINTS // BLOCK  # that fill the registers beside QUERIES queries
QUERIES = 4
HIGH = np.uint64(32)
ANY = -1  # list
HALVINGS = 8  # of the range of scores, to find one that few of them reach


class Found(NamedTuple):
    """The nearest rows of queries so far.

    Attributes:
        op: Their distance, see scores.py.
        queries: (Q, D) float32, as given.
        distances: (Q, k) float64, sorted, then by id; inf where there is no row yet.
        ids: (Q, k) int64; -1 where there is no row yet.
        sizes: (Q,) int64, how many rows there are.
    """

    op: int
    queries: np.ndarray
    distances: np.ndarray
    ids: np.ndarray
    sizes: np.ndarray


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


def _scanner(op):
    """Return an intrinsic that scores POINTS rows for QUERIES queries.

    Addresses: queries (QUERIES,) and blocks (BLOCKS,), of addresses; limits (QUERIES,), what a
    score must reach; scores (QUERIES, POINTS); masks (QUERIES,). Returns whether any score does;
    scores and masks are written only then.
    """

    def generate(_context, builder, _signature, args):
        queries, blocks, n_dims, limits, scores, masks = args
        single = ir.FloatType()
        queries = [builder.load(pointer(builder, queries, 8 * r, NUMBER)) for r in range(QUERIES)]
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


_squares, _products, _cosines, _chords = (_scanner(op) for op in (SQUARES, DOT, COSINE, CHORD))


@njit
def _score_rows(op, queries, blocks, n_dims, limits, scores, masks):
    """Score rows as `_scanner` does."""
    if op == SQUARES:
        return _squares(queries, blocks, n_dims, limits, scores, masks)
    if op == DOT:
        return _products(queries, blocks, n_dims, limits, scores, masks)
    if op == CHORD:
        return _chords(queries, blocks, n_dims, limits, scores, masks)
    return _cosines(queries, blocks, n_dims, limits, scores, masks)


@njit
def _limit(scores, mask, keep):
    """Return a score that `keep` or a few more of those reach that a mask marks, or -inf.

    The other scores become -inf.
    """
    lowest, highest, marked = np.float32(np.inf), NEG_INF, 0
    for lane in range(scores.size):
        if (mask >> lane) & 1:
            lowest = min(lowest, scores[lane])
            highest = max(highest, scores[lane])
            marked += 1
        else:
            scores[lane] = NEG_INF
    if marked < keep or lowest == NEG_INF or highest == np.inf:
        return NEG_INF
    for _ in range(HALVINGS):
        middle = np.float32(0.5) * lowest + np.float32(0.5) * highest
        reached = 0
        for lane in range(scores.size):
            reached += scores[lane] >= middle
        if reached >= keep:
            lowest = middle
        else:
            highest = middle
    return lowest


@njit
def _push_marked(queries, masks, real, scores, blocks, keep, buffers, ids):
    """Push the scores that are marked for each of the queries, of lanes that are real rows.

    Not by select.push, as in topk.py.
    """
    keys, counts, least = buffers
    in_order = keys.shape[1] == keep
    for r in range(queries.size):
        q, mask = queries[r], masks[r] & real
        if counts[q] < keep:  # or nearly all of a query's first rows become candidates
            least[q] = max(least[q], _limit(scores[r], mask, keep))
        while mask:
            lane = lowest_bit(mask)
            mask &= mask - 1
            score = scores[r, lane]
            if score < least[q]:  # which has risen since the mask was made
                continue
            slot = blocks[lane // BLOCK] * BLOCK + lane % BLOCK
            key, n = make_key(score, slot), counts[q]
            if in_order:
                rank, name = key >> HIGH, ids[slot]
                place = n
                while place > 0:
                    other = keys[q, place - 1]
                    if other >> HIGH > rank or (
                        other >> HIGH == rank and ids[number_of(other)] < name
                    ):
                        break
                    if place < keep:
                        keys[q, place] = other
                    place -= 1
                if place == keep:
                    continue
                keys[q, place] = key
                counts[q] = min(n + 1, keep)
            else:
                keys[q, n] = key
                counts[q] = n + 1
                if n + 1 < keys.shape[1]:
                    continue
                keep_best(keys[q], n + 1, keep, ids)
                counts[q] = keep
            if counts[q] == keep:
                least[q] = max(least[q], score_of(keys[q, keep - 1]))


@njit
def _queries_of_lists(probes, n_lists):
    """Return (starts (n_lists + 1,), queries): queries[starts[i]:starts[i + 1]] probe list i."""
    starts = np.zeros(n_lists + 1, np.int64)
    for q in range(probes.shape[0]):
        for p in range(probes.shape[1]):
            starts[probes[q, p] + 1] += 1
    for i in range(n_lists):
        starts[i + 1] += starts[i]
    queries = np.empty(probes.size, np.int64)
    places = starts[:-1].copy()
    for q in range(probes.shape[0]):
        for p in range(probes.shape[1]):
            queries[places[probes[q, p]]] = q
            places[probes[q, p]] += 1
    return starts, queries


@njit
def scan_lists(op, queries, probes, lists, keep, buffers, found, by_list):
    """Push the best `keep` rows of the lists that each query probes, with their slots.

    Args:
        op: How rows score, see scores.py: COSINE, DOT, SQUARES or CHORD.
        queries: (Q, D) float32, of norm 1 for COSINE and CHORD.
        probes: (Q, P) lists.
        lists: `Lists`; for COSINE and CHORD, 1 / norm follows the D values of a row.
        keep: Candidates of a query.
        buffers: `Buffers` of the queries; here scores need to reach, not exceed, `least`.
        found: Inout, `Found`.
        by_list: Whether to measure the candidates from each list while it is in the cache, where a
            row is spread over D lines. They must be kept in order.
    """
    payload, ids, _, following, first, sizes = lists
    least = buffers.least
    n_dims = np.int64(queries.shape[1])
    starts, probing = _queries_of_lists(probes, sizes.size)
    blocks = np.zeros(BLOCKS, np.int64)
    block_addresses = np.zeros(BLOCKS, np.int64)
    query_addresses = np.zeros(QUERIES, np.int64)
    limits = np.zeros(QUERIES, np.float32)
    scores = np.zeros((QUERIES, POINTS), np.float32)
    masks = np.zeros(QUERIES, np.int64)
    first_query = address(queries)
    first_block = address(payload)
    block_bytes = np.int64(4 * BLOCK * payload.shape[1])
    for number in range(sizes.size):
        if starts[number] == starts[number + 1]:
            continue
        block = np.int64(first[number])
        rows_left = sizes[number]
        while rows_left > 0:
            for b in range(BLOCKS):  # after the last block that one again, masked
                blocks[b] = block
                block_addresses[b] = first_block + block * block_bytes
                block = np.int64(following[block]) if following[block] >= 0 else block
            real = np.int64(-1) if rows_left >= 64 else (np.int64(1) << rows_left) - 1
            for i in range(starts[number], starts[number + 1], QUERIES):
                n = min(np.int64(QUERIES), starts[number + 1] - i)
                for r in range(QUERIES):
                    q = probing[i + min(r, n - 1)]
                    query_addresses[r] = first_query + 4 * n_dims * q
                    limits[r] = least[q] if r < n else np.inf
                if _score_rows(
                    op,
                    address(query_addresses),
                    address(block_addresses),
                    n_dims,
                    address(limits),
                    address(scores),
                    address(masks),
                ):
                    asking = probing[i : i + n]
                    _push_marked(asking, masks, real, scores, blocks, keep, buffers, ids)
            rows_left -= POINTS
        if by_list:
            asking = probing[starts[number] : starts[number + 1]]
            measure(asking, number, lists, buffers, found)


@njit
def measure(asking, number, lists, buffers, found):
    """Put candidates among the nearest rows of queries, by their distances in float64.

    Args:
        asking: (M,) the queries.
        number: The list whose candidates these are, or ANY.
        lists: `Lists`.
        buffers: `Buffers` of all queries; soonest done if their keys descend.
        found: Inout, `Found`.
    """
    payload, names_of, owner, _, _, _ = lists
    op, queries, distances, ids, sizes = found
    keys, counts, _ = buffers
    k, n_dims = distances.shape[1], queries.shape[1]
    x, y = np.empty(n_dims), np.empty(n_dims)
    for q in asking:
        values, names, n = distances[q], ids[q], sizes[q]
        for d in range(n_dims):
            x[d] = queries[q, d]
        for place in range(counts[q]):
            slot = number_of(keys[q, place])
            block, lane = slot // BLOCK, slot % BLOCK
            if number != ANY and owner[block] != number:
                continue
            for d in range(n_dims):
                y[d] = payload[block, d, lane]
            value, name = distance(op, x, y), names_of[slot]
            last = min(n, k - 1)
            if n == k and not (
                value < values[last] or (value == values[last] and name < names[last])
            ):
                continue
            insert(values, names, last, value, name)
            n = min(n + 1, k)
        sizes[q] = n


@njit
def lowest_scores(buffers, lowest):
    """Set lowest (Q,) float32 to the lowest score of the candidates.

    It is -inf where buffers (Q, K) are not full: no row was left out then.
    """
    keys, counts, _ = buffers
    last = keys.shape[1] - 1
    for q in range(lowest.size):
        lowest[q] = score_of(keys[q, last]) if counts[q] > last else NEG_INF
