"""What every source of vectors offers, whatever its format."""

from __future__ import annotations

import itertools
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ..errors import VectorFileError

__all__ = [
    "CHUNK_BYTES",
    "STORED",
    "Progress",
    "Vectors",
    "ahead",
    "check_regular",
    "decoded",
    "file_error",
]

# Names of the dtypes that may be stored, with the one that NumPy reads them in: it has no bfloat16.
STORED = {
    name: np.dtype({"bfloat16": "uint16"}.get(name, name))
    for name in (
        *("float16", "bfloat16", "float32", "float64"),
        *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    )
}
CHUNK_BYTES = 64 << 20  # of a chunk that is worked on while the next is read
Progress = Callable[[int, int], None]  # called with the rows done so far, and their number
KEPT = ("float16", "float32", "float64")  # given as they are stored


class Vectors(ABC):
    """N vectors of D values, read from the first to the last as often as asked. No file stays open in between.

    Attributes:
        path: of the file; "" for a memory map without one.
        name: of the tensor or column, "" in formats that hold one without a name.
        shape: (N, D).
        dtype: the name of the dtype that is stored, a key of `STORED`.
        library_bytes: what a library that reads the file keeps beside the rows.
    """

    library_bytes = 0

    def __init__(self, path: str, name: str, shape: tuple[int, int], dtype: str) -> None:
        self.path, self.name, self.shape, self.dtype = path, name, shape, dtype

    @property
    def row_bytes(self) -> int:
        """Bytes that one row of a chunk takes."""
        return self.shape[1] * value_dtype(self.dtype).itemsize

    @property
    def reading_bytes(self) -> int:
        """Bytes that one row takes at most while its chunk is being read."""
        return self.row_bytes + (
            0 if self.dtype in KEPT else self.shape[1] * STORED[self.dtype].itemsize
        )

    @abstractmethod
    def chunks(self, rows: int, recycled: bool = False) -> Iterator[np.ndarray]:
        """All rows in order, at most `rows` at a time: arrays (n, D), float16, float32 or float64.

        With `recycled` the memory of a chunk may be that of the last but one: new pages take longer than reading does.

        Raises:
            VectorFileError: the file is not what its header says, or has been changed.
        """

    def array(self) -> Any:
        """All rows (N, D): a read-only memory map where the format allows one; bfloat16 as `mx.array`."""
        chunks = self.chunks(max(1, (1 << 22) // self.shape[1]))
        first = next(chunks)  # D is as the header says: allocate
        out = np.empty(self.shape, value_dtype(self.dtype))
        done = 0
        for chunk in itertools.chain((first,), chunks):
            out[done : done + len(chunk)] = chunk
            done += len(chunk)
        return mx.array(out).astype(mx.bfloat16) if self.dtype == "bfloat16" else out

    def __str__(self) -> str:
        return f"{self.path}::{self.name}" if self.name else self.path


def value_dtype(stored: str) -> np.dtype:
    """The dtype that chunks have: float as stored, otherwise the smallest float that holds every value, or float64."""
    if stored in KEPT:
        return STORED[stored]
    return np.dtype(np.float32 if STORED[stored].itemsize <= 2 else np.float64)


def decoded(raw: np.ndarray, stored: str) -> np.ndarray:
    """Values as chunks have them, from the array of stored ones."""
    if stored == "bfloat16":
        wide = raw.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    return raw.astype(value_dtype(stored), copy=False)


def check_shape(shape: Any) -> tuple[int, int] | str:
    """(N, D), or why vectors can't have this shape."""
    if len(shape) != 2:
        return f"it has {len(shape)} dimensions, shape {tuple(shape)}, where vectors have 2, (N, D)"
    if 0 in shape:
        return f"it is empty, shape {tuple(shape)}"
    return int(shape[0]), int(shape[1])


def check_regular(path: str | os.PathLike[str]) -> None:
    """Refuse folders, and what may never give or take a byte: pipes, devices."""
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise file_error(path, "it is no regular file")


def file_error(path: str | os.PathLike[str], problem: str, verb: str = "read") -> VectorFileError:
    """The error that names the file."""
    return VectorFileError(f"cannot {verb} {os.fspath(path)!r}: {problem}")


def ahead(vectors: Vectors, rows: int) -> Generator[np.ndarray, None, None]:
    """Chunks of at most `rows` rows, the next of which is read by a thread while the caller works on the last.

    A chunk holds until the next one is asked for. Then the caller lets go of it: at most two are in memory.
    """
    chunks = vectors.chunks(rows, recycled=True)
    with ThreadPoolExecutor(1, "flash-kmeans-read") as reader:
        coming = reader.submit(next, chunks, None)
        while (chunk := coming.result()) is not None:
            del coming  # which holds the chunk too
            coming = reader.submit(next, chunks, None)
            yield chunk
            del chunk
