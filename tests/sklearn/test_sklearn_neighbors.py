"""NearestNeighbors beside scikit-learn's: the same neighbours, shapes, errors."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pandas as pd
import pytest
from helpers import blobs
from scipy.sparse import csr_matrix
from sklearn import neighbors
from sklearn.exceptions import NotFittedError

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.sklearn import NearestNeighbors

X = blobs(1, 300, 7, 5)[0]
OURS = ["euclidean", "l2", "sqeuclidean", "manhattan", "cityblock", "l1", "chebyshev", "cosine"]


@pytest.mark.parametrize("metric", OURS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_same_neighbours(metric: str, dtype: str) -> None:
    x = X.astype(dtype)
    ours = NearestNeighbors(n_neighbors=6, metric=metric).fit(x)
    theirs = neighbors.NearestNeighbors(n_neighbors=6, metric=metric, algorithm="brute").fit(
        x.astype(np.float64)
    )
    for queries in (None, x[:40] + 0.25):
        (d, i), (e, j) = ours.kneighbors(queries), theirs.kneighbors(queries)
        np.testing.assert_array_equal(i, j)
        np.testing.assert_allclose(d, e, rtol=1e-9, atol=1e-12)
        assert d.dtype == np.float64 and i.dtype == np.int64
        np.testing.assert_array_equal(ours.kneighbors(queries, 3, return_distance=False), i[:, :3])
        for mode in ("connectivity", "distance"):
            graph = ours.kneighbors_graph(queries, mode=mode)
            np.testing.assert_allclose(
                graph.toarray(), theirs.kneighbors_graph(queries, mode=mode).toarray(), atol=1e-12
            )


@pytest.mark.parametrize(
    "options",
    [
        {"p": 1},
        {"p": np.inf},
        {"p": 3},
        {"metric": "canberra"},
        {"algorithm": "kd_tree"},
        {"algorithm": "ball_tree"},
    ],
    ids=str,
)
def test_options_that_others_serve(options: dict[str, Any]) -> None:
    ours, theirs = (
        kind(**options).fit(X) for kind in (NearestNeighbors, neighbors.NearestNeighbors)
    )
    assert ours.get_params()["algorithm"] == options.get("algorithm", "auto")
    for one, other in zip(ours.kneighbors(X[:20]), theirs.kneighbors(X[:20]), strict=True):
        np.testing.assert_allclose(one, other)


def test_radius() -> None:
    ours, theirs = (
        NearestNeighbors(radius=2.5).fit(X),
        neighbors.NearestNeighbors(radius=2.5, algorithm="brute").fit(X),
    )
    for queries in (None, X[:9], mx.array(X[:9].astype(np.float32))):
        rows = None if queries is None else np.array(queries)
        found, expected = (
            m.radius_neighbors(q, sort_results=True) for m, q in ((ours, queries), (theirs, rows))
        )
        for one, other in zip(found[1], expected[1], strict=True):
            np.testing.assert_array_equal(one, other)
        graph = ours.radius_neighbors_graph(rows)
        assert graph.nnz == sum(map(len, expected[0]))


def test_kinds_of_x() -> None:
    x = X.astype(np.float32)
    expected = NearestNeighbors().fit(x).kneighbors(x[:9])[1]
    for data in (x.tolist(), pd.DataFrame(x), csr_matrix(x), mx.array(x), np.asfortranarray(x)):
        model = NearestNeighbors().fit(data)
        queries = data[:9] if not isinstance(data, pd.DataFrame) else data.iloc[:9]
        indices = model.kneighbors(queries)[1]
        assert isinstance(indices, mx.array) == isinstance(data, mx.array)
        np.testing.assert_array_equal(indices, expected)


@pytest.mark.parametrize("backend", ["reference", "portable", "cpu"])
def test_backends(backend: str) -> None:
    model = NearestNeighbors(backend=backend).fit(X)
    np.testing.assert_array_equal(model.kneighbors()[1], NearestNeighbors().fit(X).kneighbors()[1])
    if backend != "cpu":
        with pytest.raises(
            fk.BackendUnavailableError, match=f"backend='{backend}' can't take this metric"
        ):
            NearestNeighbors(backend=backend, metric="canberra").fit(X)


def test_errors() -> None:
    with pytest.raises(NotFittedError):
        NearestNeighbors().kneighbors(X)
    model = NearestNeighbors().fit(X)
    with pytest.raises(
        ValueError,
        match=r"Expected n_neighbors <= n_samples_fit, but n_neighbors = 301, n_samples_fit = 300",
    ):
        model.kneighbors(X[:2], 301)
    with pytest.raises(
        ValueError, match=r"Expected n_neighbors < n_samples_fit, but n_neighbors = 300"
    ):
        model.kneighbors(None, 300)
    with pytest.raises(ValueError, match=r"Expected n_neighbors > 0. Got -1"):
        model.kneighbors(X[:2], -1)
    with pytest.raises(TypeError, match=r"n_neighbors does not take .*float.* value"):
        model.kneighbors(X[:2], 1.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"X has 2 features, but NearestNeighbors is expecting 7"):
        model.kneighbors(X[:, :2])
    with pytest.raises(ValueError, match="'backend' parameter"):
        NearestNeighbors(backend="gpu").fit(X)
