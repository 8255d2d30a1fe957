"""Points as SIMD lanes: scores of a tile that never leave the registers, with the best centroid of every point beside them.

BLAS is made for large products. Here one factor is a tile of points, transposed once, the other a table of centroids; the
inner loop multiplies a few vectors of points with a few centroids at a time. It is written in LLVM's language, as its
vectorizer does not keep a block of sums in registers.
"""

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .blas import JIT, NEG_INF

_FEATURES = llvm.get_host_cpu_features()
# Values in a vector register, and vectors of points at a time: what fits the registers beside ROWS centroids.
WIDTH, VECTORS = (16, 4) if _FEATURES.get("avx512f") else (8, 2) if _FEATURES.get("avx2") else (4, 4)
ROWS = 4
POINTS = WIDTH * VECTORS  # tiles are made of these


@intrinsic
def _best_of_rows(_typing, lanes, stride, n_dims, c, bias, k, n_clusters, best, label):
    """Centroids k:k+ROWS against POINTS points: raise best and label where one of them scores more.

    Addresses: lanes, of the points' first coordinates, the next ones `stride` bytes on; c (K, D), bias (K,), best and label
    (POINTS,). Past the last centroid that one is tried again, which changes nothing.
    """
    number, floats, ints = ir.IntType(64), ir.VectorType(ir.FloatType(), WIDTH), ir.VectorType(ir.IntType(32), WIDTH)

    def generate(_context, builder, _signature, args):
        lanes, stride, n_dims, c, bias, k, n_clusters, best, label = args
        last = builder.sub(n_clusters, number(1))
        row_bytes = builder.mul(n_dims, number(4))

        def pointer(base, offset, kind):
            return builder.inttoptr(builder.add(base, offset), kind.as_pointer())

        def vector(v):
            return number(4 * WIDTH * v)

        def splat(value, kind):
            single = builder.insert_element(kind(ir.Undefined), value, ir.IntType(32)(0))
            return builder.shuffle_vector(single, kind(ir.Undefined), ir.VectorType(ir.IntType(32), WIDTH)([0] * WIDTH))

        index = []
        for r in range(ROWS):
            i = builder.add(k, number(r))
            index.append(builder.select(builder.icmp_signed("<", i, last), i, last))
        sums = [[cgutils.alloca_once(builder, floats) for _ in range(VECTORS)] for _ in range(ROWS)]
        for r in range(ROWS):
            start = splat(builder.load(pointer(bias, builder.mul(index[r], number(4)), ir.FloatType())), floats)
            for v in range(VECTORS):
                builder.store(start, sums[r][v])
        with cgutils.for_range(builder, n_dims) as loop:
            at = builder.add(lanes, builder.mul(loop.index, stride))
            points = [builder.load(pointer(at, vector(v), floats), align=4) for v in range(VECTORS)]
            for r in range(ROWS):
                offset = builder.add(builder.mul(index[r], row_bytes), builder.mul(loop.index, number(4)))
                factor = splat(builder.load(pointer(c, offset, ir.FloatType())), floats)
                for v in range(VECTORS):
                    product = builder.fmul(points[v], factor, flags=("contract",))
                    builder.store(builder.fadd(builder.load(sums[r][v]), product, flags=("contract",)), sums[r][v])
        for v in range(VECTORS):
            best_at, label_at = pointer(best, vector(v), floats), pointer(label, vector(v), ints)
            most, owner = builder.load(best_at, align=4), builder.load(label_at, align=4)
            for r in range(ROWS):
                score = builder.load(sums[r][v])
                better = builder.fcmp_ordered(">", score, most)
                most = builder.select(better, score, most)
                owner = builder.select(better, splat(builder.trunc(index[r], ir.IntType(32)), ints), owner)
            builder.store(most, best_at, align=4)
            builder.store(owner, label_at, align=4)
        return _context.get_dummy_value()

    return types.void(*[types.int64] * 9), generate


@njit(**JIT)
def to_lanes(rows, lanes):
    """lanes (D, n) = rows (n, D) transposed."""
    for i in range(rows.shape[0]):
        for d in range(rows.shape[1]):
            lanes[d, i] = rows[i, d]


@njit(**JIT)
def best_by_lanes(n, lanes, c, bias, best, label):
    """label[i] = argmax_k <points[i], c[k]> + bias[k] for n points along lanes (D, ...), ties to the lowest k.

    lanes, best and label go on to the next multiple of POINTS.
    """
    for i in range(n):
        best[i] = NEG_INF
        label[i] = 0
    for i in range(0, n, POINTS):
        for k in range(0, c.shape[0], ROWS):
            _best_of_rows(  # pyright: ignore[reportCallIssue]  # the typing context is not an argument
                np.int64(lanes.ctypes.data) + 4 * i,
                np.int64(lanes.strides[0]),
                c.shape[1],
                np.int64(c.ctypes.data),
                np.int64(bias.ctypes.data),
                k,
                c.shape[0],
                np.int64(best.ctypes.data) + 4 * i,
                np.int64(label.ctypes.data) + 4 * i,
            )
