"""The best of many scored rows for each query.

A key is 64 bits: a score, its bits in the order of the floats, above the number of its row. The
largest keys are the best rows. Where the low bits are slots of inverted lists, equal scores are
ranked by the ids in these slots. Both orders are total, so results do not depend on how the work
is split.
"""

from typing import NamedTuple

import numpy as np
from llvmlite import ir

from .jit import intrinsic, njit, types
from .sizes import NEG_INF

LOW = np.uint64(0xFFFFFFFF)


class Buffers(NamedTuple):
    """Candidates of a group of queries.

    With C = k they are kept in order as they come. With more places they are collected, and the
    best k are selected whenever a buffer is full.

    Attributes:
        keys: (Q, C) uint64.
        counts: (Q,) int64, how many of them are filled.
        least: (Q or more,) float32, the score a row needs to become a candidate.
    """

    keys: np.ndarray
    counts: np.ndarray
    least: np.ndarray


@intrinsic
def bits_of(_typing, score):
    """Return the bits of a float32."""

    def generate(_context, builder, _signature, args):
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@intrinsic
def from_bits(_typing, bits):
    """Return the float32 of these bits."""

    def generate(_context, builder, _signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), generate


@njit
def make_key(score, number):
    """Return the key of a score and the number of a row below 2**32."""
    bits = np.uint64(bits_of(score))
    bits ^= LOW if bits >> np.uint64(31) else np.uint64(0x80000000)  # ranks as the score does
    return (bits << np.uint64(32)) | np.uint64(number)


@njit
def score_of(key):
    """Return the score in a key; -inf for the key 0, which stands for no row."""
    if key == 0:
        return NEG_INF
    bits = key >> np.uint64(32)
    bits ^= np.uint64(0x80000000) if bits >> np.uint64(31) else LOW
    return from_bits(np.uint32(bits))


@njit
def number_of(key):
    """Return the number in the low bits of a key."""
    return np.int64(key & LOW)


@njit
def key_of_row(score, row):
    """Return the key of a score and a row; the first of equal scores has the larger key."""
    return make_key(score, LOW - np.uint64(row))


@njit
def row_of(key):
    """Return the row in a key that `key_of_row` made."""
    return np.int64(LOW - (key & LOW))


@njit
def before(a, b, ids):
    """Return whether key a ranks before b: equal scores by ids (slots,), if these are given."""
    if ids is None:  # decided when this is compiled
        return a > b
    if a >> np.uint64(32) != b >> np.uint64(32):
        return a > b
    return ids[number_of(a)] < ids[number_of(b)]


@njit
def _swap_keys(keys, i, j, _ids):
    keys[i], keys[j] = keys[j], keys[i]


def make_select(before, swap):
    """Return Hoare's select for values that before(a, b, data) ranks.

    Made for each pair of functions, as Numba then compiles their calls away.

    Args:
        before: Whether value a ranks before b; `data` is whatever the caller passes on.
        swap: Exchanges two of them, as ``swap(values, i, j, data)``.
    """

    @njit
    def select(values, lo, hi, place, data):
        """Move values[lo:hi] so that none left of `place` ranks after one right of it."""
        hi -= 1
        while lo < hi:
            a, b, c = values[lo], values[(lo + hi) >> 1], values[hi]
            if before(b, a, data):
                a, b = b, a
            pivot = a if before(c, a, data) else c if before(c, b, data) else b
            i, j = lo, hi
            while i <= j:
                while before(values[i], pivot, data):
                    i += 1
                while before(pivot, values[j], data):
                    j -= 1
                if i <= j:
                    swap(values, i, j, data)
                    i += 1
                    j -= 1
            if place <= j:
                hi = j
            elif place >= i:
                lo = i
            else:
                break

    return select


_select_keys = make_select(before, _swap_keys)


@njit
def keep_best(keys, n, k, ids):
    """Move the best k of the first n keys to the front, the last of these to k - 1."""
    _select_keys(keys, np.int64(0), n, k - 1, ids)


@njit
def push(key, q, k, keys, counts, ids):
    """Put a key into the buffer of query q.

    Returns whether the k-th best key of the query is known, at keys[q, k - 1], and may be new.
    """
    n = counts[q]
    if keys.shape[1] > k:
        keys[q, n] = key
        counts[q] = n + 1
        if n + 1 < keys.shape[1]:
            return False
        keep_best(keys[q], n + 1, k, ids)
        counts[q] = k
        return True
    if n == k and before(keys[q, k - 1], key, ids):  # which has risen since the key was made
        return False
    last = min(n, k - 1)
    while last > 0 and before(key, keys[q, last - 1], ids):
        keys[q, last] = keys[q, last - 1]
        last -= 1
    keys[q, last] = key
    counts[q] = min(n + 1, k)
    return n + 1 >= k


@njit
def settle(k, buffers, ids):
    """Move the best k keys of each query to the front, in any order, and fill up with zeros."""
    keys, counts, _ = buffers
    for q in range(keys.shape[0]):
        if counts[q] > k:
            keep_best(keys[q], counts[q], k, ids)
        for i in range(counts[q], k):
            keys[q, i] = 0


@njit
def insert(values, rows, n, value, row):
    """Put a distance and its row among the n before them, sorted by distance, then row.

    What is at place n is overwritten.
    """
    i = n
    while i > 0 and (value < values[i - 1] or (value == values[i - 1] and row < rows[i - 1])):
        values[i] = values[i - 1]
        rows[i] = rows[i - 1]
        i -= 1
    values[i] = value
    rows[i] = row
