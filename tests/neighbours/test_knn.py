"""Exact neighbours against float64 brute force: by regret, and by equality where ties are crafted."""

from __future__ import annotations

from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from exact_neighbours import METRICS, check, points, truth
from helpers import BACKENDS, duplicates, given
from numpy.typing import NDArray

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.neighbours.search import Search

Array = NDArray[Any]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_neighbours(backend: str, metric: str) -> None:
    for q, n, d, k in ((1, 1, 1, 1), (1, 9, 1, 9), (19, 61, 3, 5), (3, 70, 33, 40)):
        queries, data = points(q, d, 1), points(n, d)
        check(queries, data, k, metric, fk.knn(queries, data, k, metric, backend=backend))
    batch = points(33, 6, b=2)
    check(batch[:, :7], batch, 4, metric, fk.knn(batch[:, :7], batch, 4, metric, backend=backend))


@pytest.mark.parametrize(
    "kind", ["numpy-float64", "numpy-float16", "mlx-float32", "mlx-float16", "mlx-bfloat16"]
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_types(backend: str, kind: str) -> None:
    x = given(points(50, 6), kind)
    for metric in ("euclidean", "cosine", "l1"):
        found = fk.knn(x[:20], x, 3, metric, backend=backend)
        assert (
            isinstance(found[0], mx.array)
            == isinstance(found[1], mx.array)
            == kind.startswith("mlx")
        )
        check(x[:20], x, 3, metric, found)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n_queries", [1, 7, 16, 17, 63, 130, 300])
def test_shapes_on_the_cpu_backend(n_queries: int, metric: str) -> None:
    for n, d, k in ((5, 20, 5), (23, 2, 3), (1000, 7, 10), (4100, 17, 1), (700, 40, 600)):
        queries, data, every = truth_of_many_queries(n, d, metric)
        queries, every = queries[:n_queries], every[:n_queries]
        found = fk.knn(queries, data, k, metric, backend="cpu")
        check(queries, data, k, metric, found, every=every)


@cache
def truth_of_many_queries(n: int, d: int, metric: str) -> tuple[Array, Array, Array]:
    queries, data = points(300, d, 1), points(n, d)
    return queries, data, truth(queries.astype(np.float64), data.astype(np.float64), metric)


def test_strides_and_other_types() -> None:
    wide = points(300, 40)
    views = [
        wide[::3, ::5],
        wide.T[:8].T,
        wide.astype(">f4")[:, :6],
        (100 * wide[:, :5]).astype(np.int64),
        wide.astype(bool),
    ]
    for x in views:
        check(x[:40], x, 3, "euclidean", fk.knn(x[:40], x, 3, backend="cpu"))
    check(
        mx.array(wide).T,
        mx.array(wide).T,
        3,
        "l1",
        fk.knn(mx.array(wide).T, mx.array(wide).T, 3, "l1", backend="cpu"),
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_go_to_the_lowest_index(backend: str) -> None:
    rng = np.random.default_rng(0)
    lattice = rng.integers(-1, 2, (90, 4)).astype(
        np.float32
    )  # many equal rows, many equal distances
    for metric in ("euclidean", "l1", "linf", "dot"):
        for k in (1, 6, 90):
            _, indices = fk.knn(lattice[:30], lattice, k, metric, backend=backend)
            expected = np.argsort(truth(lattice[:30], lattice, metric), axis=1, kind="stable")[
                :, :k
            ]
            np.testing.assert_array_equal(indices, expected)
    same = np.ones((40, 5), np.float32)
    for metric in METRICS:
        np.testing.assert_array_equal(
            fk.knn(same[:3], same, 4, metric, backend=backend)[1], [[0, 1, 2, 3]] * 3
        )


def test_many_ties_on_the_cpu_backend() -> None:
    x = np.random.default_rng(0).integers(-2, 3, (3000, 3)).astype(np.float32)
    for k in (1, 20, 200):
        for metric in ("euclidean", "linf"):
            _, indices = fk.knn(x[:200], x, k, metric, backend="cpu")
            expected = np.argsort(truth(x[:200], x, metric), axis=1, kind="stable")[:, :k]
            np.testing.assert_array_equal(indices, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_zero_rows_have_cosine_distance_one(backend: str) -> None:
    x = np.array([[0, 0], [1, 0], [-1, 0], [0, 2]], np.float32)
    distances, indices = fk.knn(x, x, 4, "cosine", backend=backend)
    np.testing.assert_allclose(
        distances, [[1, 1, 1, 1], [0, 1, 1, 2], [0, 1, 1, 2], [0, 1, 1, 1]], atol=1e-7
    )
    np.testing.assert_array_equal(indices, [[0, 1, 2, 3], [1, 0, 3, 2], [2, 0, 3, 1], [3, 0, 1, 2]])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_exclude_self(backend: str, metric: str) -> None:
    x = points(40, 5)
    x[7] = x[3]  # a duplicate is not oneself
    for k in (1, 4, 39):
        found = fk.knn(x, x, k, metric, exclude_self=True, backend=backend)
        check(x, x, k, metric, found, np.arange(40))
    distances, indices = fk.knn(x, x, 1, exclude_self=True, backend=backend)
    assert np.asarray(indices)[3, 0] == 7 and np.asarray(distances)[3, 0] == 0


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_chunks_give_what_the_whole_gives(backend: str, metric: str) -> None:
    x = duplicates(60, 40, 5)
    for k, exclude in ((3, True), (20, False)):
        whole = fk.knn(x, x, k, metric, backend=backend, exclude_self=exclude)
        with Search(x, k, metric, backend=backend, exclude_self=exclude) as search:
            for lo, hi in ((0, 1), (1, 8), (8, 40), (40, 60)):
                search.add(x[lo:hi], lo)
            parts = search.result()
        np.testing.assert_array_equal(parts[0], whole[0])
        if metric != "cosine":  # equal directions of different lengths may round apart
            np.testing.assert_array_equal(parts[1], whole[1])


def test_large_chunks_on_the_cpu_backend() -> None:
    queries, x = points(100, 24, 1), points(20_000, 24)
    for metric in METRICS:
        whole = fk.knn(queries, x, 30, metric, backend="cpu")
        with Search(queries, 30, metric, backend="cpu") as search:
            for lo in range(0, 20_000, 3000):
                search.add(x[lo : lo + 3000], lo)
            assert search.rows == 20_000 and search.backend == "cpu"
            for one, other in zip(search.result(), whole, strict=True):
                np.testing.assert_array_equal(one, other)


def test_a_number_of_threads_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    for q, n, d, k in ((3, 30_000, 60, 20), (700, 3000, 30, 5)):
        queries, data = points(q, d, 1), points(n, d)
        for metric in ("euclidean", "cosine"):
            results = []
            for threads in ("1", "2", "5"):
                monkeypatch.setenv("FLASH_KMEANS_THREADS", threads)
                results.append(fk.knn(queries, data, k, metric, backend="cpu"))
            for distances, indices in results[1:]:
                np.testing.assert_array_equal(distances, results[0][0])
                np.testing.assert_array_equal(indices, results[0][1])


def test_knn_class() -> None:
    x = points(2, 5, 3, b=3)[0]
    data = points(30, 5)
    model = fk.KNN(data, "l1", backend="reference")
    for one, other in zip(
        model.query(x), fk.knn(x, data, 1, "l1", backend="reference"), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert model.query(data, 2, exclude_self=True)[1].shape == (30, 2)
    with pytest.raises(ValueError, match="k=31 must be <= N=30"):
        model.query(x, 31)
