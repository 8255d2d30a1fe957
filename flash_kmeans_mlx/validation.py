"""Every complaint about arguments, in one place; what passes is safe for the layers below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from .metrics import METRICS, Metric

__all__ = ["Data", "centroids", "check_choice", "check_count", "data", "metric", "weights"]

_MLX_FLOATS = {mx.float32: "float32", mx.float16: "float16", mx.bfloat16: "bfloat16"}
DTYPES = {name: dtype for dtype, name in _MLX_FLOATS.items()}


@dataclass(frozen=True)
class Data:
    """A batch of points that passed.

    Attributes:
        x: (B, N, D), `mx.array` (float32, float16, bfloat16) or NumPy array (float32, float64, float16), any strides.
        mlx: the caller gave an `mx.array` and gets `mx.array` back.
        batched: the caller gave three dimensions; otherwise B is dropped from results.
        copied: bytes that converting it took, which count towards `max_mem_gb`.
    """

    x: Any
    mlx: bool
    batched: bool
    copied: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """(B, N, D)."""
        return tuple(self.x.shape)

    @property
    def given(self) -> Any:
        """x without the batch dimension that the caller did not write; passes `data` again as it is."""
        return self.x if self.batched else self.x[0]

    @property
    def given_shape(self) -> tuple[int, ...]:
        """As the caller wrote it."""
        return self.shape if self.batched else self.shape[1:]

    def give(self, value: np.ndarray, *, array: bool = False) -> Any:
        """`value` (B, ...) as the caller gets it; `array` marks results that are `mx.array` if x was."""
        if not self.batched:
            value = value[0]
        if array:
            return mx.array(value) if self.mlx else value
        return value if self.batched else value.item()


def data(x: Any, dtype: Any = None, name: str = "x") -> Data:
    """Points as (B, N, D), converted only where a backend could not read them."""
    is_mlx, given = isinstance(x, mx.array), x
    if not is_mlx:
        x = _numpy(x, name)
    if x.ndim not in (2, 3):
        raise ValueError(f"{name} must have shape (N, D) or (B, N, D), got {x.ndim} dimensions ({name}.shape={_s(x)})")
    if 0 in x.shape:
        raise ValueError(f"{name} must have no empty dimension ({name}.shape={_s(x)})")
    if is_mlx:
        if x.dtype not in _MLX_FLOATS:
            if x.dtype == mx.complex64:
                raise TypeError(f"{name} must be real, got {x.dtype}")
            x = x.astype(mx.float32)
        mx.eval(x)
    if dtype is not None:
        x = _cast(x, dtype, name)
    batched = x.ndim == 3
    kept = x is given or (isinstance(x, np.ndarray) and isinstance(given, np.ndarray) and np.may_share_memory(x, given))
    return Data(x if batched else x[None], is_mlx, batched, 0 if kept else x.nbytes)


def _numpy(x: Any, name: str) -> np.ndarray:
    if isinstance(x, mx.array):
        return to_numpy(x)
    try:
        x = np.asarray(x)
    except ValueError as error:
        raise ValueError(f"{name} must be a rectangular array of numbers: {error}") from error
    if x.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers, got dtype {x.dtype}")
    if x.dtype.kind in "iub" or x.dtype.itemsize > np.dtype(np.float64).itemsize:
        return _converted(x, np.float32, name)
    return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))


def _converted(x: np.ndarray, dtype: Any, name: str) -> np.ndarray:
    """`x.astype(dtype)` without a copy if it has that dtype, refusing finite values that would become Inf."""
    if x.dtype == dtype:
        return x
    with np.errstate(over="ignore"):
        y = x.astype(dtype)
    if np.isinf(y).sum() != np.isinf(x).sum():
        raise ValueError(
            f"{name} must fit in {np.dtype(dtype)}, got a magnitude of {np.abs(x).max():.3g} ({name}.shape={_s(x)}); rescale it"
        )
    return y


def _cast(x: Any, dtype: Any, name: str) -> Any:
    key = dtype if isinstance(dtype, str) else str(_MLX_FLOATS.get(dtype) or getattr(dtype, "__name__", dtype))
    if key not in DTYPES:
        raise ValueError(f"dtype={dtype!r} must be one of {', '.join(DTYPES)} or None for x's own")
    if isinstance(x, mx.array):
        y = mx.contiguous(x.astype(DTYPES[key]))
        if mx.isinf(y).sum().item() != mx.isinf(x).sum().item():
            raise ValueError(f"{name} must fit in {key}, got larger values ({name}.shape={_s(x)}); rescale it")
        return y
    if key == "bfloat16":
        return mx.array(np.ascontiguousarray(_converted(x, np.float32, name))).astype(mx.bfloat16)
    return _converted(x, np.dtype(key), name)


def check_count(name: str, value: Any, low: int, high: int | None = None, bound: str = "", shape: Any = None) -> int:
    """An integer in low..high; `bound` names the upper bound in the message."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}={value!r} must be an integer")
    where = "" if shape is None else f" (x.shape={tuple(shape)})"
    if value < low:
        raise ValueError(f"{name}={value} must be >= {low}{where}")
    if high is not None and value > high:
        raise ValueError(f"{name}={value} must be <= {bound}={high}{where}")
    return int(value)


def check_real(name: str, value: Any) -> float:
    """A finite number that is not negative."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}={value!r} must be a number")
    if not np.isfinite(value) or value < 0:
        raise ValueError(f"{name}={value} must be finite and >= 0")
    return float(value)


def check_choice(name: str, value: Any, choices: Sequence[str], other: str = "") -> str:
    """One of the strings `choices`; `other` says what else the argument may be."""
    if not isinstance(value, str) or value not in choices:
        also = f", {other}" if other else ""
        raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, choices))}{also}")
    return value


def cap(max_mem_gb: Any, data: Data) -> int:
    """`max_mem_gb` in bytes, less what converting x took."""
    limit = int(check_real("max_mem_gb", max_mem_gb) * 1e9)
    if 0 < limit <= data.copied:
        raise ValueError(
            f"max_mem_gb={max_mem_gb:g} must be > {data.copied / 1e9:.3g} GB, what converting x to {data.x.dtype} took"
            f" (x.shape={data.given_shape}); convert it first, or raise it"
        )
    return limit - data.copied if limit else 0


def metric(value: Any) -> Metric:
    """The metric of that name."""
    return METRICS[check_choice("metric", value, tuple(METRICS))]


def shape_of(x: Any, name: str) -> tuple[int, ...]:
    """Shape of an array or nested lists."""
    return tuple(x.shape) if hasattr(x, "shape") else _numpy(x, name).shape


def to_numpy(x: Any) -> np.ndarray:
    """A float array from MLX, or what NumPy makes of x."""
    if isinstance(x, mx.array):
        return np.array(x.astype(mx.float32))
    return np.asarray(x)


def centroids(value: Any, data: Data, n_clusters: int, name: str, check_finite: bool) -> np.ndarray:
    """Centroids (B, K, D) float32 from (B, K, D), or (K, D) for every member alike; a copy."""
    b, _, d = data.shape
    c = _converted(_numpy(value, name), np.float32, name)
    if c.shape not in ((n_clusters, d), (b, n_clusters, d)):
        raise ValueError(
            f"{name} must have shape (K, D)=({n_clusters}, {d}) or (B, K, D)=({b}, {n_clusters}, {d}), got {c.shape}"
            f" (x.shape={data.given_shape})"
        )
    if check_finite and not np.isfinite(c).all():
        raise ValueError(f"{name} must be finite, got NaN or Inf ({name}.shape={c.shape})")
    return np.array(np.broadcast_to(c, (b, n_clusters, d)))


def weights(value: Any, data: Data, check_finite: bool) -> np.ndarray | None:
    """Weights (B, N) float32 from (B, N), or (N,) for every member alike; None stays None."""
    if value is None:
        return None
    b, n, _ = data.shape
    name = "sample_weight"
    w = _converted(_numpy(value, name), np.float32, name)
    if w.shape not in ((n,), (b, n)):
        raise ValueError(f"{name} must have shape (N,)=({n},) or (B, N)=({b}, {n}), got {w.shape} (x.shape={data.given_shape})")
    if check_finite and not np.isfinite(w).all():
        raise ValueError(f"{name} must be finite, got NaN or Inf ({name}.shape={w.shape})")
    if (w < 0).any():
        raise ValueError(f"{name} must be >= 0, got {w.min()} ({name}.shape={w.shape})")
    if not w.any(axis=-1).all():
        raise ValueError(f"{name} must have a positive value for every member ({name}.shape={w.shape})")
    return np.ascontiguousarray(np.broadcast_to(w, (b, n)))


def check_magnitude(magnitude: np.ndarray, shape: tuple[int, ...], name: str = "x") -> None:
    """Refuse points with NaN or Inf, and float64 values beyond float32: their magnitude is not a finite float32."""
    if np.isnan(magnitude).any() or np.isinf(magnitude).any():
        raise ValueError(f"{name} must be finite, got NaN or Inf ({name}.shape={shape}); clean it first")
    if (magnitude > np.finfo(np.float32).max).any():
        raise ValueError(
            f"{name} must fit in float32, got a magnitude of {magnitude.max():.3g} ({name}.shape={shape}); rescale it"
        )


def _s(x: Any) -> tuple[int, ...]:
    return tuple(x.shape)
