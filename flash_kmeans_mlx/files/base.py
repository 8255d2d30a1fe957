"""The interface of vectors in files, whatever their format."""

from __future__ import annotations

import itertools
import os
import stat
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ..errors import VectorFileError

__all__ = [
    "CHUNK_BYTES",
    "COPY_AGAIN",
    "STEP_VALUES",
    "STORED",
    "Buffers",
    "Cursor",
    "Vectors",
    "ahead",
    "check_regular",
    "decode",
    "file_error",
    "fill",
    "shortened",
    "spread",
    "value_dtype",
]

# Names of the dtypes that files may have, with those that NumPy reads them in: it has no bfloat16.
STORED = {
    name: np.dtype({"bfloat16": "uint16"}.get(name, name))
    for name in (
        *("float16", "bfloat16", "float32", "float64"),
        *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    )
}
CHUNK_BYTES = 64 << 20  # of a chunk that is used while the next is read
STEP_VALUES = 1 << 18  # decoded or copied from a map at a time: they stay in the cache
KEPT = ("float16", "float32", "float64")  # dtypes that chunks have as they are stored
COPY_AGAIN = "the file is incomplete or damaged: copy or write it again"


class Buffers:
    """Arrays (n, width) that reads take in turn: new pages take longer than reading does.

    Args:
        count: The number of arrays; 0: every read gets an array of its own.
        width: Values of a row.
        dtype: Their dtype.
    """

    def __init__(self, count: int, width: int, dtype: Any) -> None:
        self.width = width
        self.dtype = np.dtype(dtype)
        self._arrays = deque([np.empty((0, width), dtype)] * count)

    def next(self, rows: int) -> np.ndarray:
        """Return an array (rows, width), in memory that was returned `count` calls ago."""
        if not self._arrays:
            return np.empty((rows, self.width), self.dtype)
        array = self._arrays.popleft()
        if len(array) < rows:
            del array  # before there is another
            array = np.empty((rows, self.width), self.dtype)
        self._arrays.append(array)
        return array[:rows]


class Cursor(ABC):
    """Reads runs of rows for one thread, best in ascending order; a context manager."""

    @abstractmethod
    def read(self, lo: int, hi: int) -> np.ndarray:
        """Return rows lo:hi as (n, D), float16, float32 or float64, lo < hi.

        The values of a row are contiguous, rows may be at any distance. They are valid until the
        next read.

        Raises:
            OSError: The file can't be opened.
            VectorFileError: The file is not what its header says, or has been changed.
        """

    def close(self) -> None:  # noqa: B027
        """Close the file."""

    def __enter__(self) -> Cursor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Vectors(ABC):
    """N vectors of D values in a file, read in pieces as often as needed.

    A file is open only while a cursor is, or chunks are read.

    Attributes:
        path: The path of the file; "" for a memory map without one.
        name: The tensor or column; "" in formats that hold one array without a name.
        shape: (N, D).
        dtype: The name of the dtype in the file, a key of `STORED`.
        library_bytes: Memory that the library which reads the file keeps beside the rows.
        slow: Whether reading the same rows from a flat file would take much less time.
    """

    library_bytes = 0
    slow = False

    def __init__(self, path: str, name: str, shape: tuple[int, int], dtype: str) -> None:
        self.path = path
        self.name = name
        self.shape = shape
        self.dtype = dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of a chunk."""
        return self.shape[1] * value_dtype(self.dtype).itemsize

    @property
    def reading_bytes(self) -> int:
        """Bytes that one row takes at most while it is being read."""
        return self.row_bytes

    @abstractmethod
    def cursor(self, buffers: int = 1) -> Cursor:
        """Open the file to read rows of it.

        Args:
            buffers: The number of reads after which memory is used again; 0 for never.

        Raises:
            OSError: The file can't be opened.
            VectorFileError: The file is not what its header says, or has been changed.
        """

    def chunks(self, rows: int, recycled: bool = False) -> Iterator[np.ndarray]:
        """Yield all rows in order as arrays (n, D), float16, float32 or float64.

        Args:
            rows: The largest n.
            recycled: A chunk may take the memory of the last but one.

        Raises:
            VectorFileError: The file is not what its header says, or has been changed.
        """
        n = self.shape[0]
        with self.cursor(2 * recycled) as cursor:
            for lo in range(0, n, rows):
                yield cursor.read(lo, min(lo + rows, n))

    def sample_rows(self, count: int) -> list[int]:
        """Return about `count` rows in ascending order, spread over the file as far as is cheap."""
        return spread(self.shape[0], count)

    def first_rows(self, count: int) -> list[int]:
        """Return 0 and at most `count` - 1 more rows that are cheap to begin with, in order."""
        return sorted({self.shape[0] * i // count for i in range(count)})

    def array(self) -> Any:
        """Return all rows (N, D), bfloat16 as `mx.array`.

        Where the format allows it they are a read-only memory map.
        """
        chunks = self.chunks(max(1, (1 << 22) // self.shape[1]))
        # Nothing is allocated before a chunk shows that D is as the header says.
        first = next(chunks)
        out = np.empty(self.shape, value_dtype(self.dtype))
        done = 0
        for chunk in itertools.chain((first,), chunks):
            out[done : done + len(chunk)] = chunk
            done += len(chunk)
        return mx.array(out).astype(mx.bfloat16) if self.dtype == "bfloat16" else out

    def __str__(self) -> str:
        return f"{self.path}::{self.name}" if self.name else self.path


def value_dtype(stored: str) -> np.dtype:
    """Return the dtype of chunks for the name of a stored dtype.

    Floats that NumPy has are kept. Other types of up to 16 bits become float32, which holds all
    their values, and wider ones float64.
    """
    if stored in KEPT:
        return STORED[stored]
    return np.dtype(np.float32 if STORED[stored].itemsize <= 2 else np.float64)


def decode(raw: np.ndarray, stored: str, out: np.ndarray) -> np.ndarray:
    """Write stored values into `out` as floats of `value_dtype(stored)`, and return it."""
    if stored == "bfloat16":
        bits = out.view(np.uint32)
        bits[...] = raw
        bits <<= 16
    else:
        out[...] = raw
    return out


def spread(n: int, count: int) -> list[int]:
    """Return at most `count` of the numbers 0..n-1 in ascending order, evenly spread."""
    return sorted({i * (n - 1) // max(1, count - 1) for i in range(count)})


def check_shape(shape: Any) -> tuple[int, int] | str:
    """Return (N, D), or the reason why vectors can't have this shape."""
    if len(shape) != 2:
        return f"it has {len(shape)} dimensions, shape {tuple(shape)}, where vectors have 2, (N, D)"
    if min(shape) < 1:
        return f"it is empty, shape {tuple(shape)}"
    return int(shape[0]), int(shape[1])


def check_regular(path: str | os.PathLike[str]) -> None:
    """Refuse folders, and pipes and devices, which may block for ever."""
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise file_error(path, "it is no regular file")


def file_error(path: str | os.PathLike[str], problem: str, verb: str = "read") -> VectorFileError:
    """Return the error that names the file and the problem."""
    return VectorFileError(f"cannot {verb} {os.fspath(path)!r}: {problem}")


def shortened(text: str) -> str:
    """Return the first characters of a text, quoted, for a message."""
    return repr(text if len(text) < 120 else text[:120] + "...")


def ahead(vectors: Vectors, rows: int) -> Generator[np.ndarray, None, None]:
    """Yield chunks of at most `rows` rows; a thread reads the next while the caller uses one.

    A chunk is valid until the next one is asked for. The caller must drop it by then, so that at
    most two are in memory.
    """
    from concurrent.futures import ThreadPoolExecutor

    chunks = vectors.chunks(rows, recycled=True)
    with ThreadPoolExecutor(1, "flash-kmeans-read") as reader:
        coming = reader.submit(next, chunks, None)
        while (chunk := coming.result()) is not None:
            del coming  # it refers to the chunk too
            coming = reader.submit(next, chunks, None)
            yield chunk
            del chunk


def fill(file: FileIO, out: np.ndarray, begin: int) -> int:
    """Read bytes of a file from `begin` on until `out` is full; return how many were missing.

    With `os.preadv`, threads may share the file.
    """
    left = out.reshape(-1).view(np.uint8).data
    while left:
        if hasattr(os, "preadv"):
            n_read = os.preadv(file.fileno(), [left], begin)
        else:
            file.seek(begin)
            n_read = file.readinto(left)
        if not n_read:
            break
        left = left[n_read:]
        begin += n_read
    return len(left)
