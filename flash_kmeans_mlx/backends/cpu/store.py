"""Arrays on the host as kernels read them, whatever their dtype and strides."""

from __future__ import annotations

import math
from copy import copy
from typing import Any

import mlx.core as mx
import numpy as np

from ... import frame as frames
from ...metrics import Metric
from ...validation import check_magnitude, surely_fine
from . import kernels

__all__ = ["Rows", "choose_frame", "empty_lines", "float32_rows", "source_of"]

CHUNK = 1 << 16  # values decoded at a time
NAMES = {np.dtype(name): name for name in ("float32", "float64", "float16")}


class Rows:
    """Rows (B, N, D) in host memory, never copied.

    Attributes:
        x: Read-only view, float32, float64, or uint16 holding the bits of a 16-bit float.
        name: Name of the dtype: "float32", "float64", "float16" or "bfloat16".
    """

    def __init__(self, x: Any) -> None:
        name = ""
        if isinstance(x, mx.array) and x.dtype == mx.bfloat16:
            x = x.view(mx.uint16)
            name = "bfloat16"
        array = np.asarray(x)
        self.name = name or NAMES[array.dtype]
        self.x = array.view(np.uint16) if self.name == "float16" else array.view()
        self.x.flags.writeable = False  # it may be a memory map or MLX's own buffer

    def decode(self, values: np.ndarray) -> np.ndarray:
        """Return some of x's values as floats."""
        if self.name == "float16":
            return values.view(np.float16).astype(np.float32)
        if self.name == "bfloat16":
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values

    def some(self, b: int, index: np.ndarray) -> Rows:
        """Return a copy of some rows of batch element b."""
        part = copy(self)
        part.x = self.x[b : b + 1, index]
        return part

    def source(
        self, b: int, shift: np.ndarray | None = None, scale: float = 1.0
    ) -> kernels.rows.Source:
        """Return batch element b, read as ``(x - shift) / scale``, as kernels take it."""
        element = self.x[b]
        plain = shift is None and scale == 1.0
        row_stride, column_stride = element.strides
        direct = plain and self.name == "float32" and element.flags.c_contiguous
        return kernels.rows.Source(
            int(element.ctypes.data),
            row_stride,
            column_stride,
            kernels.rows.KINDS[self.name],
            bool(direct),
            np.zeros(element.shape[1]) if shift is None else shift,
            float(1.0 / scale),
        )

    def sources(self, frame: frames.Frame) -> kernels.rows.Sources:
        """Return all batch elements, read in this frame, as kernels take them."""
        contiguous = self.name == "float32" and self.x[0].flags.c_contiguous
        element_stride, row_stride, column_stride = self.x.strides
        return kernels.rows.Sources(
            self.x.ctypes.data,
            element_stride,
            row_stride,
            column_stride,
            kernels.rows.KINDS[self.name],
            frame.identity & contiguous,
            frame.shift,
            1.0 / frame.scale,
        )


def float32_rows(x: Any) -> np.ndarray | None:
    """Return rows (..., N, D) as an aligned float32 array in C order, or None if they are none."""
    if isinstance(x, mx.array):
        if x.dtype != mx.float32:
            return None
        x = np.asarray(x)
    is_plain = x.dtype == np.float32 and x.flags.c_contiguous and x.flags.aligned
    return np.asarray(x) if is_plain else None


def source_of(sources: kernels.rows.Sources, b: int) -> kernels.rows.Source:
    """Return the source of batch element b."""
    return kernels.rows.Source(
        sources.address + b * sources.element_stride,
        sources.row_stride,
        sources.column_stride,
        sources.kind,
        sources.direct[b],
        sources.shift[b],
        sources.factor[b],
    )


def choose_frame(
    rows: Rows, metric: Metric, check_finite: bool, given_shape: tuple[int, ...]
) -> frames.Frame:
    """Return the frame to read rows in.

    Raises:
        ValueError: If `check_finite` and there is NaN, Inf or a value that is too large.
    """
    x = rows.x
    b, n, d = x.shape
    step = frames.sample_step(n)
    if rows.name == "float32" and x.flags.c_contiguous:
        limits = frames.SMALL, frames.LARGE, frames.FAR
        is_plain = kernels.frames.is_plain(x, step, metric.spherical, *limits, np.empty(d))
        if is_plain and (surely_fine(x) or not check_finite):
            return frames.plain(b, d, metric)
    sample = rows.decode(x[:, ::step])
    magnitude = np.abs(sample).reshape(len(sample), -1).max(1).astype(np.float64)
    if check_finite and not (magnitude.min() >= frames.SMALL and surely_fine(x)):
        magnitude = np.array([_magnitude(rows, element) for element in x])
        check_magnitude(magnitude, given_shape)
    return frames.choose(sample, magnitude, metric)


def _magnitude(rows: Rows, element: np.ndarray) -> float:
    step = max(1, CHUNK // element.shape[1])
    chunks = (element[s : s + step] for s in range(0, len(element), step))
    return float(np.max([np.abs(rows.decode(chunk)).max() for chunk in chunks]))


def empty_lines(shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
    """Return an empty array that begins at a cache line, which is 64 bytes.

    A vector that lies across two lines loads at half the rate.
    """
    size = math.prod(shape)
    buffer = np.empty(size + 16, dtype)
    skip = -buffer.ctypes.data % 64 // buffer.itemsize
    return buffer[skip : skip + size].reshape(shape)
