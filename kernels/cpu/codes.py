"""Scans of product-quantized codes: a table of products for each query, looked up and summed for 16 rows at a time.

Codes lie in blocks of 16 rows, byte by byte, so that a byte of all rows is one load. Codes of 1, 2 or 4 bits share bytes, and
tables have an entry for every value of a byte: a look-up takes care of them all. Those of 3, 5, 6 or 7 bits are unpacked first.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .finish import _distance
from .jit import njit
from .options import INNER, JIT
from .scores import SQUARES
from .topk import _keep_best

# The typing context of an intrinsic is not an argument.
# pyright: reportCallIssue=false

BLOCK = 16  # rows
ENTRIES = 256  # of a table, for one byte
SORTED = 32  # candidates up to which they are kept in order as they come
# What the four bytes after a code are: nothing, a float32 to subtract from the row's score, or one to multiply it with.
NONE, MINUS, TIMES = range(3)

_NUMBER, _FLOAT = ir.IntType(64), ir.FloatType()
_FLOATS = ir.VectorType(_FLOAT, BLOCK)


def _at(builder, base, offset, kind):
    return builder.inttoptr(builder.add(base, offset), kind.as_pointer())


@intrinsic
def _sum_entries(_typing, planes, n_planes, table, start, out):
    """out (BLOCK,) = start + the sum over p of table[p, planes[p]]; addresses of planes (n_planes, BLOCK) uint8 and tables.

    Written in LLVM's language as its vectorizer would gather by 64-bit indices, which takes half as long again.
    """

    def generate(context, builder, _signature, args):
        planes, n_planes, table, start, out = args
        single = builder.insert_element(_FLOATS(ir.Undefined), start, ir.IntType(32)(0))
        first = builder.shuffle_vector(
            single, _FLOATS(ir.Undefined), ir.VectorType(ir.IntType(32), BLOCK)([0] * BLOCK)
        )
        total = cgutils.alloca_once_value(builder, first)
        with cgutils.for_range(builder, n_planes) as loop:
            own = builder.add(table, builder.mul(loop.index, _NUMBER(4 * ENTRIES)))
            entries = _FLOATS(ir.Undefined)
            for half in range(0, BLOCK, 8):
                at = builder.add(builder.mul(loop.index, _NUMBER(BLOCK)), _NUMBER(half))
                word = builder.load(_at(builder, planes, at, _NUMBER), align=1)
                for i in range(8):
                    byte = builder.and_(builder.lshr(word, _NUMBER(8 * i)), _NUMBER(ENTRIES - 1))
                    entry = builder.load(
                        _at(builder, own, builder.shl(byte, _NUMBER(2)), _FLOAT), align=4
                    )
                    entries = builder.insert_element(entries, entry, ir.IntType(32)(half + i))
            builder.store(builder.fadd(builder.load(total), entries), total)
        builder.store(builder.load(total), builder.inttoptr(out, _FLOATS.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.float32, types.int64), generate


@intrinsic
def _read_floats(_typing, planes, out):
    """out (BLOCK,) = the float32 numbers whose bytes lie in four planes, the lowest first; addresses."""

    def generate(context, builder, _signature, args):
        planes, out = args
        kind = ir.VectorType(ir.IntType(32), BLOCK)
        word = kind([0] * BLOCK)
        for i in range(4):
            plane = _at(builder, planes, _NUMBER(BLOCK * i), ir.VectorType(ir.IntType(8), BLOCK))
            byte = builder.zext(builder.load(plane, align=1), kind)
            word = builder.or_(word, builder.shl(byte, kind([8 * i] * BLOCK)))
        builder.store(
            builder.bitcast(word, _FLOATS), builder.inttoptr(out, _FLOATS.as_pointer()), align=4
        )
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@njit(**INNER)
def _fill_table(op, extra, nbits, query, mean, codewords, row, table):
    """table (bytes, ENTRIES) of a query (D,): what the codewords (m, d / m, 2**nbits) of a byte add to a score.

    That is products with the query less the mean or, where rows have no centroids, minus half the squared distances.
    """
    m, dsub, ksub = codewords.shape
    per = 8 // nbits if 8 % nbits == 0 else 1
    for j in range(m):
        for c in range(ksub):
            row[c] = 0.0
        for d in range(dsub):
            value = query[j * dsub + d]
            if op == SQUARES and extra == NONE:
                for c in range(ksub):
                    gap = value - codewords[j, d, c]
                    row[c] -= np.float32(0.5) * gap * gap
            else:
                value -= mean[j * dsub + d]
                for c in range(ksub):
                    row[c] += value * codewords[j, d, c]
        byte, turn = j // per, j % per
        if turn == 0:
            for c in range(ksub):
                table[byte, c] = row[c]
        else:
            width = 1 << (turn * nbits)
            for c in range(
                ksub - 1, -1, -1
            ):  # the first entries last: the others are made from them
                for low in range(width):
                    table[byte, c * width + low] = table[byte, low] + row[c]


@njit(**INNER)
def _base(op, extra, query, centroid):
    """What all rows of a list have in common in their scores."""
    if op == SQUARES and extra == NONE:
        return np.float32(0.0)
    total = 0.0
    for d in range(query.size):
        if op == SQUARES:
            gap = np.float64(query[d]) - np.float64(centroid[d])
            total -= 0.5 * gap * gap
        else:
            total += np.float64(query[d]) * np.float64(centroid[d])
    return np.float32(total)


@njit(**INNER)
def _label(payload, block, lane, j, nbits):
    """The label of part j of a row."""
    byte, shift = (j * nbits) >> 3, (j * nbits) & 7
    word = np.int64(payload[block, byte, lane]) >> shift
    if shift + nbits > 8:
        word |= np.int64(payload[block, byte + 1, lane]) << (8 - shift)
    return word & ((1 << nbits) - 1)


@njit(**INNER)
def _unpack(payload, block, nbits, planes):
    for j in range(planes.shape[0]):
        for lane in range(BLOCK):
            planes[j, lane] = _label(payload, block, lane, j, nbits)


@njit(**INNER)
def _push(key, k, q, keys, counts):
    """Put a key into the buffer of query q; returns whether the least that matters may have risen."""
    n = counts[q]
    if keys.shape[1] > k:  # collected, and the best k selected whenever the buffer is full
        keys[q, n] = key
        counts[q] = n + 1
        if n + 1 < keys.shape[1]:
            return False
        _keep_best(keys[q], k)
        counts[q] = k
        return True
    if n == k and key < keys[q, k - 1]:
        return False
    last = min(n, k - 1)
    while last > 0 and keys[q, last - 1] < key:
        keys[q, last] = keys[q, last - 1]
        last -= 1
    keys[q, last] = key
    counts[q] = min(n + 1, k)
    return n + 1 >= k


@njit(**JIT)
def scan_codes(
    op, extra, nbits, code_size, queries, mean, codewords, centroids, lists, probes, k, keys, counts
):
    """The best k rows of the lists probes (Q, P) for every query (Q, D), as keys: the score's ordered bits, then ~slot.

    IN op, extra: how a row scores; codewords (m, d / m, 2**nbits); centroids (nlist, D); lists: payload, links, first and
    counts as index/lists.py has them. INOUT keys (Q, C) uint64 of which counts (Q,) are filled: in order if C = k, otherwise
    the best of them nowhere in particular.
    """
    payload, links, first, sizes = lists
    n_planes = code_size if 8 % nbits == 0 else codewords.shape[0]
    table = np.empty((n_planes, ENTRIES), np.float32)
    row, scores, factor = (
        np.empty(ENTRIES, np.float32),
        np.empty(BLOCK, np.float32),
        np.empty(BLOCK, np.float32),
    )
    planes = np.empty((n_planes, BLOCK), np.uint8)
    bits = scores.view(np.uint32)
    table_at, scores_at, planes_at = (
        np.int64(table.ctypes.data),
        np.int64(scores.ctypes.data),
        np.int64(planes.ctypes.data),
    )
    factor_at = np.int64(factor.ctypes.data)
    blocks_at, stride = np.int64(payload.ctypes.data), payload.shape[1] * BLOCK
    for q in range(queries.shape[0]):
        _fill_table(op, extra, nbits, queries[q], mean, codewords, row, table)
        least = np.float32(-np.inf)
        for p in range(probes.shape[1]):
            number = probes[q, p]
            block, left = np.int64(first[number]), sizes[number]
            base = _base(op, extra, queries[q], centroids[number])
            while left > 0:
                at = blocks_at + block * stride
                if 8 % nbits != 0:
                    _unpack(payload, block, nbits, planes)
                _sum_entries(
                    at if 8 % nbits == 0 else planes_at, n_planes, table_at, base, scores_at
                )
                if extra != NONE:
                    _read_floats(at + code_size * BLOCK, factor_at)
                    for lane in range(BLOCK):
                        scores[lane] = (
                            scores[lane] - factor[lane]
                            if extra == MINUS
                            else scores[lane] * factor[lane]
                        )
                best = scores[0]
                for lane in range(BLOCK):
                    best = max(best, scores[lane])
                if best >= least:
                    for lane in range(min(np.int64(BLOCK), left)):
                        if scores[lane] < least:
                            continue
                        word = np.uint64(bits[lane])
                        word ^= (
                            np.uint64(0xFFFFFFFF)
                            if word >> np.uint64(31)
                            else np.uint64(0x80000000)
                        )
                        slot = np.uint64(0xFFFFFFFF) - np.uint64(block * BLOCK + lane)
                        if _push((word << np.uint64(32)) | slot, k, q, keys, counts):
                            word = keys[q, k - 1] >> np.uint64(32)
                            word ^= (
                                np.uint64(0x80000000)
                                if word >> np.uint64(31)
                                else np.uint64(0xFFFFFFFF)
                            )
                            bits[lane] = np.uint32(word)
                            least = scores[lane]
                block, left = np.int64(links[block]), left - BLOCK


@njit(**JIT)
def finish_codes(op, nbits, queries, codebooks, centroids, lists, keys, distances, ids, doubtful):
    """distances (Q, k) float64 and ids (Q, k) int64 of the candidates keys (Q, K >= k), ascending as np.sort leaves them.

    Distances are those to the rows as they are decoded, to float32. IN codebooks (m, 2**nbits, d / m); lists: payload, owner
    and ids as index/lists.py has them. OUT doubtful (Q,): candidates that were left out may score as the k-th does.
    """
    payload, owner, every_id = lists
    k, (m, _, dsub) = distances.shape[1], codebooks.shape
    x, y = np.empty(m * dsub), np.empty(m * dsub)
    value, own = np.empty(keys.shape[1]), np.empty(keys.shape[1], np.int64)
    for q in range(keys.shape[0]):
        for d in range(x.size):
            x[d] = queries[q, d]
        n = 0
        for at in range(keys.shape[1] - 1, -1, -1):
            if keys[q, at] == 0:
                break
            slot = np.int64(np.uint64(0xFFFFFFFF) - (keys[q, at] & np.uint64(0xFFFFFFFF)))
            block, lane = slot // BLOCK, slot % BLOCK
            number, name = owner[block], every_id[block, lane]
            for j in range(m):
                label = _label(payload, block, lane, j, nbits)
                for d in range(dsub):
                    y[j * dsub + d] = np.float32(
                        centroids[number, j * dsub + d] + codebooks[j, label, d]
                    )
            v, i = _distance(op, x, y), n
            while i > 0 and (v < value[i - 1] or (v == value[i - 1] and name < own[i - 1])):
                value[i], own[i] = value[i - 1], own[i - 1]
                i -= 1
            value[i], own[i] = v, name
            n += 1
        for i in range(k):
            distances[q, i] = value[i] if i < n else np.inf
            ids[q, i] = own[i] if i < n else -1
        worst = keys[q, 0] >> np.uint64(32)
        doubtful[q] = worst > 0 and worst == keys[q, keys.shape[1] - k] >> np.uint64(32)
