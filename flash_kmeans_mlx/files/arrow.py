"""Columns of fixed-size lists in Arrow files and streams (Feather 2, IPC), read by pyarrow."""

from __future__ import annotations

import itertools
import mmap
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .base import COPY_AGAIN, STORED, Cursor, Vectors, file_error
from .columns import ColumnCursor, columns, pyarrow_module, reported, step_rows
from .flat import FlatVectors
from .mapped import map_address, release_map, release_pages

__all__ = ["arrow"]

_MAGIC = b"ARROW1"
_AROUND = 4 << 20  # bytes of pages beside those that are read


class ArrowVectors(Vectors):
    """A column of an Arrow file or stream.

    Args:
        path: The path of the file.
        name: The column.
        shape: (N, D).
        dtype: The name of its dtype.
        starts: The first row of every batch, and N.
        field: The place of the column.
        decoded_bytes: Bytes of the largest batch of the column if it is compressed, otherwise 0.
    """

    def __init__(
        self,
        path: str,
        name: str,
        shape: tuple[int, int],
        dtype: str,
        starts: list[int],
        field: int,
        decoded_bytes: int,
    ) -> None:
        super().__init__(path, name, shape, dtype)
        self.starts = starts
        # Of some fields only, bytes are copied from the map: so little if they are compressed.
        self.fields = [field] if decoded_bytes else None
        self.slow = decoded_bytes > 0
        step_bytes = step_rows(self) * shape[1] * STORED[dtype].itemsize
        self.library_bytes = _AROUND + step_bytes + 2 * decoded_bytes

    def cursor(self, buffers: int = 1) -> Cursor:
        with reported(self.path):
            return _ArrowCursor(self, buffers)


class ArrowBatches(FlatVectors):
    """A column whose values are in the file as they are: they are read without pyarrow.

    Args:
        path: The path of the file.
        name: The column.
        shape: (N, D).
        dtype: The name of its dtype.
        starts: The first row of every batch, and N.
        offsets: Where the first row of every batch begins in the file.
    """

    def __init__(
        self,
        path: str,
        name: str,
        shape: tuple[int, int],
        dtype: str,
        starts: list[int],
        offsets: list[int],
    ) -> None:
        super().__init__(path, name, shape, dtype, offsets[0])
        self.starts = starts
        self.offsets = offsets

    def runs(self, lo: int, hi: int) -> Iterator[tuple[int, int, int]]:
        batch = bisect_right(self.starts, lo) - 1
        while lo < hi:
            end = min(hi, self.starts[batch + 1])
            if lo < end:
                begin = self.offsets[batch] + (lo - self.starts[batch]) * self.stride
                yield lo, end, begin
            lo = end
            batch += 1

    def array(self) -> Any:
        return Vectors.array(self)


class _ArrowCursor(ColumnCursor):
    """Reads batches in any order through a map, and releases its pages."""

    def __init__(self, vectors: ArrowVectors, buffers: int) -> None:
        super().__init__(vectors, buffers)
        self._starts = vectors.starts
        self._fields = vectors.fields
        self._owner: Any = _mapping(vectors.path)
        self._reader: Any = None
        self._batch = -1  # the one that is read

    def seek(self, row: int) -> None:
        if self._owner.size() < len(self._owner):  # reading past its end would end the process
            raise file_error(self.vectors.path, f"it has become smaller; {COPY_AGAIN}")
        batch = bisect_right(self._starts, row) - 1
        if batch == self._batch:
            return
        self.column = None  # before there is another, which may have been decompressed
        if self._reader is None or (batch < self._batch and not _is_file(self._reader)):
            self._reader = _open_arrow(self.vectors.path, self._owner, self._fields)
            self._batch = -1
        if _is_file(self._reader):
            found = self._reader.get_batch(batch)
        else:  # a stream, whose batches come one after another
            found = next(itertools.islice(self._reader, batch - self._batch - 1, None), None)
        if found is None or found.num_rows != self._starts[batch + 1] - self._starts[batch]:
            raise self.changed()
        self._batch = batch
        self.set_batch(found.column(self.vectors.name), self._starts[batch])
        if self._fields:
            release_map(self._owner)

    def release(self, values: np.ndarray) -> None:
        release_pages(self._owner, values)

    def close(self) -> None:
        self.column = self._reader = self._owner = None


def arrow(path: str) -> dict[str, Vectors | str]:
    """Return the columns of an Arrow (Feather 2, IPC) file or stream."""
    with reported(path):
        owner = _mapping(path)
        reader = _open_arrow(path, owner)
        schema = reader.schema
        starts = [0]
        decoded_bytes = [0] * len(schema)
        offsets: list[list[int]] = [[] for _ in schema]
        in_file = _is_file(reader)
        for batch in map(reader.get_batch, range(reader.num_record_batches)) if in_file else reader:
            batch.validate()  # lists are as long as the schema says
            starts.append(starts[-1] + batch.num_rows)
            for i, column in enumerate(batch.columns):
                decoded_bytes[i] = max(decoded_bytes[i], _bytes_beside(owner, column))
                offsets[i] += _offset(owner, column)
            if any(decoded_bytes):
                release_map(owner)
        found: dict[str, Vectors | str] = {}
        for i, (name, vectors) in enumerate(columns(schema, starts[-1])):
            if isinstance(vectors, str):
                found[name] = vectors
            elif len(offsets[i]) == len(starts) - 1:
                found[name] = ArrowBatches(path, name, *vectors, starts, offsets[i])
            else:
                found[name] = ArrowVectors(path, name, *vectors, starts, i, decoded_bytes[i])
        return found


def _mapping(path: str) -> mmap.mmap:
    with Path(path).open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _open_arrow(path: str, owner: mmap.mmap, fields: list[int] | None = None) -> Any:
    """Return a reader of the file format or of the streaming format, of some fields only."""
    pa = pyarrow_module(path)
    source = pa.BufferReader(pa.py_buffer(owner))
    options = pa.ipc.IpcReadOptions(included_fields=fields)
    if owner[: len(_MAGIC)] == _MAGIC:
        return pa.ipc.open_file(source, options=options)
    return pa.ipc.open_stream(source, options=options)


def _bytes_beside(owner: mmap.mmap, column: Any) -> int:
    """Return the bytes of a column that are not in the map: those that were decompressed."""
    begin = map_address(owner)
    buffers = [buffer for buffer in column.buffers() if buffer is not None]
    return sum(b.size for b in buffers if not begin <= b.address < begin + len(owner))


def _offset(owner: mmap.mmap, column: Any) -> list[int]:
    """Return where the values of a column of lists begin in the map; nothing if none can tell.

    They are not in the map, some are missing, or bits stand for them.
    """
    import pyarrow as pa

    column = getattr(column, "storage", column)
    if not pa.types.is_fixed_size_list(column.type) or column.null_count:
        return []
    if not len(column):
        return [0]
    values = column.flatten()
    if values.null_count or not pa.types.is_primitive(values.type) or values.type.bit_width % 8:
        return []
    begin = values.buffers()[1].address + values.offset * values.type.bit_width // 8
    begin -= map_address(owner)
    return [begin] if 0 <= begin < len(owner) else []


def _is_file(reader: Any) -> bool:
    """Return whether batches can be read in any order."""
    return hasattr(reader, "get_batch")
