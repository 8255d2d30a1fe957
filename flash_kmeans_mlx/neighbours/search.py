"""Exact search in chunks of data, which `knn` and the search in files use."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import backends, validation
from ..backends.neighbours import NOTHING, check_finite
from ..metrics import PROXIMITIES, Proximity
from ..progress import SILENT, Progress, open_progress

__all__ = ["Search", "nearest_rows"]

MAX_CHUNK_ROWS = 1 << 32  # backends rank rows of a chunk by 32 bits of their index


def nearest_rows(
    queries: np.ndarray, rows: Any, k: int, proximity: Proximity, backend: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest rows for every query, of arguments that are known to be valid.

    Args:
        queries: (Q, D) float32, finite.
        rows: (N, D) float32, N >= k, NumPy or `mx.array`.
        k: Neighbours of every query.
        proximity: The distance.
        backend: One that `backends.resolve` returned.

    Returns:
        (Q, k) float64 distances and int64 indices, nearest first.
    """
    progress = open_progress("searching", len(rows), products=len(queries) * rows.size)
    request = backends.Request(
        queries=queries[None],
        shape=queries.shape,
        k=k,
        proximity=proximity,
        exclude_self=False,
        max_bytes=0,
        bytes_in_use=0,
        progress=progress,
    )
    with progress, backends.open_neighbours(backend, request) as neighbours:
        distances, indices = neighbours.nearest(rows[None], 0, None)
    return distances[0], indices[0]


class Search:
    """The exact k nearest rows of data that come in chunks.

    It is a context manager, which keeps threads and scratch memory until it ends. Each chunk is
    searched by itself: its k best rows are ranked by distances computed in float64 from the rows as
    they are, and merged into the k best so far. Rows of equal distance are ranked by index.

    One chunk, as in `knn`, and many chunks, read from a file, take the same calls:

        with Search(queries, k=10, metric="cosine", bytes_in_use=2 * chunk_bytes) as search:
            for offset, chunk in chunks:
                search.add(chunk, offset)
            distances, indices = search.result()

    Args:
        queries: (Q, D) or (B, Q, D), `mx.array` or NumPy, any dtype that `validation.data` takes,
            or its result.
        k: Neighbours of every query.
        metric: "euclidean", "cosine", "dot", "l1" or "linf".
        exclude_self: Query i never gets the row of index i.
        dtype: Of the distances: float32, or float64.
        max_bytes: Cap on what is allocated beyond the queries and chunks, results included; 0 for
            none. Every `add` checks it: ValueError where a chunk of that size can't be searched
            under it.
        bytes_in_use: Bytes of the cap that are in use already, for example by buffers of a reader.
        whole: All data come in one chunk, so no memory is set aside for merging.
        backend: As in `knn`.
        progress: Is told of the rows that were searched.

    Attributes:
        backend: The backend that runs.
        rows: Rows added so far.

    Raises:
        ValueError: Naming the argument, its value and its bound.
        TypeError: The same, for a wrong type.
    """

    def __init__(
        self,
        queries: Any,
        k: int,
        metric: str = "euclidean",
        *,
        exclude_self: bool = False,
        dtype: Any = np.float32,
        max_bytes: int = 0,
        bytes_in_use: int = 0,
        whole: bool = False,
        backend: str | None = None,
        progress: Progress = SILENT,
    ) -> None:
        self.queries = validation.data(queries, name="queries")
        proximity = PROXIMITIES[validation.check_choice("metric", metric, tuple(PROXIMITIES))]
        k = validation.check_count("k", k, 1)
        exclude_self = validation.check_flag("exclude_self", exclude_self)
        self.backend = backends.resolve(backend)
        self.rows = 0
        self._dtype = np.dtype(dtype)
        b, q, _ = self.queries.shape
        self._best_bytes = 0 if whole else 16 * b * q * k
        # Distances are computed in float64 and returned as a copy in another dtype.
        result_bytes = 0 if self._dtype == np.float64 else b * q * k * self._dtype.itemsize
        self._request = backends.Request(
            queries=self.queries.x,
            shape=self.queries.given_shape,
            k=k,
            proximity=proximity,
            exclude_self=exclude_self,
            max_bytes=max_bytes,
            bytes_in_use=bytes_in_use + result_bytes + self.queries.copied,
            progress=progress,
        )
        check_finite(self.queries.x, self._request.shape, self.queries.name)
        self._neighbours = backends.open_neighbours(self.backend, self._request)
        self._best: tuple[np.ndarray, np.ndarray] | None = None

    def __enter__(self) -> Search:
        self._neighbours.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._neighbours.__exit__(*exc)

    def add(self, data: Any, offset: int) -> None:
        """Search a chunk of rows.

        Args:
            data: (M, D) or (B, M, D), as many dimensions as the queries have; any M >= 1.
            offset: The index of its first row. Chunks may have any sizes, but must come in the
                order of their rows: of rows at equal distances, the first k that come are kept.

        Raises:
            ValueError: Naming `data`, what is wrong, and the bound.
            TypeError: The same, for a wrong type.
        """
        chunk = validation.data(data, name="data")
        queries = self.queries
        b, _, d = queries.shape
        b_chunk, n_rows, d_chunk = chunk.shape
        if chunk.batched != queries.batched or (b_chunk, d_chunk) != (b, d):
            wanted = f"(B, N, D)=({b}, N, {d})" if queries.batched else f"(N, D)=(N, {d})"
            raise ValueError(
                f"data must have shape {wanted}, got {chunk.given_shape}"
                f" ({queries.name}.shape={queries.given_shape})"
            )
        if n_rows >= MAX_CHUNK_ROWS:
            raise ValueError(
                f"data must have fewer than {MAX_CHUNK_ROWS} rows at a time, got {n_rows};"
                " add it in chunks"
            )
        reserved = chunk.copied + self._best_bytes
        self._request.bytes_in_use += reserved
        try:
            distances, indices = self._neighbours.nearest(chunk.x, offset, self._best)
        finally:
            self._request.bytes_in_use -= reserved
        if offset:
            np.add(indices, offset, out=indices, where=indices != NOTHING)
        if self._best is None and distances.shape[-1] == self._request.k:
            self._best = distances, indices
        else:
            self._merge(distances, indices)
        self.rows += n_rows

    def _merge(self, distances: np.ndarray, indices: np.ndarray) -> None:
        if self._best is None:
            shape = (*self.queries.shape[:2], self._request.k)
            self._best = np.full(shape, np.inf, distances.dtype), np.full(shape, NOTHING)
        self._neighbours.merge(self._best, (distances, indices))

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Return distances (B, Q, k), nearest first, and indices (B, Q, k) int64, both NumPy.

        B is absent where the queries have none. For "dot" the largest come first.

        Raises:
            ValueError: Fewer than k rows were added (k + 1 with `exclude_self`).
        """
        validation.check_neighbours(
            self._request.k,
            self.rows,
            self._request.exclude_self,
            self.queries.name,
            self.queries.given_shape,
        )
        assert self._best is not None  # at least one row was added
        distances, indices = self._best
        if self._request.proximity.similarity:
            distances = -distances
        with np.errstate(over="ignore", under="ignore"):
            distances = distances.astype(self._dtype, copy=False)
        return (distances, indices) if self.queries.batched else (distances[0], indices[0])
