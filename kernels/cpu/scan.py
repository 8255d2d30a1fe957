"""Scans of inverted lists: list by list, the queries that probe it against its rows as SIMD lanes.

A few queries meet a register-full of rows at a time. Only scores that reach the k-th best so far
of their query are stored, and ranked with the slots of their rows, as select.py describes.
Their distances are computed in float64, list by list or in the end.
"""

from typing import NamedTuple

import numpy as np

from .finish import distance, scale_up
from .ir import address, lowest_bit
from .jit import njit
from .lanes import POINTS
from .lists import BLOCK, queries_of_lists
from .proofs import is_farther
from .scan_scores import BLOCKS, QUERIES, score_rows
from .scores import CHORD, COSINE
from .select import insert, keep_best, make_key, number_of, score_of
from .sizes import NEG_INF

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
def _as_scored(op, queries):
    """Return a copy of queries (Q, D) float32; for COSINE and CHORD, divided by their norms."""
    out, wide = queries.copy(), np.empty(queries.shape[1])
    for q in range(queries.shape[0] if op in (COSINE, CHORD) else 0):
        for d in range(wide.size):
            wide[d] = queries[q, d]
        scale_up(wide)
        square = 0.0
        for d in range(wide.size):
            square += wide[d] * wide[d]
        factor = 1.0 / np.sqrt(square) if square > 0.0 else 0.0
        for d in range(wide.size):
            out[q, d] = wide[d] * factor
    return out


@njit
def search_lists(op, probes, lists, keep, buffers, found, by_list, together, reach, lowest):
    """Find candidates in the lists that each query probes, and measure them if they are in order.

    Args:
        op: How rows score, see scores.py: COSINE, DOT, SQUARES or CHORD.
        probes: (Q, P) lists, nearest first.
        lists: `Lists`; for COSINE and CHORD, 1 / norm follows the D values of a row.
        keep: Candidates of a query.
        buffers: Out, `Buffers` of the queries; `least` is in and out.
        found: Out, `Found`.
        by_list: Whether to measure the candidates from each list while it is in the cache, where a
            row is spread over D lines. They must be kept in order.
        together: Whether to read all lists of a query together; otherwise the nearest comes first:
            few rows of the others then reach what a score must.
        reach: Of `is_farther`.
        lowest: Out, (Q,) float32, as `lowest_scores` sets it.

    Returns:
        Whether the found rows are the nearest for certain, and measured.
    """
    buffers.counts[:] = 0
    found.distances[:] = np.inf
    found.ids[:] = -1
    found.sizes[:] = 0
    queries = _as_scored(op, found.queries)
    n_probes = probes.shape[1]
    first = n_probes if together else np.int64(1)
    _scan_lists(op, queries, probes, np.int64(0), first, lists, keep, buffers, found, by_list)
    if first < n_probes:
        _scan_lists(op, queries, probes, first, n_probes, lists, keep, buffers, found, by_list)
    if buffers.keys.shape[1] > keep:
        return False
    if not by_list:
        measure(np.arange(probes.shape[0]), ANY, lists, buffers, found)
    lowest_scores(buffers, lowest)
    proven = True
    last = found.distances.shape[1] - 1
    for q in range(lowest.size):
        n_rows = 0
        for p in range(probes.shape[1]):
            n_rows += lists.counts[probes[q, p]]
        if n_rows > keep:
            farthest = found.distances[q, last]
            proven &= is_farther(op, np.float64(lowest[q]), farthest, found.queries[q], reach)
    return proven


@njit
def _scan_lists(op, queries, probes, first, end, lists, keep, buffers, found, by_list):
    """Push the best `keep` rows of the lists in columns first:end of the probes, with their slots.

    Arguments are those of `search_lists`, but queries (Q, D) float32 are of norm 1 for COSINE and
    CHORD. Here scores need to reach, not exceed, `least`.
    """
    payload, ids, _, following, first_blocks, sizes = lists
    least = buffers.least
    n_dims = np.int64(queries.shape[1])
    numbers, starts, probing = queries_of_lists(probes, first, end, sizes.size)
    blocks = np.zeros(BLOCKS, np.int64)
    block_addresses = np.zeros(BLOCKS, np.int64)
    query_addresses = np.zeros(QUERIES, np.int64)
    limits = np.zeros(QUERIES, np.float32)
    scores = np.zeros((QUERIES, POINTS), np.float32)
    masks = np.zeros(QUERIES, np.int64)
    first_query = address(queries)
    first_block = address(payload)
    block_bytes = np.int64(4 * BLOCK * payload.shape[1])
    for place in range(numbers.size):
        number = numbers[place]
        block = np.int64(first_blocks[number])
        rows_left = sizes[number]
        while rows_left > 0:
            for b in range(BLOCKS):  # after the last block that one again, masked
                blocks[b] = block
                block_addresses[b] = first_block + block * block_bytes
                block = np.int64(following[block]) if following[block] >= 0 else block
            real = np.int64(-1) if rows_left >= 64 else (np.int64(1) << rows_left) - 1
            for i in range(starts[place], starts[place + 1], QUERIES):
                n = min(np.int64(QUERIES), starts[place + 1] - i)
                for r in range(QUERIES):
                    q = probing[i + min(r, n - 1)]
                    query_addresses[r] = first_query + 4 * n_dims * q
                    limits[r] = least[q] if r < n else np.inf
                if score_rows(
                    op,
                    n == 1,
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
            asking = probing[starts[place] : starts[place + 1]]
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
