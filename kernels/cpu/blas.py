"""What the CPU kernels share: single-precision GEMM by address, compiler flags.

A kernel receives the address of BLAS's ``sgemm`` as its first argument. (A function pointer captured by the kernel would
do as well, but makes it impossible for Numba to cache the machine code on disk.)
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

NEG_INF = np.float32(-np.inf)

# A literal 0 or 1 has a type of its own: as an argument, it would have a kernel compiled once more. Hence np.int64(0).
# `ninf` stays out: a running best starts at -inf. `nnan`: NaN is refused before a kernel sees it.
JIT = {
    "nogil": True,
    "cache": True,
    "error_model": "numpy",
    "fastmath": {"nnan", "nsz", "contract", "reassoc", "arcp"},
    "no_cfunc_wrapper": True,
}
INNER = {**JIT, "no_cpython_wrapper": True}  # for functions that only kernels call: half of what they take to compile


@intrinsic
def _sgemm(_typing, address, transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
    """Call Fortran's sgemm at `address`; every argument is a pointer held as an integer."""

    def generate(context, builder, _signature, args):
        pointer = ir.IntType(8).as_pointer()
        signature = ir.FunctionType(ir.VoidType(), [pointer] * 13)
        function = builder.inttoptr(args[0], signature.as_pointer())
        builder.call(function, [builder.inttoptr(a, pointer) for a in args[1:]])
        return context.get_dummy_value()

    return types.void(types.uintp, *[types.uintp] * 13), generate


@njit(**JIT)
def gemm_nt(sgemm, a, b, out, work):
    """``out[:, :] = a @ b.T`` for float32 rows; leading dimensions come from the strides. `work`: int32 (10,)."""
    work[0] = b.shape[0]
    work[1] = a.shape[0]
    work[2] = a.shape[1]
    work[3] = max(b.strides[0] // 4, b.shape[1])  # the stride of a single row can be anything
    work[4] = max(a.strides[0] // 4, a.shape[1])
    work[5] = max(out.strides[0] // 4, out.shape[1])
    work[6] = 84  # 'T'
    work[7] = 78  # 'N'
    work[8] = 1065353216  # the bits of 1.0f, alpha
    work[9] = 0  # beta
    p = work.ctypes.data
    # Fortran sees the transposes: out.T (K, n) = b (K, D) @ a.T (D, n).
    _sgemm(  # pyright: ignore[reportCallIssue]  # the typing context is not an argument
        sgemm,
        p + 24,
        p + 28,
        p,
        p + 4,
        p + 8,
        p + 32,
        b.ctypes.data,
        p + 12,
        a.ctypes.data,
        p + 16,
        p + 36,
        out.ctypes.data,
        p + 20,
    )
