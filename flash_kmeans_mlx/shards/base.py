"""The interface of rows that are only ever read in pieces, wherever they are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..files import Cursor

__all__ = ["Source"]

_TAKEN_BYTES = 1 << 20  # of rows that `take` reads at a time
_GAP_BYTES = 1 << 14  # reading so many bytes takes no longer than another read


class Source(ABC):
    """N rows of D values, read in pieces as often as needed.

    Attributes:
        shape: (N, D).
        dtype: Of the rows that are read: float16, float32 or float64.
        one_cursor: Whether only one cursor may be open at a time.
        slow: Whether reading the same rows from a flat file would take much less time.
        magnitude: The largest absolute value, NaN where there is one; None if nobody has looked.
    """

    one_cursor = False
    slow = False
    magnitude: float | None = None

    def __init__(self, shape: tuple[int, int], dtype: np.dtype) -> None:
        self.shape = shape
        self.dtype = dtype

    @abstractmethod
    def cursor(self) -> Cursor:
        """Return a reader for one thread, which keeps at most one file open."""

    @abstractmethod
    def reading_bytes(self, rows: int) -> int:
        """Return an upper bound of the memory of a cursor that reads so many rows at a time."""

    @abstractmethod
    def place(self, row: int) -> str:
        """Return where a row is, for messages: its file, and its index there."""

    @abstractmethod
    def signature(self) -> list[Any]:
        """Return what tells this source from another, and from itself once it has changed.

        It is a list that JSON can hold. A few rows of every file have a checksum in it.
        """

    def cuts(self, count: int) -> list[int]:
        """Return 0, about `count` - 1 rows that are cheap to begin with, and N, in order."""
        n = self.shape[0]
        return sorted({n * i // count for i in range(count + 1)})

    def take(self, index: Any) -> np.ndarray:
        """Return rows (n, D) by their indices, in any order; each file is visited once.

        Raises:
            IndexError: There is no such row.
            OSError: A file can't be opened.
            ValueError: VectorFileError for a file that can't be read, or has changed.
        """
        index = np.asarray(index, np.int64).reshape(-1)
        n, d = self.shape
        if len(index) and not 0 <= index.min() <= index.max() < n:
            wrong = index.min() if index.min() < 0 else index.max()
            raise IndexError(f"index must be in 0..{n - 1}, the rows of {self}, got {wrong}")
        out = np.empty((len(index), d), self.dtype)
        order = np.argsort(index, kind="stable")
        rows = index[order]
        with self.cursor() as cursor:
            for begin, end in _runs(rows, d * self.dtype.itemsize):
                lo = int(rows[begin])
                read = cursor.read(lo, int(rows[end - 1]) + 1)
                out[order[begin:end]] = read[rows[begin:end] - lo]
        return out

    def check_rows(self, lo: int, hi: int) -> None:
        """Refuse rows lo:hi that are none, or beyond the last row."""
        if not 0 <= lo < hi <= self.shape[0]:
            raise IndexError(f"rows {lo}:{hi} must be some of the {self.shape[0]} rows of {self}")


def _runs(rows: np.ndarray, row_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield (begin, end) of ascending rows that are read at once: they are near each other."""
    gap = max(1, _GAP_BYTES // row_bytes)
    longest = max(1, _TAKEN_BYTES // row_bytes)
    apart = (np.diff(rows) > gap) | (np.diff(rows // longest) > 0)
    ends = [*(np.flatnonzero(apart) + 1).tolist(), len(rows)]
    begin = 0
    for end in ends:
        if begin < end:
            yield begin, end
        begin = end
