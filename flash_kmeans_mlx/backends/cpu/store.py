"""Points as the kernels read them: any dtype and strides, and the frame to read them in."""

from __future__ import annotations

import math
from copy import copy
from typing import Any

import mlx.core as mx
import numpy as np

from ... import frame as frames
from ...metrics import Metric
from ...validation import check_magnitude

__all__ = ["Rows", "Store", "empty_lines"]

_KINDS = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 3}  # as in kernels/cpu/rows.py
_CHUNK = 1 << 16  # values decoded at a time


class Store:
    """x (B, N, D) in host memory, never copied.

    Attributes:
        x: read-only view, float32, float64, or uint16 holding the bits of a 16-bit float.
        frame: the frame chosen for it.
        direct: (B,) bool, batch elements whose memory holds the rows that kernels want.
        sources: all batch elements as kernels take them; see kernels/cpu/rows.py.
    """

    def __init__(
        self, x: Any, metric: Metric, check_finite: bool, given_shape: tuple[int, ...]
    ) -> None:
        name = ""
        if isinstance(x, mx.array) and x.dtype == mx.bfloat16:
            x, name = x.view(mx.uint16), "bfloat16"
        array = np.asarray(x)
        name = name or str(array.dtype)
        array = array.view(np.uint16) if name == "float16" else array.view()
        array.flags.writeable = False  # memory maps and MLX's own buffers come here
        self.x = array
        self.kind = name
        sample = self.decode(array[:, :: frames.sample_step(array.shape[1])])
        magnitude = np.abs(sample).reshape(len(sample), -1).max(1).astype(np.float64)
        if check_finite and not self._surely_fine(magnitude):
            magnitude = np.array([self._magnitude(element) for element in array])
        if check_finite:
            check_magnitude(magnitude, given_shape)
        self.use(frames.choose(sample, magnitude, metric))

    def use(self, frame: frames.Frame) -> None:
        """Read rows in this frame."""
        self.frame = frame
        self.sources = self._sources(frame)
        self.direct = self.sources[-3]
        moved = frame.metric.spherical and frame.shifted
        self._unshifted = (
            self._sources(frame.unshifted(np.ones(len(self.x), bool))) if moved else self.sources
        )

    def _sources(self, frame: frames.Frame) -> tuple:
        array = self.x
        direct = frame.identity & (self.kind == "float32" and array[0].flags.c_contiguous)
        return (
            array.ctypes.data,
            *array.strides,
            _KINDS[self.kind],
            direct,
            frame.shift,
            1.0 / frame.scale,
        )

    def source(self, b: int) -> tuple:
        """Member b as kernels take it."""
        return _element(self.sources, b)

    def unshifted(self, b: int) -> tuple:
        """Member b for what needs the directions of rows: without a shift if centroids are unit vectors."""
        return _element(self._unshifted, b)

    def decode(self, values: np.ndarray) -> np.ndarray:
        """Some of x's values as floats."""
        if self.kind == "float16":
            return values.view(np.float16).astype(np.float32)
        if self.kind == "bfloat16":
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values

    def _surely_fine(self, magnitude: np.ndarray) -> bool:
        """One pass of BLAS: a finite sum of squares means finite values, and bounds them all."""
        if (
            self.x.dtype == np.uint16
            or not self.x.flags.c_contiguous
            or (magnitude < frames.SMALL).any()
        ):
            return False
        flat = self.x.reshape(-1)
        with np.errstate(over="ignore", invalid="ignore"):
            return bool(np.sqrt(np.dot(flat, flat)) < frames.LARGE)

    def _magnitude(self, element: np.ndarray) -> float:
        step = max(1, _CHUNK // element.shape[1])
        chunks = (element[s : s + step] for s in range(0, len(element), step))
        return float(np.max([np.abs(self.decode(chunk)).max() for chunk in chunks]))


def _element(sources: tuple, b: int) -> tuple:
    address, element_stride, row_stride, column_stride, kind, direct, shift, factor = sources
    return (
        address + b * element_stride,
        row_stride,
        column_stride,
        kind,
        direct[b],
        shift[b],
        factor[b],
    )


def empty_lines(shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
    """An empty array that begins with a line of the cache, which is 64 bytes: vectors across two load at half the rate."""
    size = math.prod(shape)
    buffer = np.empty(size + 16, dtype)
    skip = -buffer.ctypes.data % 64 // buffer.itemsize
    return buffer[skip : skip + size].reshape(shape)


class Rows:
    """A batch (B, N, D) in host memory, never copied."""

    def __init__(self, x: Any) -> None:
        name = ""
        if isinstance(x, mx.array) and x.dtype == mx.bfloat16:
            x, name = x.view(mx.uint16), "bfloat16"
        array = np.asarray(x)
        self.name = name or str(array.dtype)
        self.x = array.view(np.uint16) if self.name == "float16" else array

    def decode(self, values: np.ndarray) -> np.ndarray:
        """Some of x's values as floats."""
        if self.name == "float16":
            return values.view(np.float16)
        return (
            (values.astype(np.uint32) << 16).view(np.float32) if self.name == "bfloat16" else values
        )

    def some(self, b: int, index: np.ndarray) -> Rows:
        """A copy of some rows of batch element b."""
        own = copy(self)
        own.x = self.x[b : b + 1, index]
        return own

    def source(self, b: int, shift: np.ndarray | None = None, scale: float = 1.0) -> tuple:
        """Member b as kernels take it: see kernels/cpu/rows.py."""
        element = self.x[b]
        plain = shift is None and scale == 1.0
        direct = plain and self.name == "float32" and element.flags.c_contiguous
        shift = np.zeros(element.shape[1]) if shift is None else shift
        return (
            int(element.ctypes.data),
            *map(int, element.strides),
            _KINDS[self.name],
            bool(direct),
            shift,
            float(1.0 / scale),
        )
