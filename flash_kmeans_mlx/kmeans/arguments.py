"""Points, centroids and weights as fits take them: checked, and converted to NumPy.

Points with heads, as in attention, (B, H, N, D), are a batch of B * H problems.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np

from .. import validation
from ..validation import Data, as_float32

__all__ = ["centroids", "points", "weights"]


def points(x: Any, dtype: Any = None) -> Data:
    """Return points as `validation.data` does, also those of shape (B, H, N, D)."""
    if isinstance(x, (list, tuple)):
        x = validation.as_array(x, "x")
    if getattr(x, "ndim", 0) < 4:
        return validation.data(x, dtype)
    shape: tuple[int, ...] = tuple(x.shape)
    if len(shape) > 4:
        raise ValueError(
            f"x must have shape (N, D), (B, N, D) or (B, H, N, D), got {len(shape)} dimensions"
            f" (x.shape={shape})"
        )
    if 0 in shape:
        raise ValueError(f"x must have no empty dimension (x.shape={shape})")
    x = x if isinstance(x, mx.array) else validation.as_array(x, "x")
    heads, n, d = x.shape[1:]
    flat = x.reshape(-1, n, d)
    data = validation.data(flat, dtype)
    # MLX does not tell whether it copied.
    is_view = isinstance(x, np.ndarray) and np.may_share_memory(x, flat)
    return replace(data, copied=data.copied + (0 if is_view else flat.nbytes), heads=heads)


def centroids(value: Any, data: Data, n_clusters: int, name: str, check_finite: bool) -> np.ndarray:
    """Return centroids (B, K, D), or (K, D) for all, as (B, K, D) float32, copied if needed.

    Both B and (B / H, H) may stand for the batch if x has heads.
    """
    b, _, d = data.shape
    c = as_float32(value, name)
    own = (n_clusters, d)
    if c.shape not in (own, (b, *own), (*data.lead, *own)):
        raise ValueError(
            f"{name} must have shape (K, D)={own} or {_batch_text(data, 'K, D', own)},"
            f" got {c.shape} (x.shape={data.given_shape})"
        )
    if check_finite and not np.isfinite(c).all():
        raise ValueError(f"{name} must be finite, got NaN or Inf ({name}.shape={c.shape})")
    c = c.reshape(-1, *own)
    # Kernels are compiled for one layout.
    return np.ascontiguousarray(c if len(c) == b else np.broadcast_to(c, (b, *own)))


def _batch_text(data: Data, names: str, shape: tuple[int, ...]) -> str:
    """Return the shape of an array with these last dimensions for each batch element."""
    lead = data.lead if data.heads else (data.shape[0],)
    return f"({'B, H' if data.heads else 'B'}, {names})={(*lead, *shape)}"


def weights(value: Any, data: Data, check_finite: bool) -> np.ndarray | None:
    """Return weights (B, N) float32 of (B, N), or (N,) for all batch elements; None stays None."""
    if value is None:
        return None
    b, n, _ = data.shape
    name = "sample_weight"
    w = as_float32(value, name)
    if w.shape not in ((n,), (b, n), (*data.lead, n)):
        raise ValueError(
            f"{name} must have shape (N,)=({n},) or {_batch_text(data, 'N', (n,))}, got {w.shape}"
            f" (x.shape={data.given_shape})"
        )
    if check_finite and not np.isfinite(w).all():
        raise ValueError(f"{name} must be finite, got NaN or Inf ({name}.shape={w.shape})")
    if (w < 0).any():
        raise ValueError(f"{name} must be >= 0, got {w.min()} ({name}.shape={w.shape})")
    if not w.any(axis=-1).all():
        raise ValueError(
            f"{name} must have a positive value for every batch element ({name}.shape={w.shape})"
        )
    w = np.ascontiguousarray(w.reshape(b, n) if w.size == b * n else np.broadcast_to(w, (b, n)))
    # Kernels are compiled for arrays that may be written to.
    return w if w.flags.writeable else w.copy()
