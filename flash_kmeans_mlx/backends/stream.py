"""The points of a fit that are read again in each pass."""

from __future__ import annotations

from typing import Protocol

import numpy as np

__all__ = ["Cursor", "RowStream", "Rows"]


class Cursor(Protocol):
    """Reads rows for one thread."""

    def read(self, lo: int, hi: int) -> np.ndarray:
        """Return rows lo:hi as (n, D), valid until the next call."""
        ...

    def close(self) -> None:
        """Close its file."""
        ...


class Rows(Protocol):
    """Rows (N, D) that lie somewhere else; `files.source.Source` is one.

    Attributes:
        shape: (N, D).
        dtype: float16, float32 or float64.
        one_cursor: Whether only one cursor may be open at a time.
    """

    shape: tuple[int, int]
    dtype: np.dtype
    one_cursor: bool

    def cursor(self) -> Cursor:
        """Return a reader for one thread."""
        ...

    def take(self, index: np.ndarray) -> np.ndarray:
        """Return rows (n, D) by index, in any order."""
        ...

    def reading_bytes(self, rows: int) -> int:
        """Return the memory that a cursor takes at most to read so many rows at a time."""
        ...

    def signature(self) -> list:
        """Return, for JSON, what shows that the rows are the same as before."""
        ...

    def place(self, row: int) -> str:
        """Return where a row is, for messages."""
        ...


class RowStream:
    """Rows (N, D) as a batch (1, N, D), for `Problem.x`."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.shape = (1, *rows.shape)
        self.one_cursor = rows.one_cursor
        self.reading_bytes = rows.reading_bytes
