"""MiniBatchKMeans with scikit-learn's interface."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn import cluster
from sklearn.base import _fit_context
from sklearn.utils import check_random_state

from ..progress import open_progress
from .kmeans import Adapter, checked_weights
from .rows import content_order, fit_input, inertia_of, nearest, sums_of, variance_of
from .sources import SourceRows

__all__ = ["MiniBatchKMeans"]


class MiniBatchKMeans(Adapter, cluster.MiniBatchKMeans):
    """Mini-batch k-means (Sculley, 2010) with scikit-learn's constructor, methods and attributes.

    Stopping rules and reassignment of rare centres are scikit-learn's. Labels are computed in
    float32 around the centres, means and inertia in float64; centres are kept in X's dtype. There
    are three differences: rows are drawn along their sorted values, so that a weight counts like
    repeated rows; a batch as large as X is all of X, not a draw from it; and the `n_init` seedings
    are compared on the `init_size` rows that they were drawn from.

    The arguments are those of `sklearn.cluster.MiniBatchKMeans`; X is as in `KMeans`.

    Attributes:
        cluster_centers_: (K, D) in X's dtype, float64 for integers. NumPy, as all attributes are.
        labels_: (N,) int32, if `compute_labels`.
        inertia_: A float; without `compute_labels` an estimate from the batches.
        n_iter_: Epochs begun.
        n_steps_: Batches.
        n_features_in_: As in scikit-learn.
        feature_names_in_: As in scikit-learn.

    Example:
        >>> MiniBatchKMeans(2, random_state=0).fit([[0.0], [1.0], [8.0], [9.0]]).inertia_
        1.0
    """

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> MiniBatchKMeans:
        """Cluster X (N, D) with weights (N,) in batches drawn by weight and return self.

        X may be files, as in `batch_kmeans_Euclid`: the rows of each batch are read, and in the end
        all for their labels. In memory are 32 bytes for each row, and a batch. Formats that
        compress rows in groups, as Parquet does, read whole groups for a batch.
        """
        x = self._validated(X, sources=True)
        with x if isinstance(x, SourceRows) else nullcontext():
            self._check_rows(x)
            sizes: Any = self._batch_size, self._init_size
            is_small = isinstance(x, SourceRows) and x.shape[0] <= max(sizes)
            return self._fit_rows(x[np.arange(len(x))] if is_small else x, sample_weight)

    def _check_rows(self, x: Any) -> None:
        """Check the arguments against x, without the copy that scikit-learn's variance takes."""
        if issparse(x):
            self._check_params_vs_input(x)
            return
        tol, self.tol = self.tol, 0.0
        try:
            self._check_params_vs_input(np.broadcast_to(x.dtype.type(0), x.shape))
        finally:
            self.tol = tol
        self._tol = tol * variance_of(x) if tol > 0 else 0.0

    def _fit_rows(self, x: Any, sample_weight: Any) -> MiniBatchKMeans:
        n = x.shape[0]
        size = int(self._batch_size)
        random_state = check_random_state(self.random_state)
        weights = checked_weights(sample_weight, x)
        total = float(weights.sum(dtype=np.float64))
        order = content_order(x)
        ends = np.cumsum(weights[order], dtype=np.float64)
        last = int(np.flatnonzero(weights[order])[-1])

        def draw(size: Any) -> tuple[Any, np.ndarray]:
            if size == n:
                return x, weights * (n / total)
            place = np.searchsorted(ends, random_state.uniform(size=size) * ends[-1], side="right")
            return x[order[np.minimum(place, last)]], np.ones(size)

        n_steps = (self.max_iter * n) // size
        with open_progress() as progress:
            progress.phase("seeding")
            self._begin(*draw(self._init_size), random_state)
            self._ewa_inertia = self._ewa_inertia_min = None
            self._no_improvement = 0
            progress.phase("batches")
            progress.begin(n_steps)
            done = 0
            while done < n_steps:
                before = self.cluster_centers_
                batch_inertia = self._step(*draw(size), random_state)
                done += 1
                progress.advance(1)
                change = np.square(self.cluster_centers_ - before).sum() if self._tol > 0 else 0
                if self._mini_batch_convergence(done - 1, n_steps, n, change, batch_inertia):
                    break
        self.n_steps_ = done
        self.n_iter_ = int(np.ceil(done * size / n))
        if self.compute_labels:
            self._label(x, weights)
        else:
            mean: Any = self._ewa_inertia
            self.inertia_ = mean * total
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> MiniBatchKMeans:
        """Update the centres with X (N, D) and weights (N,) as one more batch and return self."""
        begun = hasattr(self, "cluster_centers_")
        x = self._validated(X, reset=not begun)
        weights = checked_weights(sample_weight, x)
        self._random_state = getattr(self, "_random_state", check_random_state(self.random_state))
        if not begun:
            self._check_params_vs_input(x)
            self._begin(x, weights, self._random_state)
        self.n_steps_ = getattr(self, "n_steps_", 0) + 1
        self._step(x, weights, self._random_state)
        if self.compute_labels:
            self._label(x, weights)
        return self

    def _begin(self, x: Any, weights: np.ndarray, random_state: Any) -> None:
        """Choose centres from rows x (N, D) and set all counts to zero."""
        init = self._start(x)
        if isinstance(init, str) or callable(init):
            points = fit_input(x, by_content=isinstance(init, str) and init == "k-means++")
            result = self._run(points, init, 0, 0.0, weights, random_state)
            init = points.from_frame(result.centroids)
        self.cluster_centers_ = init.astype(x.dtype)
        self._counts = np.zeros(self.n_clusters, x.dtype)
        self._n_since_last_reassign = 0
        self._n_features_out = self.n_clusters

    def _step(self, x: Any, weights: np.ndarray, random_state: Any) -> float:
        """Move the centres towards the means of a batch x (n, D).

        Returns:
            The inertia of the batch under the centres before the move.
        """
        before = self.cluster_centers_
        labels = nearest(x, before, self.backend)
        sums, weight_sum = sums_of(x, weights, labels, self.n_clusters)
        counts = self._counts + weight_sum
        moved = weight_sum > 0
        centers = before.astype(np.float64)
        sums_before = before[moved] * self._counts[moved, None].astype(np.float64)
        centers[moved] = (sums_before + sums[moved]) / counts[moved, None]
        rare = self._rare(counts, x.shape[0])
        if rare.any():
            rows = np.flatnonzero(weights > 0)
            rows = random_state.choice(rows, min(int(rare.sum()), len(rows)), replace=False)
            rare[np.flatnonzero(rare)[len(rows) :]] = False
            if self.verbose:
                print(f"[MiniBatchKMeans] Reassigning {len(rows)} cluster centers.")
            centers[rare] = x[rows].toarray() if issparse(x) else x[rows]
            counts[rare] = counts[~rare].min()
        self.cluster_centers_ = centers.astype(x.dtype)
        self._counts = counts.astype(x.dtype)
        return inertia_of(x, before, labels, weights)

    def _rare(self, counts: np.ndarray, n: int) -> np.ndarray:
        """Return (K,) bool, the centres that get a new place by scikit-learn's rule.

        They are at most half as many as the rows.
        """
        rare = np.zeros(len(counts), bool)
        if self._random_reassign() and self.reassignment_ratio > 0:
            rare = counts < self.reassignment_ratio * counts.max()
            if rare.sum() > 0.5 * n:
                rare[np.argsort(counts)[n // 2 :]] = False
        return rare

    def _label(self, x: Any, weights: np.ndarray) -> None:
        self.labels_ = nearest(x, self.cluster_centers_, self.backend)
        self.inertia_ = inertia_of(x, self.cluster_centers_, self.labels_, weights)
