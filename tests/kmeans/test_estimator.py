"""FlashKMeans: every verb, and the arguments that they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import FITS, blobs, costs, every_backend, given, inertia, to_float64

import flash_kmeans_mlx as fk

X = blobs(2, 120, 6, 4).astype(np.float32)
NEW = blobs(2, 31, 6, 4, seed=1).astype(np.float32)


def state(model: fk.FlashKMeans) -> dict[str, Any]:
    return {
        k: np.array(v).tolist() if isinstance(v, (np.ndarray, mx.array)) else v
        for k, v in vars(model).items()
    }


@every_backend
@pytest.mark.parametrize("metric", FITS)
@pytest.mark.parametrize("x", [X, X[0]], ids=["batch", "single"])
def test_fit_is_the_function(x: Any, metric: str, backend: str) -> None:
    model = fk.FlashKMeans(
        6, 4, niter=7, tol=0.0, seed=5, metric=metric, init="random", backend=backend, n_init=2
    )
    want = FITS[metric](x, 4, 7, init="random", seed=5, backend=backend, n_init=2)
    assert model.fit(x) is model
    np.testing.assert_array_equal(model.labels_, want.labels)
    np.testing.assert_array_equal(model.centroids, want.centroids)
    np.testing.assert_array_equal(model.inertia_, want.inertia)
    assert (model.n_iter_, model.backend_) == (want.n_iter, want.backend)
    np.testing.assert_array_equal(model.fit_predict(x), want.labels)
    np.testing.assert_array_equal(model.train(x).labels_, want.labels)


@pytest.mark.parametrize("kind", ["numpy-float32", "numpy-float64", "mlx-float32", "mlx-bfloat16"])
@every_backend
def test_predict_on_the_points_of_the_fit_gives_its_labels(backend: str, kind: str) -> None:
    for metric in FITS:
        for x in (X, X[0]):
            points = given(x, kind)
            for niter in (1, 25):  # stopped by the limit, and converged
                model = fk.FlashKMeans(k=4, niter=niter, metric=metric, backend=backend).fit(points)
                labels = model.predict(points)
                assert type(labels) is type(points)
                np.testing.assert_array_equal(np.array(labels), np.array(model.labels_))
                assert np.all(np.asarray(model.score(points)) == -np.asarray(model.inertia_))


@every_backend
@pytest.mark.parametrize("metric", FITS)
def test_new_points(metric: str, backend: str) -> None:
    model = fk.FlashKMeans(k=4, metric=metric, backend=backend).fit(X)
    labels, distances, weights = (
        model.predict(NEW),
        model.transform(NEW),
        np.random.default_rng(0).random((2, 31)),
    )
    assert (labels.shape, labels.dtype, distances.shape, distances.dtype) == (
        (2, 31),
        np.uint32,
        (2, 31, 4),
        np.float32,
    )
    for b in range(2):
        want = costs(NEW[b].astype(np.float64), to_float64(model.centroids[b]), metric)
        want = np.sqrt(want) if metric == "euclidean" else want
        # Float32 output, centroids of unit norm.
        np.testing.assert_allclose(distances[b], want, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(labels[b], want.argmin(1))
    exact = inertia(NEW, model.centroids, labels, metric)
    np.testing.assert_allclose(model.score(NEW), -exact, rtol=1e-5)  # float32 costs
    weighted = inertia(NEW, model.centroids, labels, metric, weights)
    np.testing.assert_allclose(model.score(NEW, weights), -weighted, rtol=1e-5)


def test_transform_does_not_cancel_far_from_the_origin() -> None:
    x = (X[0] * 1e-3 + 100).astype(np.float32)
    model = fk.FlashKMeans(k=4).fit(x)
    want = np.sqrt(costs(x.astype(np.float64), to_float64(model.centroids), "euclidean"))
    np.testing.assert_allclose(model.transform(x), want, rtol=1e-6, atol=1e-9)
    assert isinstance(model.transform(mx.array(x)), mx.array)


def test_one_set_of_centroids_serves_any_batch_but_a_batch_of_them_only_its_own() -> None:
    single, batch = fk.FlashKMeans(k=4).fit(X[0]), fk.FlashKMeans(k=4).fit(X)
    np.testing.assert_array_equal(single.predict(X), np.stack([single.predict(x) for x in X]))
    np.testing.assert_array_equal(single.transform(X)[1], single.transform(X[1]))
    for x in (X[:1], X[0], np.concatenate([X, X])):
        for verb in (batch.predict, batch.score, batch.transform):
            with pytest.raises(
                ValueError,
                match=r"^x must have B=2 batch elements like the points of fit \(x\.shape=",
            ):
                verb(x)


@pytest.mark.parametrize("verb", ["predict", "score", "transform", "save"])
def test_a_verb_before_fit(verb: str, tmp_path: Path) -> None:
    argument = X if verb != "save" else tmp_path / "model"
    for error in (fk.NotFittedError, ValueError, AttributeError):
        with pytest.raises(error, match="call fit"):
            getattr(fk.FlashKMeans(k=3), verb)(argument)
    assert not list(tmp_path.iterdir())


def test_the_names_of_scikit_learn() -> None:
    model = fk.FlashKMeans(n_clusters=3)
    assert model.k == model.n_clusters == 3
    assert not hasattr(model, "cluster_centers_")
    model.fit(X[0])
    assert model.cluster_centers_ is model.centroids


def test_d_is_checked_where_it_was_given() -> None:
    model = fk.FlashKMeans(d=5, k=2)
    for verb in (model.fit, model.fit_predict):
        with pytest.raises(
            ValueError, match=r"^x must have D=5 columns, got 6 \(x\.shape=\(2, 120, 6\)\)"
        ):
            verb(X)
    assert model.centroids is None
    fitted = fk.FlashKMeans(k=2).fit(X[0])
    for verb in (fitted.predict, fitted.score, fitted.transform):
        with pytest.raises(
            ValueError,
            match=r"^x must have D=6 columns like the points of fit, got 4 \(x\.shape=\(120, 4\)\)",
        ):
            verb(X[0, :, :4])
    assert fitted.fit(X[0, :, :4]).predict(X[0, :, :4]).shape == (120,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"d": 0}, "d=0 must be >= 1"),
        ({"d": 2.0}, "d=2.0 must be an integer"),
        ({"k": 0}, "k=0 must be >= 1"),
        ({"k": True}, "k=True must be an integer"),
        ({"n_clusters": 0}, "n_clusters=0 must be >= 1"),
        ({"niter": -1}, "niter=-1 must be >= 0"),
        ({"metric": "l1"}, "metric='l1' must be one of 'euclidean', 'cosine', 'dot'"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_the_constructor_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        fk.FlashKMeans(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tol": -2.0}, "tol=-2.0 must be"),
        ({"seed": -1}, "seed=-1 must be"),
        ({"init": "best"}, "init='best' must be"),
        ({"empty": "drop"}, "empty='drop' must be"),
        ({"backend": "gpu"}, "backend='gpu' must be"),
        ({"n_init": 0}, "n_init=0 must be"),
        ({"dtype": "int8"}, "dtype='int8' must be"),
        ({"max_mem_gb": -1}, "max_mem_gb=-1 must be"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_the_constructor_lets_pass_is_refused_by_fit(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        fk.FlashKMeans(k=2, **arguments).fit(X)


def test_a_failed_fit_leaves_the_model_as_it_was() -> None:
    bad = X.copy()
    bad[1, -1, -1] = np.nan
    for model in (fk.FlashKMeans(k=4), fk.FlashKMeans(k=4).fit(X)):
        before = state(model)
        for call in (
            lambda m=model: m.fit(bad),
            lambda m=model: m.fit(X[:, :3]),
            lambda m=model: m.fit(X, -np.ones(120)),
        ):
            with pytest.raises(ValueError, match="must"):
                call()
            assert state(model) == before


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_dtype_rounds_the_points_of_every_verb(dtype: str) -> None:
    rounded = np.array(mx.array(X[0]).astype(getattr(mx, dtype)).astype(mx.float32))
    model = fk.FlashKMeans(k=4, dtype=dtype).fit(X[0])
    want = fk.FlashKMeans(k=4).fit(rounded)
    # The same values, read in another way.
    np.testing.assert_allclose(model.centroids, want.centroids, rtol=1e-6)
    np.testing.assert_array_equal(model.predict(X[0]), want.predict(rounded))
    np.testing.assert_allclose(model.transform(X[0]), want.transform(rounded), rtol=1e-5, atol=1e-5)
