"""Rows of x as float32, shifted and scaled: how every kernel reads its points, whatever their dtype and strides.

Kernels take x by address, so that one compilation serves all. A source is the tuple (address, row_stride, column_stride,
kind, direct, shift (D,) float64, factor); strides are in bytes, `direct` says that the rows can be used where they are.
Sources of a batch are (address, member_stride, row_stride, column_stride, kind, direct (B,), shifts (B, D), factors (B,)).
"""

import numpy as np
from numba import carray, types  # pyright: ignore[reportPrivateImportUsage]
from numba.extending import intrinsic

from .jit import njit
from .options import INNER, JIT

FLOAT32, FLOAT64, FLOAT16, BFLOAT16 = 0, 1, 2, 3


@intrinsic
def _pointer(_typing, address, dtype):
    """The address as a pointer to values of dtype."""

    def generate(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(dtype.dtype)(types.int64, dtype), generate


@njit(**INNER)
def values_at(address, dtype, shape):
    return carray(_pointer(address, dtype), shape)  # pyright: ignore[reportCallIssue]


@njit(**INNER)
def element(sources, b):
    """The source of batch element b."""
    address, element_stride, row_stride, column_stride, kind, direct, shifts, factors = sources
    return (
        address + b * element_stride,
        row_stride,
        column_stride,
        kind,
        direct[b],
        shifts[b],
        factors[b],
    )


@njit(**INNER)
def _convert(first, row_stride, column_stride, dtype, width, n, shift, factor, out):
    for i in range(n):
        row = first + i * row_stride
        if column_stride == width:
            values = values_at(row, dtype, shift.size)
            for d in range(shift.size):
                out[i, d] = (values[d] - shift[d]) * factor
        else:
            for d in range(shift.size):
                out[i, d] = (values_at(row + d * column_stride, dtype, 1)[0] - shift[d]) * factor


@njit(**INNER)
def _decode16(first, row_stride, column_stride, left, rescale, n, shift, factor, out):
    # float16 and bfloat16 have the float32 layout but for the width of their exponent: moved into place as integers,
    # they are off by one power of two (`rescale`), denormals included.
    bits = out.view(np.int32)
    for i in range(n):
        row = first + i * row_stride
        if column_stride == 2:
            values = values_at(row, np.uint16, shift.size)
            for d in range(shift.size):
                h = np.int32(values[d])
                bits[i, d] = ((h & 0x7FFF) << left) | ((h & 0x8000) << 16)
        else:
            for d in range(shift.size):
                h = np.int32(values_at(row + d * column_stride, np.uint16, 1)[0])
                bits[i, d] = ((h & 0x7FFF) << left) | ((h & 0x8000) << 16)
        for d in range(shift.size):
            out[i, d] = (out[i, d] * rescale - shift[d]) * factor


@intrinsic
def not_inlined(_typing):
    """Keep the function that this is in out of its callers: a dozen kernels read rows."""

    def generate(context, builder, _signature, _args):
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), generate


@njit(**INNER)
def _convert_rows(source, lo, n, out):
    not_inlined()  # pyright: ignore[reportCallIssue]
    address, row_stride, column_stride, kind, _, shift, factor = source
    first = address + lo * row_stride
    if kind == FLOAT32:
        _convert(first, row_stride, column_stride, np.float32, 4, n, shift, factor, out)
    elif kind == FLOAT64:
        _convert(first, row_stride, column_stride, np.float64, 8, n, shift, factor, out)
    elif kind == FLOAT16:
        _decode16(first, row_stride, column_stride, 13, np.float32(2.0**112), n, shift, factor, out)
    else:
        _decode16(first, row_stride, column_stride, 16, np.float32(1.0), n, shift, factor, out)


@njit(**JIT)
def read_rows(source, lo, n, out):
    """Rows lo:lo+n in the frame, float32 (n, D): in `out`, or x's own memory where nothing needs doing."""
    if source[4]:
        return values_at(source[0] + lo * source[1], np.float32, (n, source[5].size))
    _convert_rows(source, lo, n, out)
    return out[:n]


@njit(**INNER)
def row_at(source, i, out):
    """The address of row i in the frame: in out (1, D), or in x's own memory."""
    if source[4]:
        return source[0] + i * source[1]
    read_rows(source, i, np.int64(1), out)
    return np.int64(out.ctypes.data)


@njit(**INNER)
def kept_rows(source, rows):
    """The source of rows (N, D) that were read into an array."""
    _, shift, factor = source[4:]
    return np.int64(rows.ctypes.data), 4 * shift.size, 4, FLOAT32, True, shift, factor
