"""Sparse rows: the clusters of the same dense rows, without ever holding them."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_array_equal

from flash_kmeans_mlx.backends import Problem, open_points
from flash_kmeans_mlx.backends.sparse import SparseRows, cluster_sums
from flash_kmeans_mlx.metrics import EUCLIDEAN
from flash_kmeans_mlx.sklearn import KMeans, MiniBatchKMeans

RNG = np.random.default_rng(0)
X = sp.random_array((400, 30), density=0.2, format="csr", rng=RNG)
W = RNG.integers(0, 3, 400).astype(float)
both = pytest.mark.parametrize("cls", [KMeans, MiniBatchKMeans])
weighted = pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])


@weighted
def test_points_do_what_the_reference_does(weighted: bool) -> None:
    weights = W[None].astype(np.float32) if weighted else None
    c = X[:7].toarray()[None].astype(np.float32)
    c[0, 6] = 50  # nobody's
    options: dict[str, Any] = {
        "n_clusters": 7,
        "metric": EUCLIDEAN,
        "given_shape": X.shape,
        "weights": weights,
    }
    sparse = open_points("cpu", Problem(x=SparseRows(X), **options))
    dense = open_points("reference", Problem(x=X.toarray()[None], **options))
    for points in (sparse, dense):
        points.reset()
    for _ in range(2):
        mine, exact = (points.step(c, np.array([1]), 0.0, True) for points in (sparse, dense))
        assert_array_equal(sparse.labels(), dense.labels())
        for name in ("iterations", "status", "sums", "weight_sum", "counts"):
            np.testing.assert_allclose(
                getattr(mine, name), getattr(exact, name), rtol=1e-12, atol=1e-12
            )
    np.testing.assert_allclose(sparse.inertia(c), dense.inertia(c), rtol=1e-12)
    np.testing.assert_allclose(sparse.costs(c, 0), dense.costs(c, 0), rtol=1e-12, atol=1e-12)
    seeds = [points.seeding(np.array([3]), 2) for points in (sparse, dense)]
    for seeding in seeds:
        seeding.totals(np.array([[5, 8]]))
        seeding.take(np.array([1]))
    u = np.linspace(0, 0.99, 50)
    assert_array_equal(seeds[0].draw(u), seeds[1].draw(u))


@both
@weighted
def test_the_fit_of_dense_rows(weighted: bool, cls: Any) -> None:
    w = W if weighted else None
    sparse = cls(6, random_state=0).fit(X, sample_weight=w)
    dense = cls(6, random_state=0).fit(X.toarray(), sample_weight=w)
    assert_array_equal(sparse.labels_, dense.labels_)
    np.testing.assert_allclose(
        sparse.cluster_centers_, dense.cluster_centers_, rtol=1e-9, atol=1e-12
    )
    assert sparse.inertia_ == pytest.approx(dense.inertia_, rel=1e-12)
    assert sparse.score(X, sample_weight=w) == pytest.approx(-sparse.inertia_, rel=1e-12)
    np.testing.assert_allclose(sparse.transform(X), dense.transform(X.toarray()), rtol=1e-9)
    if cls is KMeans:
        assert (sparse.backend_, dense.backend_) == ("sparse", "cpu")


@pytest.mark.parametrize("form", ["csc_array", "coo_matrix", "csr_matrix"])
def test_other_forms(form: str) -> None:
    model = KMeans(6, random_state=0).fit(getattr(sp, form)(X))
    assert_array_equal(model.labels_, KMeans(6, random_state=0).fit(X).labels_)


@both
def test_a_wide_matrix_is_never_dense(cls: Any) -> None:
    x = sp.random_array(
        (3000, 40_000), density=2e-4, format="csr", rng=np.random.default_rng(1)
    )  # 960 MB if dense
    tracemalloc.start()
    cls(4, random_state=0, max_iter=3).fit(x).predict(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6


def test_an_empty_cluster_takes_the_farthest_row() -> None:
    x = sp.csr_array([[0.0, 1.0], [0.0, 2.0], [9.0, 0.0]])
    model = KMeans(2, init=[[0.0, 1.0], [99.0, 99.0]], n_init=1).fit(x)
    assert_array_equal(model.labels_, [0, 0, 1])
    np.testing.assert_allclose(model.cluster_centers_, [[0, 1.5], [9, 0]])


def test_rows_without_values() -> None:
    model = KMeans(2, random_state=0).fit(sp.csr_array([[0.0, 0.0], [0.0, 0.0], [5.0, 0.0]]))
    assert model.inertia_ == 0 and model.labels_[0] == model.labels_[1] != model.labels_[2]


@pytest.mark.parametrize("x", [X[:20], X[:20].toarray()], ids=["sparse", "dense"])
def test_sums_by_label(x: Any) -> None:
    labels, w = np.arange(20) % 3, W[:20]
    sums, weight_sum = cluster_sums(x, w, labels, 4)
    rows = X[:20].toarray()
    np.testing.assert_allclose(
        sums, [(w[labels == k, None] * rows[labels == k]).sum(0) for k in range(4)]
    )
    np.testing.assert_allclose(weight_sum, [w[labels == k].sum() for k in range(4)])
