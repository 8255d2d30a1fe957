"""Vectors, ids and radii as indexes take them: checked, and converted to NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import validation
from ..backends.neighbours import is_surely_fine, largest

__all__ = [
    "check_limit",
    "check_radius",
    "distinct_ids",
    "integers",
    "next_ids",
    "one_as_row",
    "vectors",
]

# The id after the largest one must be an int64 too.
LARGEST_ID = 2**63 - 2


def vectors(x: Any, d: int, limit: float = np.inf) -> tuple[np.ndarray, bool]:
    """Return vectors x as (N, d) float32 in C order, and whether x is an `mx.array`.

    Args:
        x: (N, d); `validation.data` may have made it of an argument of another name.
        d: Dimensions.
        limit: A power of two >= 2**40, the largest magnitude.

    Raises:
        ValueError, TypeError: The message names the argument, its value and its bound.
    """
    data = validation.data(x)
    name = data.name
    if data.batched or data.x.shape[2] != d:
        raise ValueError(f"{name} must have shape (N, D)=(N, {d}), got {data.given_shape}")
    if not is_surely_fine(data.x):
        magnitude = largest(data.x)
        validation.check_magnitude(magnitude, data.given_shape, name)
        check_limit(float(magnitude[0]), limit, data.given_shape, name)
    return np.ascontiguousarray(validation.to_numpy(data.x[0]), np.float32), data.mlx


def check_limit(
    magnitude: float, limit: float, shape: tuple[int, ...], name: str = "x", place: str = ""
) -> None:
    """Refuse a magnitude beyond a power of two; `place` says where it is."""
    if magnitude > limit:
        where = f" in {place}" if place else ""
        raise ValueError(
            f"{name} must be of magnitudes <= 2**{int(np.log2(limit))}, got {magnitude:.3g}{where}"
            f" ({name}.shape={tuple(shape)}); rescale it"
        )


def one_as_row(query: Any) -> Any:
    """Return a vector (D,) as (1, D), and everything else as it is."""
    is_vector = getattr(query, "ndim", None) == 1
    if isinstance(query, (list, tuple)) and query:
        is_vector = all(isinstance(value, (int, float, np.number)) for value in query)
    if not is_vector:
        return query
    return [query] if isinstance(query, (list, tuple)) else query[None]


def check_radius(radius: Any) -> None:
    """Refuse a radius that is not a finite number."""
    is_number = isinstance(radius, (int, float, np.integer, np.floating))
    if isinstance(radius, bool) or not is_number or not np.isfinite(radius):
        raise ValueError(f"radius={radius!r} must be a finite number")


def integers(ids: Any, name: str = "ids") -> np.ndarray:
    """Return ids (M,) as int64.

    Raises:
        ValueError, TypeError: They are not integers, do not fit, or are not of shape (M,).
    """
    array = validation.as_array(ids, name)
    if array.dtype.kind not in "iu" and array.size:
        # Python's integers that no integer dtype can hold become objects or floats.
        is_listed = isinstance(ids, (list, tuple, np.ndarray)) and array.ndim
        if is_listed and all(type(i) is int for i in ids):
            raise ValueError(f"{name} must be >= 0 and < 2**63 - 1, got {max(ids, key=abs)}")
        raise TypeError(f"{name} must be integers, got dtype {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name} must have shape (N,), got {array.shape}")
    if array.dtype == np.uint64 and array.size and array.max() >= np.uint64(1 << 63):
        raise ValueError(f"{name} must be < 2**63 - 1, got {array.max()}")
    return array.astype(np.int64)


def distinct_ids(ids: Any, n: int) -> np.ndarray:
    """Return the ids of n vectors as (n,) int64.

    Raises:
        ValueError, TypeError: They are not n distinct integers >= 0 and < 2**63 - 1.
    """
    array = integers(ids)
    if array.shape != (n,):
        raise ValueError(f"ids must have shape (N,)=({n},), got {array.shape}")
    ordered = np.sort(array)
    smallest = ordered[0]
    if smallest < 0 or ordered[-1] > LARGEST_ID:
        wrong = smallest if smallest < 0 else ordered[-1]
        raise ValueError(f"ids must be >= 0 and < 2**63 - 1, got {wrong}")
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(repeated):
        raise ValueError(
            f"ids must be distinct, got {repeated[0]} more than once (ids.shape={array.shape})"
        )
    return array


def next_ids(first: int, n: int) -> np.ndarray:
    """Return the ids (n,) int64 from `first` on.

    Raises:
        ValueError: There are not so many ids left.
    """
    if first + n > LARGEST_ID + 1:
        raise ValueError(
            f"ids must be < 2**63 - 1, the next {n} would begin at {first}:"
            " give ids of your own, or make a new index"
        )
    return np.arange(first, first + n, dtype=np.int64)
