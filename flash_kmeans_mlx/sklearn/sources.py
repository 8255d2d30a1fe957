"""Rows that are read when they are needed: of files by scikit-learn, of arrays by the core."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import Buffers
from ..files.mapped import check_mapped
from ..shards.source import Cursor, Source, open_source
from ..validation import check_magnitude

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ArraySource", "SourceRows"]

STEP_VALUES = 1 << 15  # of rows in float64 at a time


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


class ArraySource(Source):
    """Rows ``(x - origin) / unit`` of an array, computed in float64 and rounded when they are read.

    Args:
        x: (N, D) float32 or float64; never copied, never written to.
        origin: (D,) float64.
        unit: A power of two.
        magnitude: The largest absolute value of the rows that are read; it is finite.
    """

    def __init__(self, x: np.ndarray, origin: np.ndarray, unit: float, magnitude: float) -> None:
        super().__init__((x.shape[0], x.shape[1]), np.dtype(np.float32))
        self.x = x
        self.origin = origin
        self.unit = unit
        self.magnitude = float(np.float32(magnitude))

    def read(self, rows: slice | np.ndarray, out: np.ndarray) -> np.ndarray:
        """Write some of the rows to `out` and return it."""
        centred = self.x[rows] - self.origin
        out[...] = centred if self.unit == 1 else centred / self.unit
        return out

    def cursor(self) -> Cursor:
        check_mapped(self.x)
        return _ArrayCursor(self)

    def reading_bytes(self, rows: int) -> int:
        return 4 * rows * self.shape[1] + 16 * max(STEP_VALUES, self.shape[1])

    def place(self, row: int) -> str:
        return f"row {row}"

    def signature(self) -> list[Any]:
        step = max(1, self.shape[0] // 16)
        return [[*self.shape], self.x.dtype.name, zlib.crc32(self.x[::step].tobytes())]

    def take(self, index: Any) -> np.ndarray:
        return self.read(index, np.empty((len(index), self.shape[1]), self.dtype))


class _ArrayCursor(Cursor):
    """Reads rows of an array into memory of its own."""

    def __init__(self, source: ArraySource) -> None:
        self._source = source
        self._rows = Buffers(1, source.shape[1], source.dtype)

    def read(self, lo: int, hi: int) -> np.ndarray:
        source = self._source
        source.check_rows(lo, hi)
        out = self._rows.next(hi - lo)
        step = max(1, STEP_VALUES // source.shape[1])
        for at in range(lo, hi, step):
            end = min(at + step, hi)
            source.read(slice(at, end), out[at - lo : end - lo])
        return out
