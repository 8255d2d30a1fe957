"""The interface of a contestant, and the outcome of one of its runs."""

from __future__ import annotations

import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
ALL_METRICS = frozenset({"euclidean", "cosine", "dot"})
# Labels (N,), centroids (K, D), iterations, inertia or None, assignments of all points.
Single = tuple[Array, Array, int, float | None, float]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run.

    Attributes:
        labels: ``(B, N)``; None after seeding alone.
        centroids: ``(B, K, D)``.
        n_iter: Iterations run, the largest number of the batch.
        inertia: As reported, summed over the batch. None if not reported for these labels.
        passes: Assignments of all points made, the mean of the batch. 0 if unknown.
        backend: Our backend that ran.
        engine: ``strategy``, ``products`` and ``seconds`` of our `KMeansResult`.
    """

    labels: Array | None
    centroids: Array
    n_iter: int = 0
    inertia: float | None = None
    passes: float = 0.0
    backend: str = ""
    engine: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Contestant(ABC):
    """A library that takes part. It is imported in its own worker process only.

    ``prepare`` and ``convert`` run outside the clock. The other methods, of which a contestant has
    those of its ``kinds``, run inside the clock.

    Attributes:
        name: The name in tables and result files.
        package: The package that has to be installed.
        same_start: Whether it starts from the centroids that it is given.
        yardstick: Whether it is no k-means, but only a time to compare with.
        kinds: ``"lloyd"``, ``"seeding"``, ``"fit"``, ``"knn"``, ``"index"``: what it can do.
        metrics, search_metrics: Metrics of its Lloyd iterations, and of its search.
        note: A remark for the table.
        fit_note: The settings of its whole fits.
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
        """Return why it can't run here, or None."""
        try:
            importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return "not installed"
        return None

    def runs(self, kind: str, metric: str) -> bool:
        """Return whether it takes part in a kind of job under a metric."""
        metrics = {"lloyd": self.metrics, "knn": self.search_metrics}.get(kind, {"euclidean"})
        return kind in self.kinds and metric in metrics

    @abstractmethod
    def prepare(self) -> None:
        """Import the library."""

    def convert(self, x: Array, dtype: str) -> Any:
        """Return ``x``, float32 with the values it has in ``dtype``, as this library takes it."""
        del dtype
        return x

    def lloyd(self, x: Any, start: Array, iters: int, metric: str) -> Outcome:
        """Run Lloyd iterations from ``start``; return centroids and the labels for them."""
        raise NotImplementedError

    def seeding(self, x: Any, k: int, seed: int) -> Outcome:
        """Run k-means++ alone."""
        raise NotImplementedError

    def fit(self, x: Any, k: int, seed: int) -> Outcome:
        """Run a whole fit with the library's usual settings."""
        raise NotImplementedError

    def knn(self, x: Any, queries: Any, k: int, metric: str) -> Outcome:
        """Find the k nearest points of queries ``(1, Q, D)``, preparation of the points included.

        Returns:
            Indices ``(1, Q, k)`` in place of labels, and distances ``(1, Q, k)`` in place of
            centroids: squared for the Euclidean metric.
        """
        raise NotImplementedError

    def train_index(self, factory: str, x: Array) -> Any:
        """Return an index trained on ``x`` ``(N, D)``. The factory string is faiss's."""
        raise NotImplementedError

    def search_index(self, index: Any, queries: Array, k: int, nprobe: int) -> Array:
        """Return ids ``(Q, k)``.

        An index without lists is searched with ``nprobe=0``, a graph with that many candidates.
        """
        raise NotImplementedError

    def decode_index(self, index: Any, n: int) -> Array:
        """Return the first n vectors ``(n, D)`` as the index stores them."""
        raise NotImplementedError

    def index_centroids(self, index: Any) -> Array:
        """Return the centroids of the lists, ``(nlist, D)``."""
        raise NotImplementedError


def over_batch(x: Array, run_one: Callable[[int], Single]) -> Outcome:
    """Run a library that takes one problem at a time over the batch, in a Python loop."""
    results = [run_one(b) for b in range(len(x))]
    labels, centroids, n_iter, inertia, passes = zip(*results, strict=True)
    single = len(x) == 1  # np.stack would copy, and the clock is running
    return Outcome(
        labels=labels[0][None] if single else np.stack(labels),
        centroids=centroids[0][None] if single else np.stack(centroids),
        n_iter=max(n_iter),
        inertia=None if inertia[0] is None else float(np.sum(inertia)),
        passes=float(np.mean(passes)),
    )
