"""The other libraries, and the matrix product alone, as contestants."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, ClassVar

import numpy as np

from .contestants import ALL_METRICS, Array, Contestant, Outcome, Single, over_batch
from .gate import unit_rows


def _library(name: str) -> Any:
    """Import a module when it is needed, and return it untyped, as these libraries are."""
    return importlib.import_module(name)


@dataclass(frozen=True)
class ScikitLearn(Contestant):
    """``sklearn.cluster.KMeans`` with ``algorithm="lloyd"``, and brute-force neighbours.

    With ``tol=0`` it stops when no label changes, as we do.
    """

    name: ClassVar[str] = "scikit-learn"
    fit_note: ClassVar[str] = "k-means++, tolerance 1e-4"
    package: ClassVar[str] = "scikit-learn"
    kinds: ClassVar[frozenset[str]] = frozenset({"lloyd", "seeding", "fit", "knn"})
    search_metrics: ClassVar[frozenset[str]] = frozenset({"euclidean", "cosine"})
    module: ClassVar[str] = "sklearn.cluster"

    def prepare(self) -> None:
        _library(self.module)
        _library("sklearn.neighbors")

    def knn(self, x: Array, queries: Array, k: int, metric: str) -> Outcome:
        """Run ``NearestNeighbors(algorithm="brute")``."""
        neighbors = _library("sklearn.neighbors")
        model = neighbors.NearestNeighbors(n_neighbors=k, algorithm="brute", metric=metric)
        distances, indices = model.fit(x[0]).kneighbors(queries[0])
        return Outcome(indices[None], (distances**2 if metric == "euclidean" else distances)[None])

    def lloyd(self, x: Array, start: Array, iters: int, metric: str) -> Outcome:
        cluster = _library(self.module)

        def run_one(b: int) -> Single:
            model = cluster.KMeans(
                start.shape[1], init=start[b], n_init=1, max_iter=iters, tol=0, algorithm="lloyd"
            )
            model.fit(x[b])
            passes = min(model.n_iter_ + 1, iters + 1)
            return model.labels_, model.cluster_centers_, model.n_iter_, model.inertia_, passes

        return over_batch(x, run_one)

    def seeding(self, x: Array, k: int, seed: int) -> Outcome:
        seeds = _library("sklearn.cluster").kmeans_plusplus
        return Outcome(None, np.stack([seeds(points, k, random_state=seed)[0] for points in x]))

    def fit(self, x: Array, k: int, seed: int) -> Outcome:
        cluster = _library(self.module)

        def run_one(b: int) -> Single:
            model = cluster.KMeans(k, n_init=1, random_state=seed).fit(x[b])
            return model.labels_, model.cluster_centers_, model.n_iter_, model.inertia_, 0

        return over_batch(x, run_one)


@dataclass(frozen=True)
class ScikitLearnIntelex(ScikitLearn):
    """``sklearnex.cluster.KMeans``: scikit-learn's interface over oneDAL. Nothing is patched."""

    name: ClassVar[str] = "scikit-learn-intelex"
    package: ClassVar[str] = "scikit-learn-intelex"
    kinds: ClassVar[frozenset[str]] = frozenset({"lloyd", "fit"})
    module: ClassVar[str] = "sklearnex.cluster"


@dataclass(frozen=True)
class Faiss(Contestant):
    """``faiss.Kmeans`` on all points, faiss's exact search, and its indexes.

    ``spherical=True`` is our ``"dot"``, and on unit rows our ``"cosine"``. The objective that faiss
    reports belongs to the centroids before the last update, so no inertia is taken from it.
    """

    name: ClassVar[str] = "faiss"
    fit_note: ClassVar[str] = "random start, 25 iterations on a sample"
    package: ClassVar[str] = "faiss-cpu"
    kinds: ClassVar[frozenset[str]] = frozenset({"lloyd", "fit", "knn", "index"})
    metrics: ClassVar[frozenset[str]] = ALL_METRICS
    search_metrics: ClassVar[frozenset[str]] = ALL_METRICS

    def prepare(self) -> None:
        _library("faiss")

    def knn(self, x: Array, queries: Array, k: int, metric: str) -> Outcome:
        """Search ``IndexFlatL2`` or ``IndexFlatIP``, for cosine with unit rows."""
        faiss = _library("faiss")
        if metric == "cosine":
            x = unit_rows(x)
            queries = unit_rows(queries)
        index = (faiss.IndexFlatL2 if metric == "euclidean" else faiss.IndexFlatIP)(x.shape[2])
        index.add(x[0])
        distances, indices = index.search(queries[0], k)
        return Outcome(indices[None], (1 - distances if metric == "cosine" else distances)[None])

    def lloyd(self, x: Array, start: Array, iters: int, metric: str) -> Outcome:
        """Find the labels of the final centroids by faiss's exact search."""
        faiss = _library("faiss")
        _, n, d = x.shape
        if metric == "cosine":
            x = unit_rows(x)
        options = {"min_points_per_centroid": 1, "max_points_per_centroid": n}
        options["spherical"] = metric != "euclidean"

        def run_one(b: int) -> Single:
            model = faiss.Kmeans(d, start.shape[1], niter=iters, nredo=1, **options)
            model.train(x[b], init_centroids=start[b])
            return model.assign(x[b])[1], model.centroids, iters, None, iters + 1

        return over_batch(x, run_one)

    def fit(self, x: Array, k: int, seed: int) -> Outcome:
        """Run its defaults: a random start, 25 iterations, a sample of 256 points per centroid."""
        faiss = _library("faiss")

        def run_one(b: int) -> Single:
            model = faiss.Kmeans(x.shape[2], k, seed=seed, min_points_per_centroid=1)
            model.train(x[b])
            return model.assign(x[b])[1], model.centroids, 25, None, 0

        return over_batch(x, run_one)

    def train_index(self, factory: str, x: Array) -> Any:
        index = self._untrained(factory, x.shape[1])
        index.train(x)
        return index

    def _untrained(self, factory: str, d: int) -> Any:
        # Codes of 4 bits by fast scan, of residuals in lists as ours are. "np": without polysemous
        # training, which takes 20 s and which no search here uses.
        scan = "fsr" if factory.startswith("IVF") else "fs"
        factory = re.sub(r"(PQ\d+)(?=,|$)", r"\1np", re.sub(r"(PQ\d+x4)", rf"\1{scan}", factory))
        index = _library("faiss").index_factory(d, factory)
        if hasattr(index, "k_factor"):
            index.k_factor = 4.0  # our default
        if hasattr(index, "hnsw"):
            index.hnsw.efConstruction = 200  # our default
        return index

    def search_index(self, index: Any, queries: Array, k: int, nprobe: int) -> Array:
        if hasattr(index, "hnsw"):
            index.hnsw.efSearch = nprobe
        elif nprobe:
            faiss = _library("faiss")
            base = getattr(index, "base_index", index)
            faiss.downcast_index(base).nprobe = nprobe
        return index.search(queries, k)[1]

    def decode_index(self, index: Any, n: int) -> Array:
        if hasattr(index, "make_direct_map"):
            index.make_direct_map()
        return index.reconstruct_n(0, n)

    def index_centroids(self, index: Any) -> Array:
        return index.quantizer.reconstruct_n(0, index.nlist)


@dataclass(frozen=True)
class FaissTrainedByUs(Faiss):
    """An index of faiss, trained by our `train_faiss`."""

    name: ClassVar[str] = "faiss, trained by us"
    kinds: ClassVar[frozenset[str]] = frozenset({"index"})

    def prepare(self) -> None:
        super().prepare()
        import flash_kmeans_mlx.index  # noqa: F401

    def train_index(self, factory: str, x: Array) -> Any:
        from flash_kmeans_mlx.index import train_faiss

        return train_faiss(self._untrained(factory, x.shape[1]), x)


@dataclass(frozen=True)
class SuperKMeans(Contestant):
    """``superkmeans.SuperKMeans``, which prunes approximately and takes no start."""

    name: ClassVar[str] = "superkmeans"
    fit_note: ClassVar[str] = "random start, 10 iterations on a sample"
    package: ClassVar[str] = "superkmeans"
    same_start: ClassVar[bool] = False
    note: ClassVar[str] = "own start, not exact"
    threads: int = 0

    def prepare(self) -> None:
        _library("superkmeans")

    def lloyd(self, x: Array, start: Array, iters: int, metric: str) -> Outcome:
        _, n, d = x.shape
        options = {"hierarchical": False, "early_termination": False, "iters": iters, "tol": 0.0}
        options |= {"sampling_fraction": 1.0, "max_points_per_cluster": n}
        return self._train(x, iters, (start.shape[1], d), options)

    def fit(self, x: Array, k: int, seed: int) -> Outcome:
        """Run its defaults: 10 iterations on a sample, hierarchical above 100,000 points."""
        return self._train(x, 10, (k, x.shape[2]), {"seed": seed})

    def _train(self, x: Array, iters: int, shape: tuple[int, int], options: dict) -> Outcome:
        superkmeans = _library("superkmeans")

        def run_one(b: int) -> Single:
            model = superkmeans.SuperKMeans(*shape, n_threads=self.threads, **options)
            centroids = model.train(x[b])
            return model.assign(x[b], centroids), centroids, iters, None, 0

        return over_batch(x, run_one)


@dataclass(frozen=True)
class PyKDTree(Contestant):
    """``pykdtree.kdtree.KDTree``, built and searched."""

    name: ClassVar[str] = "pykdtree"
    package: ClassVar[str] = "pykdtree"
    kinds: ClassVar[frozenset[str]] = frozenset({"knn"})

    def prepare(self) -> None:
        _library("pykdtree.kdtree")

    def knn(self, x: Array, queries: Array, k: int, metric: str) -> Outcome:
        distances, indices = _library("pykdtree.kdtree").KDTree(x[0]).query(queries[0], k)
        shape = (1, queries.shape[1], k)
        return Outcome(indices.astype(np.int64).reshape(shape), (distances**2).reshape(shape))


@dataclass(frozen=True)
class Matmul(Contestant):
    """NumPy's matrix product of points and centroids alone, in row tiles.

    Any k-means that computes all products takes at least this long.
    """

    name: ClassVar[str] = "matmul alone"
    package: ClassVar[str] = "numpy"
    yardstick: ClassVar[bool] = True
    kinds: ClassVar[frozenset[str]] = frozenset({"lloyd"})
    metrics: ClassVar[frozenset[str]] = ALL_METRICS
    tiles: dict[int, int] = field(default_factory=dict, compare=False)

    def prepare(self) -> None:
        """NumPy is imported already."""

    def lloyd(self, x: Array, start: Array, iters: int, metric: str) -> Outcome:
        """Make ``iters`` passes with the tile height that was the fastest at the first call."""
        k = start.shape[1]
        if k not in self.tiles:
            tallest = min(max(1, 2**24 // k), x.shape[1])
            heights = {min(height, tallest) for height in (512, 2048, 8192, 32768)}
            self.tiles[k] = min(sorted(heights), key=lambda height: _product(x, start, 1, height))
        _product(x, start, iters, self.tiles[k])
        return Outcome(None, start, iters)


def _product(x: Array, c: Array, passes: int, height: int) -> float:
    """Return the seconds that the products take."""
    out = np.empty((height, c.shape[1]), np.float32)
    begin = perf_counter()
    for _ in range(passes):
        for points, centroids in zip(x, c, strict=True):
            for row in range(0, len(points), height):
                tile = points[row : row + height]
                np.matmul(tile, centroids.T, out=out[: len(tile)])
    return perf_counter() - begin
