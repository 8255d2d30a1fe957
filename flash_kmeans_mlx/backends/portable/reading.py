"""Queries and rows of a search as MLX arrays, in normalised coordinates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np

from ...frame import View
from ...validation import to_numpy
from ..neighbours import PIECE

__all__ = ["framed", "on_device", "smallest_row", "take", "unit"]


def framed(x: Any, shift: np.ndarray | None, scale: float) -> mx.array:
    """Return ``(x - shift) / scale`` in float32; NumPy's rows are rounded after that."""
    if isinstance(x, mx.array):
        y = x.astype(mx.float32)
        y = y if shift is None else y - mx.array(shift.astype(np.float32))
        return y if scale == 1.0 else y * (1.0 / scale)
    if shift is not None or scale != 1.0:
        x = np.subtract(x, 0.0 if shift is None else shift, dtype=np.float64) / scale
    return mx.array(np.ascontiguousarray(x, np.float32))


def unit(x: mx.array) -> mx.array:
    """Return rows of norm 1; zero rows stay zero."""
    largest_values = mx.abs(x).max(1, keepdims=True)
    x = x / mx.where(largest_values > 0, largest_values, 1.0)
    norm = mx.sqrt(mx.square(x).sum(1, keepdims=True))
    return x / mx.where(norm > 0, norm, 1.0)


def take(x: Any, index: np.ndarray) -> Any:
    """Return rows of an MLX or NumPy array."""
    return x[mx.array(index)] if isinstance(x, mx.array) else x[index]


def on_device(view: View) -> View:
    """Return the view with shifts that are float32 numbers, as MLX takes them."""

    def rounded(shift: np.ndarray | None) -> np.ndarray | None:
        return None if shift is None else shift.astype(np.float32).astype(np.float64)

    return replace(view, query_shift=rounded(view.query_shift), row_shift=rounded(view.row_shift))


def smallest_row(x: Any) -> float:
    """Return the least magnitude of a row of x (B, N, D) other than 0; Inf if all are 0."""
    step = max(1, PIECE // x.shape[2])
    least = np.inf
    for b in range(x.shape[0]):
        for lo in range(0, x.shape[1], step):
            size = np.abs(to_numpy(x[b, lo : lo + step])).max(1)
            least = min(least, float(size.min(where=size > 0, initial=np.inf)))
    return least
