"""Scans of codes of 4 bits: bounds of the scores of 16 rows at a time, by tables in registers.

Each entry of a query's tables becomes a byte, rounded up. A byte of codes is two labels; an
instruction looks up those of 16 rows in 16 bytes, of up to four bytes of codes at once. The sums of
these bytes, in 16 bits, bound the scores in float32. Only rows whose bounds reach the score that a
candidate needs are scored themselves, as in codes.py: candidates and their scores are the same.
"""

import numpy as np
from llvmlite import ir

from .codes import FLOATS, MINUS, NONE, base_score, fill_entries, floats_of_planes
from .ir import LOOKUPS, NUMBER, address, lowest_bit, pointer, splat
from .jit import cgutils, intrinsic, njit, types
from .lists import BLOCK
from .select import from_bits, key_of_row, push, score_of
from .sums import IN_ORDER

PLANES = max(LOOKUPS, default=0)  # planes of 16 rows that are looked up at once
LABELS = 16  # of a part
MAX_PARTS = 256 if LOOKUPS else 0  # whose bytes add up to less than 2**16
# Scores whose parts have magnitudes of this sum, at most, are bounded: the others may overflow.
MAX_SIZE = 2.0**100
TINY = 2.0**-126  # the least float32 with all of its bits

FLOAT, BYTE = ir.FloatType(), ir.IntType(8)
SHORTS = ir.VectorType(ir.IntType(16), BLOCK // 2)


def _add_entries(builder, codes, low, high, planes, totals):
    """Add the entries of some planes of codes to totals: a pair of sums, of even and odd rows.

    Sums of even rows contain those of odd rows, shifted by 8 bits. Addresses of codes (planes,
    BLOCK), and of the tables (planes, LABELS) of the lower and the upper 4 bits.
    """
    bytes_ = ir.VectorType(BYTE, BLOCK * planes)
    shorts = ir.VectorType(ir.IntType(16), BLOCK // 2 * planes)
    kind = ir.FunctionType(bytes_, [bytes_, bytes_])
    look_up = cgutils.get_or_insert_function(builder.module, kind, LOOKUPS[planes])
    code = builder.load(pointer(builder, codes, 0, bytes_), align=1)
    four = bytes_([4] * bytes_.count)
    labels = builder.and_(code, bytes_([LABELS - 1] * bytes_.count)), builder.lshr(code, four)
    for table, label in zip((low, high), labels, strict=True):
        entries = builder.load(pointer(builder, table, 0, bytes_), align=1)
        found = builder.bitcast(builder.call(look_up, [entries, label]), shorts)
        shifted = builder.lshr(found, shorts([8] * shorts.count))
        for total, value in zip(totals, (found, shifted), strict=True):
            builder.store(builder.add(builder.load(total), value), total)


def _fold(builder, value):
    """Return the sum SHORTS of the parts of a vector."""
    while value.type.count > SHORTS.count:
        half = value.type.count // 2
        places = ir.VectorType(ir.IntType(32), half)
        parts = [
            builder.shuffle_vector(value, value, places(list(range(lo, lo + half))))
            for lo in (0, half)
        ]
        value = builder.add(*parts)
    return value


def _sums(builder, codes, n_planes, table):
    """Return the sums of entries (BLOCK,) uint16 of the rows of a block."""
    pairs = {}
    for planes in LOOKUPS:
        shorts = ir.VectorType(ir.IntType(16), BLOCK // 2 * planes)
        zero = shorts([0] * shorts.count)
        pairs[planes] = [cgutils.alloca_once_value(builder, zero) for _ in range(2)]
    high = builder.add(table, builder.mul(n_planes, NUMBER(LABELS)))

    def add(offset, planes):
        at, low_at, high_at = (builder.add(base, offset) for base in (codes, table, high))
        _add_entries(builder, at, low_at, high_at, planes, pairs[planes])

    n_wide = builder.udiv(n_planes, NUMBER(PLANES))
    with cgutils.for_range(builder, n_wide) as loop:
        add(builder.mul(loop.index, NUMBER(BLOCK * PLANES)), PLANES)
    if PLANES > 1:  # or the last ones would be read with what follows them
        done = builder.mul(n_wide, NUMBER(PLANES))
        with cgutils.for_range(builder, builder.sub(n_planes, done)) as loop:
            add(builder.mul(builder.add(done, loop.index), NUMBER(BLOCK)), 1)
    even, odd = (_fold(builder, builder.load(total)) for total in pairs[PLANES])
    if PLANES > 1:
        even, odd = (
            builder.add(value, builder.load(total))
            for value, total in zip((even, odd), pairs[1], strict=True)
        )
    even = builder.sub(even, builder.shl(odd, SHORTS([8] * SHORTS.count)))
    places = [i // 2 + BLOCK // 2 * (i % 2) for i in range(BLOCK)]
    return builder.shuffle_vector(even, odd, ir.VectorType(ir.IntType(32), BLOCK)(places))


@intrinsic
def _reaching(_typing, codes, n_planes, table, start, step, tail, needed):
    """Return the rows of a block whose bounds reach `needed`, as bits.

    A bound is start + step * the sum of a row's entries, changed by what follows its code. NaN
    counts as a bound that reaches it.

    Args:
        codes: Address of the block: n_planes of codes, then four of float32 unless tail is NONE.
        n_planes: Bytes of a code.
        table: Address of (2, n_planes, LABELS) uint8: the entries of the lower 4 bits of a byte,
            and those of the upper ones.
        start: Float32 that the bound of a sum of 0 is.
        step: Float32 that an entry of 1 stands for.
        tail: NONE, MINUS or TIMES.
        needed: Float32.
    """

    def generate(_context, builder, _signature, args):
        if not LOOKUPS:  # never called, but kernels that could call it are compiled
            return NUMBER(0)
        codes, n_planes, table, start, step, tail, needed = args
        sums = builder.uitofp(_sums(builder, codes, n_planes, table), FLOATS)
        bound = builder.fmul(sums, splat(builder, step, FLOATS), flags=IN_ORDER)
        bound = builder.fadd(bound, splat(builder, start, FLOATS), flags=IN_ORDER)
        bound = cgutils.alloca_once_value(builder, bound)
        with builder.if_then(builder.icmp_signed("!=", tail, NUMBER(NONE))):
            planes = builder.add(codes, builder.mul(n_planes, NUMBER(BLOCK)))
            factor, value = floats_of_planes(builder, planes), builder.load(bound)
            less = builder.fsub(value, factor, flags=IN_ORDER)
            scaled = builder.fmul(value, factor, flags=IN_ORDER)
            is_minus = builder.icmp_signed("==", tail, NUMBER(MINUS))
            builder.store(builder.select(is_minus, less, scaled), bound)
        needed = splat(builder, needed, FLOATS)
        reached = builder.fcmp_unordered(">=", builder.load(bound), needed, flags=IN_ORDER)
        return builder.zext(builder.bitcast(reached, ir.IntType(BLOCK)), NUMBER)

    number, real = types.int64, types.float32
    return number(number, number, number, real, real, number, real), generate


@intrinsic
def _sum_of_row(_typing, codes, n_planes, entries, start):
    """Return start + the entries of one row, in the order of codes.py.

    Address of the row's first byte, those of the others follow at distances of BLOCK, and of
    entries (2 * n_planes, LABELS) float32.
    """

    def generate(_context, builder, _signature, args):
        codes, n_planes, entries, start = args
        total = cgutils.alloca_once_value(builder, start)
        with cgutils.for_range(builder, n_planes) as loop:
            at = pointer(builder, codes, builder.mul(loop.index, NUMBER(BLOCK)), BYTE)
            code = builder.zext(builder.load(at), NUMBER)
            own = builder.add(entries, builder.mul(loop.index, NUMBER(2 * 4 * LABELS)))
            low = builder.and_(code, NUMBER(LABELS - 1))
            high = builder.add(builder.lshr(code, NUMBER(4)), NUMBER(LABELS))
            both = builder.fadd(
                *(
                    builder.load(
                        pointer(builder, own, builder.mul(label, NUMBER(4)), FLOAT), align=4
                    )
                    for label in (low, high)
                ),
                flags=IN_ORDER,
            )
            builder.store(builder.fadd(builder.load(total), both, flags=IN_ORDER), total)
        return builder.load(total)

    number, real = types.int64, types.float32
    return real(number, number, number, real), generate


@njit
def round_up(entries, table):
    """Set table (2, n_planes, LABELS) uint8 to entries (2 * n_planes, LABELS) float32, rounded up.

    All have one step, from the least entry of each part on.

    Returns:
        step: float32, at least TINY.
        low: float64, the sum of the least entries.
        size: float64, the sum of the largest magnitudes.
    """
    widest, low, size = 0.0, 0.0, 0.0
    for j in range(entries.shape[0]):
        least = most = entries[j, 0]
        for c in range(LABELS):
            least = min(least, entries[j, c])
            most = max(most, entries[j, c])
        widest = max(widest, np.float64(most) - np.float64(least))
        low += np.float64(least)
        size += max(np.float64(most), -np.float64(least))
    if size > MAX_SIZE:
        return np.float32(TINY), low, size
    step = np.float32(max(widest / 255 * (1 + 2.0**-20), TINY))
    inverse = 1 / np.float64(step)
    for j in range(entries.shape[0]):
        least = entries[j, 0]
        for c in range(LABELS):
            least = min(least, entries[j, c])
        for c in range(LABELS):
            above = (np.float64(entries[j, c]) - np.float64(least)) * inverse
            table[j % 2, j // 2, c] = min(np.ceil(above), 255.0)
    return step, low, size


@njit
def bound_from(base, low, size, n_parts):
    """Return the float32 from which bounds start.

    Sums in float32 of base and one entry of each part, and bounds of them, are off by less than
    the slack: each of n_parts + 1 additions by 2**-24 of |base| + size, and bounds, which are up to
    5 times as large, by three roundings; TINY covers what subnormal numbers round. The bound is inf
    where sums may overflow.
    """
    size += abs(np.float64(base))
    if size > MAX_SIZE:
        return np.float32(np.inf)
    return np.float32(base + low + (n_parts + 4) * 2.0**-22 * size + TINY)


@njit
def scan_nibbles(op, coding, queries, lists, probes, keep, buffers):
    """Push the same rows as `scan_codes` of codes.py for codes of 4 bits, with the same scores.

    Arguments are those of `scan_codes`. There are MAX_PARTS parts at most.
    """
    keys, counts, least = buffers
    payload, _, _, following, first, sizes = lists
    _, n_planes, tail, _, codewords, centroids, _ = coding
    m = codewords.shape[0]
    entries = np.full((2 * n_planes, LABELS), np.float32(-0.0))  # adds nothing, where m is odd
    table = np.zeros((2, n_planes, LABELS), np.uint8)
    first_block = address(payload)
    block_bytes = payload.shape[1] * BLOCK
    entries_at, table_at = address(entries), address(table)
    for q in range(queries.shape[0]):
        for j in range(m):
            fill_entries(op, coding, queries[q], j, entries[j])
        step, low, size = round_up(entries, table)
        needed = least[q]
        for p in range(probes.shape[1]):
            number = probes[q, p]
            block = np.int64(first[number])
            rows_left = sizes[number]
            base = base_score(op, tail, queries[q], centroids[number])
            start = bound_from(base, low, size, m)
            while rows_left > 0:
                codes_at = first_block + block * block_bytes
                mask = _reaching(codes_at, n_planes, table_at, start, step, tail, needed)
                if rows_left < BLOCK:
                    mask &= (1 << rows_left) - 1
                while mask:
                    lane = lowest_bit(mask)
                    mask &= mask - 1
                    score = _sum_of_row(codes_at + lane, n_planes, entries_at, base)
                    if tail != NONE:
                        bits = np.uint32(0)
                        for i in range(4):
                            byte = np.uint32(payload[block, n_planes + i, lane])
                            bits |= byte << np.uint32(8 * i)
                        factor = from_bits(bits)
                        score = score - factor if tail == MINUS else score * factor
                    if score >= needed:
                        key = key_of_row(score, block * BLOCK + lane)
                        if push(key, q, keep, keys, counts, None):
                            needed = score_of(keys[q, keep - 1])
                block = np.int64(following[block])
                rows_left -= BLOCK
