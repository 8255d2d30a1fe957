"""Helpers for kernels written in LLVM's language, where Numba keeps no sums in registers."""

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import config
from numba.extending import intrinsic

from .jit import njit
from .options import INNER


def _features():
    """Return the features of the CPU to compile for: those that Numba was told, or this one's."""
    told: str | None = getattr(config, "CPU_FEATURES")  # noqa: B009  # unknown to type checkers
    if told is None:
        return {name for name, has in llvm.get_host_cpu_features().items() if has}
    return {name[1:] for name in told.split(",") if name[:1] == "+"}


_FEATURES = _features()
# Values in a vector register, and vectors of points at a time: as many as fit the registers
# beside lanes.ROWS centroids.
if "avx512f" in _FEATURES:
    WIDTH, VECTORS = 16, 4
elif "avx2" in _FEATURES:
    WIDTH, VECTORS = 8, 2
else:
    WIDTH, VECTORS = 4, 4
# How four bytes are multiplied with four others and added up, or "" where it takes too long.
INT8 = ""
if {"avx512f", "avx512vnni"} <= _FEATURES or ("avxvnni" in _FEATURES and WIDTH == 8):
    INT8 = "vnni"
elif WIDTH == 8:
    INT8 = "avx2"
elif "dotprod" in _FEATURES:
    INT8 = "sdot"

NUMBER = ir.IntType(64)
FLOATS = ir.VectorType(ir.FloatType(), WIDTH)
INTS = ir.VectorType(ir.IntType(32), WIDTH)
FUSED = ("contract",)


def pointer(builder, base, offset, kind):
    """Return the address base + offset (bytes, an int or a value) as a pointer to `kind`."""
    offset = NUMBER(offset) if isinstance(offset, int) else offset
    return builder.inttoptr(builder.add(base, offset), kind.as_pointer())


def splat(builder, value, kind):
    """Return a vector whose elements all are this value."""
    single = builder.insert_element(kind(ir.Undefined), value, ir.IntType(32)(0))
    zeros = ir.VectorType(ir.IntType(32), kind.count)([0] * kind.count)
    return builder.shuffle_vector(single, kind(ir.Undefined), zeros)


@intrinsic
def _lowest_bit(_typing, bits):
    """Return the number of zeros below the lowest one."""

    def generate(_context, builder, _signature, args):
        return builder.cttz(args[0], ir.IntType(1)(1))

    return types.int64(types.int64), generate


@njit(inline="always", **INNER)  # a call would count the array's references, in inner loops
def address(a):
    """Return where an array begins, as a signed integer."""
    return np.int64(a.ctypes.data)


@njit(**INNER)
def lowest_bit(bits):
    """Return the place of the lowest one in an int64 other than 0."""
    return _lowest_bit(bits)  # pyright: ignore[reportCallIssue]  # the typing context is not an argument
