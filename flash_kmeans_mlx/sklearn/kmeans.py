"""KMeans with scikit-learn's interface."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import issparse
from sklearn import cluster
from sklearn.base import _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array, check_random_state
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from ..backends import BACKENDS, resolve
from ..errors import BackendUnavailableError
from ..kmeans.fit import fit
from ..kmeans.lloyd import Iteration
from ..kmeans.result import KMeansResult
from ..metrics import EUCLIDEAN
from ..shards.source import is_source
from .rows import FitInput, distances, fit_input, from_mlx, inertia_of, match_type, nearest
from .sources import SourceRows

__all__ = ["Adapter", "KMeans", "checked_weights"]


class Adapter:
    """The methods that both estimators put in place of scikit-learn's."""

    backend: str | None = None
    cluster_centers_: np.ndarray
    if TYPE_CHECKING:  # members of the scikit-learn class that is the other base
        fit: Any
        init: Any
        _validate_center_shape: Any

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit X and return its labels (N,) int32, `mx.array` if X is one."""
        return match_type(X, self.fit(X, sample_weight=sample_weight).labels_)

    def predict(self, X: Any) -> Any:
        """Return labels (N,) int32 of new points X (N, D), `mx.array` if X is one.

        X may be files, as in `batch_kmeans_Euclid`, which are read piece by piece.
        """
        check_is_fitted(self)
        x = self._validated(X, reset=False, sources=True)
        with x if isinstance(x, SourceRows) else nullcontext():
            return match_type(X, nearest(x, self.cluster_centers_, self.backend))

    def transform(self, X: Any) -> Any:
        """Return Euclidean distances (N, K) to the centres in X's dtype, `mx.array` if X is one."""
        base: Any = super()
        return match_type(X, base.transform(from_mlx(X)))

    def _transform(self, X: Any) -> np.ndarray:
        return distances(X, self.cluster_centers_)

    def fit_transform(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit X and return `transform` of the same X."""
        return self.fit(X, sample_weight=sample_weight).transform(X)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return minus the inertia of X (N, D) under its nearest centres, in float64.

        X may be files, as in `predict`.
        """
        check_is_fitted(self)
        x = self._validated(X, reset=False, sources=True)
        with x if isinstance(x, SourceRows) else nullcontext():
            weights = checked_weights(sample_weight, x)
            labels = nearest(x, self.cluster_centers_, self.backend)
            return -inertia_of(x, self.cluster_centers_, labels, weights)

    def _validated(self, X: Any, *, reset: bool = True, sources: bool = False) -> Any:
        """Return X (N, D) as an array or CSR; with `sources`, files as `SourceRows`."""
        estimator: Any = self
        if sources and is_source(X):
            x = SourceRows(X)
            if not reset and x.shape[1] != estimator.n_features_in_:
                raise ValueError(
                    f"X has {x.shape[1]} features, but {type(self).__name__} is expecting"
                    f" {estimator.n_features_in_} features as input"
                )
            if reset:
                estimator.n_features_in_ = x.shape[1]
                vars(self).pop("feature_names_in_", None)
            return x
        x = validate_data(
            estimator, from_mlx(X), accept_sparse="csr", dtype=[np.float64, np.float32], reset=reset
        )
        if issparse(x) and self.backend not in (None, "cpu"):
            raise BackendUnavailableError(
                f"backend={self.backend!r} can't take sparse X; use backend=None"
            )
        return x

    def _test_data(self, X: Any) -> Any:
        return self._validated(X, reset=False)

    def _run(
        self,
        points: FitInput,
        init: Any,
        max_iter: int,
        tol: float,
        weights: Any,
        random_state: Any,
        **more: Any,
    ) -> KMeansResult:
        """Run the core's fit, with `init` and `tol` in the user's coordinates."""
        options: Any = self

        def call(*_: Any) -> np.ndarray:
            c = init(points.given, options.n_clusters, random_state=random_state)
            c = check_array(c, dtype=points.given.dtype)
            self._validate_center_shape(points.given, c)
            return points.to_frame(c)

        start = call if callable(init) else init if isinstance(init, str) else points.to_frame(init)
        return fit(
            EUCLIDEAN,
            points.data,
            options.n_clusters,
            max_iter,
            tol / points.unit,
            init=start,
            seed=int(random_state.randint(np.iinfo(np.int32).max)),
            n_init=options._n_init,
            max_mem_gb=points.max_mem_gb(options.n_clusters, options._n_init, weights is not None),
            backend=self.backend,
            sample_weight=None if weights is None else weights[points.order],
            summed_shift=True,
            warn=False,
            **more,
        )

    def _start(self, x: Any) -> Any:
        """Return `init` as a string, a callable or a checked array (K, D)."""
        init = self.init
        if isinstance(init, str) or callable(init):
            return init
        init = check_array(init, dtype=x.dtype, copy=True, order="C")
        self._validate_center_shape(x, init)
        return init


class KMeans(Adapter, cluster.KMeans):
    """k-means on this package's core, with the interface and the warnings of scikit-learn.

    X is (N, D): arrays, lists, pandas and polars frames, memory maps, `mx.array`, or sparse (read
    as CSR). It is read, never written to. Its rows are clustered around their mean, in a copy in
    float32 unless `copy_x=False`. So labels
    are those of the nearest centres but for points whose two nearest ones differ by less than about
    ``1e-7 * sqrt(D)`` of the spread of X. For float64 X (integers too) the last means and the
    inertia are computed in float64 from the labels. Sparse X is computed in float64 throughout,
    never as a dense copy.

    k-means++ draws along the rows sorted by their values: results depend neither on the order of
    rows nor on whether a row is repeated or has the sum of the weights.

    Args:
        n_clusters: K, at most N.
        init: "k-means++", "random", an array (K, D), or a callable
            ``init(X, n_clusters, random_state=...)``, which is given X as it was validated, not
            centred.
        n_init: Runs, of which the one of lowest inertia is kept; "auto" is 1, or 10 for "random"
            and callables.
        max_iter: The largest number of iterations of a run.
        tol: A run stops once the summed squared shift of the centres is at most tol times the mean
            variance of X's columns, or an assignment changes no label.
        verbose: Print a line per iteration.
        random_state: An int, `RandomState` or None, as in scikit-learn; the numbers drawn are not
            scikit-learn's.
        copy_x: With False, X of more than 2 million values is read in place on backend "cpu", in
            float32, float64 and memory maps: beyond X a fit takes about 20 bytes for each row, and
            some tables. Passes convert rows while they read them. Results are the same bits, but
            for k-means++: it then draws from 256 random rows for each cluster, which depend on the
            order of rows.
        algorithm: "lloyd" or "elkan", which find the same clusters: this package runs one loop for
            both.
        backend: As in `batch_kmeans_Euclid`: "cpu", "metal", "portable", "reference" or None for
            the best one.

    Attributes:
        cluster_centers_: (K, D) in X's dtype, float64 for integers. NumPy, as all attributes are.
        labels_: (N,) int32.
        inertia_: A float, the weighted sum of squared distances.
        n_iter_: Iterations of the run that was kept.
        n_features_in_: As in scikit-learn.
        feature_names_in_: As in scikit-learn.
        backend_: The backend that ran; "sparse" for sparse X.

    Warns:
        ConvergenceWarning: There are fewer distinct clusters than n_clusters.

    Example:
        >>> KMeans(2, random_state=0).fit([[0.0], [1.0], [8.0], [9.0]]).inertia_
        1.0
    """

    _parameter_constraints: dict = {  # noqa: RUF012  # scikit-learn declares it so
        **cluster.KMeans._parameter_constraints,
        "backend": [StrOptions(set(BACKENDS)), None],
    }

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: Any = "k-means++",
        n_init: Any = "auto",
        max_iter: int = 300,
        tol: float = 1e-4,
        verbose: int = 0,
        random_state: Any = None,
        copy_x: bool = True,
        algorithm: str = "lloyd",
        backend: str | None = None,
    ) -> None:
        super().__init__(
            n_clusters,
            init=init,
            n_init=n_init,
            max_iter=max_iter,
            tol=tol,
            verbose=verbose,
            random_state=random_state,
            copy_x=copy_x,
            algorithm=algorithm,
        )
        self.backend = backend

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> KMeans:
        """Cluster X (N, D) with weights (N,) and return self."""
        x = self._validated(X)
        self._check_params_vs_input(x[: self.n_clusters])  # its tolerance would take a copy of x
        init = self._start(x)
        random_state = check_random_state(self.random_state)
        weights = checked_weights(sample_weight, x)
        points = fit_input(
            x,
            by_content=isinstance(init, str) and init == "k-means++",
            in_place=not self.copy_x and resolve(self.backend) == "cpu",
        )
        self._tol = self.tol * points.variance
        double = x.dtype == np.float64
        given = None if sample_weight is None else weights
        result = self._run(
            points,
            init,
            self.max_iter,
            float(np.sqrt(self._tol)),
            given,
            random_state,
            callback=self._reporter(points.unit) if self.verbose else None,
            final_means=(lambda labels, c: points.means(weights, labels, c)) if double else None,
        )
        self.cluster_centers_ = points.from_frame(result.centroids).astype(x.dtype)
        self.labels_ = points.labels(result.labels)
        inertia = (
            inertia_of(x, self.cluster_centers_, self.labels_, weights)
            if double
            else result.inertia * points.unit**2
        )
        self.inertia_ = float(inertia)
        self.n_iter_ = result.n_iter
        self.backend_ = result.backend
        self._n_features_out = self.n_clusters
        n_distinct = len(np.unique(self.labels_))
        if n_distinct < self.n_clusters:
            warnings.warn(
                f"Number of distinct clusters ({n_distinct}) found smaller than n_clusters"
                f" ({self.n_clusters}). Possibly due to duplicate points in X.",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def _reporter(self, unit: float) -> Any:
        def report(line: Iteration) -> None:
            i = line.n_iter - 1
            shift = (line.shift * unit) ** 2
            if i == 0:
                print("Initialization complete")
            print(f"Iteration {i}, inertia {line.inertia * unit**2}.")
            if shift == 0:
                print(f"Converged at iteration {i}: strict convergence.")
            elif shift <= self._tol:
                print(
                    f"Converged at iteration {i}:"
                    f" center shift {shift} within tolerance {self._tol}."
                )

        return report


def checked_weights(sample_weight: Any, x: Any) -> np.ndarray:
    """Return weights (N,) in x's dtype, none negative and not all zero."""
    # Before version 1.9 scikit-learn does not refuse weights that are all zero.
    weights = _check_sample_weight(sample_weight, x, ensure_non_negative=True)
    if not np.any(weights):
        raise ValueError("Sample weights must contain at least one non-zero number.")
    return weights
