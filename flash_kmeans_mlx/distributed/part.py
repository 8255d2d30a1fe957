"""Some rows of a source that follow one another, as a source."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..files import Cursor
from ..shards.base import Source

__all__ = ["PartSource"]


class PartSource(Source):
    """Rows first:end of another source."""

    def __init__(self, whole: Source, first: int, end: int) -> None:
        super().__init__((end - first, whole.shape[1]), whole.dtype)
        self.one_cursor = whole.one_cursor
        self._whole = whole
        self._first = first

    def cursor(self) -> Cursor:
        return _PartCursor(self._whole.cursor(), self._first)

    def reading_bytes(self, rows: int) -> int:
        return self._whole.reading_bytes(rows)

    def place(self, row: int) -> str:
        return self._whole.place(self._first + row)

    def signature(self) -> list[Any]:
        return [self._whole.signature(), self._first, self.shape[0]]

    def take(self, index: Any) -> np.ndarray:
        return self._whole.take(np.asarray(index, np.int64) + self._first)

    def __str__(self) -> str:
        return str(self._whole)


class _PartCursor(Cursor):
    """Reads rows that are counted from another first one."""

    def __init__(self, cursor: Cursor, first: int) -> None:
        self._cursor = cursor
        self._first = first

    def read(self, lo: int, hi: int) -> np.ndarray:
        return self._cursor.read(self._first + lo, self._first + hi)

    def close(self) -> None:
        self._cursor.close()
