"""Points as the kernels read them: any dtype and strides, and the frame to read them in."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from ... import frame as frames
from ...metrics import Metric
from ...validation import check_magnitude

__all__ = ["Store"]

# How the bits of float16 and bfloat16 become float32: (shift left, factor); see kernels/cpu/rows.py.
_DECODE = {"float16": (13, 2.0**112), "bfloat16": (16, 1.0)}
_CHUNK = 1 << 18  # values decoded at a time


class Store:
    """x (B, N, D) in host memory, never copied.

    Attributes:
        x: read-only view, float32, float64, or uint16 holding the bits of a 16-bit float.
        frame: the frame chosen for it.
        direct: (B,) bool, members that need neither shift nor scale.
    """

    def __init__(self, x: Any, metric: Metric, check_finite: bool, given_shape: tuple[int, ...]) -> None:
        name = ""
        if isinstance(x, mx.array) and x.dtype == mx.bfloat16:
            x, name = x.view(mx.uint16), "bfloat16"
        array = np.asarray(x)
        if array.dtype == np.float16:
            array, name = array.view(np.uint16), "float16"
        array = array.view()
        array.flags.writeable = False  # one type for Numba, and a promise: memory maps and MLX's own buffers come here
        self.x = array
        self.kind = name
        left, rescale = _DECODE.get(name, (0, 1.0))
        self._left, self._rescale = np.int32(left), np.float32(rescale)
        sample = self.decode(array[:, :: frames.sample_step(array.shape[1])])
        magnitude = np.abs(sample).max((1, 2)).astype(np.float64)
        if check_finite and not self._surely_fine(magnitude):
            magnitude = np.array([self._magnitude(member) for member in array])
        if check_finite:
            check_magnitude(magnitude, given_shape)
        self.frame = frames.choose(sample, magnitude, metric)
        real = np.float64 if array.dtype == np.float64 else np.float32
        self.direct = self.frame.identity
        self.factors = (1.0 / self.frame.scale).astype(real)
        self.shifts = self.frame.shift.astype(real)

    def kernel_frame(self, b: int) -> tuple:
        """Member b's frame as kernels take it: (direct, shift, factor, left, rescale)."""
        return self.direct[b], self.shifts[b], self.factors[b], self._left, self._rescale

    @property
    def kernel_frames(self) -> tuple:
        """x and all members' frames: (x, direct (B,), shifts (B, D), factors (B,), left, rescale)."""
        return self.x, self.direct, self.shifts, self.factors, self._left, self._rescale

    def decode(self, values: np.ndarray) -> np.ndarray:
        """Some of x's values as floats."""
        if self.kind == "float16":
            return values.view(np.float16).astype(np.float32)
        if self.kind == "bfloat16":
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values

    def _surely_fine(self, magnitude: np.ndarray) -> bool:
        """One pass of BLAS: a finite sum of squares means finite values, and bounds them all."""
        if self.kind or not self.x.flags.c_contiguous or (magnitude < frames.SMALL).any():
            return False
        flat = self.x.reshape(-1)
        with np.errstate(over="ignore", invalid="ignore"):
            return bool(np.sqrt(np.dot(flat, flat)) < frames.LARGE)

    def _magnitude(self, member: np.ndarray) -> float:
        step = max(1, _CHUNK // member.shape[1])
        chunks = (member[s : s + step] for s in range(0, len(member), step))
        return float(np.max([np.abs(self.decode(chunk)).max() for chunk in chunks]))
