"""Who is compared. Each class runs in a worker process of its own and imports its library there only."""

from __future__ import annotations

import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Single = tuple[Array, Array, int, float, int]


def missing(package: str) -> str | None:
    """Why a package can't run here, or None."""
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
    return None


@dataclass(frozen=True)
class Outcome:
    """What a run returns.

    Attributes:
        labels: ``(B, N)``; None after seeding alone.
        centroids: ``(B, K, D)``.
        n_iter: Iterations run, the most of the batch.
        inertia: As reported, summed over the batch; None if not reported for these labels.
        passes: Assignments of all points made, the mean of the batch; 0 if unknown.
        backend: Which of our backends ran.
        engine: How it assigned, and what that took: ``strategy``, ``products``, ``seconds`` of `KMeansResult`.
    """

    labels: Array | None
    centroids: Array
    n_iter: int = 0
    inertia: float | None = None
    passes: float = 0.0
    backend: str = ""
    engine: dict[str, Any] = field(default_factory=dict)

    def without_inertia(self) -> Outcome:
        """The same, of a library that reports no inertia for its final labels."""
        return replace(self, inertia=None)


@dataclass(frozen=True)
class Contestant(ABC):
    """One k-means implementation.

    ``same_start`` says that it starts where it is told; a ``yardstick`` is no k-means, only a time to compare with.
    ``prepare`` and ``convert`` run outside the clock; ``lloyd``, ``seeding`` and ``fit``, those it has, inside.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    same_start: ClassVar[bool] = True
    yardstick: ClassVar[bool] = False
    kinds: ClassVar[frozenset[str]] = frozenset({"lloyd", "fit"})
    metrics: ClassVar[frozenset[str]] = frozenset({"euclidean"})
    search_metrics: ClassVar[frozenset[str]] = frozenset({"euclidean"})
    note: ClassVar[str] = ""
    fit_note: ClassVar[str] = ""

    def missing(self) -> str | None:
        """Why it can't run here, or None."""
        return missing(self.package)

    def runs(self, kind: str, metric: str) -> bool:
        """Whether it takes part in ``kind`` (``"lloyd"``, ``"seeding"``, ``"fit"``, ``"knn"``) under ``metric``."""
        if kind == "knn":
            return kind in self.kinds and metric in self.search_metrics
        return kind in self.kinds and (
            metric in self.metrics if kind == "lloyd" else metric == "euclidean"
        )

    @abstractmethod
    def prepare(self) -> None:
        """Imports the library."""

    def convert(self, x: Array, dtype: str) -> Any:
        """``x`` (float32, already rounded to ``dtype``) as this library takes it: by default as it is."""
        del dtype
        return x

    def lloyd(self, x: Any, start: Array, iters: int, metric: str) -> Outcome:
        """Lloyd iterations from ``start``; centroids and the labels that belong to them."""
        raise NotImplementedError

    def seeding(self, x: Any, k: int, seed: int) -> Outcome:
        """k-means++ alone."""
        raise NotImplementedError

    def fit(self, x: Any, k: int, seed: int) -> Outcome:
        """A whole fit with the library's usual settings."""
        raise NotImplementedError

    def knn(self, x: Any, queries: Any, k: int, metric: str) -> Outcome:
        """The k nearest points for queries ``(1, Q, D)``, from points as they come: indices as labels ``(1, Q, k)``.

        Their distances, squared for the Euclidean metric, stand in for centroids.
        """
        raise NotImplementedError


def over_batch(x: Array, one: Callable[[int], Single]) -> Outcome:
    """Runs a library that takes one problem at a time over the batch in a Python loop."""
    labels, centroids, n_iter, inertia, passes = zip(*(one(b) for b in range(len(x))), strict=True)
    if len(x) == 1:
        return Outcome(labels[0][None], centroids[0][None], n_iter[0], inertia[0], passes[0])
    total = float(np.sum(inertia))
    return Outcome(
        np.stack(labels), np.stack(centroids), max(n_iter), total, float(np.mean(passes))
    )


def _numpy(a: Any) -> Array:
    """An MLX array, a NumPy array or a number, as a NumPy array."""
    if hasattr(a, "astype") and not isinstance(a, (np.ndarray, np.generic)):
        import mlx.core as mx

        return np.array(a.astype(mx.float32) if a.dtype == mx.bfloat16 else a)
    return np.asarray(a)


@dataclass(frozen=True)
class FlashKMeansMLX(Contestant):
    """This package, through its functional API; the best backend of the machine, or a named one."""

    name: ClassVar[str] = "flash-kmeans-mlx"
    package: ClassVar[str] = "flash-kmeans-mlx"
    kinds: ClassVar[frozenset[str]] = frozenset({"lloyd", "seeding", "fit", "knn"})
    metrics: ClassVar[frozenset[str]] = frozenset({"euclidean", "cosine", "dot"})
    search_metrics: ClassVar[frozenset[str]] = frozenset({"euclidean", "cosine", "dot"})
    fit_note: ClassVar[str] = "k-means++, scikit-learn's tolerance"
    backend: str | None = None

    def missing(self) -> str | None:
        return None

    def prepare(self) -> None:
        import flash_kmeans_mlx  # noqa: F401

    def convert(self, x: Array, dtype: str) -> Any:
        """On a GPU, and as bfloat16, an `mx.array`."""
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

        run = {
            "euclidean": batch_kmeans_Euclid,
            "cosine": batch_kmeans_Cosine,
            "dot": batch_kmeans_Dot,
        }[metric]
        start = start if x.ndim == 3 else start[0]
        return _outcome(run(x, start.shape[-2], iters, 0.0, start, backend=self.backend))

    def seeding(self, x: Any, k: int, seed: int) -> Outcome:
        """A fit of no iterations, which includes the labels of the seeds."""
        from flash_kmeans_mlx import batch_kmeans_Euclid

        return _outcome(
            batch_kmeans_Euclid(x, k, 0, init="k-means++", seed=seed, backend=self.backend)
        )

    def fit(self, x: Any, k: int, seed: int) -> Outcome:
        """k-means++ and iterations up to scikit-learn's tolerance: ours for each centroid implies theirs for all."""
        from flash_kmeans_mlx import batch_kmeans_Euclid

        tol = float(np.sqrt(1e-4 * np.var(_numpy(x), axis=-2, dtype=np.float32).mean() / k))
        return _outcome(
            batch_kmeans_Euclid(x, k, 300, tol, init="k-means++", seed=seed, backend=self.backend)
        )

    def knn(self, x: Any, queries: Any, k: int, metric: str) -> Outcome:
        from flash_kmeans_mlx import knn
        from flash_kmeans_mlx.backends import resolve

        queries = queries[0] if queries.ndim == 3 else queries
        distances, indices = (_numpy(a) for a in knn(queries, x, k, metric, backend=self.backend))
        return Outcome(indices[None], distances[None], backend=resolve(self.backend))


def _outcome(result: Any) -> Outcome:
    labels, centroids, inertia = (
        _numpy(result.labels),
        _numpy(result.centroids),
        _numpy(result.inertia),
    )
    passes = np.mean(_numpy(result.n_iter_per_batch) + ~_numpy(result.converged).astype(bool))
    if labels.ndim == 1:
        labels, centroids = labels[None], centroids[None]
    total = float(np.sum(inertia, dtype=np.float64))
    engine = {"strategy": result.strategy, "products": result.products, "seconds": result.seconds}
    return Outcome(
        labels, centroids, int(result.n_iter), total, float(passes), str(result.backend), engine
    )


@dataclass(frozen=True)
class FlashKMeansDefaults(Contestant):
    """``FlashKMeans(d, k).fit(x)`` of this package, nothing else said."""

    name: ClassVar[str] = "FlashKMeans(d, k).fit(x)"
    package: ClassVar[str] = "flash-kmeans-mlx"
    kinds: ClassVar[frozenset[str]] = frozenset({"fit"})
    fit_note: ClassVar[str] = "k-means++, at most 25 iterations"

    def missing(self) -> str | None:
        return None

    def prepare(self) -> None:
        import flash_kmeans_mlx  # noqa: F401

    def fit(self, x: Any, k: int, seed: int) -> Outcome:
        from flash_kmeans_mlx import FlashKMeans

        x = x[0] if len(x) == 1 else x
        model = FlashKMeans(x.shape[-1], k, seed=seed)
        model.fit(x)
        labels, centroids = _numpy(model.labels_), _numpy(model.centroids)
        if labels.ndim == 1:
            labels, centroids = labels[None], centroids.reshape(1, k, -1)
        return Outcome(labels, centroids, int(model.n_iter_), float(np.sum(_numpy(model.inertia_))))


@dataclass(frozen=True)
class FlashKMeansSwap(Contestant):
    """``KMeans(k).fit(x)`` of `flash_kmeans_mlx.sklearn`: beside scikit-learn's row, what changing the import changes."""

    name: ClassVar[str] = "sklearn.KMeans(k).fit(x)"
    package: ClassVar[str] = "flash-kmeans-mlx"
    kinds: ClassVar[frozenset[str]] = frozenset({"fit"})
    fit_note: ClassVar[str] = "k-means++, tolerance 1e-4"

    def missing(self) -> str | None:
        return None

    def prepare(self) -> None:
        import flash_kmeans_mlx.sklearn  # noqa: F401

    def fit(self, x: Any, k: int, seed: int) -> Outcome:
        from flash_kmeans_mlx.sklearn import KMeans

        def one(b: int) -> Single:
            model = KMeans(k, random_state=seed).fit(x[b])
            return model.labels_, model.cluster_centers_, model.n_iter_, model.inertia_, 0

        return over_batch(x, one)


def contestants(
    backends: Sequence[str | None], threads: int, sklearn: bool = True
) -> list[Contestant]:
    """Everyone who may take part, ours first.

    Args:
        backends: Ours; None is the best one of the machine.
        threads: Threads each may use, for those that don't read it from the environment.
        sklearn: Whether scikit-learn takes part.
    """
    from .peers import Faiss, Matmul, PyKDTree, ScikitLearn, ScikitLearnIntelex, SuperKMeans

    ours: list[Contestant] = [FlashKMeansMLX(backend) for backend in backends]
    peers: list[Contestant] = [ScikitLearn(), ScikitLearnIntelex()] if sklearn else []
    return [
        *ours,
        FlashKMeansDefaults(),
        FlashKMeansSwap(),
        *peers,
        Faiss(),
        SuperKMeans(threads),
        PyKDTree(),
        Matmul(),
    ]
