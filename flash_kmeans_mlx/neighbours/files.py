"""Exact neighbours of queries and data that come from files: one chunk is searched while a thread reads the next."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from .. import validation
from ..files import CHUNK_BYTES, Progress, Vectors, ahead, is_source, open_vectors
from .search import Search

__all__ = ["FileNeighbours", "search_files"]

CHUNK_ROWS_PER_K = 32  # with fewer rows, ranking what a chunk gives is no longer cheap
SCRATCH_BYTES = 16 << 20  # left to the search itself where the cap allows


@dataclass(frozen=True)
class FileNeighbours:
    """Distances (Q, k) float32 and indices (Q, k) int64; the queries of a pass over the data; the backend that ran."""

    distances: Any
    indices: Any
    batch_size: int
    backend: str


@dataclass(frozen=True)
class SearchPlan:
    """How a search is cut up.

    Attributes:
        rows: of a chunk of data.
        batch: queries of a pass over the data.
        as_mlx: results are `mx.array`.
        cap: bytes, 0 for none.
        bytes_in_use: those in use beside a `Search`.
    """

    rows: int
    batch: int
    as_mlx: bool
    cap: int
    bytes_in_use: int


Source = Vectors | validation.Data


def search_files(
    queries: Any,
    data: Any,
    k: int,
    metric: str = "euclidean",
    *,
    max_mem_gb: float = 0.0,
    backend: str | None = None,
    exclude_self: bool = False,
    progress: Progress | None = None,
) -> FileNeighbours:
    """`knn` where queries or data, or both, are in files.

    Args:
        queries: what `open_vectors` takes, or an array (Q, D).
        data: the same, (N, D).
        k: neighbours of every query, as in `knn`.
        metric: as in `knn`.
        max_mem_gb: as in `knn`.
        backend: as in `knn`.
        exclude_self: as in `knn`.
        progress: called with the rows searched so far, over all passes, and their number in the end.

    Raises:
        ValueError, TypeError: as in `knn`; VectorFileError for a file that can't be read.
        OSError: a file can't be opened.
    """
    x, y = _source(queries, "queries"), _source(data, "data")
    (q, d), (n, wide) = _shape(x, "queries"), _shape(y, "data")
    if wide != d:
        raise ValueError(
            f"queries and data must have the same D: queries have shape {(q, d)}, data {(n, wide)}"
        )
    k = validation.check_count("k", k, 1)
    if k > n - bool(exclude_self):
        bound = "N - 1" if exclude_self else "N"
        raise ValueError(
            f"k={k} must be <= {bound}={n - bool(exclude_self)} (data.shape={(n, wide)})"
        )
    if exclude_self and q != n:
        raise ValueError(
            f"exclude_self=True needs queries that are the data: queries have shape {(q, d)}, data {(n, wide)}"
        )
    plan = _plan(x, y, k, validation.cap(max_mem_gb))
    passes = -(-q // plan.batch)
    whole: tuple[np.ndarray, np.ndarray] | None = None
    if passes > 1:
        whole = np.empty((q, k), np.float32), np.empty((q, k), np.int64)
    first, ran = 0, ""
    for some in _pieces(x, plan.batch):
        # Rows are numbered from the first query of the pass: then `exclude_self` leaves out the right ones.
        with (
            Search(
                some,
                k,
                metric,
                exclude_self=exclude_self,
                max_bytes=plan.cap,
                bytes_in_use=plan.bytes_in_use,
                backend=backend,
            ) as search,
            closing(_chunks(y, plan.rows)) as chunks,
        ):
            offset = 0
            for chunk in chunks:
                search.add(chunk, offset - first)
                offset += len(chunk)
                del chunk  # so that there are two of them, not three
                if progress is not None:
                    progress((first // plan.batch) * n + offset, passes * n)
            distances, indices = search.result()
            ran = search.backend
        indices += first
        if whole is None:
            whole = distances, indices
        else:
            whole[0][first : first + plan.batch], whole[1][first : first + plan.batch] = (
                distances,
                indices,
            )
        first += plan.batch
        del some, distances, indices
    assert whole is not None
    if plan.as_mlx:
        return FileNeighbours(mx.array(whole[0]), mx.array(whole[1]), plan.batch, ran)
    return FileNeighbours(*whole, plan.batch, ran)


def _source(given: Any, name: str) -> Source:
    return open_vectors(given) if is_source(given) else validation.data(given, name=name)


def _shape(s: Source, name: str) -> tuple[int, int]:
    if isinstance(s, Vectors):
        return s.shape
    if s.batched:
        raise ValueError(f"{name} must have shape (N, D) beside a file, got {s.given_shape}")
    return s.shape[1:]


def _pieces(s: Source, rows: int) -> Iterator[Any]:
    """All rows in order, at most `rows` at a time."""
    if isinstance(s, Vectors):
        yield from s.chunks(rows)
    else:
        for lo in range(0, s.shape[1], rows):
            yield s.x[0, lo : lo + rows]


def _chunks(s: Source, rows: int) -> Generator[Any, None, None]:
    """All rows in order: those of a file read ahead, those in memory at once."""
    if isinstance(s, Vectors):
        yield from ahead(s, rows)
    else:
        yield s.x[0]


def _plan(x: Source, y: Source, k: int, cap: int) -> SearchPlan:
    """The largest chunks that are of use, and as many queries as fit beside them."""
    (q, _), (n, _) = _shape(x, "queries"), _shape(y, "data")
    in_memory = [s for s in (x, y) if isinstance(s, validation.Data)]
    as_mlx = any(s.mlx for s in in_memory)
    rows, per_row = n, 0
    if isinstance(y, Vectors):
        rows, per_row = (
            min(n, max(CHUNK_BYTES // y.row_bytes, CHUNK_ROWS_PER_K * k)),
            y.row_bytes + y.reading_bytes,
        )
    if not cap:
        return SearchPlan(rows, q, as_mlx, 0, 0)
    per_query = x.reading_bytes if isinstance(x, Vectors) else 0
    searched = (
        per_query + 36 * k
    )  # a query, its best so far, those of a chunk, and these as they are returned
    fixed = sum(s.copied for s in in_memory) + 12 * q * k * as_mlx
    fixed += sum(s.library_bytes for s in (x, y) if isinstance(s, Vectors))
    room = cap - fixed - SCRATCH_BYTES
    batch = q
    if q * searched > room // 2:
        fixed += 12 * q * k
        batch = min(q, max(1, (room - 12 * q * k) // (2 * searched)))
    if per_row:
        rows = min(rows, max(1, (cap - fixed - SCRATCH_BYTES - batch * searched) // per_row))
    return SearchPlan(rows, batch, as_mlx, cap, fixed + batch * per_query + rows * per_row)
