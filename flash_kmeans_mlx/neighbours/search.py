"""Exact search in chunks of data: the layer that `knn` and readers of files stand on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import backends, validation
from ..backends.neighbours import NOTHING, largest
from ..metrics import PROXIMITIES

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Search"]

MOST_ROWS = 1 << 32  # backends rank rows of a chunk by 32 bits of their index


class Search:
    """The k nearest rows of data that come in chunks, exactly; a context manager that holds threads and scratch meanwhile.

    Every chunk is searched by itself, its k best rows are ranked by distances computed in float64 from the rows as they are
    and merged into the k best so far. Rows of equal distance are ranked by index.

    The same calls serve one chunk, as `knn` makes it, and many, read from a file:

        with Search(queries, k=10, metric="cosine", max_bytes=1 << 29, bytes_in_use=2 * chunk_bytes) as search:
            for offset, chunk in chunks:
                search.add(chunk, offset)
            distances, indices = search.result()

    Args:
        queries: (Q, D) or (B, Q, D), `mx.array` or NumPy, any dtype that `validation.data` takes, or its result.
        k: neighbours of every query.
        metric: "euclidean", "cosine", "dot", "l1" or "linf".
        exclude_self: query i never gets the row of index i.
        dtype: of the distances: float32, or float64.
        max_bytes: cap on what is allocated beyond the queries and chunks, for the results too; 0 for none. It is checked by
            every `add`: ValueError where a chunk of that size can't be searched under it.
        bytes_in_use: bytes of the cap that are in use already, by a reader's buffers for one.
        whole: all data come in one chunk, so no memory is set aside for merging.
        backend: as in `knn`.

    Attributes:
        backend: the one that runs.
        rows: how many were added.

    Raises:
        ValueError, TypeError: naming the argument, its value and its bound.
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
    ) -> None:
        self.queries = validation.data(queries, name="queries")
        proximity = PROXIMITIES[validation.check_choice("metric", metric, tuple(PROXIMITIES))]
        k = validation.check_count("k", k, 1)
        exclude_self = validation.check_flag("exclude_self", exclude_self)
        self.backend = backends.resolve(backend)
        magnitude = largest(self.queries.x)
        validation.check_magnitude(magnitude, self.queries.given_shape, "queries")
        self.rows = 0
        b, q, _ = self.queries.shape
        self._dtype = np.dtype(dtype)
        self._own = 0 if whole else 16 * b * q * k  # the best so far
        bytes_in_use += (
            b * q * k * (self._dtype.itemsize if self._dtype != np.float64 else 0)
        )  # distances as they are returned
        self._request = backends.Request(
            self.queries.x,
            self.queries.given_shape,
            magnitude,
            k,
            proximity,
            exclude_self,
            max_bytes,
            bytes_in_use + self.queries.copied,
        )
        self._neighbours = backends.open_neighbours(self.backend, self._request)
        self._best: tuple[np.ndarray, np.ndarray] | None = None

    def __enter__(self) -> Self:
        self._neighbours.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._neighbours.__exit__(*exc)

    def add(self, data: Any, offset: int) -> None:
        """Search a chunk of rows.

        Args:
            data: (M, D) or (B, M, D), as many dimensions as the queries have; any M >= 1.
            offset: the index of its first row. Chunks may have any sizes, but must come in the order of their rows: of rows
                at equal distances, the first k that come are kept.

        Raises:
            ValueError, TypeError: naming `data`, what is wrong, and the bound.
        """
        chunk = validation.data(data, name="data")
        (b, _, d), mine = self.queries.shape, self.queries
        if chunk.batched != mine.batched or (chunk.shape[0], chunk.shape[2]) != (b, d):
            wanted = f"(B, N, D)=({b}, N, {d})" if mine.batched else f"(N, D)=(N, {d})"
            raise ValueError(
                f"data must have shape {wanted}, got {chunk.given_shape} (queries.shape={mine.given_shape})"
            )
        if chunk.shape[1] >= MOST_ROWS:
            raise ValueError(
                f"data must have fewer than {MOST_ROWS} rows at a time, got {chunk.shape[1]}; add it in chunks"
            )
        best, k = self._best, self._request.k
        with self._neighbours.reserving(chunk.copied + self._own):
            distances, indices = self._neighbours.nearest(chunk.x, offset, best)
            if best is None and distances.shape[-1] == k:
                np.add(indices, offset, out=indices, where=indices != NOTHING)
                self._best = distances, indices
            else:
                self._merge(distances, indices, offset)
        self.rows += chunk.shape[1]

    def _merge(self, distances: np.ndarray, indices: np.ndarray, offset: int) -> None:
        np.add(indices, offset, out=indices, where=indices != NOTHING)
        if self._best is None:
            shape = (*self.queries.shape[:2], self._request.k)
            self._best = np.full(shape, np.inf, distances.dtype), np.full(shape, NOTHING)
        self._neighbours.merge(self._best, (distances, indices))

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Distances (B, Q, k) and indices (B, Q, k) int64, NumPy, ascending, or for "dot" descending; B as the queries have it.

        Raises:
            ValueError: fewer than k rows were added (k + 1 with `exclude_self`).
        """
        k, most = self._request.k, self.rows - self._request.exclude_self
        if self._best is None or k > most:
            bound = "N - 1" if self._request.exclude_self else "N"
            raise ValueError(
                f"k={k} must be <= {bound}={most} (queries.shape={self.queries.given_shape})"
            )
        distances, indices = self._best
        if self._request.proximity.similarity:
            distances = -distances
        with np.errstate(over="ignore", under="ignore"):
            distances = distances.astype(self._dtype, copy=False)
        return (distances, indices) if self.queries.batched else (distances[0], indices[0])
