"""FlashKMeans: k-means as an object that keeps its centroids."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from copy import copy
from typing import Any

import mlx.core as mx
import numpy as np

from .. import validation
from ..backends import Points
from ..backends.stream import RowStream
from ..distributed.blocks import is_collection, open_collection
from ..errors import NotFittedError
from ..files import models
from ..files.safetensors import json_object
from .assign import assigned
from .empty_clusters import POLICIES
from .fit import fit, opened
from .lloyd import Iteration
from .seeding import INITS

__all__ = ["FlashKMeans"]

_SAVED = (
    "d",
    "k",
    "niter",
    "tol",
    "seed",
    "metric",
    "compiled",
    "max_mem_gb",
    "n_init",
    "empty",
    "check_finite",
)


class FlashKMeans:
    """Batched k-means as an object, with the names of faiss's Kmeans and scikit-learn's methods.

    Args:
        d: Dimensions of the points; checked if given.
        k: The number of clusters.
        niter: The most iterations.
        metric: "euclidean", "cosine" or "dot".
        init: As in `batch_kmeans_Euclid`; here "k-means++" is the default.
        n_init, seed: As in `batch_kmeans_Euclid`.
        tol, empty: As in `batch_kmeans_Euclid`.
        backend, strategy: As in `batch_kmeans_Euclid`.
        max_mem_gb, dtype, compiled: As in `batch_kmeans_Euclid`.
        verbose, check_finite: As in `batch_kmeans_Euclid`.

    Attributes (after `fit`; B is absent if the points had two dimensions):
        centroids: (B, K, D) float32.
        labels_: (B, N) uint32, of the points it was fitted to.
        inertia_: (B,) float64.
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
    ) -> None:
        self.d = None if d is None else validation.check_count("d", d, 1)
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
        """Cluster x (B, N, D) or (N, D) and return self; arguments as in `batch_kmeans_Euclid`."""
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
        self.labels_, self.centroids, self.n_iter_ = result
        self.inertia_ = result.inertia
        self.backend_ = result.backend
        return self

    train = fit

    def fit_predict(self, x: Any, sample_weight: Any = None, init_centroids: Any = None) -> Any:
        """Cluster x and return its labels (B, N)."""
        return self.fit(x, sample_weight, init_centroids).labels_

    def predict(self, x: Any) -> Any:
        """Return the labels (B, N) uint32 of new points; of a Dask collection, lazily."""
        if is_collection(x):
            return self._by_blocks(x, "predict", np.uint32)
        with self._assigned(x, None) as (data, points, _):
            return data.to_caller(points.labels(), array=True)

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
        c = self._numpy_centroids()
        c = np.broadcast_to(c, (data.shape[0], *c.shape[-2:]))
        step = self._transform_rows(data, c.shape[1])
        out = np.empty((data.shape[0], data.shape[1], c.shape[1]), np.float32)
        metric = validation.metric(self.metric)
        for b in range(data.shape[0]):
            centroids = c[b].astype(np.float64)
            for lo, part in _tiles(data.x, b, step):
                rows = np.asarray(part, np.float64)
                if self.check_finite:
                    validation.check_magnitude(np.abs(rows).max(), data.given_shape)
                out[b, lo : lo + step] = metric.distances(rows, centroids)
        return data.to_caller(out, array=True)

    def _by_blocks(self, x: Any, method: str, dtype: Any, width: int = 0) -> Any:
        """Return the Dask array of what a method returns for each block, (N,) or (N, width)."""
        array = open_collection(x).array
        model = copy(self)
        model.centroids, model.labels_ = self._numpy_centroids(), None  # what travels with a task
        shape = {"chunks": (array.chunks[0], (width,))} if width else {"drop_axis": 1}
        empty = np.empty((0,) * (1 + (width > 0)), dtype)
        return array.map_blocks(getattr(model, method), dtype=dtype, meta=empty, **shape)

    def _transform_rows(self, data: validation.Data, k: int) -> int:
        """Return the rows of a tile of `transform` that fit the cap beside the result."""
        b, n, d = data.shape
        limit = validation.cap(self.max_mem_gb)
        bytes_in_use = data.copied + 4 * b * n * k * (1 + data.mlx) + 64 * b * k * d + (1 << 16)
        row = 8 * (6 * d + 4 * k)
        if isinstance(data.x, RowStream):
            bytes_in_use += data.x.rows.reading_bytes(1)
            row += data.x.rows.reading_bytes(2) - data.x.rows.reading_bytes(1)
        validation.check_cap(
            limit,
            bytes_in_use + min(n, 64) * row,
            data.given_shape,
            k,
            "for its distances",
            "transform fewer points",
        )
        most = max(64, (1 << 20) // max(k, d))
        return min(most, (limit - bytes_in_use) // row) if limit else most

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted model to one safetensors file, whole or not at all."""
        if self.centroids is None:
            raise NotFittedError("save needs a fitted model: call fit first")
        parameters = {name: getattr(self, name) for name in _SAVED}
        if isinstance(self.init, str):
            parameters["init"] = self.init
        arrays = {
            "centroids": self._numpy_centroids(),
            "inertia": np.atleast_1d(np.asarray(self.inertia_, np.float64)),
            "n_iter": np.array([self.n_iter_], np.int64),
        }
        models.write(path, arrays, {"class": "FlashKMeans", "parameters": json.dumps(parameters)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FlashKMeans:
        """Return a model that `save` wrote; its centroids are `mx.array`, its labels are not kept.

        Raises:
            ValueError: The file holds no model, is of a newer format, or is damaged; the message
                says which.
        """
        arrays, metadata = models.read(path)
        try:
            if metadata["class"] != "FlashKMeans":
                raise ValueError(f"it holds a {metadata['class']}")
            model = cls(**_checked(json_object(metadata["parameters"].encode())))
            c = arrays["centroids"]
            inertia = arrays["inertia"]
            if (
                c.ndim not in (2, 3)
                or c.shape[-2] != model.k
                or model.d not in (None, c.shape[-1])
                or c.dtype != np.float32
            ):
                raise ValueError(
                    f"centroids of shape {c.shape} do not fit k={model.k}, d={model.d}"
                )
            if not np.isfinite(c).all():
                raise ValueError("centroids are not finite")
            if inertia.shape != ((len(c),) if c.ndim == 3 else (1,)):
                raise ValueError(
                    f"inertia of shape {inertia.shape} does not fit centroids of shape {c.shape}"
                )
            model.n_iter_ = int(arrays["n_iter"][0])
            model.inertia_ = inertia if c.ndim == 3 else float(inertia[0])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(
                f"{os.fspath(path)!r} is not a FlashKMeans model, or a damaged one: {error}"
            ) from error
        model.centroids = mx.array(c)
        return model

    def _assigned(
        self, x: Any, sample_weight: Any
    ) -> AbstractContextManager[tuple[validation.Data, Points, np.ndarray]]:
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
        if self.centroids.ndim == 3 and len(self.centroids) != data.shape[0]:
            raise ValueError(
                f"x must have B={len(self.centroids)} batch elements like the points of fit"
                f" (x.shape={data.given_shape})"
            )
        return data


def _tiles(x: Any, b: int, step: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first row, rows) of batch element b of points (B, N, D), `step` rows at a time."""
    n = x.shape[1]
    if not isinstance(x, RowStream):
        for lo in range(0, n, step):
            yield lo, validation.to_numpy(x[b, lo : lo + step])
        return
    with x.rows.cursor() as cursor:
        for lo in range(0, n, step):
            yield lo, cursor.read(lo, min(lo + step, n))


def _checked(parameters: dict[str, Any]) -> dict[str, Any]:
    """Check the parameters of a file, those that `__init__` leaves to `fit` included."""
    if unknown := parameters.keys() - {*_SAVED, "init"}:
        raise ValueError(f"there is no parameter {min(unknown)!r:.60}")
    checks: dict[str, Callable[[Any], object]] = {
        "tol": lambda value: validation.check_real("tol", value),
        "seed": lambda value: validation.check_count("seed", value, 0),
        "n_init": lambda value: validation.check_count("n_init", value, 1),
        "max_mem_gb": validation.cap,
        "empty": lambda value: validation.check_choice("empty", value, POLICIES),
        "init": lambda value: validation.check_choice("init", value, INITS),
        "compiled": lambda value: validation.check_flag("compiled", value),
        "check_finite": lambda value: validation.check_flag("check_finite", value),
    }
    for name in checks.keys() & parameters.keys():
        checks[name](parameters[name])
    return parameters
