"""LLVM instructions that kernels are written in, where Numba's vectorizer does not keep sums in registers."""

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .jit import njit
from .options import INNER, JIT

_FEATURES = llvm.get_host_cpu_features()
# Values in a vector register, and vectors of points at a time: what fits the registers beside ROWS centroids.
WIDTH, VECTORS = (
    (16, 4) if _FEATURES.get("avx512f") else (8, 2) if _FEATURES.get("avx2") else (4, 4)
)

NUMBER, FLOATS, INTS = (
    ir.IntType(64),
    ir.VectorType(ir.FloatType(), WIDTH),
    ir.VectorType(ir.IntType(32), WIDTH),
)
FUSED = ("contract",)


def pointer(builder, base, offset, kind):
    """The address base + offset (bytes, an int or a value) as a pointer to `kind`."""
    offset = NUMBER(offset) if isinstance(offset, int) else offset
    return builder.inttoptr(builder.add(base, offset), kind.as_pointer())


def splat(builder, value, kind):
    """A vector of one value."""
    single = builder.insert_element(kind(ir.Undefined), value, ir.IntType(32)(0))
    zeros = ir.VectorType(ir.IntType(32), kind.count)([0] * kind.count)
    return builder.shuffle_vector(single, kind(ir.Undefined), zeros)


@intrinsic
def _lowest_bit(_typing, bits):
    """The number of zeros below the lowest one."""

    def generate(_context, builder, _signature, args):
        return builder.cttz(args[0], ir.IntType(1)(1))

    return types.int64(types.int64), generate


@njit(**JIT)
def address(a):
    """Where an array begins, as a signed integer."""
    return np.int64(a.ctypes.data)


@njit(**INNER)
def lowest_bit(bits):
    """The place of the lowest one in an int64 other than 0."""
    return _lowest_bit(bits)  # pyright: ignore[reportCallIssue]  # the typing context is not an argument
