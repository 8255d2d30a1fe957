"""Candidates as SIMD lanes: the distances of a few points to all candidates of a round of k-means++."""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .ir import FLOATS, FUSED, NUMBER, WIDTH, pointer, splat

NOISE = np.float32(
    1e-6
)  # relative to the norms: below it an expanded distance is rounding, and the point a duplicate
CANDIDATES = 16  # lanes
AT_ONCE = 8 if WIDTH == 16 else 4  # points whose sums are in registers together


@intrinsic
def try_points(
    _typing,
    rows,
    row_bytes,
    row_index,
    index,
    lanes,
    n_dims,
    norms,
    own,
    inverse,
    inverse_bytes,
    nearest,
    values,
    masks,
):
    """Squared distances of AT_ONCE points and all candidates, and which are less than the points' nearest so far; if any.

    Addresses: rows, the first one's, and row_index (AT_ONCE,) int32 which of them; index (AT_ONCE,) int32 of the points in own
    (N,) squared norms, inverse norms, inverse_bytes apart, and nearest (N,); lanes (D, CANDIDATES) and norms (3, CANDIDATES) of
    the candidates: a term of the distance, what products start from, and noise beyond that of the norms.
    OUT values (AT_ONCE, CANDIDATES), masks (AT_ONCE,) int64: a bit per candidate. This is the one place where distances are
    computed: a point has the same ones whichever way it came here.
    """
    vectors = range(CANDIDATES // WIDTH)
    single, short = ir.FloatType(), ir.IntType(32)

    def generate(_context, builder, _signature, args):
        (
            rows,
            row_bytes,
            row_index,
            index,
            lanes,
            n_dims,
            norms,
            own,
            inverse,
            inverse_bytes,
            nearest,
            values,
            masks,
        ) = args

        def place(base, p):
            return builder.sext(builder.load(pointer(builder, base, 4 * p, short)), NUMBER)

        at = [
            builder.add(rows, builder.mul(place(row_index, p), row_bytes)) for p in range(AT_ONCE)
        ]
        zero = FLOATS([0.0] * WIDTH)
        starts = [
            builder.load(pointer(builder, norms, 4 * (CANDIDATES + WIDTH * v), FLOATS), align=4)
            for v in vectors
        ]
        noises = [
            builder.load(pointer(builder, norms, 4 * (2 * CANDIDATES + WIDTH * v), FLOATS), align=4)
            for v in vectors
        ]
        sums = [[cgutils.alloca_once_value(builder, start) for start in starts] for _ in at]
        with cgutils.for_range(builder, n_dims) as loop:
            column = builder.add(lanes, builder.mul(loop.index, NUMBER(4 * CANDIDATES)))
            factors = [
                builder.load(pointer(builder, column, 4 * WIDTH * v, FLOATS), align=4)
                for v in vectors
            ]
            for row, totals in zip(at, sums, strict=True):
                x = splat(
                    builder,
                    builder.load(pointer(builder, row, builder.mul(loop.index, NUMBER(4)), single)),
                    FLOATS,
                )
                for v in vectors:
                    product = builder.fmul(x, factors[v], flags=FUSED)
                    builder.store(
                        builder.fadd(builder.load(totals[v]), product, flags=FUSED), totals[v]
                    )
        some = NUMBER(0)
        for p, totals in enumerate(sums):
            i = place(index, p)
            offset = builder.mul(i, NUMBER(4))
            mine, least = (
                splat(builder, builder.load(pointer(builder, a, offset, single)), FLOATS)
                for a in (own, nearest)
            )
            by = builder.load(pointer(builder, inverse, builder.mul(i, inverse_bytes), single))
            by = splat(builder, builder.fadd(by, by), FLOATS)
            mask = NUMBER(0)
            for v in vectors:
                both = builder.fadd(
                    builder.load(pointer(builder, norms, 4 * WIDTH * v, FLOATS), align=4), mine
                )
                value = builder.fsub(both, builder.fmul(by, builder.load(totals[v])))
                noise = builder.fadd(builder.fmul(both, FLOATS([float(NOISE)] * WIDTH)), noises[v])
                value = builder.select(builder.fcmp_ordered("<", value, noise), zero, value)
                builder.store(
                    value,
                    pointer(builder, values, 4 * (CANDIDATES * p + WIDTH * v), FLOATS),
                    align=4,
                )
                bits = builder.bitcast(builder.fcmp_ordered("<", value, least), ir.IntType(WIDTH))
                mask = builder.or_(mask, builder.shl(builder.zext(bits, NUMBER), NUMBER(WIDTH * v)))
            builder.store(mask, pointer(builder, masks, 8 * p, NUMBER))
            some = builder.or_(some, mask)
        return some

    return types.int64(*[types.int64] * 13), generate
