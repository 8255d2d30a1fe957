"""Scans of product-quantized codes: sums of table entries, for 16 rows at a time.

Codes lie in blocks of 16 rows, byte by byte, so that a byte of all rows is one load. Codes of 1, 2
or 4 bits share bytes, and tables have an entry for every value of a byte: one look-up takes care of
them all. Those of 3, 5, 6 or 7 bits are unpacked first. Where the CPU looks up bytes in registers,
nibbles.py scans those of 4 bits.
"""

from typing import NamedTuple

import numpy as np
from llvmlite import ir

from .finish import distance
from .ir import NUMBER, address, pointer, splat
from .jit import cgutils, intrinsic, njit, types
from .lists import BLOCK
from .scores import COSINE, SQUARES
from .select import from_bits, insert, key_of_row, push, row_of, score_of
from .sums import IN_ORDER

ENTRIES = 256  # of a table, for one byte
HALF_BITS = 16
SLACK = 2.0**-22  # relative rounding of scores after they were bounded
# The float32 after a code: none, or one to subtract from the score, or to multiply it with.
NONE, MINUS, TIMES = range(3)

FLOAT = ir.FloatType()
FLOATS = ir.VectorType(FLOAT, BLOCK)


class Coding(NamedTuple):
    """The meaning of the rows of the lists; see backends/codes.py.

    Attributes:
        nbits: Bits of a part's label; 16 where codes are float16, without codebooks.
        code_size: Bytes of a code.
        tail: What follows it: NONE, MINUS or TIMES.
        codebooks: (m, 2**nbits, D / m) float32.
        codewords: (m, D / m, 2**nbits) float32, the same transposed.
        centroids: (nlist, D) float32.
        mean: (D,) float32, taken off the queries before tables are made.
    """

    nbits: int
    code_size: int
    tail: int
    codebooks: np.ndarray
    codewords: np.ndarray
    centroids: np.ndarray
    mean: np.ndarray


@intrinsic
def _sum_entries(_typing, planes, n_planes, table, start, out):
    """Set out (BLOCK,) to start + the sum over p of table[p, planes[p]].

    Addresses of planes (n_planes, BLOCK) uint8, table and out. Written in LLVM's language as its
    vectorizer would gather by 64-bit indices, which takes half as long again.
    """

    def generate(context, builder, _signature, args):
        planes, n_planes, table, start, out = args
        total = cgutils.alloca_once_value(builder, splat(builder, start, FLOATS))
        with cgutils.for_range(builder, n_planes) as loop:
            entries_at = builder.add(table, builder.mul(loop.index, NUMBER(4 * ENTRIES)))
            plane = builder.add(planes, builder.mul(loop.index, NUMBER(BLOCK)))
            entries = FLOATS(ir.Undefined)
            for half in range(0, BLOCK, 8):
                word = builder.load(pointer(builder, plane, half, NUMBER), align=1)
                for i in range(8):
                    byte = builder.and_(builder.lshr(word, NUMBER(8 * i)), NUMBER(ENTRIES - 1))
                    at = pointer(builder, entries_at, builder.shl(byte, NUMBER(2)), FLOAT)
                    entry = builder.load(at, align=4)
                    entries = builder.insert_element(entries, entry, ir.IntType(32)(half + i))
            builder.store(builder.fadd(builder.load(total), entries, flags=IN_ORDER), total)
        builder.store(builder.load(total), pointer(builder, out, 0, FLOATS), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.float32, types.int64), generate


def floats_of_planes(builder, planes):
    """Return FLOATS whose bytes lie in four planes from an address on, the lowest first."""
    bytes_ = ir.VectorType(ir.IntType(8), 4 * BLOCK)
    value = builder.load(pointer(builder, planes, 0, bytes_), align=1)
    places = [BLOCK * (i % 4) + i // 4 for i in range(4 * BLOCK)]
    value = builder.shuffle_vector(value, value, ir.VectorType(ir.IntType(32), 4 * BLOCK)(places))
    return builder.bitcast(value, FLOATS)


@intrinsic
def read_floats(_typing, planes, out):
    """Set out (BLOCK,) to the float32 whose bytes lie in four planes, the lowest first."""

    def generate(context, builder, _signature, args):
        planes, out = args
        value = floats_of_planes(builder, planes)
        builder.store(value, pointer(builder, out, 0, FLOATS), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@njit
def fill_entries(op, coding, query, j, entries):
    """Set entries (2**nbits,) to what the codewords of part j add to a score of the query (D,).

    That is products with the query less the mean or, where rows have no centroids, minus half the
    squared distances.
    """
    _, _, tail, _, codewords, _, mean = coding
    _, dsub, ksub = codewords.shape
    for c in range(ksub):
        entries[c] = 0.0
    for d in range(dsub):
        value = query[j * dsub + d]
        if op == SQUARES and tail == NONE:
            for c in range(ksub):
                gap = value - codewords[j, d, c]
                entries[c] -= np.float32(0.5) * gap * gap
        else:
            value -= mean[j * dsub + d]
            for c in range(ksub):
                entries[c] += value * codewords[j, d, c]


@njit
def _fill_table(op, coding, query, row, table):
    """Fill table (bytes, ENTRIES): what the codewords of a byte add to a score of the query (D,).

    `row` (ENTRIES,) is scratch.
    """
    nbits, codewords = coding.nbits, coding.codewords
    m, _, ksub = codewords.shape
    parts_in_byte = 8 // nbits if 8 % nbits == 0 else 1
    for j in range(m):
        fill_entries(op, coding, query, j, row)
        byte, part = j // parts_in_byte, j % parts_in_byte
        if part == 0:
            for c in range(ksub):
                table[byte, c] = row[c]
        else:
            width = 1 << (part * nbits)
            for c in range(ksub - 1, -1, -1):  # the first entries last: all are made from them
                for low in range(width):
                    table[byte, c * width + low] = table[byte, low] + row[c]


@njit
def base_score(op, tail, query, centroid):
    """Return what the scores of all rows of a list have in common."""
    if op == SQUARES and tail == NONE:
        return np.float32(0.0)
    total = 0.0
    for d in range(query.size):
        if op == SQUARES:
            gap = np.float64(query[d]) - np.float64(centroid[d])
            total -= 0.5 * gap * gap
        else:
            total += np.float64(query[d]) * np.float64(centroid[d])
    return np.float32(total)


@njit
def _label(payload, block, lane, j, nbits):
    """Return the label of part j of a row."""
    byte, shift = (j * nbits) >> 3, (j * nbits) & 7
    word = np.int64(payload[block, byte, lane]) >> shift
    if shift + nbits > 8:
        word |= np.int64(payload[block, byte + 1, lane]) << (8 - shift)
    return word & ((1 << nbits) - 1)


@njit
def _half(payload, block, lane, j):
    """Return the float32 value of float16 number j of a row."""
    bits = np.uint32(payload[block, 2 * j, lane]) | np.uint32(payload[block, 2 * j + 1, lane]) << 8
    value = from_bits(np.uint32((bits & 0x7FFF) << 13)) * np.float32(2.0**112)
    return -value if bits & 0x8000 else value


@njit
def _unpack(payload, block, nbits, planes):
    for j in range(planes.shape[0]):
        for lane in range(BLOCK):
            planes[j, lane] = _label(payload, block, lane, j, nbits)


@njit
def scan_codes(op, coding, queries, lists, probes, keep, buffers):
    """Push the best `keep` rows of the lists that each query probes, with their slots.

    Args:
        op: How rows score, see scores.py: COSINE, DOT or SQUARES.
        coding: `Coding`.
        queries: (Q, D) float32, of norm 1 for COSINE.
        lists: `Lists` of codes.
        probes: (Q, P) lists.
        keep: Candidates of a query.
        buffers: `Buffers` of the queries; here scores need to reach, not exceed, `least`.
    """
    # Fields are taken out of the structures here: in a loop, Numba would count references to them.
    keys, counts, least = buffers
    payload, _, _, following, first, sizes = lists
    nbits, code_size, tail, _, codewords, centroids, _ = coding
    n_planes = code_size if 8 % nbits == 0 else codewords.shape[0]
    table = np.empty((n_planes, ENTRIES), np.float32)
    row = np.empty(ENTRIES, np.float32)
    scores = np.empty(BLOCK, np.float32)
    factors = np.empty(BLOCK, np.float32)
    planes = np.empty((n_planes, BLOCK), np.uint8)
    first_block = address(payload)
    block_bytes = payload.shape[1] * BLOCK
    table_at, planes_at = address(table), address(planes)
    scores_at, factors_at = address(scores), address(factors)
    for q in range(queries.shape[0]):
        _fill_table(op, coding, queries[q], row, table)
        needed = least[q]
        for p in range(probes.shape[1]):
            number = probes[q, p]
            block = np.int64(first[number])
            rows_left = sizes[number]
            base = base_score(op, tail, queries[q], centroids[number])
            while rows_left > 0:
                codes_at = first_block + block * block_bytes
                bytes_at = codes_at
                if 8 % nbits != 0:
                    _unpack(payload, block, nbits, planes)
                    bytes_at = planes_at
                _sum_entries(bytes_at, n_planes, table_at, base, scores_at)
                if tail != NONE:
                    read_floats(codes_at + code_size * BLOCK, factors_at)
                    for lane in range(BLOCK):
                        scores[lane] = (
                            scores[lane] - factors[lane]
                            if tail == MINUS
                            else scores[lane] * factors[lane]
                        )
                best = scores[0]
                for lane in range(BLOCK):
                    best = max(best, scores[lane])
                if best >= needed:
                    for lane in range(min(np.int64(BLOCK), rows_left)):
                        if scores[lane] >= needed:
                            key = key_of_row(scores[lane], block * BLOCK + lane)
                            if push(key, q, keep, keys, counts, None):
                                needed = score_of(keys[q, keep - 1])
                block = np.int64(following[block])
                rows_left -= BLOCK


@njit
def finish_codes(op, coding, queries, lists, keys, distances, ids, doubtful, bounded):
    """Compute the distances of candidates to the decoded rows and sort them by distance, then id.

    Args:
        op: The distance, see scores.py.
        coding: `Coding`.
        queries: (Q, D) float32 as given.
        lists: `Lists` of codes.
        keys: (Q, K) uint64 candidates, ascending; 0 for none.
        distances: Out, (Q, k) float64, to rows decoded to float32; inf where there is no row.
        ids: Out, (Q, k) int64; -1 where there is no row.
        doubtful: Out, (Q,) bool: rows that were left out may score as the k-th candidate does.
        bounded: Whether keys have upper bounds of scores, which rows that were left out do not
            exceed.
    """
    payload, names_of, owner, _, _, _ = lists
    nbits, codebooks, centroids = coding.nbits, coding.codebooks, coding.centroids
    k, (m, _, dsub) = distances.shape[1], codebooks.shape
    x, y = np.empty(m * dsub), np.empty(m * dsub)
    values, names = np.empty(keys.shape[1]), np.empty(keys.shape[1], np.int64)
    for q in range(keys.shape[0]):
        for d in range(x.size):
            x[d] = queries[q, d]
        n = 0
        for place in range(keys.shape[1] - 1, -1, -1):
            key = keys[q, place]
            if key == 0:
                break
            slot = row_of(key)
            block, lane = slot // BLOCK, slot % BLOCK
            number = owner[block]
            for j in range(m):
                if nbits == HALF_BITS:
                    y[j] = np.float32(centroids[number, j] + _half(payload, block, lane, j))
                    continue
                label = _label(payload, block, lane, j, nbits)
                for d in range(dsub):
                    y[j * dsub + d] = np.float32(
                        centroids[number, j * dsub + d] + codebooks[j, label, d]
                    )
            insert(values, names, n, distance(op, x, y), names_of[slot])
            n += 1
        for i in range(k):
            distances[q, i] = values[i] if i < n else np.inf
            ids[q, i] = names[i] if i < n else -1
        worst, rank = keys[q, 0] >> np.uint64(32), max(keys.shape[1] - k, np.int64(0))
        if bounded:
            bound, last = np.float64(score_of(keys[q, 0])), distances[q, k - 1]
            score = -0.5 * last if op == SQUARES else (1.0 if op == COSINE else 0.0) - last
            slack = SLACK * (abs(bound) + abs(score))
            doubtful[q] = worst > 0 and not bound + slack < score
            continue
        doubtful[q] = worst > 0 and worst == keys[q, rank] >> np.uint64(32)
