"""NearestNeighbors with scikit-learn's interface."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn import neighbors
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from ..backends import BACKENDS
from ..errors import BackendUnavailableError
from ..neighbours.search import Search
from .rows import from_mlx, like

__all__ = ["NearestNeighbors"]

METRICS = {
    "euclidean": "euclidean",
    "l2": "euclidean",
    "sqeuclidean": "euclidean",
    "cosine": "cosine",
    "manhattan": "l1",
    "cityblock": "l1",
    "l1": "l1",
    "chebyshev": "linf",
    "infinity": "linf",
}


class NearestNeighbors(neighbors.NearestNeighbors):
    """Exact nearest neighbours with scikit-learn's constructor, methods and attributes, `kneighbors` on this package's core.

    X is (N, D): arrays, lists, pandas and polars frames, memory maps, `mx.array`, or sparse. It is kept as it is. Candidates
    are found in float32, distances computed in float64. `kneighbors` and `kneighbors_graph` are ours for dense X under the
    Euclidean distance and its square, l1, linf (Minkowski's with p = 2, 1, inf too) and cosine. Everything else is
    scikit-learn's own code: other metrics, sparse X, `algorithm="kd_tree"` and `"ball_tree"`, and the radius queries, which
    for our metrics go by brute force.

    Args:
        n_neighbors: neighbours of a query unless it asks for another number.
        radius: the same for radius queries.
        algorithm: "auto" or "brute" for ours, which themselves take a KD-tree where it is faster; "kd_tree", "ball_tree".
        leaf_size, metric, p, metric_params, n_jobs: as in `sklearn.neighbors.NearestNeighbors`.
        backend: as in `knn`: "cpu", "metal", "portable", "reference" or None for the best one.

    Attributes:
        effective_metric_, effective_metric_params_, n_samples_fit_, n_features_in_, feature_names_in_: as in scikit-learn.

    Example:
        >>> model = NearestNeighbors(n_neighbors=1).fit([[0.0], [2.0], [5.0]])
        >>> distances, indices = model.kneighbors([[4.0]])
        >>> distances.tolist(), indices.tolist()
        ([[1.0]], [[2]])
    """

    _parameter_constraints: dict = {  # noqa: RUF012  # scikit-learn declares it so
        **neighbors.NearestNeighbors._parameter_constraints,
        "backend": [StrOptions(set(BACKENDS)), None],
    }

    def __init__(
        self,
        *,
        n_neighbors: int = 5,
        radius: float = 1.0,
        algorithm: str = "auto",
        leaf_size: int = 30,
        metric: Any = "minkowski",
        p: Any = 2,
        metric_params: dict | None = None,
        n_jobs: int | None = None,
        backend: str | None = None,
    ) -> None:
        super().__init__(
            n_neighbors=n_neighbors,
            radius=radius,
            algorithm=algorithm,
            leaf_size=leaf_size,
            metric=metric,
            p=p,
            metric_params=metric_params,
            n_jobs=n_jobs,
        )
        self.backend = backend

    def _fit(self, X: Any, y: Any = None) -> NearestNeighbors:
        algorithm = self.algorithm
        p = (self.metric_params or {}).get("p", self.p)
        ours = self.metric in METRICS if isinstance(self.metric, str) else False
        if algorithm == "auto" and (ours or (self.metric == "minkowski" and p in (1, 2, np.inf))):
            self.algorithm = "brute"  # or scikit-learn would build a tree that we don't need
        try:
            super()._fit(from_mlx(X), y)
        finally:
            self.algorithm = algorithm
        if self.backend not in (None, "cpu") and not self._is_ours(None):
            raise BackendUnavailableError(
                f"backend={self.backend!r} can't take this metric, algorithm or X; use backend=None"
            )
        return self

    def _is_ours(self, X: Any) -> bool:
        fitted: Any = self
        known = isinstance(self.effective_metric_, str) and self.effective_metric_ in METRICS
        known = known and not {
            k: v for k, v in self.effective_metric_params_.items() if k != "p" and v is not None
        }
        return (
            known
            and fitted._fit_method == "brute"
            and not issparse(fitted._fit_X)
            and not issparse(X)
        )

    def kneighbors(
        self, X: Any = None, n_neighbors: int | None = None, return_distance: bool = True
    ) -> Any:
        """The nearest fitted rows.

        Args:
            X: (Q, D) queries; without it the fitted rows themselves, none a neighbour of itself.
            n_neighbors: k; None for the constructor's.
            return_distance: whether distances are wanted.

        Returns:
            Distances (Q, k) float64, if wanted, and indices (Q, k) int64, nearest first; `mx.array` if X is one.
        """
        check_is_fitted(self)
        if not self._is_ours(X):
            found = super().kneighbors(from_mlx(X), n_neighbors, return_distance)
            return (like(X, found[0]), like(X, found[1])) if return_distance else like(X, found)
        k = self.n_neighbors if n_neighbors is None else n_neighbors
        if not isinstance(k, Integral):
            raise TypeError(f"n_neighbors does not take {type(k)} value, enter integer value")
        if k <= 0:
            raise ValueError(f"Expected n_neighbors > 0. Got {k}")
        fitted: Any = self
        queries: Any = (
            fitted._fit_X
            if X is None
            else validate_data(fitted, from_mlx(X), reset=False, order="C")
        )
        most = fitted.n_samples_fit_ - (X is None)
        if k > most:
            bound = "n_neighbors < n_samples_fit" if X is None else "n_neighbors <= n_samples_fit"
            raise ValueError(
                f"Expected {bound}, but n_neighbors = {k}, n_samples_fit = {fitted.n_samples_fit_},"
                f" n_samples = {queries.shape[0]}"
            )
        metric = METRICS[self.effective_metric_]
        with Search(
            queries,
            int(k),
            metric,
            exclude_self=X is None,
            dtype=np.float64,
            whole=True,
            backend=self.backend,
        ) as search:
            search.add(fitted._fit_X, 0)
            distances, indices = search.result()
        if not return_distance:
            return like(X, indices)
        if metric == "euclidean" and self.effective_metric_ != "sqeuclidean":
            np.sqrt(distances, out=distances)
        return like(X, distances), like(X, indices)

    def kneighbors_graph(
        self, X: Any = None, n_neighbors: int | None = None, mode: str = "connectivity"
    ) -> Any:
        """(Q, N) CSR of the k nearest rows of queries X (Q, D): ones, or with mode="distance" their distances."""
        return super().kneighbors_graph(from_mlx(X), n_neighbors, mode)

    def radius_neighbors(
        self,
        X: Any = None,
        radius: float | None = None,
        return_distance: bool = True,
        sort_results: bool = False,
    ) -> Any:
        """All fitted rows within a radius of queries X (Q, D), by scikit-learn: arrays (Q,) of arrays, NumPy."""
        return super().radius_neighbors(from_mlx(X), radius, return_distance, sort_results)
