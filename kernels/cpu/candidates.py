"""Measure a few points at a time against all candidates of a round of k-means++.

Candidates are SIMD lanes. See seed.py, which draws them.
"""

from typing import NamedTuple

import numpy as np
from llvmlite import ir

from .int8 import Int8Centroids
from .ir import FLOATS, FUSED, NUMBER, WIDTH, address, pointer, prefetch, splat
from .jit import cgutils, intrinsic, njit, types
from .rows import row_at
from .sizes import DEBUG

# Relative to the norms: an expanded distance below it is rounding, and the point a duplicate.
NOISE = np.float32(1e-6)
CANDIDATES = 16  # lanes
AT_ONCE = 8 if WIDTH == 16 else 4  # points whose sums are in registers together


class Candidates(NamedTuple):
    """Candidates of a round, and what each would gain.

    Attributes:
        lanes: (D, CANDIDATES) float32.
        norms: (3, CANDIDATES) float32, as in candidates.py.
        rows: (CANDIDATES, D) float32.
        features: (CANDIDATES, Q) float32.
        bias: (CANDIDATES,) float32 of the scores of features or bytes.
        table: The candidates as bytes.
        least: (1,) float32, the least of a term of distances, see near.py.
        picks: (CANDIDATES + 1,) int64, points; picks[0] < 0 if there are none. The last is the
            number of the winner.
        number: (1,) int64, candidates of this round.
        counts: (S,) int64, points found by each shard.
        gains: (S, CANDIDATES) float64.
    """

    lanes: np.ndarray
    norms: np.ndarray
    rows: np.ndarray
    features: np.ndarray
    bias: np.ndarray
    table: Int8Centroids
    least: np.ndarray
    picks: np.ndarray
    number: np.ndarray
    counts: np.ndarray
    gains: np.ndarray


class SeedScratch(NamedTuple):
    """Memory of one thread.

    Attributes:
        rows: (AT_ONCE, 1, D) float32.
        identity: (AT_ONCE,) int32, 0, 1, 2, ...
        values: (AT_ONCE * CANDIDATES,) float32, squared distances.
        masks: (AT_ONCE or ROWS,) int64.
        none: (POINTS,) int32, -1.
        idle: (POINTS,) float32, written and not read.
        limits: (3, POINTS) float32.
        bounds: (ROWS, POINTS) float32.
        points: (SCAN + AT_ONCE,) int32, points to try.
    """

    rows: np.ndarray
    identity: np.ndarray
    values: np.ndarray
    masks: np.ndarray
    none: np.ndarray
    idle: np.ndarray
    limits: np.ndarray
    bounds: np.ndarray
    points: np.ndarray


class Places(NamedTuple):
    """Addresses, strides and sizes for `_try_points`; see there."""

    points: np.int64
    lanes: np.int64
    n_dims: np.int64
    norms: np.int64
    own: np.int64
    inverse: np.int64
    inverse_bytes: np.int64
    nearest: np.int64
    values: np.int64
    masks: np.int64
    rows: np.int64
    row_bytes: np.int64
    identity: np.int64


@intrinsic
def _try_points(
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
    """Measure AT_ONCE points against all candidates; return whether any is nearer than `nearest`.

    Addresses: rows, of the first row, and row_index (AT_ONCE,) int32, which rows; index (AT_ONCE,)
    int32 of the points in own (N,) squared norms, inverse norms, inverse_bytes apart, and
    nearest (N,); lanes (D, CANDIDATES) and norms (3, CANDIDATES) of the candidates: a term of the
    distance, the start of products, and noise beyond that of the norms.
    OUT values (AT_ONCE, CANDIDATES) squared distances; masks (AT_ONCE,) int64, a bit per candidate.
    Distances are computed here only: a point has the same ones whichever way it came here.
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

        def norms_at(row, v):
            offset = 4 * (row * CANDIDATES + WIDTH * v)
            return builder.load(pointer(builder, norms, offset, FLOATS), align=4)

        at = [
            builder.add(rows, builder.mul(place(row_index, p), row_bytes)) for p in range(AT_ONCE)
        ]
        zero = FLOATS([0.0] * WIDTH)
        starts = [norms_at(1, v) for v in vectors]
        noises = [norms_at(2, v) for v in vectors]
        sums = [[cgutils.alloca_once_value(builder, start) for start in starts] for _ in at]
        with cgutils.for_range(builder, n_dims) as loop:
            column = builder.add(lanes, builder.mul(loop.index, NUMBER(4 * CANDIDATES)))
            factors = [
                builder.load(pointer(builder, column, 4 * WIDTH * v, FLOATS), align=4)
                for v in vectors
            ]
            offset = builder.mul(loop.index, NUMBER(4))
            for row, totals in zip(at, sums, strict=True):
                x = splat(builder, builder.load(pointer(builder, row, offset, single)), FLOATS)
                for v in vectors:
                    product = builder.fmul(x, factors[v], flags=FUSED)
                    total = builder.fadd(builder.load(totals[v]), product, flags=FUSED)
                    builder.store(total, totals[v])
        nearer = NUMBER(0)
        for p, totals in enumerate(sums):
            i = place(index, p)
            offset = builder.mul(i, NUMBER(4))
            own_norm = splat(builder, builder.load(pointer(builder, own, offset, single)), FLOATS)
            least = splat(builder, builder.load(pointer(builder, nearest, offset, single)), FLOATS)
            offset = builder.mul(i, inverse_bytes)
            inverse_norm = builder.load(pointer(builder, inverse, offset, single))
            factor = splat(builder, builder.fadd(inverse_norm, inverse_norm), FLOATS)
            mask = NUMBER(0)
            for v in vectors:
                both = builder.fadd(norms_at(0, v), own_norm)
                value = builder.fsub(both, builder.fmul(factor, builder.load(totals[v])))
                noise = builder.fadd(builder.fmul(both, FLOATS([float(NOISE)] * WIDTH)), noises[v])
                value = builder.select(builder.fcmp_ordered("<", value, noise), zero, value)
                value_at = pointer(builder, values, 4 * (CANDIDATES * p + WIDTH * v), FLOATS)
                builder.store(value, value_at, align=4)
                bits = builder.bitcast(builder.fcmp_ordered("<", value, least), ir.IntType(WIDTH))
                mask = builder.or_(mask, builder.shl(builder.zext(bits, NUMBER), NUMBER(WIDTH * v)))
            builder.store(mask, pointer(builder, masks, 8 * p, NUMBER))
            nearer = builder.or_(nearer, mask)
        return nearer

    return types.int64(*[types.int64] * 13), generate


@njit
def places_of(measure, candidates, nearest, scratch):
    """Return the places, which are the same for all points of a shard."""
    return Places(
        address(scratch.points),
        address(candidates.lanes),
        np.int64(candidates.lanes.shape[0]),
        address(candidates.norms),
        address(measure.own),
        address(measure.inverse),
        np.int64(4 if measure.inverse.size > 1 else 0),
        address(nearest),
        address(scratch.values),
        address(scratch.masks),
        address(scratch.rows),
        np.int64(scratch.rows.strides[0]),
        address(scratch.identity),
    )


@njit
def try_some(source, places, rows, index, first, count, n_points):
    """Call `_try_points` for index[first:first + AT_ONCE].

    Past the end (count), the last point is tried again; index goes on that far.
    """
    for p in range(count - first, AT_ONCE):
        index[first + p] = index[count - 1]
    if DEBUG:
        for p in range(AT_ONCE):
            if index[first + p] < 0 or index[first + p] >= n_points:
                raise IndexError("no such point")
    here = places.points + 4 * first
    base, row_bytes, row_index = source.address, source.row_stride, here
    if not source.direct:
        for p in range(AT_ONCE):
            row_at(source, np.int64(index[first + p]), rows[p])
        base, row_bytes, row_index = places.rows, places.row_bytes, places.identity
    return _try_points(
        base,
        row_bytes,
        row_index,
        here,
        places.lanes,
        places.n_dims,
        places.norms,
        places.own,
        places.inverse,
        places.inverse_bytes,
        places.nearest,
        places.values,
        places.masks,
    )


@njit(inline="always")
def fetch_next(source, places, index, first):
    """Have the rows of the next call of `try_some` brought to the cache: they are not in line."""
    if source.direct:
        for p in range(first + AT_ONCE, first + 2 * AT_ONCE):
            prefetch(source.address + index[p] * source.row_stride, 4 * places.n_dims)
