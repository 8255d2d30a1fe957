"""Columns of fixed-size lists, which pyarrow reads: what Parquet and Arrow files share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..errors import VectorFileError
from .base import (
    COPY_AGAIN,
    STEP_VALUES,
    STORED,
    Buffers,
    Cursor,
    Vectors,
    check_shape,
    decode,
    file_error,
    value_dtype,
)

__all__ = ["ColumnCursor", "columns", "pyarrow_module", "reported", "step_rows"]

_ARROW = {"halffloat": "float16", "float": "float32", "double": "float64"}


class ColumnCursor(Cursor):
    """Copies rows from record batches.

    Attributes:
        column: The column of the batch that is read, None for none.
        begin: The index of its first row.
    """

    def __init__(self, vectors: Vectors, buffers: int) -> None:
        self.vectors = vectors
        self.column: Any = None
        self.begin = 0
        self.step = step_rows(vectors)
        self._buffers = Buffers(buffers, vectors.shape[1], value_dtype(vectors.dtype))

    @abstractmethod
    def seek(self, row: int) -> None:
        """Make the batch that holds this row the one that is read."""

    def release(self, values: np.ndarray) -> None:
        """Do what is left when these values of a batch were copied."""

    def read(self, lo: int, hi: int) -> np.ndarray:
        v = self.vectors
        rows: Any = None
        at = lo
        with reported(v.path):
            while at < hi:
                self.seek(at)
                stop = min(hi, at + self.step, self.begin + len(self.column))
                values = self._values(at, stop)
                if rows is None:  # nothing is allocated before D is as the header says
                    rows = self._buffers.next(hi - lo)
                decode(values, v.dtype, rows[at - lo : stop - lo])
                self.release(values)
                at = stop
        return rows

    def _values(self, lo: int, hi: int) -> np.ndarray:
        """Return rows of the batch that is read as they are stored."""
        name, d = self.vectors.name, self.vectors.shape[1]
        part = self.column.slice(lo - self.begin, hi - lo)
        part.validate(full=True)
        values = part.flatten()
        if part.null_count or values.null_count or len(values) != (hi - lo) * d:
            raise file_error(
                self.vectors.path,
                f"column {name!r} has missing values: drop or fill them first",
            )
        return values.to_numpy(zero_copy_only=False).reshape(-1, d)

    def set_batch(self, column: Any, begin: int) -> None:
        """Read this column of a batch from now on; `begin` is its first row."""
        self.column = getattr(column, "storage", column)
        self.begin = begin

    def changed(self) -> VectorFileError:
        """Return the error for a file that has fewer rows, or more, than it said."""
        v = self.vectors
        return file_error(
            v.path,
            f"column {v.name!r} has other rows than its header says, N={v.shape[0]}; {COPY_AGAIN}",
        )


def columns(schema: Any, n: int) -> Iterator[tuple[str, tuple[tuple[int, int], str] | str]]:
    """Yield each column's name with its shape and dtype, or the reason why it holds no vectors."""
    import pyarrow as pa

    for field in schema:
        kind = field.type
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        if not pa.types.is_fixed_size_list(kind):
            yield field.name, f"its type {field.type} is no list of a fixed size; cast it to one"
            continue
        dtype = _ARROW.get(str(kind.value_type), str(kind.value_type))
        shape = check_shape((n, kind.list_size))
        if dtype not in STORED:
            yield field.name, f"its values of type {dtype} are not one of {', '.join(STORED)}"
        else:
            yield field.name, shape if isinstance(shape, str) else (shape, dtype)


def step_rows(vectors: Vectors) -> int:
    """Return the rows that are decoded at a time."""
    return max(1, STEP_VALUES // vectors.shape[1])


def pyarrow_module(path: str) -> Any:
    """Return the module pyarrow, or raise an error that says how to install it."""
    try:
        import pyarrow
    except ModuleNotFoundError:
        raise file_error(
            path, "Parquet and Arrow files need pyarrow: pip install pyarrow"
        ) from None
    return pyarrow


@contextmanager
def reported(path: str) -> Iterator[None]:
    """Turn pyarrow's errors into VectorFileError."""
    pa = pyarrow_module(path)
    try:
        yield
    except (FileNotFoundError, VectorFileError):
        raise
    except (pa.ArrowException, OSError, OverflowError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise file_error(path, f"it is truncated or damaged ({reason})") from None
