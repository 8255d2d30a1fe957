"""Exact nearest neighbours: the function and the thin class over it."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from .. import validation
from ..files import is_source, open_vectors
from .files import search_files
from .search import Search

__all__ = ["KNN", "knn"]


def knn(
    queries: Any,
    data: Any,
    k: int,
    metric: str = "euclidean",
    *,
    max_mem_gb: float = 0.0,
    backend: str | None = None,
    exclude_self: bool = False,
) -> tuple[Any, Any]:
    """The k nearest rows of the data for every query: exact search, never with a Q x N matrix.

    Args:
        queries: (B, Q, D), or (Q, D), where B is absent from the results too; `mx.array` or NumPy, dtypes and strides as in
            `batch_kmeans_Euclid`. Or (Q, D) vectors in a file: a path, ``"PATH::NAME"`` for one of several arrays in it, or a
            memory map; formats are .npy, .safetensors, .fvecs, .bvecs, .ivecs, .pt (needs torch), .parquet and .arrow (need
            pyarrow).
        data: (B, N, D), or (N, D), with as many dimensions as the queries; or a file, which is read in chunks.
        k: neighbours of every query, at most N, or N - 1 with `exclude_self`.
        metric: what distances are:
            "euclidean", the squared Euclidean distance, as in faiss;
            "cosine", ``1 - cos``, which is 1 where a row is zero and 0 where float64 sees no angle;
            "dot", the dot product: a similarity, the largest first;
            "l1", the sum, and "linf", the largest of the absolute differences.
        max_mem_gb: hard cap on what is allocated beyond queries and data, results included, in 1e9 bytes; 0 for none.
        backend: "cpu", "metal", "portable", "reference", or None for the best one on MLX's default device.
        exclude_self: query i never gets row i; for queries that are the data, which must have the same shape.

    Returns:
        ``distances (B, Q, k) float32, indices (B, Q, k) int64``, nearest first, `mx.array` if queries or data are. The
        nearest are those by distances computed in float64 from the rows as given, equal ones by index: candidates are found
        in float32, and every row that its rounding may have hidden is looked at. Distances are rounded to float32 at the
        end. The same bits on any number of threads.

    Raises:
        ValueError, TypeError: naming the argument, its value and its bound.
        BackendUnavailableError: the named backend can't run here.
        VectorFileError, OSError: a file can't be read; a VectorFileError is a ValueError.

    Example:
        >>> import numpy as np
        >>> data = np.array([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0]])
        >>> distances, indices = knn(data[:1], data, 2)
        >>> distances.tolist(), indices.tolist()
        ([[0.0, 1.0]], [[0, 2]])
    """
    if is_source(queries) or is_source(data):
        found = search_files(
            queries,
            data,
            k,
            metric,
            max_mem_gb=max_mem_gb,
            backend=backend,
            exclude_self=exclude_self,
        )
        return found.distances, found.indices
    x, y = validation.data(queries, name="queries"), validation.data(data, name="data")
    max_bytes = validation.cap(max_mem_gb)
    k = validation.check_count("k", k, 1)
    exclude_self = validation.check_flag("exclude_self", exclude_self)
    most = y.shape[1] - exclude_self
    if k > most:
        bound = "N - 1" if exclude_self else "N"
        raise ValueError(f"k={k} must be <= {bound}={most} (data.shape={y.given_shape})")
    if exclude_self and x.given_shape != y.given_shape:
        raise ValueError(
            f"exclude_self=True needs queries that are the data, got queries.shape={x.given_shape} and"
            f" data.shape={y.given_shape}"
        )
    # mx.array results are copies of NumPy ones, one after the other.
    copies = (
        8 * x.shape[0] * x.shape[1] * k + 4 * x.shape[0] * x.shape[1] * k if x.mlx or y.mlx else 0
    )
    with Search(
        x,
        k,
        metric,
        exclude_self=exclude_self,
        max_bytes=max_bytes,
        bytes_in_use=copies,
        whole=True,
        backend=backend,
    ) as search:
        search.add(y, 0)
        distances, indices = search.result()
    if x.mlx or y.mlx:
        return mx.array(distances), mx.array(indices)
    return distances, indices


class KNN:
    """Data to be asked for neighbours again and again: `knn` with its data in hand.

    Args:
        data: (N, D) or (B, N, D) rows, kept as they are, not copied, or a file; all other arguments as in `knn`.
        metric, max_mem_gb, backend: as in `knn`.

    Example:
        >>> import numpy as np
        >>> distances, indices = KNN(np.array([[0.0], [2.0], [5.0]])).query(np.array([[4.0]]), 2)
        >>> distances.tolist(), indices.tolist()
        ([[1.0, 4.0]], [[2, 1]])
    """

    def __init__(
        self,
        data: Any,
        metric: str = "euclidean",
        *,
        max_mem_gb: float = 0.0,
        backend: str | None = None,
    ) -> None:
        self.data = open_vectors(data) if is_source(data) else validation.data(data, name="data")
        self.metric, self.max_mem_gb, self.backend = metric, max_mem_gb, backend

    def query(self, x: Any, k: int = 1, *, exclude_self: bool = False) -> tuple[Any, Any]:
        """The k nearest rows of queries x (Q, D) or (B, Q, D): distances and indices (Q, k) or (B, Q, k), as `knn` has them."""
        return knn(
            x,
            self.data,
            k,
            self.metric,
            max_mem_gb=self.max_mem_gb,
            backend=self.backend,
            exclude_self=exclude_self,
        )
