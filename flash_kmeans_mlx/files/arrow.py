"""Columns of fixed-size lists in Parquet and Arrow files, read by pyarrow."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import VectorFileError
from .base import STORED, Vectors, check_shape, decoded, file_error

__all__ = ["arrow", "parquet"]

_BUFFER = 1 << 20  # bytes of a Parquet column at a time; pyarrow's default is a whole row group
_POOL = 16 << 20  # bytes of unused buffers that pyarrow's allocator keeps
_MAGIC = b"ARROW1"
_ARROW = {"halffloat": "float16", "float": "float32", "double": "float64"}

Batches = Callable[[str, str, int], AbstractContextManager[Iterator[Any]]]


class ArrowVectors(Vectors):
    """A column of a Parquet or Arrow file; `batches(path, column, rows)` opens the file."""

    def __init__(
        self, path: str, name: str, shape: tuple[int, int], dtype: str, batches: Batches
    ) -> None:
        super().__init__(path, name, shape, dtype)
        self.batches = batches
        self.library_bytes = _POOL if batches is _parquet_batches else 0

    @property
    def reading_bytes(self) -> int:
        stored = self.shape[1] * STORED[self.dtype].itemsize
        if self.batches is _arrow_batches:
            return self.row_bytes + 2 * stored
        # Parquet decodes values with two levels each, into buffers that double as they grow.
        return self.row_bytes + 4 * stored + 6 * self.shape[1]

    def chunks(self, rows: int, recycled: bool = False) -> Iterator[np.ndarray]:
        del recycled
        n, d = self.shape
        n_read = 0
        with _reported(self.path), self.batches(self.path, self.name, rows) as batches:
            for batch in batches:
                column = getattr(batch.column(0), "storage", batch.column(0))
                column.validate(full=True)
                values = column.flatten()
                n_read += len(column)
                if column.null_count or values.null_count or len(values) != len(column) * d:
                    raise file_error(
                        self.path,
                        f"column {self.name!r} has missing values: drop or fill them first",
                    )
                if n_read > n:
                    break
                raw = values.to_numpy(zero_copy_only=False)
                yield decoded(
                    raw.copy() if self.batches is _arrow_batches else raw, self.dtype
                ).reshape(-1, d)
                del batch, column, values, raw
        if n_read != n:
            raise file_error(
                self.path,
                f"column {self.name!r} has {n_read} rows or more where its header says {n}",
            )


def parquet(path: str) -> dict[str, Vectors | str]:
    """Return the columns of a Parquet file."""
    _pyarrow(path)
    import pyarrow.parquet as pq

    with _reported(path), pq.ParquetFile(path) as file:
        return _columns(path, file.schema_arrow, file.metadata.num_rows, _parquet_batches)


def arrow(path: str) -> dict[str, Vectors | str]:
    """Return the columns of an Arrow (Feather 2, IPC) file or stream."""
    with _reported(path):
        reader = _open_arrow(path, _mapping(path))
        schema = reader.schema
        rows = 0
        for batch in _each(reader):
            batch.validate()  # lists are as long as the schema says
            rows += batch.num_rows
        return _columns(path, schema, rows, _arrow_batches)


def _pyarrow(path: str) -> Any:
    try:
        import pyarrow
    except ModuleNotFoundError:
        raise file_error(
            path, "Parquet and Arrow files need pyarrow: pip install pyarrow"
        ) from None
    return pyarrow


@contextmanager
def _reported(path: str) -> Iterator[None]:
    """Turn pyarrow's errors into VectorFileError."""
    pa = _pyarrow(path)
    try:
        yield
    except (FileNotFoundError, VectorFileError):
        raise
    except (pa.ArrowException, OSError, OverflowError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise file_error(path, f"it is truncated or damaged ({reason})") from None


@contextmanager
def _parquet_batches(path: str, name: str, rows: int) -> Iterator[Iterator[Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file:
        yield file.iter_batches(rows, columns=[name], use_threads=False)


@contextmanager
def _arrow_batches(path: str, name: str, rows: int) -> Iterator[Iterator[Any]]:
    """Yield slices of batches; the pages of a slice are released after its use."""
    owner = _mapping(path)

    def slices() -> Iterator[Any]:
        for batch in _each(_open_arrow(path, owner)):
            column = batch.select([name])
            for lo in range(0, batch.num_rows, rows):
                yield column.slice(lo, rows)
                if hasattr(mmap, "MADV_DONTNEED"):
                    owner.madvise(mmap.MADV_DONTNEED)

    yield slices()


def _mapping(path: str) -> mmap.mmap:
    with Path(path).open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _open_arrow(path: str, owner: mmap.mmap) -> Any:
    """Return a reader of the file format or of the streaming format."""
    pa = _pyarrow(path)
    source = pa.BufferReader(pa.py_buffer(owner))
    if owner[: len(_MAGIC)] == _MAGIC:
        return pa.ipc.open_file(source)
    return pa.ipc.open_stream(source)


def _each(reader: Any) -> Iterator[Any]:
    """Return the batches of a file or of a stream."""
    if hasattr(reader, "get_batch"):
        return (reader.get_batch(i) for i in range(reader.num_record_batches))
    return reader


def _columns(path: str, schema: Any, rows: int, batches: Batches) -> dict[str, Vectors | str]:
    import pyarrow as pa

    columns: dict[str, Vectors | str] = {}
    for field in schema:
        kind = field.type
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        if not pa.types.is_fixed_size_list(kind):
            columns[field.name] = (
                f"its type {field.type} is no list of a fixed size; cast it to one"
            )
            continue
        dtype = _ARROW.get(str(kind.value_type), str(kind.value_type))
        shape = check_shape((rows, kind.list_size))
        if dtype not in STORED:
            columns[field.name] = f"its values of type {dtype} are not one of {', '.join(STORED)}"
        elif isinstance(shape, str):
            columns[field.name] = shape
        else:
            columns[field.name] = ArrowVectors(path, field.name, shape, dtype, batches)
    return columns
