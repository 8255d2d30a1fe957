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
from .rows import from_mlx, match_type

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
    """Exact nearest neighbours with scikit-learn's constructor, methods and attributes.

    X is (N, D): arrays, lists, pandas and polars frames, memory maps, `mx.array`, or sparse. It is
    kept as it is. `kneighbors` and `kneighbors_graph` run on this package's core for dense X under
    the Euclidean distance and its square, l1, linf (Minkowski's with p = 2, 1, inf too) and cosine:
    candidates are found in float32, distances computed in float64. Everything else is
    scikit-learn's own code: other metrics, sparse X, `algorithm="kd_tree"` and `"ball_tree"`, and
    the radius queries, which for our metrics use brute force.

    Args:
        n_neighbors: Neighbours of a query unless it asks for another number.
        radius: The same for radius queries.
        algorithm: "auto" or "brute" for this package's search, which itself uses a KD-tree where
            that is faster; "kd_tree", "ball_tree".
        leaf_size: As in scikit-learn.
        metric: As in scikit-learn.
        p: As in scikit-learn.
        metric_params: As in scikit-learn.
        n_jobs: As in scikit-learn.
        backend: As in `knn`: "cpu", "metal", "portable", "reference" or None for the best one.

    Attributes:
        effective_metric_: As in scikit-learn.
        effective_metric_params_: As in scikit-learn.
        n_samples_fit_: As in scikit-learn.
        n_features_in_: As in scikit-learn.
        feature_names_in_: As in scikit-learn.

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
            self.algorithm = "brute"  # otherwise scikit-learn builds a tree that is not used
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
        parameters = self.effective_metric_params_.items()
        return (
            isinstance(self.effective_metric_, str)
            and self.effective_metric_ in METRICS
            and all(name == "p" or value is None for name, value in parameters)
            and fitted._fit_method == "brute"
            and not issparse(fitted._fit_X)
            and not issparse(X)
        )

    def kneighbors(
        self, X: Any = None, n_neighbors: int | None = None, return_distance: bool = True
    ) -> Any:
        """Return the nearest fitted rows.

        Args:
            X: (Q, D) queries; without it the fitted rows themselves, none a neighbour of itself.
            n_neighbors: The number of neighbours; None for the constructor's.
            return_distance: Whether distances are wanted.

        Returns:
            Distances (Q, k) float64, if wanted, and indices (Q, k) int64, nearest first; `mx.array`
            if X is one.
        """
        check_is_fitted(self)
        if not self._is_ours(X):
            result = super().kneighbors(from_mlx(X), n_neighbors, return_distance)
            if not return_distance:
                return match_type(X, result)
            return match_type(X, result[0]), match_type(X, result[1])
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
        # The message is scikit-learn's.
        if k > fitted.n_samples_fit_ - (X is None):
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
            return match_type(X, indices)
        if metric == "euclidean" and self.effective_metric_ != "sqeuclidean":
            np.sqrt(distances, out=distances)
        return match_type(X, distances), match_type(X, indices)

    def kneighbors_graph(
        self, X: Any = None, n_neighbors: int | None = None, mode: str = "connectivity"
    ) -> Any:
        """Return (Q, N) CSR of the k nearest rows of queries X (Q, D).

        Its values are ones, or with mode="distance" their distances.
        """
        return super().kneighbors_graph(from_mlx(X), n_neighbors, mode)

    def radius_neighbors(
        self,
        X: Any = None,
        radius: float | None = None,
        return_distance: bool = True,
        sort_results: bool = False,
    ) -> Any:
        """Return all fitted rows within a radius of queries X (Q, D), found by scikit-learn.

        They are arrays (Q,) of arrays, NumPy.
        """
        return super().radius_neighbors(from_mlx(X), radius, return_distance, sort_results)
