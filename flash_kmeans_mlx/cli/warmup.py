"""Compile the kernels of backend "cpu" before they are needed, by small calls of each feature."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from tempfile import TemporaryDirectory
from warnings import catch_warnings, simplefilter

import numpy as np

__all__ = ["FEATURES", "compile_kernels"]

SEED = 0


def _points(n: int, d: int, *, clusters: int = 0) -> np.ndarray:
    """Return (N, D) float32 normal numbers, or some around centres that lie far apart."""
    rng = np.random.default_rng(SEED)
    x = rng.standard_normal((n, d), np.float32)
    if clusters:
        x += 20 * rng.standard_normal((clusters, d), np.float32)[rng.integers(clusters, size=n)]
    return x


def _fits() -> None:
    from .. import batch_kmeans_Cosine, batch_kmeans_Dot, batch_kmeans_Euclid

    x = _points(1500, 20)
    for fit in (batch_kmeans_Euclid, batch_kmeans_Cosine, batch_kmeans_Dot):
        fit(x, 8, 3, backend="cpu")
        fit(x, 8, 3, backend="cpu", strategy="tiles")
    batch_kmeans_Euclid(x.reshape(3, 500, 20), 8, 3, backend="cpu")
    batch_kmeans_Euclid(_points(4000, 160), 64, 3, backend="cpu")  # by bytes


def _bytes() -> None:
    from .. import batch_kmeans_Euclid
    from ..backends.cpu import kernels

    if kernels.ir.INT8:
        batch_kmeans_Euclid(_points(1500, 40), 30, 3, backend="cpu", strategy="int8")


def _heads() -> None:
    from .. import batch_kmeans_Euclid

    batch_kmeans_Euclid(_points(3000, 40, clusters=90), 90, 6, backend="cpu", strategy="head")


def _seeding() -> None:
    from .. import FlashKMeans

    for metric in ("euclidean", "cosine", "dot"):
        x = _points(2000, 20)
        FlashKMeans(20, 8, 3, metric=metric, backend="cpu").fit(x).predict(x)
        FlashKMeans(20, 8, 3, metric=metric, backend="cpu").fit(x + 100)
    FlashKMeans(160, 200, 3, backend="cpu").fit(_points(20_000, 160))


def _neighbours() -> None:
    from .. import knn
    from ..neighbours.files import search_files

    for metric in ("euclidean", "cosine", "dot", "l1", "linf"):
        for n, d in ((300, 20), (3000, 3), (3000, 40)):
            x = _points(n, d)
            knn(x[:100], x, 5, metric, backend="cpu")
            knn(x, x, 5, metric, backend="cpu", exclude_self=True)
            knn(x, x.repeat(4, 0), 5, metric, backend="cpu")  # ties, decided again
            knn(x, x + 100, 5, metric, backend="cpu")

    with TemporaryDirectory() as folder:
        path = f"{folder}/rows.npy"
        np.save(path, _points(50_000, 20))
        search_files(_points(50, 20), path, 5, max_mem_gb=0.02, backend="cpu")  # in chunks


def _indexes() -> None:
    from ..index import (
        IndexFlat,
        IndexIVFFlat,
        IndexIVFPQ,
        IndexPQ,
        IndexRefine,
        IndexScalarQuantizer,
    )

    x = _points(3000, 32)
    indexes = [IndexFlat(32), IndexPQ(32, 4), IndexPQ(32, 4, 4), IndexIVFPQ(32, 16, 4, nprobe=4)]
    indexes += [IndexScalarQuantizer(32), IndexRefine(IndexPQ(32, 4))]
    for metric in ("euclidean", "cosine", "dot"):
        indexes.append(IndexIVFFlat(32, 16, metric, nprobe=16))
    for index in indexes:
        index.train(x)
        index.add(x)
        index.search(x[:1], 5)
        for k in (5, 400):
            index.search(x[:200], k)


FEATURES: dict[str, Callable[[], None]] = {
    "fits": _fits,
    "fits by products of bytes": _bytes,
    "fits with bounds": _heads,
    "k-means++": _seeding,
    "neighbours": _neighbours,
    "indexes": _indexes,
}


def _run(name: str) -> str:
    with catch_warnings():
        simplefilter("ignore")  # few points for so many centroids
        FEATURES[name]()
    return name


def compile_kernels(jobs: int) -> Iterator[str]:
    """Compile what every feature needs, `jobs` of them at a time; yield names as they are done."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        for future in as_completed([pool.submit(_run, name) for name in FEATURES]):
            yield future.result()
