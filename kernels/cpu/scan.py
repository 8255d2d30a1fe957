"""Scans of inverted lists: list by list, all queries that ask for it against its rows, which are SIMD lanes.

Rows lie in blocks of 16, transposed; a few queries meet a register-full of rows at a time. Only scores that reach the k-th
best so far of their query are stored, as keys: the score's bits in an order that integers have, then the row's slot. Equal
scores are ranked by the ids of their rows, so the order is total, and the result does not depend on how work is cut up.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .finish import _distance, put_score
from .ir import FLOATS, FUSED, NUMBER, VECTORS, WIDTH, lowest_bit, pointer, splat
from .jit import njit
from .lanes import POINTS
from .options import JIT
from .scores import CHORD, COSINE, DOT, SQUARES

# The typing context of an intrinsic is not an argument.
# pyright: reportCallIssue=false

BLOCK = 16  # rows, as in index/lists.py
BLOCKS = POINTS // BLOCK  # that fill the registers beside ASKING queries
ASKING = 4


def _times(builder, some, others):
    return [builder.fmul(a, b, flags=FUSED) for a, b in zip(some, others, strict=True)]


def _terms(builder, op, values, factor):
    """What a dimension adds to scores: products, or squares of differences."""
    if op > DOT:
        values = [builder.fsub(factor, value, flags=FUSED) for value in values]
    return _times(builder, values, values if op > DOT else [factor] * len(values))


def _scores(builder, op, sums, inverse):
    """Scores from sums of terms."""
    if op > DOT:
        return [[builder.fneg(value) for value in row] for row in sums]
    return [_times(builder, row, inverse) for row in sums] if op == COSINE else sums


def _scanner(op):
    """An intrinsic that scores POINTS rows for ASKING queries.

    Addresses: who (ASKING,), of queries; at (BLOCKS,), of blocks; limits (ASKING,), what a score must reach; scores
    (ASKING, POINTS); masks (ASKING,). Returns whether any score does; scores and masks are written only then.
    """

    def generate(_context, builder, _signature, args):
        who, at, n_dims, limits, scores, masks = args
        word, single = ir.IntType(WIDTH), ir.FloatType()
        queries = [builder.load(pointer(builder, who, 8 * r, NUMBER)) for r in range(ASKING)]
        blocks = [builder.load(pointer(builder, at, 8 * b, NUMBER)) for b in range(BLOCKS)]
        lanes = [divmod(WIDTH * v, BLOCK) for v in range(VECTORS)]  # (block, place in it)

        def rows(offset):
            at = [builder.add(block, offset) for block in blocks]
            return [
                builder.load(pointer(builder, at[b], 4 * place, FLOATS), align=4)
                for b, place in lanes
            ]

        zero = FLOATS([0.0] * WIDTH)
        inverse = rows(builder.mul(n_dims, NUMBER(4 * BLOCK))) if op in (COSINE, CHORD) else None
        sums = [[cgutils.alloca_once_value(builder, zero) for _ in lanes] for _ in queries]
        with cgutils.for_range(builder, n_dims) as loop:
            values = rows(builder.mul(loop.index, NUMBER(4 * BLOCK)))
            if op == CHORD:
                values = _times(builder, values, inverse)
            for query, totals in zip(queries, sums, strict=True):
                factor = builder.load(
                    pointer(builder, query, builder.mul(loop.index, NUMBER(4)), single)
                )
                factor = splat(builder, factor, FLOATS)
                for term, total in zip(_terms(builder, op, values, factor), totals, strict=True):
                    builder.store(builder.fadd(builder.load(total), term, flags=FUSED), total)
        found = _scores(
            builder, op, [[builder.load(total) for total in totals] for totals in sums], inverse
        )
        bits, every = [], word(0)
        for r, row in enumerate(found):
            limit = splat(builder, builder.load(pointer(builder, limits, 4 * r, single)), FLOATS)
            bits.append(
                [builder.bitcast(builder.fcmp_ordered(">=", score, limit), word) for score in row]
            )
            for some in bits[-1]:
                every = builder.or_(every, some)
        found_any = builder.icmp_unsigned("!=", every, word(0))
        with builder.if_then(found_any, likely=False):
            for r, row in enumerate(found):
                mask = NUMBER(0)
                for v, score in enumerate(row):
                    builder.store(
                        score,
                        pointer(builder, scores, 4 * (POINTS * r + WIDTH * v), FLOATS),
                        align=4,
                    )
                    mask = builder.or_(
                        mask, builder.shl(builder.zext(bits[r][v], NUMBER), NUMBER(WIDTH * v))
                    )
                builder.store(mask, pointer(builder, masks, 8 * r, NUMBER))
        return builder.zext(found_any, ir.IntType(8))

    @intrinsic
    def scanner(_typing, who, at, n_dims, limits, scores, masks):
        return types.uint8(*[types.int64] * 6), generate

    return scanner


_squares, _products, _cosines, _chords = (_scanner(op) for op in (SQUARES, DOT, COSINE, CHORD))


@njit(**JIT)
def _before(a, b, ids):
    """Whether the row of key a ranks before that of b; ids (slots,)."""
    if a >> np.uint64(32) != b >> np.uint64(32):
        return a > b
    return ids[np.int64(a & np.uint64(0xFFFFFFFF))] < ids[np.int64(b & np.uint64(0xFFFFFFFF))]


@njit(**JIT)
def keep_first(keys, n, k, ids):
    """Move the first k of the n keys to the front, the last of them at k - 1 (Hoare's select)."""
    lo, hi = 0, n - 1
    while lo < hi:
        a, b, c = keys[lo], keys[(lo + hi) >> 1], keys[hi]
        if _before(b, a, ids):
            a, b = b, a
        pivot = a if _before(c, a, ids) else c if _before(c, b, ids) else b
        i, j = lo, hi
        while i <= j:
            while _before(keys[i], pivot, ids):
                i += 1
            while _before(pivot, keys[j], ids):
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
def _push(key, q, keep, keys, filled, least, ids):
    """Put a key into the buffer of query q: in order where it holds no more than are kept, otherwise anywhere."""
    n = filled[q]
    if keys.shape[1] == keep:
        if n == keep and _before(keys[q, keep - 1], key, ids):
            return
        last = min(n, keep - 1)
        while last > 0 and _before(key, keys[q, last - 1], ids):
            keys[q, last] = keys[q, last - 1]
            last -= 1
        keys[q, last] = key
        filled[q] = min(n + 1, keep)
        full = n + 1 >= keep
    else:
        keys[q, n] = key
        filled[q] = n + 1
        full = n + 1 == keys.shape[1]
        if full:
            keep_first(keys[q], n + 1, keep, ids)
            filled[q] = keep
    if full:
        word = keys[q, keep - 1] >> np.uint64(32)
        word ^= np.uint64(0x80000000) if word >> np.uint64(31) else np.uint64(0xFFFFFFFF)
        least.view(np.uint32)[q] = np.uint32(word)


@njit(**JIT)
def _collect(askers, masks, real, scores, place, keep, keys, filled, least, ids):
    """Push the scores that are marked for each of the askers, of the lanes that are real, of the blocks in `place`."""
    bits = scores.view(np.uint32)
    for r in range(askers.size):
        q, mask = askers[r], masks[r] & real
        while mask:
            lane = lowest_bit(mask)
            mask &= mask - 1
            if scores[r, lane] < least[q]:  # which has risen since the mask was made
                continue
            word = np.uint64(bits[r, lane])
            word ^= np.uint64(0xFFFFFFFF) if word >> np.uint64(31) else np.uint64(0x80000000)
            slot = place[lane // BLOCK] * BLOCK + lane % BLOCK
            _push((word << np.uint64(32)) | np.uint64(slot), q, keep, keys, filled, least, ids)


@njit(**JIT)
def _askers(probes, n_lists):
    """(starts (n_lists + 1,), queries): those that ask for list i are queries[starts[i]:starts[i + 1]]."""
    starts = np.zeros(n_lists + 1, np.int64)
    for q in range(probes.shape[0]):
        for p in range(probes.shape[1]):
            starts[probes[q, p] + 1] += 1
    for i in range(n_lists):
        starts[i + 1] += starts[i]
    queries, at = np.empty(probes.size, np.int64), starts[:-1].copy()
    for q in range(probes.shape[0]):
        for p in range(probes.shape[1]):
            queries[at[probes[q, p]]] = q
            at[probes[q, p]] += 1
    return starts, queries


@njit(**JIT)
def scan_lists(
    op, queries, probes, payload, ids, following, first, counts, keep, keys, filled, least
):
    """The best `keep` rows of the lists that each query names, as keys.

    IN queries (Q, D), of norm 1 for COSINE and CHORD; probes (Q, P) lists; payload (blocks, D or more, 16) and for these
    1 / norm after a row's D values; ids (slots,); following (blocks,) the next one or -1; first, counts (lists,). INOUT
    keys (Q, C) uint64, of which filled (Q,) are: with C = keep in order, otherwise the best nowhere in particular; least
    (Q,), what a score must reach.
    """
    n_dims = np.int64(queries.shape[1])
    starts, askers = _askers(probes, counts.size)
    who, at, place = (
        np.zeros(ASKING, np.int64),
        np.zeros(BLOCKS, np.int64),
        np.zeros(BLOCKS, np.int64),
    )
    limits, scores = np.zeros(ASKING, np.float32), np.zeros((ASKING, POINTS), np.float32)
    masks = np.zeros(ASKING, np.int64)
    who_at, at_at, limits_at = (
        np.int64(who.ctypes.data),
        np.int64(at.ctypes.data),
        np.int64(limits.ctypes.data),
    )
    scores_at, masks_at = np.int64(scores.ctypes.data), np.int64(masks.ctypes.data)
    queries_at, payload_at = np.int64(queries.ctypes.data), np.int64(payload.ctypes.data)
    block_bytes = np.int64(4 * BLOCK * payload.shape[1])
    for number in range(counts.size):
        if starts[number] == starts[number + 1]:
            continue
        block, left = np.int64(first[number]), counts[number]
        while left > 0:
            for b in range(BLOCKS):  # after the last block that one again, masked
                place[b] = block
                at[b] = payload_at + block * block_bytes
                block = np.int64(following[block]) if following[block] >= 0 else block
            real = np.int64(-1) if left >= 64 else (np.int64(1) << left) - 1
            for i in range(starts[number], starts[number + 1], ASKING):
                n = min(np.int64(ASKING), starts[number + 1] - i)
                for r in range(ASKING):
                    q = askers[i + min(r, n - 1)]
                    who[r] = queries_at + 4 * n_dims * q
                    limits[r] = least[q] if r < n else np.inf
                if op == SQUARES:
                    some = _squares(who_at, at_at, n_dims, limits_at, scores_at, masks_at)
                elif op == DOT:
                    some = _products(who_at, at_at, n_dims, limits_at, scores_at, masks_at)
                elif op == CHORD:
                    some = _chords(who_at, at_at, n_dims, limits_at, scores_at, masks_at)
                else:
                    some = _cosines(who_at, at_at, n_dims, limits_at, scores_at, masks_at)
                if some:
                    _collect(
                        askers[i : i + n],
                        masks,
                        real,
                        scores,
                        place,
                        keep,
                        keys,
                        filled,
                        least,
                        ids,
                    )
            left -= POINTS


@njit(**JIT)
def settle_keys(keep, keys, filled, ids):
    """keys (Q, C): the first `keep` of each query in front, in any order, zeros after the last one there is."""
    for q in range(keys.shape[0]):
        if filled[q] > keep:
            keep_first(keys[q], filled[q], keep, ids)
        for i in range(filled[q], keep):
            keys[q, i] = 0


@njit(**JIT)
def merge_keys(parts, out, ids):
    """out (Q, K) = the first K keys in parts (S, Q, K), zeros last."""
    keep = out.shape[1]
    every = np.empty(parts.shape[0] * keep, np.uint64)
    for q in range(out.shape[0]):
        n = 0
        for s in range(parts.shape[0]):
            for i in range(keep):
                if parts[s, q, i]:
                    every[n] = parts[s, q, i]
                    n += 1
        if n > keep:
            keep_first(every, n, keep, ids)
        for i in range(keep):
            out[q, i] = every[i] if i < n else np.uint64(0)  # with 0 it would be a float


@njit(**JIT)
def finish_keys(op, queries, keys, payload, ids, distances, found, lowest):
    """distances and ids `found` (Q, k) of the candidates keys (Q, K >= k), ascending as np.sort leaves them.

    Distances of queries (Q, D), as given, in float64, sorted by distance, then id; inf and -1 where there is no row. OUT
    lowest (Q,), the lowest score of the candidates, -inf where there is no more.
    """
    k, n_dims = distances.shape[1], queries.shape[1]
    x, y = np.empty(n_dims), np.empty(n_dims)
    value, own = np.empty(k), np.empty(k, np.int64)
    for q in range(keys.shape[0]):
        for d in range(n_dims):
            x[d] = queries[q, d]
        n = 0
        for place in range(keys.shape[1] - 1, -1, -1):
            key = keys[q, place]
            if key == 0:
                break
            slot = np.int64(key & np.uint64(0xFFFFFFFF))
            for d in range(n_dims):
                y[d] = payload[slot // BLOCK, d, slot % BLOCK]
            v, name, i = _distance(op, x, y), ids[slot], min(n, k - 1)
            if n == k and not (v < value[i] or (v == value[i] and name < own[i])):
                continue
            while i > 0 and (
                v < value[i - 1] or (v == value[i - 1] and name < own[i - 1])
            ):  # they are nearly in order
                value[i], own[i] = value[i - 1], own[i - 1]
                i -= 1
            value[i], own[i] = v, name
            n = min(n + 1, k)
        for i in range(k):
            distances[q, i] = value[i] if i < n else np.inf
            found[q, i] = own[i] if i < n else -1
        put_score(keys[q, 0], lowest, q)
