"""A copy on disk of rows that are slow to read, for fits that read them many times.

Decoding a Parquet file takes five times as long as reading the same rows from a flat file. The copy
has no name: the system removes it as soon as nobody reads it, however the process ends.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from ..files import Buffers, Cursor, file_error
from ..files.base import fill
from ..progress import SILENT, Progress
from .base import Source

__all__ = ["CopiedSource", "copied"]

LEAST_PASSES = 4  # fewer take about as long as copying
PIECE_BYTES = 1 << 20  # copied at a time
TASKS = 4  # per thread, so that threads end at about the same time
IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs")  # file systems whose files are in memory
MOUNTS = Path("/proc/self/mountinfo")


class CopiedSource(Source):
    """Rows of a source in a flat file, in the byte order of this machine.

    Args:
        source: The source, which is asked where rows come from.
        file: The file, open for reading.
        magnitude: The largest absolute value; NaN where there is one.
    """

    def __init__(self, source: Source, file: FileIO, magnitude: float) -> None:
        super().__init__(source.shape, source.dtype)
        self.source = source
        self.file = file
        self.magnitude = magnitude

    def close(self) -> None:
        """Close the file, which is gone then."""
        self.file.close()

    def cursor(self) -> Cursor:
        return _CopyCursor(self)

    def reading_bytes(self, rows: int) -> int:
        return rows * self.shape[1] * self.dtype.itemsize

    def place(self, row: int) -> str:
        return self.source.place(row)

    def signature(self) -> list[Any]:
        return self.source.signature()

    def __reduce__(self) -> str:
        raise TypeError(f"the copy of {self} stays in its process")

    def __str__(self) -> str:
        return str(self.source)


class _CopyCursor(Cursor):
    """Reads rows of the copy; cursors share its file, and none moves a position in it."""

    def __init__(self, source: CopiedSource) -> None:
        self._source = source
        self._row_bytes = source.shape[1] * source.dtype.itemsize
        self._rows = Buffers(1, source.shape[1], source.dtype)

    def read(self, lo: int, hi: int) -> np.ndarray:
        source = self._source
        source.check_rows(lo, hi)
        rows = self._rows.next(hi - lo)
        if fill(source.file, rows, lo * self._row_bytes):
            raise file_error(str(source), "its temporary copy has become smaller")
        return rows


class _WriteError(Exception):
    """The copy can't be written, as the disk is full."""


def copied(
    source: Source, passes: int, threads: int, max_bytes: int = 0, progress: Progress = SILENT
) -> Source:
    """Return a copy of a source if that saves time, otherwise the source itself.

    Args:
        source: The source; it stays as it is.
        passes: The passes over its rows that may follow.
        threads: Threads that may read.
        max_bytes: A cap on the memory that copying takes; 0 for none.
        progress: Is told of rows that are copied.

    Raises:
        OSError, ValueError: As the cursors of the source.
    """
    n, d = source.shape
    row_bytes = d * source.dtype.itemsize
    rows = max(1, min(n, PIECE_BYTES // row_bytes))
    threads = 1 if source.one_cursor else threads
    if max_bytes:
        while rows > 1 and _copying_bytes(source, rows) > max_bytes:
            rows //= 2
        threads = min(threads, max_bytes // _copying_bytes(source, rows))
    if not source.slow or passes < LEAST_PASSES or threads < 1 or not hasattr(os, "preadv"):
        return source
    file = _open_file(n * row_bytes)
    if file is None:
        return source
    try:
        return CopiedSource(source, file, _copy(source, file, rows, threads, progress))
    except BaseException as error:
        file.close()  # which frees the space
        if isinstance(error, _WriteError):
            return source
        raise


def _copying_bytes(source: Source, rows: int) -> int:
    """Return the bytes that a thread needs to copy so many rows at a time."""
    return source.reading_bytes(rows) + rows * source.shape[1] * source.dtype.itemsize


def _copy(source: Source, file: FileIO, rows: int, threads: int, progress: Progress) -> float:
    """Write all rows, so many at a time; return the largest absolute value, NaN if there is one."""
    parts = list(pairwise(source.cuts(TASKS * threads if threads > 1 else 1)))

    stop = Event()
    progress.begin(source.shape[0])

    def copy(part: tuple[int, int]) -> float:
        lo, end = part
        largest = 0.0
        with source.cursor() as cursor:
            for at in range(lo, end, rows):
                if stop.is_set():
                    break
                read = cursor.read(at, min(at + rows, end))
                _write(file, np.ascontiguousarray(read), at)
                progress.advance(len(read))
                largest = np.maximum(largest, np.maximum(read.max(), -read.min()))
        return float(largest)

    if threads == 1:
        return float(np.max(list(map(copy, parts))))
    with ThreadPoolExecutor(threads, "flash-kmeans-copy") as workers:
        tasks = [workers.submit(copy, part) for part in parts]
        try:
            return float(np.max([task.result() for task in tasks]))
        finally:
            stop.set()  # after an error or Ctrl-C


def _write(file: FileIO, rows: np.ndarray, at: int) -> None:
    """Write rows (n, D) from row `at` on."""
    begin = at * rows.shape[1] * rows.itemsize
    missing = rows.reshape(-1).view(np.uint8).data
    while missing:
        try:
            n_written = os.pwrite(file.fileno(), missing, begin)
        except OSError:  # of the copy, not of the source
            raise _WriteError from None
        missing = missing[n_written:]
        begin += n_written


def _open_file(size: int) -> FileIO | None:
    """Return a new file without a name, or None where there should be none of this size.

    At least as much must stay free, and files in memory would be no gain.
    """
    try:
        folder = Path(tempfile.gettempdir()).resolve()
        if _file_system(folder) in IN_MEMORY or shutil.disk_usage(folder).free < 2 * size:
            return None
        return tempfile.TemporaryFile(dir=folder, prefix="flash-kmeans-", buffering=0)
    except OSError:
        return None


def _file_system(folder: Path) -> str:
    """Return the type of the file system that a folder is on, or "" where it is not known."""
    if not MOUNTS.exists():
        return ""
    found, longest = "", -1
    for line in MOUNTS.read_text("utf-8", "surrogateescape").splitlines():
        fields = line.split()
        mount = Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), fields[4]))
        if folder.is_relative_to(mount) and len(mount.parts) >= longest:  # the last one is on top
            found, longest = fields[fields.index("-") + 1], len(mount.parts)
    return found
