"""IVF indexes against float64 brute force over the lists that they look at."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from exact_neighbours import judge, truth
from helpers import BACKENDS, Array, digits, patches, regret

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.index import IndexFlat, IndexIVFFlat

X = digits()
METRICS = ("euclidean", "cosine", "dot")


def filled(
    metric: str, n: int = 1500, nlist: int = 12, x: Array = X, **options: Any
) -> IndexIVFFlat:
    index = IndexIVFFlat(x.shape[1], nlist, metric, **options)
    index.train(x[:n])
    for lo in range(0, n, 400):
        index.add(x[lo : min(n, lo + 400)])
    return index


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_all_lists_give_what_the_flat_index_gives(backend: str, metric: str) -> None:
    n = 500 if backend == "metal" else 1500
    index = filled(metric, n, backend=backend)
    flat = IndexFlat(64, metric, backend=backend)
    flat.add(X[:n])
    queries = X[-8:] if backend == "metal" else X[-40:]
    for k in (1, 10, n):
        found, expected = index.search(queries, k, nprobe=12), flat.search(queries, k)
        np.testing.assert_array_equal(found[0], expected[0])
        if metric != "cosine":  # where equal angles may round apart
            np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_nearest_lists_are_searched(backend: str, metric: str) -> None:
    n = 500 if backend == "metal" else 1500
    index = filled(metric, n, backend=backend)
    assert index.centroids is not None
    labels = np.asarray(fk.assign(X[:n], index.centroids, metric))
    queries = X[-40:]
    every = truth(queries.astype(np.float64), X[:n].astype(np.float64), metric)
    near = np.argsort(
        truth(queries.astype(np.float64), index.centroids.astype(np.float64), metric),
        axis=1,
        kind="stable",
    )
    for nprobe in (1, 3):
        mine = np.where((labels[None, :, None] == near[:, None, :nprobe]).any(2), every, np.inf)
        order = np.argsort(mine, axis=1, kind="stable")[:, :9]
        distances, ids = index.search(queries, 9, nprobe=nprobe)
        expected = np.take_along_axis(mine, order, 1) * (-1 if metric == "dot" else 1)
        np.testing.assert_allclose(distances, expected, rtol=1e-5, atol=1e-7)
        if metric != "cosine":
            np.testing.assert_array_equal(ids, np.where(np.isfinite(expected), order, -1))
    index.nprobe = 3
    np.testing.assert_array_equal(index.search(queries, 9)[1], ids)


@cache
def reference_results(q: int, d: int, k: int, metric: str) -> tuple[Array, Any, dict[int, Any]]:
    """Queries (Q, D), the snapshot of a filled index, and what the reference finds by nprobe."""
    rng = np.random.default_rng([q, d])
    x, queries = (rng.standard_normal((n, d)).astype(np.float32) for n in (2500, q))
    oracle = filled(metric, 2500, 30, x)
    oracle.backend = "reference"
    found = {nprobe: oracle.search(queries, k, nprobe=nprobe) for nprobe in (1, 4, 30)}
    return queries, oracle._snapshot, found


@pytest.mark.parametrize("backend", ["cpu", "portable"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("q", "d", "k"), [(1, 2, 3), (3, 5, 40), (70, 16, 10), (333, 33, 300)])
def test_shapes(backend: str, q: int, d: int, k: int, metric: str) -> None:
    queries, snapshot, expected = reference_results(q, d, k, metric)
    index = IndexIVFFlat(d, 30, metric, backend=backend)
    index._snapshot = snapshot
    for nprobe, (distances, ids) in expected.items():
        found = index.search(queries, k, nprobe=nprobe)
        np.testing.assert_allclose(found[0], distances, rtol=1e-6, atol=1e-9)
        np.testing.assert_array_equal(found[1], ids)


@pytest.mark.parametrize("backend", ["cpu", "portable"])
def test_ties_beyond_what_is_kept_go_to_the_lowest_ids(backend: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(-1, 2, (3000, 4)).astype(np.float32)
    ids = rng.permutation(3000)
    index, flat = IndexIVFFlat(4, 10, nprobe=10, backend=backend), IndexFlat(4)
    index.train(x)
    for one in (index, flat):
        one.add(x, ids)
    for k in (1, 5, 50, 300):
        np.testing.assert_array_equal(index.search(x[:60], k)[1], flat.search(x[:60], k)[1])


@pytest.mark.parametrize("backend", ["cpu", "portable"])
def test_far_from_the_origin(backend: str) -> None:
    x = (1e4 + np.random.default_rng(0).standard_normal((2000, 20))).astype(np.float32)
    for metric in ("euclidean", "dot"):
        index, flat = filled(metric, 2000, 8, x, nprobe=8, backend=backend), IndexFlat(20, metric)
        flat.add(x)
        np.testing.assert_array_equal(index.search(x[:50], 5)[1], flat.search(x[:50], 5)[1])


@pytest.mark.parametrize("backend", ["cpu", "portable"])
def test_nearly_parallel_rows(backend: str) -> None:
    rng = np.random.default_rng(0)
    tight = 1 + 1e-4 * rng.standard_normal((900, 24))
    tiny = 1e-41 * rng.standard_normal((900, 24))  # 1 / norm is no float32 number
    for data in (tight, 300 + rng.standard_normal((900, 24)), tiny):
        x = data.astype(np.float32)
        for metric in ("cosine", "dot"):
            index = filled(metric, 900, 5, x, nprobe=5, backend=backend)
            judge(x[:30], x, 7, metric, index.search(x[:30], 7))
            radius = float(index.search(x[:1], 40)[0][0, -1])
            _, distances, ids = index.range_search(x[:1], radius)
            if radius:  # products of tiny rows are 0 in float32
                assert len(ids) > 30
                judge(x[:1], x, len(ids), metric, (distances[None], ids[None]))


def test_lists_without_rows_on_the_device() -> None:
    index = filled("euclidean", 500, 5, backend="portable")
    assert index.centroids is not None
    own = index.lists.owner[index.lists.find(np.arange(500)) // 16]
    index.remove_ids(np.flatnonzero(own == 3))
    distances, ids = index.search(index.centroids[3:4], 4, nprobe=1)
    assert (ids == -1).all() and np.isinf(distances).all()


def test_lists_on_the_device_follow_changes() -> None:
    index = filled("euclidean", backend="portable", nprobe=12)
    for change in (
        lambda: index.add(X[1500:1600]),
        lambda: index.remove_ids(np.arange(0, 1600, 3)),
        lambda: index.add(X[1600:]),
    ):
        index.search(X[:300], 3)
        change()
        oracle = IndexIVFFlat(64, 12, nprobe=12, backend="reference")
        oracle._snapshot = index._snapshot
        np.testing.assert_array_equal(index.search(X[:300], 3)[1], oracle.search(X[:300], 3)[1])


def test_training() -> None:
    x = patches(3000)
    index = filled("euclidean", 3000, 16, x)
    assert (
        index.centroids is not None
        and index.centroids.shape == (16, 192)
        and index.centroids.dtype == np.float32
    )
    faiss_like = fk.batch_kmeans_Euclid(x, 16, 25, init="random").inertia
    cost = np.square(
        x.astype(np.float64) - index.centroids[np.asarray(fk.assign(x, index.centroids))]
    ).sum()
    assert cost <= 1.01 * faiss_like
    np.testing.assert_array_equal(index.centroids, filled("euclidean", 3000, 16, x).centroids)
    other = IndexIVFFlat(192, 16, seed=1)
    other.train(x)
    assert (other.centroids != index.centroids).any()
    labels = index.lists.owner[index.lists.find(np.arange(3000)) // 16]
    assert regret(x, index.centroids, labels, "euclidean").max() < 1e-5


def test_a_large_training_set_is_sampled() -> None:
    index = IndexIVFFlat(64, 4, max_points_per_centroid=100)
    index.train(X)
    rows = np.sort(np.random.default_rng(0).choice(len(X), 400, replace=False))
    expected = IndexIVFFlat(64, 4)
    expected.train(X[rows])
    np.testing.assert_array_equal(index.centroids, expected.centroids)


def test_few_training_points() -> None:
    index = IndexIVFFlat(64, 10)
    with pytest.warns(
        UserWarning, match="389 training vectors for 10 centroids: 390 or more are advised"
    ):
        index.train(X[:389])
    index.train(X[:390])
    with pytest.raises(
        ValueError, match="x must have N >= 10 training vectors for 10 centroids, got N=9"
    ):
        IndexIVFFlat(64, 10).train(X[:9])


def test_a_number_of_threads_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30_000, 40)).astype(np.float32)
    index = filled("euclidean", 30_000, 20, x)
    for q in (1, 3, 700):
        for k in (5, 60):
            results = []
            for threads in ("1", "2", "5"):
                monkeypatch.setenv("FLASH_KMEANS_THREADS", threads)
                results.append(index.search(x[:q], k, nprobe=20))
            for distances, ids in results[1:]:
                np.testing.assert_array_equal(distances, results[0][0])
                np.testing.assert_array_equal(ids, results[0][1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda i: i.add(X), fk.NotFittedError, "add needs a trained index: call train first"),
        (
            lambda i: i.search(X, 1),
            fk.NotFittedError,
            "search needs a trained index: call train first",
        ),
        (
            lambda i: i.range_search(X, 1.0),
            fk.NotFittedError,
            "range_search needs a trained index: call train first",
        ),
        (
            lambda i: (i.train(X), i.add(X), i.train(X)),
            ValueError,
            "train needs an empty index, this one holds ntotal=1797",
        ),
        (
            lambda i: (i.train(X), i.search(X, 1, nprobe=0)),
            ValueError,
            "nprobe=0 must be >= 1",
        ),
        (lambda i: setattr(i, "nprobe", 0), ValueError, "nprobe=0 must be >= 1"),
        (
            lambda i: i.train(1e13 * X),
            ValueError,
            r"x must be of magnitudes <= 2\*\*40, got 1.6e\+14 \(x.shape=\(1797, 64\)\)",
        ),
        (lambda _: IndexIVFFlat(64, 0), ValueError, "nlist=0 must be >= 1"),
        (
            lambda _: IndexIVFFlat(64, 5, "l1"),
            ValueError,
            "metric='l1' must be one of 'euclidean', 'cosine', 'dot'",
        ),
        (lambda _: IndexIVFFlat(64, 5, seed=-1), ValueError, "seed=-1 must be >= 0"),
        (lambda _: IndexIVFFlat(64, 5, niter=-1), ValueError, "niter=-1 must be >= 0"),
        (
            lambda _: IndexIVFFlat(64, 5, max_points_per_centroid=0),
            ValueError,
            "max_points_per_centroid=0 must be >= 1",
        ),
    ],
)
def test_wrong_use(call: Any, error: type[Exception], message: str) -> None:
    index = IndexIVFFlat(64, 5)
    with pytest.raises(error, match=message):
        call(index)
