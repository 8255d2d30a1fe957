"""Exact nearest neighbours: the function `knn` and the class `KNN`, which keeps the data."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from .. import validation
from ..files import is_source, open_vectors
from ..progress import open_progress
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
    """Return the exact k nearest rows of the data for every query, without a Q x N matrix.

    Args:
        queries: (B, Q, D), or (Q, D), where B is absent from the results too; `mx.array` or NumPy,
            dtypes and strides as in `batch_kmeans_Euclid`. Or (Q, D) vectors in a file: a path,
            ``"PATH::NAME"`` for one of several arrays in it, or a memory map; formats are .npy,
            .safetensors, .fvecs, .bvecs, .ivecs, .pt (needs torch), .parquet and .arrow (need
            pyarrow).
        data: (B, N, D), or (N, D), with as many dimensions as the queries; or a file, which is read
            in chunks.
        k: Neighbours of every query, at most N, or N - 1 with `exclude_self`.
        metric: The distance, one of:
            "euclidean", the squared Euclidean distance, as in faiss;
            "cosine", ``1 - cos``, which is 1 where a row is zero and 0 for angles that float64
            can't tell from 0;
            "dot", the dot product: a similarity, the largest first;
            "l1", the sum, and "linf", the largest of the absolute differences.
        exclude_self: Query i never gets row i. For queries that are the data, which must have the
            same shape.
        max_mem_gb: Hard cap in 1e9 bytes on memory beyond queries and data, results included; 0 for
            none.
        backend: "cpu", "metal", "portable", "reference", or None for the best one on MLX's default
            device.

    Returns:
        ``distances (B, Q, k) float32, indices (B, Q, k) int64``, nearest first, `mx.array` if
        queries or data are. The nearest are those by distances computed in float64 from the rows as
        given, equal ones by index: candidates are found in float32, and every row that its rounding
        may have hidden is looked at. Distances are rounded to float32 at the end. The bits are the
        same on any number of threads.

    Raises:
        ValueError: Naming the argument, its value and its bound.
        TypeError: The same, for a wrong type.
        BackendUnavailableError: The named backend can't run here.
        VectorFileError: A file can't be read; it is a ValueError.
        OSError: A file can't be opened.

    Example:
        >>> import numpy as np
        >>> data = np.array([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0]])
        >>> distances, indices = knn(data[:1], data, 2)
        >>> distances.tolist(), indices.tolist()
        ([[0.0, 1.0]], [[0, 2]])
    """
    if is_source(queries) or is_source(data):
        result = search_files(
            queries,
            data,
            k,
            metric,
            max_mem_gb=max_mem_gb,
            backend=backend,
            exclude_self=exclude_self,
        )
        return result.distances, result.indices
    x = validation.data(queries, name="queries")
    y = validation.data(data, name="data")
    max_bytes = validation.cap(max_mem_gb)
    exclude_self = validation.check_flag("exclude_self", exclude_self)
    b, n_queries, _ = x.shape
    n_rows = y.shape[1]
    k = validation.check_neighbours(k, n_rows, exclude_self, "data", y.given_shape)
    if exclude_self and x.given_shape != y.given_shape:
        raise ValueError(
            "exclude_self=True needs queries that are the data,"
            f" got {x.name}.shape={x.given_shape} and data.shape={y.given_shape}"
        )
    as_mlx = x.mlx or y.mlx
    # mx.array results are copies of NumPy ones: 4 bytes for a distance, 8 for an index.
    copies = 12 * b * n_queries * k if as_mlx else 0
    work = y.shape[0] * n_rows
    progress = open_progress("searching", work, products=n_queries * y.x.size)
    with (
        progress,
        Search(
            x,
            k,
            metric,
            exclude_self=exclude_self,
            max_bytes=max_bytes,
            bytes_in_use=copies,
            whole=True,
            backend=backend,
            progress=progress,
        ) as search,
    ):
        search.add(y, 0)
        distances, indices = search.result()
    if as_mlx:
        return mx.array(distances), mx.array(indices)
    return distances, indices


class KNN:
    """An object that keeps the data, for one search after another as in `knn`.

    Args:
        data: (N, D) or (B, N, D) rows, which are not copied, or a file, as in `knn`.
        metric: As in `knn`.
        max_mem_gb: As in `knn`.
        backend: As in `knn`.

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
        self.metric = metric
        self.max_mem_gb = max_mem_gb
        self.backend = backend

    def query(self, x: Any, k: int = 1, *, exclude_self: bool = False) -> tuple[Any, Any]:
        """Return the k nearest rows for queries x, as `knn` does.

        Args:
            x: (Q, D) or (B, Q, D).
            k: As in `knn`.
            exclude_self: As in `knn`.

        Returns:
            Distances and indices, each (Q, k) or (B, Q, k).
        """
        return knn(
            x if is_source(x) else validation.data(x, name="x"),
            self.data,
            k,
            self.metric,
            max_mem_gb=self.max_mem_gb,
            backend=self.backend,
            exclude_self=exclude_self,
        )
