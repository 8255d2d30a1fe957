"""Rows of one or several files, one after another."""

from __future__ import annotations

import itertools
import zlib
from bisect import bisect_right
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..files import Buffers, Cursor, MappedVectors, Vectors, file_error, open_array, value_dtype
from .base import Source

__all__ = ["FileSource"]

_SAMPLED = 16  # rows of a file that have a checksum


class Part(NamedTuple):
    """Vectors of one file, as they were when the source was opened.

    Attributes:
        path: The absolute path of the file; that of a map may be "".
        name: The name of the array in the file; "" where it has none.
        shape: (N, D).
        dtype: The name of the dtype in the file.
        row_bytes: Bytes that one row takes at most while it is being read.
        fixed_bytes: Bytes that a cursor takes beside its rows.
    """

    path: str
    name: str
    shape: tuple[int, int]
    dtype: str
    row_bytes: int
    fixed_bytes: int

    def __str__(self) -> str:
        return f"{self.path}::{self.name}" if self.name else self.path or "a memory map"


class FileSource(Source):
    """Rows of files, one file after another.

    It is pickled as names and sizes: each process opens the files when it first reads them.

    Args:
        vectors: The vectors of each file, at least one.
        text: What the caller named, for messages.
    """

    def __init__(self, vectors: list[Vectors], text: str) -> None:
        _check_alike(vectors)
        self.parts = tuple(_part(v) for v in vectors)
        self.slow = any(v.slow for v in vectors)
        self.starts = list(itertools.accumulate((p.shape[0] for p in self.parts), initial=0))
        self._text = text
        # Maps have no file that could be opened again.
        self._maps = {i: v for i, v in enumerate(vectors) if isinstance(v, MappedVectors)}
        self._opened: dict[int, tuple[Any, Vectors]] = {}
        dtype = np.result_type(*{value_dtype(p.dtype) for p in self.parts})
        super().__init__((self.starts[-1], self.parts[0].shape[1]), dtype)

    def cursor(self) -> Cursor:
        return _FilesCursor(self)

    def reading_bytes(self, rows: int) -> int:
        largest = max(min(rows, p.shape[0]) * p.row_bytes + p.fixed_bytes for p in self.parts)
        one = len(self.parts) == 1  # otherwise rows of several files, or dtypes, are copied
        return largest + (0 if one else rows * self.shape[1] * self.dtype.itemsize)

    def place(self, row: int) -> str:
        self.check_rows(row, row + 1)
        i = bisect_right(self.starts, row) - 1
        return f"{str(self.parts[i])!r}, row {row - self.starts[i]}"

    def cuts(self, count: int) -> list[int]:
        n = self.shape[0]
        found = {n}
        for i, (part, start) in enumerate(zip(self.parts, self.starts, strict=False)):
            share = -(-count * part.shape[0] // n)
            found.update(start + row for row in self.vectors(i).first_rows(share))
        return sorted(found)

    def signature(self) -> list[Any]:
        found: list[Any] = []
        with self.cursor() as cursor:
            for i, part in enumerate(self.parts):
                checksum = 0
                for row in self.vectors(i).sample_rows(_SAMPLED):
                    at = self.starts[i] + row
                    checksum = zlib.crc32(cursor.read(at, at + 1).tobytes(), checksum)
                size, mtime_ns = (0, 0) if i in self._maps else _state(part.path)
                found.append([str(part), [*part.shape], part.dtype, size, mtime_ns, checksum])
        return found

    def vectors(self, i: int) -> Vectors:
        """Return the vectors of part i, which must be what they were.

        Raises:
            OSError: The file can't be opened.
            VectorFileError: It can't be read, or has changed.
        """
        if i in self._maps:
            return self._maps[i]
        part = self.parts[i]
        state = _state(part.path)
        opened = self._opened.get(i)
        if opened is None or opened[0] != state:
            opened = state, open_array(part.path, part.name)
            v = opened[1]
            if (v.shape, v.dtype) != (part.shape, part.dtype):
                raise file_error(
                    str(part),
                    f"it has changed: its shape and dtype are {v.shape} {v.dtype}, and were"
                    f" {part.shape} {part.dtype}; leave files alone while they are read",
                )
            self._opened[i] = opened
        return opened[1]

    def __getstate__(self) -> dict[str, Any]:
        if self._maps:
            raise TypeError(f"{self} is a memory map, which stays in its process: give its path")
        return self.__dict__ | {"_opened": {}}

    def __str__(self) -> str:
        return self._text


class _FilesCursor(Cursor):
    """Reads one file after another."""

    def __init__(self, source: FileSource) -> None:
        self._source = source
        self._joined = Buffers(1, source.shape[1], source.dtype)
        self._part = -1
        self._cursor: Cursor | None = None

    def read(self, lo: int, hi: int) -> np.ndarray:
        source = self._source
        source.check_rows(lo, hi)
        part = bisect_right(source.starts, lo) - 1
        is_kept = value_dtype(source.parts[part].dtype) == source.dtype
        if hi <= source.starts[part + 1] and is_kept:
            return self._read(part, lo, hi)
        out = self._joined.next(hi - lo)
        at = lo
        while at < hi:
            end = min(hi, source.starts[part + 1])
            out[at - lo : end - lo] = self._read(part, at, end)
            at = end
            part += 1
        return out

    def close(self) -> None:
        if self._cursor is not None:
            self._cursor.close()
        self._cursor = None
        self._part = -1

    def _read(self, part: int, lo: int, hi: int) -> np.ndarray:
        """Return rows of one file, counted from the first row of the source."""
        if self._cursor is None or part != self._part:
            self.close()
            self._cursor = self._source.vectors(part).cursor()
            self._part = part
        first = self._source.starts[part]
        return self._cursor.read(lo - first, hi - first)


def _part(v: Vectors) -> Part:
    path = str(Path(v.path).absolute()) if v.path else ""
    return Part(path, v.name, v.shape, v.dtype, v.reading_bytes, v.library_bytes)


def _state(path: str) -> tuple[int, int]:
    """Return the size of a file, and when it was last changed."""
    status = Path(path).stat()
    return status.st_size, status.st_mtime_ns


def _check_alike(vectors: list[Vectors]) -> None:
    """Refuse files of different D, and integers beside floats."""
    first = vectors[0]
    for v in vectors:
        if v.shape[1] != first.shape[1]:
            raise ValueError(
                f"all files must have the same D: {str(first)!r} has shape {first.shape},"
                f" {str(v)!r} {v.shape}"
            )
        if ("float" in v.dtype) != ("float" in first.dtype):
            raise ValueError(
                "all files must hold floats, or all integers:"
                f" {str(first)!r} has dtype {first.dtype}, {str(v)!r} {v.dtype}"
            )
