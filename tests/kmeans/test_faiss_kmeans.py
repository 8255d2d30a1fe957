"""What users of faiss's Kmeans write, on faiss and on FlashKMeans; tensors by DLPack, sparse rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

import flash_kmeans_mlx as fk

RNG = np.random.default_rng(0)
X = (5 * RNG.integers(0, 3, (600, 1)) + RNG.standard_normal((600, 8))).astype(np.float32)
WEIGHTS = RNG.random(600).astype(np.float32)


@pytest.fixture(params=["ours", "faiss"])
def make(request: pytest.FixtureRequest) -> Any:
    return fk.FlashKMeans if request.param == "ours" else pytest.importorskip("faiss").Kmeans


def test_both_train_alike(make: Any) -> None:
    model = make(8, 3, niter=20, nredo=3, verbose=False, seed=1)
    model.train(X, weights=WEIGHTS)
    distances, labels = model.assign(X)
    assert (distances.dtype, labels.dtype) == (np.float32, np.int64)
    expected = np.square(X - model.centroids[labels]).sum(1)
    np.testing.assert_allclose(distances, expected, rtol=1e-4, atol=1e-4)
    for label in range(3):
        mean = np.average(X[labels == label], axis=0, weights=WEIGHTS[labels == label])
        np.testing.assert_allclose(model.centroids[label], mean, rtol=1e-4, atol=1e-4)


def test_both_know_the_objective(make: Any) -> None:
    model = make(8, 3, niter=50, seed=1)
    model.train(X)
    np.testing.assert_allclose(model.obj[-1], model.assign(X)[0].sum(), rtol=1e-3)


def test_both_are_spherical(make: Any) -> None:
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    model = make(8, 3, spherical=True, seed=1)
    model.train(unit, init_centroids=unit[:3])
    np.testing.assert_allclose(np.linalg.norm(model.centroids, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot"])
def test_assign_returns_distances(metric: str) -> None:
    model = fk.FlashKMeans(8, 4, metric=metric).fit(X)
    distances, labels = model.assign(X[:50])
    expected, ids = fk.knn(X[:50], model.centroids, 1, metric)
    np.testing.assert_array_equal(labels, model.predict(X[:50]))
    np.testing.assert_array_equal(labels, np.asarray(ids)[:, 0])
    np.testing.assert_allclose(distances, np.asarray(expected)[:, 0], rtol=1e-5, atol=1e-6)


def test_words_of_ours() -> None:
    model = fk.FlashKMeans(8, 3, nredo=4, spherical=True)
    assert (model.n_init, model.metric) == (4, "cosine")
    with pytest.raises(fk.NotFittedError, match="obj needs a fitted model"):
        _ = model.obj
    with pytest.raises(TypeError, match="spherical=1 must be True or False"):
        fk.FlashKMeans(8, 3, spherical=1)  # pyright: ignore[reportArgumentType]
    model.train(X, sample_weight=WEIGHTS)
    np.testing.assert_array_equal(model.obj, [model.inertia_])
    batched = fk.FlashKMeans(8, 3).train(np.stack([X, X]))
    assert batched.obj.shape == (2,)
    with pytest.raises(ValueError, match=r"assign needs points of shape \(N, D\)"):
        batched.assign(np.stack([X, X]))


def test_tol_of_minus_one_never_stops_by_shift() -> None:
    never = fk.batch_kmeans_Euclid(X, 5, 50, tol=-1)
    zero = fk.batch_kmeans_Euclid(X, 5, 50, tol=0.0)
    np.testing.assert_array_equal(never.labels, zero.labels)
    np.testing.assert_array_equal(never.centroids, zero.centroids)
    with pytest.raises(ValueError, match=r"tol=-0.5 must be finite and >= 0"):
        fk.batch_kmeans_Euclid(X, 5, tol=-0.5)


class Tensor:
    """What exports its memory by DLPack and in no other way."""

    def __init__(self, array: np.ndarray, device: int = 1) -> None:
        self.array = array
        self.device = device

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_tensors_by_dlpack(dtype: Any) -> None:
    x = X.astype(dtype)
    tensor: Any = Tensor(x)
    result = fk.batch_kmeans_Euclid(tensor, 4)
    np.testing.assert_array_equal(result.labels, fk.batch_kmeans_Euclid(x, 4).labels)
    np.testing.assert_array_equal(fk.knn(tensor, tensor, 3)[1], fk.knn(x, x, 3)[1])
    np.testing.assert_array_equal(np.from_dlpack(result.labels), result.labels)
    with pytest.raises(TypeError, match="x is on a device of DLPack type 2: move it to the CPU"):
        fk.batch_kmeans_Euclid(Tensor(x, 2), 4)


def test_sparse_rows_are_refused() -> None:
    for call in (
        fk.FlashKMeans(8, 3).fit,
        lambda x: fk.batch_kmeans_Dot(x, 3),
        lambda x: fk.knn(X, x, 1),
    ):
        with pytest.raises(TypeError, match="must be dense, got a csr_array: KMeans"):
            call(csr_array(X))
