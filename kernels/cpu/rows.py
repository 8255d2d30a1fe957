"""Rows of x as float32, shifted and scaled: how every kernel reads its points, whatever their dtype and strides."""

import numpy as np
from numba import njit, types
from numba.extending import overload

from .blas import JIT


@njit(**JIT)
def _convert(x, lo, n, shift, factor, out):
    for i in range(n):
        for d in range(x.shape[1]):
            out[i, d] = (x[lo + i, d] - shift[d]) * factor


@njit(**JIT)
def _decode16(x, lo, n, shift, factor, left, rescale, out):
    # float16 and bfloat16 have the float32 layout but for the width of their exponent: moved into place as integers,
    # they are off by one power of two (`rescale`), denormals included.
    bits = out.view(np.int32)
    for i in range(n):
        for d in range(x.shape[1]):
            h = np.int32(x[lo + i, d])
            bits[i, d] = ((h & 0x7FFF) << left) | ((h & 0x8000) << 16)
        for d in range(x.shape[1]):
            out[i, d] = (out[i, d] * rescale - shift[d]) * factor


def read_rows(x, lo, n, frame, out):
    """Rows lo:lo+n of x (N, D) in the frame, float32 (n, D): in `out`, or x's own memory where nothing needs doing.

    frame: (direct, shift (D,), factor, left, rescale); x: float32 or float64, or uint16 holding the bits of float16
    (left=13, rescale=2**112) or bfloat16 (left=16, rescale=1).
    """
    raise NotImplementedError  # compiled only: the overload below


@overload(read_rows)
def _read_rows(x, lo, n, frame, out):
    if x.dtype == types.uint16:

        def read(x, lo, n, frame, out):
            _decode16(x, lo, n, frame[1], frame[2], frame[3], frame[4], out)
            return out[:n]

    elif x.dtype == types.float32 and x.layout == "C":

        def read(x, lo, n, frame, out):
            if frame[0]:
                return x[lo : lo + n]
            _convert(x, lo, n, frame[1], frame[2], out)
            return out[:n]

    else:

        def read(x, lo, n, frame, out):
            _convert(x, lo, n, frame[1], frame[2], out)
            return out[:n]

    return read
