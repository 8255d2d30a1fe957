"""The vectors that a command is given: files, folders and patterns."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from .. import backends, validation
from ..progress import open_progress
from ..shards.parts import FileSource
from ..shards.source import Cursor, Source, open_source

__all__ = ["for_backend", "open_data", "paths"]

READ_BYTES = 1 << 22  # at a time, of rows that are read into memory


class LoadedSource(Source):
    """Rows of a source that were read into memory: they are not read again in each pass.

    Fits take them as they take the source, and find the same bits.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source.shape, source.dtype)
        self._source = source
        self._rows = _read(source)

    def cursor(self) -> Cursor:
        return _LoadedCursor(self._rows)

    def reading_bytes(self, rows: int) -> int:
        return 0

    def place(self, row: int) -> str:
        return self._source.place(row)

    def signature(self) -> list[Any]:
        return self._source.signature()

    def __str__(self) -> str:
        return str(self._source)


class _LoadedCursor(Cursor):
    """Reads rows in memory."""

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows

    def read(self, lo: int, hi: int) -> np.ndarray:
        return self._rows[lo:hi]


def open_data(data: list[str]) -> Source:
    """Return the rows of all files that the arguments name; nothing but headers is read."""
    return open_source(data[0] if len(data) == 1 else data, "DATA")


def paths(source: Source) -> list[str]:
    """Return the paths of the files of a source."""
    return [part.path for part in source.parts] if isinstance(source, FileSource) else []


def for_backend(
    source: Source, backend: str | None, max_mem_gb: float, k: int
) -> tuple[Any, float]:
    """Return points as the backend takes them, and the part of the cap that they leave.

    Rows that are few for the memory are loaded. Others are read again in each pass, on the CPU; a
    backend that was named, and can't do that, gets them in memory all the same.

    Args:
        source: The rows.
        backend: The one that was named, or None.
        max_mem_gb: The cap, or 0.
        k: The number of centroids.

    Raises:
        ValueError: The rows do not fit under the cap.
    """
    n, d = source.shape
    size = n * d * source.dtype.itemsize
    cap = validation.cap(max_mem_gb)
    # The most that a fit takes beside them: for points, seeds and centroids, and threads.
    beside = 64 * n + k * (4096 * d + (1 << 15)) + (64 << 20)
    is_small = size + beside <= cap if cap else size <= _memory() // 4
    on_cpu = backends.resolve(backend) == "cpu"
    if not is_small and (on_cpu or backend is None):
        return source, max_mem_gb
    need = f"DATA of shape {source.shape}, which it reads into memory,"
    where = f"on the {backend} backend"
    validation.check_room(cap, size + 1, need, where, "raise it, or take --backend cpu")
    points = LoadedSource(source) if on_cpu else _read(source)
    return points, (cap - size) / 1e9 if cap else 0.0


def _read(source: Source) -> np.ndarray:
    """Return all rows (N, D)."""
    n, d = source.shape
    rows = np.empty((n, d), source.dtype)
    step = max(1, READ_BYTES // (d * source.dtype.itemsize))
    with open_progress() as progress, source.cursor() as cursor:
        progress.phase("loading")
        progress.begin(n)
        for lo in range(0, n, step):
            hi = min(n, lo + step)
            rows[lo:hi] = cursor.read(lo, hi)
            progress.advance(hi - lo)
    return rows


def _memory() -> int:
    """Return the bytes of memory of this machine."""
    if not hasattr(os, "sysconf"):
        return 1 << 34
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
