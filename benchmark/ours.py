"""This package as a contestant: its functions, its estimators, its indexes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .contestants import ALL_METRICS, Array, Contestant, Outcome
from .peers import ScikitLearn


def to_numpy(a: Any) -> Array:
    """Return an MLX array, a NumPy array or a number as a NumPy array."""
    if hasattr(a, "astype") and not isinstance(a, (np.ndarray, np.generic)):
        import mlx.core as mx

        return np.array(a.astype(mx.float32) if a.dtype == mx.bfloat16 else a)
    return np.asarray(a)


@dataclass(frozen=True)
class Ours(Contestant):
    """This package."""

    package: ClassVar[str] = "flash-kmeans-mlx"

    def prepare(self) -> None:
        import flash_kmeans_mlx.index  # noqa: F401


@dataclass(frozen=True)
class FlashKMeansMLX(Ours):
    """The functions of this package, on the best backend of the machine or on a named one."""

    name: ClassVar[str] = "flash-kmeans-mlx"
    kinds: ClassVar[frozenset[str]] = frozenset({"lloyd", "seeding", "fit", "knn", "index"})
    metrics: ClassVar[frozenset[str]] = ALL_METRICS
    search_metrics: ClassVar[frozenset[str]] = ALL_METRICS
    fit_note: ClassVar[str] = "k-means++, scikit-learn's tolerance"
    backend: str | None = None

    def convert(self, x: Array, dtype: str) -> Any:
        """Return an `mx.array` on a GPU and for bfloat16, a NumPy array otherwise."""
        from flash_kmeans_mlx.backends import resolve

        if len(x) == 1:
            x = x[0]
        if dtype == "bfloat16" or resolve(self.backend) == "metal":
            import mlx.core as mx

            converted = mx.array(x).astype(getattr(mx, dtype))
            mx.eval(converted)
            return converted
        return x.astype(dtype, copy=False)

    def lloyd(self, x: Any, start: Array, iters: int, metric: str) -> Outcome:
        from flash_kmeans_mlx import batch_kmeans_Cosine, batch_kmeans_Dot, batch_kmeans_Euclid

        functions = {
            "euclidean": batch_kmeans_Euclid,
            "cosine": batch_kmeans_Cosine,
            "dot": batch_kmeans_Dot,
        }
        start = start if x.ndim == 3 else start[0]
        return _outcome(
            functions[metric](x, start.shape[-2], iters, 0.0, start, backend=self.backend)
        )

    def seeding(self, x: Any, k: int, seed: int) -> Outcome:
        """Run a fit of no iterations, which includes the labels for the seeds."""
        return self._kmeans_plusplus(x, k, seed, iters=0, tol=0.0)

    def fit(self, x: Any, k: int, seed: int) -> Outcome:
        """Run k-means++ and iterations up to scikit-learn's tolerance.

        We stop when each centroid moves by less than the tolerance. That implies scikit-learn's
        condition, which is on all centroids together.
        """
        tol = float(np.sqrt(1e-4 * np.var(to_numpy(x), axis=-2, dtype=np.float32).mean() / k))
        return self._kmeans_plusplus(x, k, seed, iters=300, tol=tol)

    def _kmeans_plusplus(self, x: Any, k: int, seed: int, iters: int, tol: float) -> Outcome:
        from flash_kmeans_mlx import batch_kmeans_Euclid

        return _outcome(
            batch_kmeans_Euclid(x, k, iters, tol, init="k-means++", seed=seed, backend=self.backend)
        )

    def knn(self, x: Any, queries: Any, k: int, metric: str) -> Outcome:
        from flash_kmeans_mlx import knn
        from flash_kmeans_mlx.backends import resolve

        queries = queries[0] if queries.ndim == 3 else queries
        distances, indices = knn(queries, x, k, metric, backend=self.backend)
        return Outcome(
            to_numpy(indices)[None], to_numpy(distances)[None], backend=resolve(self.backend)
        )

    def train_index(self, factory: str, x: Array) -> Any:
        from flash_kmeans_mlx.index import index_factory

        index = index_factory(x.shape[1], factory)
        index.train(x)
        return index

    def search_index(self, index: Any, queries: Array, k: int, nprobe: int) -> Array:
        name = "ef" if hasattr(index, "ef") else "nprobe"
        options = {name: nprobe} if nprobe else {}
        return index.search(queries, k, **options)[1]

    def decode_index(self, index: Any, n: int) -> Array:
        return index.reconstruct_batch(np.arange(n))

    def index_centroids(self, index: Any) -> Array:
        return index.centroids


def _outcome(result: Any) -> Outcome:
    labels = to_numpy(result.labels)
    centroids = to_numpy(result.centroids)
    # A batch element that has not converged makes one more pass, for its final labels.
    passes = to_numpy(result.n_iter_per_batch) + ~to_numpy(result.converged).astype(bool)
    return Outcome(
        labels=labels if labels.ndim == 2 else labels[None],
        centroids=centroids if labels.ndim == 2 else centroids[None],
        n_iter=int(result.n_iter),
        inertia=float(np.sum(to_numpy(result.inertia), dtype=np.float64)),
        passes=float(np.mean(passes)),
        backend=str(result.backend),
        engine={name: getattr(result, name) for name in ("strategy", "products", "seconds")},
    )


@dataclass(frozen=True)
class FlashKMeansDefaults(Ours):
    """``FlashKMeans(d, k).fit(x)`` of this package, with its defaults."""

    name: ClassVar[str] = "FlashKMeans(d, k).fit(x)"
    kinds: ClassVar[frozenset[str]] = frozenset({"fit"})
    fit_note: ClassVar[str] = "k-means++, at most 25 iterations"

    def fit(self, x: Any, k: int, seed: int) -> Outcome:
        from flash_kmeans_mlx import FlashKMeans

        x = x[0] if len(x) == 1 else x
        model = FlashKMeans(x.shape[-1], k, seed=seed)
        model.fit(x)
        labels = to_numpy(model.labels_)
        centroids = to_numpy(model.centroids)
        if labels.ndim == 1:
            labels = labels[None]
            centroids = centroids.reshape(1, k, -1)
        return Outcome(
            labels, centroids, int(model.n_iter_), float(np.sum(to_numpy(model.inertia_)))
        )


@dataclass(frozen=True)
class FlashKMeansSklearn(ScikitLearn):
    """``KMeans(k).fit(x)`` of `flash_kmeans_mlx.sklearn`.

    Beside scikit-learn's row it shows the effect of changing the import alone.
    """

    name: ClassVar[str] = "sklearn.KMeans(k).fit(x)"
    package: ClassVar[str] = Ours.package
    kinds: ClassVar[frozenset[str]] = frozenset({"fit"})
    module: ClassVar[str] = "flash_kmeans_mlx.sklearn"
