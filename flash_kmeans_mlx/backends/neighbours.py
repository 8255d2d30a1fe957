"""What a backend is to a search: `Neighbours`, the queries of one search, held where the backend computes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..metrics import Proximity
from ..validation import check_room, to_numpy

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["NOTHING", "PIECE", "Found", "Neighbours", "Request", "largest"]

NOTHING = np.int64(
    np.iinfo(np.int64).max
)  # the index of a place that no row fills; its distance is Inf
PIECE = 1 << 15  # values looked at, at a time

Found = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Request:
    """What a search is.

    Attributes:
        queries: (B, Q, D) as `validation.data` passes it, finite.
        shape: queries.shape as the caller wrote it, for messages.
        magnitude: (B,) the largest absolute value of every batch element.
        k: neighbours of every query.
        proximity: the distance.
        exclude_self: query i never gets row i.
        max_bytes: cap on what is allocated beyond what the caller gave; 0 for none.
        bytes_in_use: how much of it is in use already.
    """

    queries: Any
    shape: tuple[int, ...]
    magnitude: np.ndarray
    k: int
    proximity: Proximity
    exclude_self: bool
    max_bytes: int
    bytes_in_use: int

    def check_cap(self, need: int, where: str) -> None:
        """Refuse a cap below `need` bytes besides those held."""
        what = f"queries.shape={self.shape} with k={self.k}"
        check_room(
            self.max_bytes,
            self.bytes_in_use + need,
            what,
            where,
            "raise it, or search for fewer queries at a time",
        )

    @property
    def room(self) -> int:
        """Bytes left under the cap."""
        return self.max_bytes - self.bytes_in_use if self.max_bytes else 1 << 62


class Neighbours(ABC):
    """The search of one request in chunks of data; a context manager that frees what it holds.

    Attributes:
        backend: the backend's name.
        request: what it was made from.
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
        """The nearest rows of a chunk, (B, Q, m) float64 distances and int64 indices in it, m = min(k, rows of the chunk).

        Ascending by distance, computed in float64 from the rows as they are, then by index. Rows that cannot be among the
        first k of `before`, the result of other chunks, may be left out; places without a row come last, with index NOTHING.

        Args:
            data: (B, M, D) as `validation.data` passes it; its values have not been looked at: ValueError for NaN or Inf.
            offset: the index of its first row, for `exclude_self`.
            before: (B, Q, k) distances and indices, or None.
        """

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """`size` more bytes of the cap are in use."""
        before = self.request
        self.request = replace(before, bytes_in_use=before.bytes_in_use + size)
        try:
            yield
        finally:
            self.request = before

    def merge(self, best: Found, more: Found) -> None:
        """Make `best` (B, Q, k) the first k of both; indices in `more` (B, Q, m) are of the same kind."""
        k = best[0].shape[-1]
        for b, i in np.ndindex(*best[0].shape[:2]):
            distances, indices = (
                np.concatenate([one[b, i], other[b, i]])
                for one, other in zip(best, more, strict=True)
            )
            order = np.lexsort([indices, distances])[:k]
            best[0][b, i], best[1][b, i] = distances[order], indices[order]

    def skipped(self, offset: int, rows: int) -> np.ndarray:
        """(Q,) the row of a chunk that a query may not get, -1 for none."""
        row = np.arange(self.request.queries.shape[1]) - offset
        return np.where((row >= 0) & (row < rows) & self.request.exclude_self, row, -1)


def largest(x: Any) -> np.ndarray:
    """(B,) float64: the largest magnitude of every batch element of x (B, N, D), NaN or Inf if it has one."""
    step = max(1, PIECE // x.shape[2])
    out = np.zeros(x.shape[0])
    for b in range(x.shape[0]):
        for lo in range(0, x.shape[1], step):
            out[b] = np.maximum(out[b], np.abs(to_numpy(x[b, lo : lo + step])).max())
    return out
