"""Checks of arguments, each with an error that names the argument, its value and its bound."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from ._fork import check_mlx
from .files.mapped import check_mapped
from .metrics import METRICS, Metric

__all__ = [
    "Data",
    "as_float32",
    "check_choice",
    "check_count",
    "data",
    "metric",
]

_MLX_FLOATS = {mx.float32: "float32", mx.float16: "float16", mx.bfloat16: "bfloat16"}
DLPACK_CPU = 1
LARGEST = float(np.finfo(np.float32).max)
FINE_SQUARE = 2.0**79
_INTEGERS = (int, np.integer)
DTYPES = {name: dtype for dtype, name in _MLX_FLOATS.items()}


@dataclass(frozen=True)
class Data:
    """A batch of points that passed the checks.

    Attributes:
        x: (B, N, D), `mx.array` (float32, float16, bfloat16) or NumPy array (float32, float64,
            float16), any strides.
        mlx: Whether the caller gave an `mx.array` and gets `mx.array` back.
        batched: Whether the caller gave three dimensions; otherwise B is dropped from results.
        copied: The most bytes that converting it took; they count towards `max_mem_gb`.
        name: The argument that it was given for, in messages.
        heads: H where the caller gave (B / H, H, N, D), otherwise 0.
    """

    x: Any
    mlx: bool
    batched: bool
    copied: int = 0
    name: str = "x"
    heads: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """(B, N, D)."""
        return tuple(self.x.shape)

    @property
    def given_shape(self) -> tuple[int, ...]:
        """The shape as the caller wrote it."""
        return (*self.lead, *self.shape[1:])

    @property
    def lead(self) -> tuple[int, ...]:
        """The dimensions before N as the caller wrote them: (), (B,) or (B / H, H)."""
        b = self.x.shape[0]
        if self.heads:
            return b // self.heads, self.heads
        return (b,) if self.batched else ()

    def to_caller(self, value: np.ndarray, *, array: bool = False) -> Any:
        """Return `value` (B, ...) in the form of x; with `array`, as an `mx.array` if x was one."""
        lead = self.lead
        value = value.reshape((*lead, *value.shape[1:]))
        if array:
            return mx.array(value) if self.mlx else value
        return value if lead else value.item()


def data(x: Any, dtype: Any = None, name: str = "x") -> Data:
    """Return points as (B, N, D), converted only where a backend could not read them.

    Raises:
        ValueError, TypeError: Naming what is wrong with their shape or dtype.
    """
    if isinstance(x, Data):
        return x
    is_mlx = isinstance(x, mx.array)
    given = x
    if not is_mlx:
        x = _numpy(x, name)
    if x.ndim not in (2, 3):
        raise ValueError(
            f"{name} must have shape (N, D) or (B, N, D), got {x.ndim} dimensions"
            f" ({name}.shape={tuple(x.shape)})"
        )
    if 0 in x.shape:
        raise ValueError(f"{name} must have no empty dimension ({name}.shape={tuple(x.shape)})")
    check_mapped(x)
    if is_mlx:
        check_mlx()
        if x.dtype not in _MLX_FLOATS:
            if x.dtype == mx.complex64:
                raise TypeError(f"{name} must be real, got {x.dtype}")
            x = _numpy(np.asarray(x), name)
        else:
            mx.eval(x)
    kept = x is given or (
        isinstance(x, np.ndarray)
        and isinstance(given, np.ndarray)
        and np.may_share_memory(x, given)
    )
    copied = 0 if kept else x.nbytes
    if dtype is not None:
        before, x = x, _cast(x, dtype, name)
        # Strides or libraries may take a second copy on the way.
        copied += 0 if x is before else 2 * x.nbytes
    batched = x.ndim == 3
    return Data(x if batched else x[None], is_mlx, batched, copied, name)


def _numpy(x: Any, name: str) -> np.ndarray:
    if type(x) is np.ndarray and x.dtype in (np.float32, np.float64) and x.flags.aligned:
        return x
    x = to_numpy(x) if isinstance(x, mx.array) else as_array(x, name)
    if x.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers, got dtype {x.dtype}")
    if x.dtype.kind in "iub" and not _exact_in_float32(x):
        return x.astype(np.float64)
    if x.dtype.kind in "iub" or x.dtype.itemsize > np.dtype(np.float64).itemsize:
        return _converted(x, np.float32, name)
    return x if x.dtype.isnative and x.flags.aligned else x.astype(x.dtype.newbyteorder("="))


def as_array(x: Any, name: str) -> np.ndarray:
    """Return x as a NumPy array of any dtype; refuse masked and ragged ones."""
    if np.ma.isMaskedArray(x):
        raise TypeError(f"{name} must not be a masked array; fill or drop its masked values first")
    if hasattr(x, "tocsr"):
        raise TypeError(
            f"{name} must be dense, got a {type(x).__name__}: KMeans of flash_kmeans_mlx.sklearn"
            f" takes sparse matrices, or use {name}.toarray()"
        )
    if hasattr(x, "__dlpack__") and not hasattr(x, "__array__"):
        device, _ = x.__dlpack_device__()
        if device != DLPACK_CPU:
            raise TypeError(f"{name} is on a device of DLPack type {device}: move it to the CPU")
        return np.from_dlpack(x)
    try:
        return np.asarray(x)
    except ValueError as error:
        raise ValueError(f"{name} must be a rectangular array of numbers: {error}") from error


def _exact_in_float32(x: np.ndarray) -> bool:
    """Return whether these integers are float32 numbers for certain."""
    return x.dtype.itemsize <= 2 or x.size == 0 or max(int(x.max()), -int(x.min())) <= 1 << 24


def _converted(x: np.ndarray, dtype: Any, name: str) -> np.ndarray:
    """Return x in a dtype, itself if it has that; refuse finite values that would become Inf."""
    if x.dtype == dtype:
        return x
    try:
        with np.errstate(over="raise"):
            return x.astype(dtype)
    except FloatingPointError:
        raise ValueError(
            f"{name} must fit in {np.dtype(dtype)}, got a magnitude of {np.abs(x).max():.3g}"
            f" ({name}.shape={tuple(x.shape)}); rescale it"
        ) from None


def _cast(x: Any, dtype: Any, name: str) -> Any:
    key = dtype
    if not isinstance(dtype, str):
        key = str(_MLX_FLOATS.get(dtype) or getattr(dtype, "__name__", dtype))
    if key not in DTYPES:
        raise ValueError(f"dtype={dtype!r} must be one of {', '.join(DTYPES)} or None for x's own")
    if isinstance(x, mx.array):
        return x if x.dtype == DTYPES[key] else _cast_mlx(x, key, name)
    if key != "bfloat16":
        return _converted(x, np.dtype(key), name)
    check_mlx()
    bits = np.empty(x.shape, np.uint16)  # which NumPy has no floats for
    for index, rows in _pieces(x):
        wide = mx.array(np.ascontiguousarray(_converted(rows, np.float32, name)))
        bits[index] = wide.astype(mx.bfloat16).view(mx.uint16)
    return mx.array(bits).view(mx.bfloat16)


def _cast_mlx(x: mx.array, key: str, name: str) -> mx.array:
    y = mx.contiguous(x.astype(DTYPES[key]))
    mx.eval(y)
    if key == "float16":  # the others reach as far as float32
        for index, rows in _pieces(x):
            if (mx.isinf(y[index]) != mx.isinf(rows)).any():
                raise ValueError(
                    f"{name} must fit in {key}, got larger values"
                    f" ({name}.shape={tuple(x.shape)}); rescale it"
                )
    return y


def _pieces(x: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (index, x[index]) along the rows, 256K values or one row at a time."""
    step = max(1, (1 << 18) // x.shape[-1])
    for lead in np.ndindex(*x.shape[:-2]):
        for lo in range(0, x.shape[-2], step):
            index = (*lead, slice(lo, lo + step))
            yield index, x[index]


def check_count(
    name: str, value: Any, low: int, high: int | None = None, bound: str = "", shape: Any = None
) -> int:
    """Return an integer in low..high; `bound` names the upper bound in the message."""
    if type(value) is not int and (isinstance(value, bool) or not isinstance(value, _INTEGERS)):
        raise TypeError(f"{name}={value!r} must be an integer")
    where = "" if shape is None else f" (x.shape={tuple(shape)})"
    if value < low:
        raise ValueError(f"{name}={value} must be >= {low}{where}")
    if high is not None and value > high:
        raise ValueError(f"{name}={value} must be <= {bound}={high}{where}")
    return int(value)


def check_iterations(name: str, value: Any) -> int:
    """Return a number of iterations, which kernels count in 64 bits."""
    return check_count(name, value, 0, (1 << 63) - 1, "2**63 - 1")


def check_real(name: str, value: Any) -> float:
    """Return a finite number that is not negative."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}={value!r} must be a number")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name}={value} must be finite and >= 0")
    return float(value)


def check_tol(value: Any) -> float:
    """Return a `tol`: a number that is not negative, or 0 for -1, which no shift reaches either."""
    is_never = isinstance(value, (int, float, np.number)) and value == -1
    return 0.0 if is_never else check_real("tol", value)


def check_flag(name: str, value: Any) -> bool:
    """Return True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}={value!r} must be True or False")
    return bool(value)


def check_choice(name: str, value: Any, choices: Sequence[str], other: str = "") -> str:
    """Return one of the strings `choices`; `other` names what else the argument may be."""
    if not isinstance(value, str) or value not in choices:
        also = f", {other}" if other else ""
        raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, choices))}{also}")
    return value


def cap(max_mem_gb: Any) -> int:
    """Return `max_mem_gb` in bytes."""
    value = check_real("max_mem_gb", max_mem_gb)
    return max(1, int(min(value * 1e9, 1e18))) if value else 0


def check_cap(
    max_bytes: int, need: float, shape: tuple[int, ...], n_clusters: int, where: str, cure: str
) -> None:
    """Refuse a cap (0: none) below what x of this shape needs."""
    check_room(max_bytes, need, f"x.shape={shape} with n_clusters={n_clusters}", where, cure)


def check_room(max_bytes: int, need: float, problem: str, where: str, cure: str) -> None:
    """Refuse a cap (0: none) below what a problem needs."""
    if 0 < max_bytes < need:
        raise ValueError(
            f"max_mem_gb={max_bytes / 1e9:g} must be >= {need * 1.005 / 1e9:.3g} GB, the least"
            f" that {problem} needs {where};"
            f" {cure}"
        )


def metric(value: Any) -> Metric:
    """Return the metric of that name."""
    return METRICS[check_choice("metric", value, tuple(METRICS))]


def shape_of(x: Any, name: str) -> tuple[int, ...]:
    """Return the shape of an array or nested lists."""
    return tuple(x.shape) if hasattr(x, "shape") else _numpy(x, name).shape


def to_numpy(x: Any) -> np.ndarray:
    """Return x as a NumPy array, MLX's as float32."""
    if isinstance(x, mx.array):
        check_mlx()
        return np.array(x.astype(mx.float32))
    return np.asarray(x)


def as_float32(x: Any, name: str) -> np.ndarray:
    """Return x as a float32 NumPy array, itself if it is one."""
    return _converted(_numpy(x, name), np.float32, name)


def check_magnitude(
    magnitude: np.ndarray, shape: tuple[int, ...], name: str = "x", place: str = ""
) -> None:
    """Refuse magnitudes that are NaN, Inf, or beyond float32; `place` says where they are."""
    if (magnitude <= LARGEST).all():  # which is False for NaN
        return
    where = f" in {place}" if place else ""
    if not np.isfinite(magnitude).all():
        raise ValueError(
            f"{name} must be finite, got NaN or Inf{where} ({name}.shape={shape}); clean it first"
        )
    raise ValueError(
        f"{name} must fit in float32, got a magnitude of {magnitude.max():.3g}{where}"
        f" ({name}.shape={shape}); rescale it"
    )


def surely_fine(x: np.ndarray) -> bool:
    """Return whether a sum of squares, by BLAS, shows that all values are finite and < 2**40."""
    if x.dtype not in (np.float32, np.float64) or not x.flags.c_contiguous:
        return False
    return bool(np.vdot(x, x) < FINE_SQUARE)  # unlike np.dot, it never warns


def check_neighbours(
    k: Any, n: int, exclude_self: bool, name: str = "", shape: tuple[int, ...] | None = None
) -> int:
    """Return k as an integer from 1 to n, or to n - 1 with `exclude_self`.

    Args:
        k: Neighbours of every query.
        n: Rows of the data.
        exclude_self: Whether query i never gets row i.
        name: The array whose shape stands in the message; "" for none.
        shape: The shape of that array.
    """
    k = check_count("k", k, 1)
    largest = n - exclude_self
    if k > largest:
        bound = "N - 1" if exclude_self else "N"
        where = f" ({name}.shape={shape})" if name else ""
        raise ValueError(f"k={k} must be <= {bound}={largest}{where}")
    return k
