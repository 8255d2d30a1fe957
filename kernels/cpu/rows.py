"""Read rows of x as float32, shifted and scaled, whatever their dtype and strides.

Kernels take x by address, so that one compilation serves all dtypes and strides.
"""

from typing import NamedTuple

import numpy as np

from .ir import address
from .jit import carray, intrinsic, njit, types

FLOAT32, FLOAT64, FLOAT16, BFLOAT16 = 0, 1, 2, 3
KINDS = {"float32": FLOAT32, "float64": FLOAT64, "float16": FLOAT16, "bfloat16": BFLOAT16}


class Source(NamedTuple):
    """Rows (N, D) of one batch element, read as ``(x - shift) * factor``.

    Attributes:
        address: Address of the first value.
        row_stride: Bytes from one row to the next.
        column_stride: Bytes from one value of a row to the next.
        kind: FLOAT32, FLOAT64, FLOAT16 or BFLOAT16.
        direct: Whether x's own memory holds the rows as kernels want them.
        shift: (D,) float64.
        factor: Float64.
    """

    address: int | np.int64
    row_stride: int | np.int64
    column_stride: int | np.int64
    kind: int | np.int64
    direct: bool | np.bool_
    shift: np.ndarray
    factor: float | np.float64


class Sources(NamedTuple):
    """Rows (B, N, D) of a batch; fields as in `Source`.

    Attributes:
        address: Address of the first value.
        element_stride: Bytes from one batch element to the next.
        row_stride: Bytes from one row to the next.
        column_stride: Bytes from one value of a row to the next.
        kind: FLOAT32, FLOAT64, FLOAT16 or BFLOAT16.
        direct: (B,) bool.
        shift: (B, D) float64.
        factor: (B,) float64.
    """

    address: int | np.int64
    element_stride: int | np.int64
    row_stride: int | np.int64
    column_stride: int | np.int64
    kind: int | np.int64
    direct: np.ndarray
    shift: np.ndarray
    factor: np.ndarray


@intrinsic
def _pointer(_typing, address, dtype):
    """Return the address as a pointer to values of dtype."""

    def generate(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(dtype.dtype)(types.int64, dtype), generate


@njit
def values_at(address, dtype, shape):
    """Return the values at an address as an array."""
    return carray(_pointer(address, dtype), shape)


@njit
def source_of(sources, b):
    """Return the source of batch element b."""
    return Source(
        sources.address + b * sources.element_stride,
        sources.row_stride,
        sources.column_stride,
        sources.kind,
        sources.direct[b],
        sources.shift[b],
        sources.factor[b],
    )


@njit
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


@njit
def _copy(first, row_stride, n, out):
    for i in range(n):
        values = values_at(first + i * row_stride, np.float32, out.shape[1])
        for d in range(out.shape[1]):
            out[i, d] = values[d]


@njit
def _decode16(first, row_stride, column_stride, left, rescale, n, shift, factor, out):
    # float16 and bfloat16 have the float32 layout but for the width of their exponent: moved into
    # place as integers, they are off by one power of two (`rescale`), denormals included.
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
    """Keep the function that calls this out of its own callers."""

    def generate(context, builder, _signature, _args):
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), generate


@njit
def _convert_rows(source, lo, n, out):
    not_inlined()  # a dozen kernels read rows
    first = source.address + lo * source.row_stride
    row_stride = source.row_stride
    column_stride = source.column_stride
    shift = source.shift
    factor = source.factor
    if source.kind == FLOAT32 and column_stride == 4 and factor == 1.0 and not shift.any():
        _copy(first, row_stride, n, out)
    elif source.kind == FLOAT32:
        _convert(first, row_stride, column_stride, np.float32, 4, n, shift, factor, out)
    elif source.kind == FLOAT64:
        _convert(first, row_stride, column_stride, np.float64, 8, n, shift, factor, out)
    elif source.kind == FLOAT16:
        _decode16(first, row_stride, column_stride, 13, np.float32(2.0**112), n, shift, factor, out)
    else:
        _decode16(first, row_stride, column_stride, 16, np.float32(1.0), n, shift, factor, out)


@njit
def read_rows(source, lo, n, out):
    """Return rows lo:lo+n, float32 (n, D): in `out`, or in x's own memory if that holds them."""
    if source.direct:
        first = source.address + lo * source.row_stride
        return values_at(first, np.float32, (n, source.shift.size))
    _convert_rows(source, lo, n, out)
    return out[:n]


@njit
def row_at(source, i, out):
    """Return the address of row i: in out (1, D), or in x's own memory if that holds it."""
    if source.direct:
        return source.address + i * source.row_stride
    read_rows(source, i, np.int64(1), out)
    return address(out)


@njit
def kept_rows(source, rows):
    """Return the source of rows (N, D) that were read into an array."""
    shift = source.shift
    return Source(
        address(rows),
        np.int64(4 * shift.size),
        np.int64(4),
        np.int64(FLOAT32),
        np.bool_(True),
        shift,
        source.factor,
    )
