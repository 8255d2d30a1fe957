"""The interface of a backend to a search: `Neighbours`, the queries of one request."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..metrics import Proximity
from ..progress import SILENT, Progress
from ..validation import check_magnitude, check_room, surely_fine, to_numpy

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "NOTHING",
    "PIECE",
    "Found",
    "Neighbours",
    "Request",
    "check_finite",
    "is_surely_fine",
    "largest",
]

NOTHING = np.int64(np.iinfo(np.int64).max)  # the index of a place without a row, at distance Inf
PIECE = 1 << 15  # values that are read at a time
SMALL = 1 << 13  # values that BLAS adds up by one thread

Found = tuple[np.ndarray, np.ndarray]  # distances and indices, or ids


@dataclass
class Request:
    """The queries of a search, and what to find for them.

    Attributes:
        queries: (B, Q, D) as `validation.data` returns it, finite.
        shape: The shape of the queries as the caller wrote it, for messages.
        k: Neighbours of every query.
        proximity: The distance.
        exclude_self: Whether query i never gets row i.
        max_bytes: A cap on what is allocated beyond the caller's arrays; 0 for none.
        bytes_in_use: The part of the cap that is in use already.
        progress: Is told of the rows that were searched.
    """

    queries: Any
    shape: tuple[int, ...]
    k: int
    proximity: Proximity
    exclude_self: bool
    max_bytes: int
    bytes_in_use: int
    progress: Progress = SILENT

    @cached_property
    def magnitude(self) -> np.ndarray:
        """(B,) float64 largest absolute value of every batch element."""
        return largest(self.queries)

    def check_cap(self, need: int, where: str) -> None:
        """Refuse a cap that leaves less than `need` bytes."""
        problem = f"queries.shape={self.shape} with k={self.k}"
        cure = "raise it, or search for fewer queries at a time"
        check_room(self.max_bytes, self.bytes_in_use + need, problem, where, cure)

    @property
    def room(self) -> int:
        """Bytes left under the cap."""
        return self.max_bytes - self.bytes_in_use if self.max_bytes else 1 << 62


class Neighbours(ABC):
    """The search of one request in chunks of data; a context manager that frees what it allocated.

    Attributes:
        backend: The name of the backend.
        request: The request it was made from.
    """

    backend: ClassVar[str]

    def __init__(self, request: Request) -> None:
        self.request = request

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    @abstractmethod
    def nearest(self, data: Any, offset: int, before: Found | None) -> Found:
        """Return the nearest rows of a chunk.

        Args:
            data: (B, M, D) as `validation.data` returns it; its values have not been checked.
            offset: The index of its first row, for `exclude_self`.
            before: (B, Q, k) distances and indices found in other chunks, or None. Rows that
                cannot be among the first k of them may be left out.

        Returns:
            (B, Q, m) float64 distances and int64 indices in the chunk, m = min(k, M). They ascend
            by distance, computed in float64 from the rows as given, then by index. Places without a
            row come last, with index NOTHING.

        Raises:
            ValueError: The data hold NaN or Inf.
        """

    def merge(self, best: Found, more: Found) -> None:
        """Merge `more` (B, Q, m) into `best` (B, Q, k) in place, by distance, then by index."""
        k = best[0].shape[-1]
        for b, q in np.ndindex(*best[0].shape[:2]):
            distances = np.concatenate([best[0][b, q], more[0][b, q]])
            indices = np.concatenate([best[1][b, q], more[1][b, q]])
            order = np.lexsort([indices, distances])[:k]
            best[0][b, q] = distances[order]
            best[1][b, q] = indices[order]

    def skipped(self, offset: int, rows: int) -> np.ndarray:
        """Return (Q,) the row of a chunk that each query must not get, -1 for none."""
        row = np.arange(self.request.queries.shape[1]) - offset
        return np.where((row >= 0) & (row < rows) & self.request.exclude_self, row, -1)


def largest(x: Any) -> np.ndarray:
    """Return (B,) float64 largest magnitudes of x (B, N, D); NaN or Inf where x has one."""
    step = max(1, PIECE // x.shape[2])
    out = np.zeros(x.shape[0])
    for b in range(x.shape[0]):
        for lo in range(0, x.shape[1], step):
            out[b] = np.maximum(out[b], np.abs(to_numpy(x[b, lo : lo + step])).max())
    return out


def is_surely_fine(x: Any) -> bool:
    """Return whether x is small, and all its values are finite and < 2**40 for certain."""
    return isinstance(x, np.ndarray) and x.size <= SMALL and surely_fine(x)


def check_finite(x: Any, shape: tuple[int, ...], name: str) -> None:
    """Refuse x (B, N, D) if it has NaN, Inf or a magnitude beyond float32."""
    if not is_surely_fine(x):
        check_magnitude(largest(x), shape, name)
