"""Rows in the memory of a cluster: Dask arrays and data frames, block by block."""

from __future__ import annotations

import zlib
from bisect import bisect_right
from copy import copy
from typing import Any

import numpy as np

from ..files import Buffers, Cursor
from ..shards.base import Source

__all__ = ["BlockSource", "is_collection", "open_collection"]

SAMPLE_ROWS = 16  # that a checksum is made from


def is_collection(x: Any) -> bool:
    """Return whether x is a Dask array or data frame."""
    return hasattr(x, "__dask_graph__")


def open_collection(x: Any) -> BlockSource:
    """Return the rows of a Dask array (N, D), or of a data frame of D columns.

    Raises:
        ValueError, TypeError: Naming what is wrong with its shape or dtype.
    """
    if hasattr(x, "to_dask_array"):
        x = x.to_dask_array(lengths=True)
    elif np.isnan(x.shape).any():
        x = x.compute_chunk_sizes()
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"x must have shape (N, D), none of them 0, got {x.shape}")
    if x.dtype.kind not in "fiub":
        raise TypeError(f"x must hold real numbers, got dtype {x.dtype}")
    if len(x.chunks[1]) > 1:
        raise ValueError(
            f"the blocks of x must be whole rows, got {len(x.chunks[1])} blocks of columns:"
            " call x.rechunk({1: -1}) first"
        )
    if x.dtype.name not in ("float16", "float32", "float64"):
        x = x.astype(np.float32 if x.dtype.itemsize <= 2 else np.float64)
    return BlockSource(x)


class BlockSource(Source):
    """The blocks of a Dask array.

    On the client it knows the array. A task gets a copy with the blocks that its rows are in.

    Attributes:
        array: The Dask array; None on workers.
        starts: First row of every block, and N.
    """

    def __init__(self, array: Any) -> None:
        super().__init__(array.shape, array.dtype)
        self.array = array
        self.starts = np.cumsum([0, *array.chunks[0]]).tolist()
        self._blocks: dict[int, np.ndarray] = {}

    def blocks_of(self, lo: int, hi: int) -> range:
        """Return the blocks that hold rows lo:hi."""
        return range(bisect_right(self.starts, lo) - 1, bisect_right(self.starts, hi - 1))

    def with_blocks(self, blocks: dict[int, np.ndarray]) -> BlockSource:
        """Return a copy that has these blocks."""
        other = copy(self)
        other._blocks = blocks
        return other

    def cursor(self) -> Cursor:
        return _BlockCursor(self)

    def block(self, i: int) -> np.ndarray:
        """Return a block."""
        return np.asarray(self._blocks[i])

    def reading_bytes(self, rows: int) -> int:
        return rows * self.shape[1] * self.dtype.itemsize

    def take(self, index: Any) -> np.ndarray:
        if self.array is None:
            return super().take(index)
        order = np.argsort(index, kind="stable")
        out = np.empty((len(index), self.shape[1]), self.dtype)
        out[order] = self.array[np.asarray(index)[order]].compute()
        return out

    def place(self, row: int) -> str:
        i = bisect_right(self.starts, row) - 1
        return f"block {i}, row {row - self.starts[i]}"

    def signature(self) -> list[Any]:
        n = self.shape[0]
        rows = self.take(np.arange(0, n, max(1, n // SAMPLE_ROWS)))
        return [[*self.shape], self.dtype.name, zlib.crc32(rows.tobytes())]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"array": None, "_blocks": {}}

    def __str__(self) -> str:
        return f"a Dask array of {len(self.starts) - 1} blocks"


class _BlockCursor(Cursor):
    """Reads blocks that are in memory."""

    def __init__(self, source: BlockSource) -> None:
        self._source = source
        self._joined = Buffers(1, source.shape[1], source.dtype)

    def read(self, lo: int, hi: int) -> np.ndarray:
        source = self._source
        blocks = source.blocks_of(lo, hi)
        first = source.starts[blocks[0]]
        if len(blocks) == 1:
            return source.block(blocks[0])[lo - first : hi - first]
        out = self._joined.next(hi - lo)
        for i in blocks:
            begin, end = max(lo, source.starts[i]), min(hi, source.starts[i + 1])
            part = source.block(i)[begin - source.starts[i] : end - source.starts[i]]
            out[begin - lo : end - lo] = part
        return out
