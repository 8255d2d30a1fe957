"""Rows in files, for the parts of scikit-learn that need only some of them at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..shards.source import Cursor, open_source
from ..validation import check_magnitude

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["SourceRows"]


class SourceRows:
    """Rows (N, D) of a source, which slices and arrays of indices read; a context manager.

    Attributes:
        shape: (N, D).
        dtype: Of the rows: float32, or float64 if the source has it.
    """

    def __init__(self, x: Any) -> None:
        self._source = open_source(x, "X")
        self._cursor: Cursor | None = None
        self.shape = self._source.shape
        self.dtype = np.result_type(self._source.dtype, np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        """Return rows (n, D), checked; those of a slice are valid until the next one is read."""
        if isinstance(index, slice):
            if self._cursor is None:
                self._cursor = self._source.cursor()
            lo, hi, _ = index.indices(len(self))
            rows = self._cursor.read(lo, hi)
            index = np.arange(lo, hi)
        else:
            self.close()
            rows = self._source.take(index)
        largest = np.maximum(rows.max(1), -rows.min(1)).astype(np.float64)
        wrong = np.flatnonzero(~np.isfinite(largest))
        if len(wrong):
            place = self._source.place(int(index[wrong[0]]))
            check_magnitude(largest[wrong[:1]], self.shape, "X", place)
        return rows.astype(self.dtype, copy=False)

    def close(self) -> None:
        """Close the file that is open."""
        if self._cursor is not None:
            self._cursor.close()
            self._cursor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
