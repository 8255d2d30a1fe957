"""Columns of fixed-size lists in Parquet files, read by pyarrow."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from typing import Any

from .base import STORED, Cursor, Vectors, spread
from .columns import ColumnCursor, columns, pyarrow_module, reported, step_rows

__all__ = ["parquet"]

_BUFFER = 1 << 20  # bytes of a column at a time; pyarrow's default is a whole row group
_POOL = 16 << 20  # bytes of unused buffers that pyarrow's allocator keeps


class ParquetVectors(Vectors):
    """A column of a Parquet file."""

    slow = True

    @property
    def library_bytes(self) -> int:
        """Memory that pyarrow keeps beside the rows."""
        # A batch is decoded with two levels a value, into buffers that double as they grow.
        return _POOL + step_rows(self) * self.shape[1] * (4 * STORED[self.dtype].itemsize + 6)

    def cursor(self, buffers: int = 1) -> Cursor:
        with reported(self.path):
            return _ParquetCursor(self, buffers)

    def first_rows(self, count: int) -> list[int]:
        """Return the first rows of row groups: nothing before them is decoded."""
        with reported(self.path), _open_parquet(self.path) as file:
            starts = _row_groups(file)[:-1]
        return [starts[i] for i in spread(len(starts), count)]

    def sample_rows(self, count: int) -> list[int]:
        firsts = self.first_rows(count)
        run = -(-count // len(firsts))
        return sorted({i for lo in firsts for i in range(lo, min(lo + run, self.shape[0]))})


class _ParquetCursor(ColumnCursor):
    """Decodes row groups from their first row on, and goes on where it stands if it can."""

    def __init__(self, vectors: ParquetVectors, buffers: int) -> None:
        super().__init__(vectors, buffers)
        self._file = _open_parquet(vectors.path)
        self._groups = _row_groups(self._file)
        self._batches: Any = None
        self._end = 0  # the row after the batch that is read
        if self._groups[-1] != vectors.shape[0]:
            raise self.changed()

    def seek(self, row: int) -> None:
        group = bisect_right(self._groups, row) - 1
        if self._batches is None or row < self.begin or self._groups[group] > self._end:
            groups = range(group, len(self._groups) - 1)
            self._batches = self._file.iter_batches(
                self.step, groups, [self.vectors.name], use_threads=False
            )
            self.begin = self._end = self._groups[group]
        while row >= self._end:
            batch = next(self._batches, None)
            if batch is None:
                raise self.changed()
            self.set_batch(batch.column(0), self._end)
            self._end += batch.num_rows

    def close(self) -> None:
        self.column = self._batches = None
        self._file.close()
        import pyarrow as pa

        pa.default_memory_pool().release_unused()


def parquet(path: str) -> dict[str, Vectors | str]:
    """Return the columns of a Parquet file."""
    pyarrow_module(path)
    with reported(path), _open_parquet(path) as file:
        n = file.metadata.num_rows
        return {
            name: found if isinstance(found, str) else ParquetVectors(path, name, *found)
            for name, found in columns(file.schema_arrow, n)
        }


def _open_parquet(path: str) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False)


def _row_groups(file: Any) -> list[int]:
    """Return the first row of every row group, and the number of all rows."""
    metadata = file.metadata
    counts = (metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
    return list(itertools.accumulate(counts, initial=0))
