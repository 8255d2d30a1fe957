"""Rows that an iterable yields chunk by chunk, anew in every pass."""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Iterable
from typing import Any

import numpy as np

from .. import validation
from ..files import Buffers, Cursor
from .base import Source

__all__ = ["ChunkSource"]

_END = object()


class ChunkSource(Source):
    """Rows of the two-dimensional arrays that an iterable yields; one pass counts them.

    Args:
        x: Each `iter(x)` must yield the same rows.
        name: The argument in messages.
    """

    one_cursor = True
    slow = True

    def __init__(self, x: Iterable[Any], name: str) -> None:
        self.x = x
        self.name = name
        self.starts = [0]  # of every chunk, and N
        self.checksums: list[int] = []  # of every chunk's first row
        self.is_read = False
        self._chunk_bytes = 0
        dtypes: set[np.dtype] = set()
        d = 0
        for i, chunk in enumerate(x):
            rows = self.rows(i, chunk)
            if d and rows.shape[1] != d:
                raise ValueError(
                    f"every chunk of {name} must have the same D: chunk 0 has D={d},"
                    f" chunk {i} has shape {rows.shape}"
                )
            d = rows.shape[1]
            self.starts.append(self.starts[-1] + len(rows))
            self.checksums.append(checksum(rows))
            if len(rows):
                dtypes.add(rows.dtype)
            self._chunk_bytes = max(self._chunk_bytes, rows.nbytes)
            del chunk, rows
        if not self.starts[-1]:
            raise ValueError(
                f"{name} must yield rows, got {len(self.checksums)} chunks without any"
            )
        super().__init__((self.starts[-1], d), np.result_type(*dtypes))

    def rows(self, i: int, chunk: Any) -> np.ndarray:
        """Return chunk i as an array (n, D) of floats."""
        name = f"chunk {i} of {self.name}"
        shape = validation.shape_of(chunk, name)
        if len(shape) != 2:
            raise ValueError(f"{name} must have shape (n, D), got {len(shape)} dimensions, {shape}")
        if shape[0] == 0:
            return np.empty(shape, np.float32)
        return validation.to_numpy(validation.data(chunk, name=name).x[0])

    def cursor(self) -> Cursor:
        if self.is_read:
            raise RuntimeError(
                f"{self} is being read already: an iterable is read by one cursor at a time;"
                " close that first"
            )
        return _ChunkCursor(self)

    def reading_bytes(self, rows: int) -> int:
        # A chunk as it was given, as floats, and the rows that are read.
        return 3 * self._chunk_bytes + rows * self.shape[1] * self.dtype.itemsize

    def place(self, row: int) -> str:
        self.check_rows(row, row + 1)
        i = bisect_right(self.starts, row) - 1
        return f"chunk {i}, row {row - self.starts[i]}"

    def signature(self) -> list[Any]:
        rows = zlib.crc32(np.array([*self.starts, *self.checksums], np.int64).tobytes())
        return [[type(self.x).__name__, [*self.shape], self.dtype.name, rows]]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"is_read": False}

    def __str__(self) -> str:
        return f"{self.name}, a {type(self.x).__name__} of {len(self.checksums)} chunks"


class _ChunkCursor(Cursor):
    """Reads an iterable; going back begins another pass."""

    def __init__(self, source: ChunkSource) -> None:
        self._source = source
        self._buffers = Buffers(1, source.shape[1], source.dtype)
        self._pass: Any = None
        self._chunk = -1  # the one that is read
        self._rows: Any = None
        source.is_read = True

    def read(self, lo: int, hi: int) -> np.ndarray:
        source = self._source
        n = source.shape[0]
        source.check_rows(lo, hi)
        if self._rows is None or lo < source.starts[self._chunk]:
            self._pass = iter(source.x)
            self._chunk = -1
        out: Any = None
        at = lo
        while at < hi:
            self._seek(at)
            begin = source.starts[self._chunk]
            end = min(hi, source.starts[self._chunk + 1])
            assert self._rows is not None
            rows = self._rows[at - begin : end - begin]
            if (at, end) == (lo, hi) and hi < n and rows.dtype == source.dtype:
                return rows
            if out is None:
                out = self._buffers.next(hi - lo)
            out[at - lo : end - lo] = rows
            at = end
        if hi == n:
            self._finish()
        return out

    def close(self) -> None:
        self._pass = self._rows = None
        self._source.is_read = False

    def _seek(self, row: int) -> None:
        """Go on to the chunk that holds this row, which must be what it was in the first pass."""
        source = self._source
        while row >= source.starts[self._chunk + 1]:
            self._rows = None
            i = self._chunk + 1
            chunk = next(self._pass, _END)
            if chunk is _END:
                raise self._changed(f"it ended after {i} chunks, {source.starts[i]} rows")
            rows = source.rows(i, chunk)
            shape = source.starts[i + 1] - source.starts[i], source.shape[1]
            if len(rows) != shape[0] or (len(rows) and rows.shape != shape):
                raise self._changed(f"chunk {i} had shape {shape} and has {rows.shape} now")
            if checksum(rows) != source.checksums[i]:
                raise self._changed(f"chunk {i} begins with another row now; don't shuffle them")
            self._chunk = i
            self._rows = rows

    def _finish(self) -> None:
        """Check that nothing follows the last row."""
        for i, chunk in enumerate(self._pass, self._chunk + 1):
            if len(self._source.rows(i, chunk)):
                raise self._changed(f"chunk {i} follows the {self._source.shape[0]} rows")
        self._pass = self._rows = None

    def _changed(self, how: str) -> ValueError:
        return ValueError(f"each pass over {self._source.name} must yield the same rows: {how}")


def checksum(rows: np.ndarray) -> int:
    """Return a checksum of the first row, in any dtype the same."""
    return zlib.crc32(rows[:1].astype(np.float64).tobytes())
