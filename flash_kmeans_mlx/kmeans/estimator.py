"""FlashKMeans: k-means as an object that keeps its centroids."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from copy import copy
from typing import Any

import mlx.core as mx
import numpy as np

from .. import validation
from ..distributed.blocks import is_collection, open_collection
from ..errors import NotFittedError
from . import arguments, model_file
from .assign import Labelling, assigned, labels_of
from .fit import fit, opened, opened_weights
from .lloyd import Iteration
from .running import Past, cluster_weights, go_on, move, past_of
from .transform import distances_to

__all__ = ["FlashKMeans"]


class FlashKMeans:
    """Batched k-means as an object, with the names of faiss's Kmeans and scikit-learn's methods.

    Args:
        d: Dimensions of the points; checked if given.
        k: The number of clusters.
        n_clusters: The same by scikit-learn's name; it counts if given.
        niter: The most iterations.
        metric: "euclidean", "cosine" or "dot".
        init: As in `batch_kmeans_Euclid`; here "k-means++" is the default.
        n_init, seed: As in `batch_kmeans_Euclid`.
        tol, empty: As in `batch_kmeans_Euclid`.
        backend, strategy: As in `batch_kmeans_Euclid`.
        max_mem_gb, dtype, compiled: As in `batch_kmeans_Euclid`.
        verbose, check_finite: As in `batch_kmeans_Euclid`.

    Attributes (after `fit`; B is absent if points are (N, D), and B, H if they are (B, H, N, D)):
        centroids: (B, K, D) float32; `cluster_centers_` is the same.
        labels_: (B, N) uint32, of the points it was fitted to.
        inertia_: (B,) float64.
        counts_: (B, K) float64, the weights of the points of each cluster.
        n_iter_: The most iterations that a batch element took.
        backend_: The backend that ran.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(1000, 16)).astype(np.float32)
        >>> model = FlashKMeans(16, 8).fit(x)
        >>> model.predict(x[:5]).shape
        (5,)
    """

    def __init__(
        self,
        d: int | None = None,
        k: int = 8,
        niter: int = 25,
        tol: float = 1e-8,
        seed: int = 0,
        verbose: bool = False,
        dtype: Any = None,
        metric: str = "euclidean",
        compiled: bool = True,
        max_mem_gb: float = 0.0,
        init: Any = "k-means++",
        *,
        n_init: int = 1,
        empty: str = "farthest",
        backend: str | None = None,
        strategy: str | None = None,
        check_finite: bool = True,
        n_clusters: int | None = None,
    ) -> None:
        self.d = None if d is None else validation.check_count("d", d, 1)
        if n_clusters is not None:
            k = validation.check_count("n_clusters", n_clusters, 1)
        self.k = validation.check_count("k", k, 1)
        self.niter = validation.check_iterations("niter", niter)
        self.metric = validation.metric(metric).name
        self.tol = tol
        self.seed = seed
        self.verbose = verbose
        self.dtype = dtype
        self.compiled = compiled
        self.max_mem_gb = max_mem_gb
        self.init = init
        self.n_init = n_init
        self.empty = empty
        self.backend = backend
        self.strategy = strategy
        self.check_finite = check_finite
        self.centroids: Any = None
        self.counts_: Any = None
        self._sums: np.ndarray | None = None

    @property
    def n_clusters(self) -> int:
        """The number of clusters, `k`."""
        return self.k

    @property
    def cluster_centers_(self) -> Any:
        """(B, K, D) float32, `centroids`."""
        if self.centroids is None:
            raise NotFittedError("cluster_centers_ needs a fitted model: call fit first")
        return self.centroids

    def fit(
        self,
        x: Any,
        sample_weight: Any = None,
        init_centroids: Any = None,
        *,
        callback: Callable[[Iteration], object] | None = None,
        labels_path: str | os.PathLike[str] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_seconds: float = 0.0,
        resume: bool = False,
        client: Any = None,
    ) -> FlashKMeans:
        """Cluster x (B, N, D) or as `batch_kmeans_Euclid` takes it, with its arguments."""
        data = self._check_d(x)
        validation.check_count("k", self.k, 1, data.shape[1], "N", data.given_shape)
        validation.check_iterations("niter", self.niter)
        result = fit(
            validation.metric(self.metric),
            data,
            self.k,
            self.niter,
            self.tol,
            init_centroids,
            self.verbose,
            init=self.init,
            seed=self.seed,
            sample_weight=sample_weight,
            n_init=self.n_init,
            empty=self.empty,
            compiled=self.compiled,
            max_mem_gb=self.max_mem_gb,
            backend=self.backend,
            strategy=self.strategy,
            check_finite=self.check_finite,
            callback=callback,
            labels_path=labels_path,
            checkpoint=checkpoint,
            checkpoint_seconds=checkpoint_seconds,
            resume=resume,
            client=client,
        )
        counts = cluster_weights(
            np.asarray(result.labels).reshape(data.shape[:2]),
            arguments.weights(opened_weights(sample_weight), data, check_finite=False),
            self.k,
        )
        self.labels_, self.centroids, self.n_iter_ = result
        self.inertia_ = result.inertia
        self.backend_ = result.backend
        self.counts_ = counts.reshape(*data.lead, self.k)
        self._sums = None
        return self

    train = fit

    def fit_predict(self, x: Any, sample_weight: Any = None, init_centroids: Any = None) -> Any:
        """Cluster x and return its labels (B, N)."""
        return self.fit(x, sample_weight, init_centroids).labels_

    def partial_fit(self, x: Any, sample_weight: Any = None) -> FlashKMeans:
        """Move the centroids to the running means of their points, and return self.

        Mini-batch k-means (Sculley, 2010): the points are labelled by the centroids; then each
        centroid is the weighted mean of all points that it ever got, the earlier ones under the
        labels of their time (for cosine the direction of the sum of their unit rows, for dot that
        of their sum). Sums and weights are float64. Points before the first call are those of
        `fit`, counted by `counts_` at their centroid; if there was no `fit`, the first batch
        chooses the centroids by `init`.

        Args:
            x: (B, N, D) or (N, D) points, or a source, as in `fit`; any N after the first call.
            sample_weight: As in `fit`.

        `labels_` and `inertia_` are those of x before the centroids moved; `n_iter_` counts calls.
        """
        return self._take(x, sample_weight, None)

    def update(self, x: Any, sample_weight: Any = None) -> FlashKMeans:
        """Go on by Lloyd's loop on new points (B, N, D), beside the old ones, and return self.

        From the last centroids, it lowers over labels of the new points and centroids c the sum of
        weight times cost of the new points, plus a term of each cluster's old points, which keep
        their cluster. With n their weight (`counts_`) and S their sum, as `partial_fit` has it, it
        is ``n * ||c - S / n||**2`` for "euclidean", ``n - <c, S>`` for "cosine", ``-<c, S>`` for
        "dot". That is the cost of the old points themselves, up to a constant. After `fit`, which
        keeps no sums, S is n times the centroid; for "cosine" and "dot" that times the mean product
        of the old points and their centroids. Clusters without any point stay where they are.

        x (B, N, D) and weights are as in `partial_fit`. The loop ends as that of `fit`, by `niter`
        and `tol`. `labels_`, `inertia_`, `n_iter_` are those of x, and `counts_` count all points.
        """
        return self._take(x, sample_weight, validation.check_iterations("niter", self.niter))

    def _take(self, x: Any, sample_weight: Any, niter: int | None) -> FlashKMeans:
        """Go on with new points for so many iterations, or move the centroids once for None."""
        if self.centroids is None and niter is None:
            seeded = copy(self)
            seeded.niter = 0
            data = self._check_d(x)
            c = np.asarray(seeded.fit(data, sample_weight).centroids).reshape(
                -1, self.k, data.shape[2]
            )
            past = Past(np.zeros(c.shape), np.zeros(c.shape[:2]))
            n_iter = 0
        else:
            data = self._check_fitted(x)
            c, past = past_of(self, data)
            n_iter = self.n_iter_
        metric = validation.metric(self.metric)
        options = self.max_mem_gb, self.backend, self.check_finite, self.strategy
        with assigned(data, c, metric.name, sample_weight, *options) as (_, points, start):
            inertia = points.inertia(start)
            if niter is None:
                past, c = move(data, points, past, start)
                n_iter += 1
            else:
                past, c, n_iter = go_on(
                    data, points, past, start, niter, validation.check_real("tol", self.tol)
                )
                inertia = points.inertia(c)
            self.labels_ = data.to_caller(np.array(points.labels()), array=True)
            self.backend_ = points.backend
        self.centroids = data.to_caller(c, array=True)
        self.inertia_ = data.to_caller(inertia)
        self.n_iter_ = n_iter
        self._sums = past.sums.reshape(*data.lead, *c.shape[1:])
        self.counts_ = past.counts.reshape(*data.lead, c.shape[1])
        return self

    def predict(self, x: Any, *, labels_path: str | os.PathLike[str] | None = None) -> Any:
        """Return the labels (B, N) uint32 of new points; of a Dask collection, lazily.

        `labels_path` is as in `fit`.
        """
        if is_collection(x):
            return self._by_blocks(x, "predict", np.uint32)
        return labels_of(self._assigned(x, None, labels_path), labels_path)

    def score(self, x: Any, sample_weight: Any = None) -> Any:
        """Return minus the inertia (B,) of x under its best labels: larger is better."""
        with self._assigned(x, sample_weight) as (data, points, c):
            return data.to_caller(-points.inertia(c))

    def transform(self, x: Any) -> Any:
        """Return the distance (B, N, K) float32 of every point to every centroid.

        Euclidean distance (not squared), ``1 - cos``, or ``-dot``. Computed in float64, in tiles of
        rows; of a Dask collection, lazily.
        """
        if is_collection(x):
            return self._by_blocks(x, "transform", np.float32, self.centroids.shape[-2])
        data = self._check_fitted(x)
        distances = distances_to(
            data, self._numpy_centroids(), self.metric, self.max_mem_gb, self.check_finite
        )
        return data.to_caller(distances, array=True)

    def _by_blocks(self, x: Any, method: str, dtype: Any, width: int = 0) -> Any:
        """Return the Dask array of what a method returns for each block, (N,) or (N, width)."""
        array = open_collection(x).array
        model = copy(self)
        model.centroids, model.labels_ = self._numpy_centroids(), None  # what travels with a task
        shape = {"chunks": (array.chunks[0], (width,))} if width else {"drop_axis": 1}
        empty = np.empty((0,) * (1 + (width > 0)), dtype)
        return array.map_blocks(getattr(model, method), dtype=dtype, meta=empty, **shape)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted model to one safetensors file, whole or not at all."""
        if self.centroids is None:
            raise NotFittedError("save needs a fitted model: call fit first")
        parameters = {name: getattr(self, name) for name in model_file.SAVED}
        if isinstance(self.init, str):
            parameters["init"] = self.init
        arrays = {
            "centroids": self._numpy_centroids(),
            "inertia": np.atleast_1d(np.asarray(self.inertia_, np.float64)),
            "n_iter": np.array([self.n_iter_], np.int64),
        }
        kept = {"counts": self.counts_, "sums": self._sums}
        arrays |= {name: np.asarray(a, np.float64) for name, a in kept.items() if a is not None}
        model_file.write(path, parameters, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FlashKMeans:
        """Return a model that `save` wrote; its centroids are `mx.array`, its labels are not kept.

        Raises:
            ValueError: The file holds no model, is of a newer format, or is damaged; the message
                says which.
        """
        model, arrays = model_file.read(path, cls)
        inertia = arrays["inertia"]
        model.n_iter_ = int(arrays["n_iter"][0])
        model.inertia_ = inertia if arrays["centroids"].ndim > 2 else float(inertia[0])
        model.centroids = mx.array(arrays["centroids"])
        model.counts_ = arrays.get("counts")
        model._sums = arrays.get("sums")
        return model

    def _assigned(
        self, x: Any, sample_weight: Any, labels_path: str | os.PathLike[str] | None = None
    ) -> Labelling:
        data = self._check_fitted(x)
        return assigned(
            data,
            self.centroids,
            self.metric,
            sample_weight,
            self.max_mem_gb,
            self.backend,
            self.check_finite,
            self.strategy,
            labels_path,
        )

    def _numpy_centroids(self) -> np.ndarray:
        return np.array(self.centroids, np.float32)

    def _check_d(self, x: Any) -> validation.Data:
        data = opened(x, self.dtype)
        if self.d is not None and data.shape[2] != self.d:
            raise ValueError(
                f"x must have D={self.d} columns, got {data.shape[2]} (x.shape={data.given_shape})"
            )
        return data

    def _check_fitted(self, x: Any) -> validation.Data:
        if self.centroids is None:
            raise NotFittedError(
                "this FlashKMeans has no centroids: call fit, or load a model, first"
            )
        data = self._check_d(x)
        if data.shape[2] != self.centroids.shape[-1]:
            raise ValueError(
                f"x must have D={self.centroids.shape[-1]} columns like the points of fit,"
                f" got {data.shape[2]} (x.shape={data.given_shape})"
            )
        b = math.prod(self.centroids.shape[:-2])
        if self.centroids.ndim > 2 and b != data.shape[0]:
            like = f"like the points of fit (x.shape={data.given_shape})"
            raise ValueError(f"x must have B={b} batch elements {like}")
        return data
