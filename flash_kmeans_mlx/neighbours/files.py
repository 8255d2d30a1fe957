"""Exact neighbours of queries and data in files: a thread reads the next chunk during a search."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from .. import validation
from ..files import CHUNK_BYTES, Vectors, ahead, is_source, open_vectors
from ..progress import open_progress
from .search import Search

__all__ = ["FileNeighbours", "search_files"]

CHUNK_ROWS_PER_K = 32  # in smaller chunks, ranking the candidates of each chunk takes too long
SCRATCH_BYTES = 16 << 20  # left to the search itself where the cap allows
NEIGHBOUR_BYTES = 12  # of a result: a float32 distance and an int64 index

Source = Vectors | validation.Data


@dataclass(frozen=True)
class FileNeighbours:
    """The result of a search in files.

    Attributes:
        distances: (Q, k) float32.
        indices: (Q, k) int64.
        batch_size: Queries that were searched in one pass over the data.
        backend: The backend that ran.
    """

    distances: Any
    indices: Any
    batch_size: int
    backend: str


@dataclass(frozen=True)
class SearchPlan:
    """The sizes of a search that keeps a cap on memory.

    Attributes:
        chunk_rows: Rows of the data that are searched at a time.
        batch_size: Queries of one pass over the data.
        max_bytes: The cap, 0 for none.
        bytes_in_use: Bytes of the cap that are taken beside a `Search`.
    """

    chunk_rows: int
    batch_size: int
    max_bytes: int = 0
    bytes_in_use: int = 0


def search_files(
    queries: Any,
    data: Any,
    k: int,
    metric: str = "euclidean",
    *,
    max_mem_gb: float = 0.0,
    backend: str | None = None,
    exclude_self: bool = False,
) -> FileNeighbours:
    """Find neighbours as `knn` does, where queries or data, or both, are in files.

    Args:
        queries: A source that `open_vectors` takes, or an array (Q, D).
        data: The same, (N, D).
        k: As in `knn`.
        metric: As in `knn`.
        max_mem_gb: As in `knn`.
        backend: As in `knn`.
        exclude_self: As in `knn`.

    Raises:
        ValueError: As in `knn`; VectorFileError for a file that can't be read.
        TypeError: As in `knn`.
        OSError: A file can't be opened.
    """
    x, y = _source(queries, "queries"), _source(data, "data")
    x_shape, y_shape = _shape(x, "queries"), _shape(y, "data")
    n_queries, n_rows = x_shape[0], y_shape[0]
    shapes = f"{_name(x, 'queries')}.shape={x_shape} and data.shape={y_shape}"
    if x_shape[1] != y_shape[1]:
        raise ValueError(f"queries and data must have the same D, got {shapes}")
    exclude_self = validation.check_flag("exclude_self", exclude_self)
    k = validation.check_neighbours(k, n_rows, exclude_self, "data", y_shape)
    if exclude_self and n_queries != n_rows:
        raise ValueError(f"exclude_self=True needs queries that are the data, got {shapes}")
    plan = _plan(x, y, k, validation.cap(max_mem_gb))
    n_passes = -(-n_queries // plan.batch_size)
    distances = indices = np.empty(0)
    if n_passes > 1:
        distances = np.empty((n_queries, k), np.float32)
        indices = np.empty((n_queries, k), np.int64)
    ran = ""
    progress = open_progress()
    progress.phase("searching")
    progress.begin(n_passes * n_rows)
    with progress:
        first = 0
        for batch in _batches(x, plan.batch_size):
            search = Search(
                batch,
                k,
                metric,
                exclude_self=exclude_self,
                max_bytes=plan.max_bytes,
                bytes_in_use=plan.bytes_in_use,
                backend=backend,
                progress=progress,
            )

            def report(rows: int, first: int = first) -> None:
                progress.reach(first // plan.batch_size * n_rows + rows)

            found = _search_all(search, y, plan.chunk_rows, first, report)
            if n_passes == 1:
                distances, indices = found
            else:
                distances[first : first + plan.batch_size] = found[0]
                indices[first : first + plan.batch_size] = found[1]
            ran = search.backend
            first += plan.batch_size
            del batch, search, found  # before the next batch is read
    if _as_mlx(x, y):
        return FileNeighbours(mx.array(distances), mx.array(indices), plan.batch_size, ran)
    return FileNeighbours(distances, indices, plan.batch_size, ran)


def _search_all(
    search: Search, data: Source, chunk_rows: int, first: int, report: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Return distances and indices for a batch of queries after one pass over the data.

    Args:
        search: Of the queries from `first` on.
        data: Searched in chunks of `chunk_rows` rows.
        chunk_rows: At most as many rows at a time.
        first: The index of the first query.
        report: Called with the rows that have been searched.
    """
    with search, closing(_chunks(data, chunk_rows)) as chunks:
        for chunk in chunks:
            # Rows are counted from the first query, so that `exclude_self` finds the row of each.
            search.add(chunk, search.rows - first)
            del chunk  # so that there are two of them, not three
            report(search.rows)
        distances, indices = search.result()
    indices += first
    return distances, indices


def _source(given: Any, name: str) -> Source:
    return open_vectors(given) if is_source(given) else validation.data(given, name=name)


def _name(source: Source, name: str) -> str:
    """Return the argument that a source was given for."""
    return name if isinstance(source, Vectors) else source.name


def _shape(source: Source, name: str) -> tuple[int, int]:
    if isinstance(source, Vectors):
        return source.shape
    name = source.name
    if source.batched:
        raise ValueError(f"{name} must have shape (N, D) beside a file, got {source.given_shape}")
    return source.shape[1:]


def _as_mlx(*sources: Source) -> bool:
    return any(isinstance(source, validation.Data) and source.mlx for source in sources)


def _batches(source: Source, rows: int) -> Iterator[Any]:
    """Yield all rows in order, at most `rows` at a time."""
    if isinstance(source, Vectors):
        yield from source.chunks(rows)
    else:
        for lo in range(0, source.shape[1], rows):
            yield validation.data(source.x[0, lo : lo + rows], name=source.name)


def _chunks(source: Source, rows: int) -> Generator[Any, None, None]:
    """Yield all rows in order: those of a file are read ahead, those in memory come at once."""
    if isinstance(source, Vectors):
        yield from ahead(source, rows)
    else:
        yield source.x[0]


def _plan(queries: Source, data: Source, k: int, max_bytes: int) -> SearchPlan:
    """Return the largest useful chunks, and as many queries a pass as fit beside them."""
    n_queries = _shape(queries, "queries")[0]
    chunk_rows = _shape(data, "data")[0]
    row_bytes = 0
    if isinstance(data, Vectors):
        useful = max(CHUNK_BYTES // data.row_bytes, CHUNK_ROWS_PER_K * k)
        chunk_rows = min(chunk_rows, useful)
        row_bytes = data.row_bytes + data.reading_bytes  # one chunk is searched, one is being read
    if not max_bytes:
        return SearchPlan(chunk_rows, n_queries)
    query_bytes = queries.reading_bytes if isinstance(queries, Vectors) else 0
    # A query, its best rows so far, those of a chunk, and these as they are returned.
    searched_bytes = query_bytes + 36 * k
    result_bytes = NEIGHBOUR_BYTES * n_queries * k
    fixed = sum(
        source.library_bytes if isinstance(source, Vectors) else source.copied
        for source in (queries, data)
    )
    if _as_mlx(queries, data):
        fixed += result_bytes
    batch_size = n_queries
    if n_queries * searched_bytes > (max_bytes - fixed - SCRATCH_BYTES) // 2:
        fixed += result_bytes  # of all passes, beside those of one
        room = max_bytes - fixed - SCRATCH_BYTES
        batch_size = min(n_queries, max(1, room // (2 * searched_bytes)))
    if row_bytes:
        room = max_bytes - fixed - SCRATCH_BYTES - batch_size * searched_bytes
        chunk_rows = min(chunk_rows, max(1, room // row_bytes))
    bytes_in_use = fixed + batch_size * query_bytes + chunk_rows * row_bytes
    return SearchPlan(chunk_rows, batch_size, max_bytes, bytes_in_use)
