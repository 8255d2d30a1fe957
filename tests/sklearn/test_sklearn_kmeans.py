"""What KMeans promises beyond scikit-learn's own tests."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helpers
import mlx.core as mx
import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn.cluster
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array
from sklearn.base import clone

from flash_kmeans_mlx import BackendUnavailableError
from flash_kmeans_mlx.sklearn import KMeans, MiniBatchKMeans

X = helpers.blobs(1, 700, 17, 6)[0]
START = X[:6].copy()
both = pytest.mark.parametrize("cls", [KMeans, MiniBatchKMeans])


@both
def test_the_constructor_is_scikit_learns(cls: Any) -> None:
    theirs = inspect.signature(getattr(sklearn.cluster, cls.__name__)).parameters
    mine = inspect.signature(cls).parameters
    assert {name: p.default for name, p in mine.items() if name != "backend"} == {
        n: p.default for n, p in theirs.items()
    }
    assert list(mine)[: len(theirs)] == list(theirs)
    assert [name for name in mine if name not in theirs] == (["backend"] if cls is KMeans else [])


@pytest.mark.parametrize("tol", [0.0, 1e-4, 1e-2, 0.3])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_iterations_centres_and_inertia_are_scikit_learns(weighted: bool, tol: float) -> None:
    x = np.random.default_rng(0).normal(size=(1600, 5)) + 7
    options: dict[str, Any] = {"n_clusters": 12, "init": x[:12].copy(), "n_init": 1, "tol": tol}
    w = np.random.default_rng(1).gamma(2.0, size=1600) if weighted else None
    mine = KMeans(**options).fit(x, sample_weight=w)
    theirs = sklearn.cluster.KMeans(**options).fit(x, sample_weight=w)
    assert mine.n_iter_ == theirs.n_iter_
    assert_array_equal(mine.labels_, theirs.labels_)
    np.testing.assert_allclose(mine.cluster_centers_, theirs.cluster_centers_, rtol=1e-12)
    assert mine.inertia_ == pytest.approx(theirs.inertia_, rel=1e-12)


@pytest.mark.parametrize(
    ("n", "d", "k", "tol"),
    [(600, 3, 5, 3e-2), (20_000, 40, 16, 3e-2), (70_000, 48, 96, 3.0)],
    ids=["small", "team", "large"],
)
def test_the_tolerance_is_on_all_shifts_together_whatever_runs_the_loop(
    n: int, d: int, k: int, tol: float
) -> None:
    x = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    options: dict[str, Any] = {"n_clusters": k, "init": x[:k].copy(), "n_init": 1, "tol": tol}
    assert KMeans(**options).fit(x).n_iter_ == sklearn.cluster.KMeans(**options).fit(x).n_iter_ > 2


@pytest.mark.parametrize("offset", [0.0, 1e9])
def test_float64_centres_and_inertia_are_those_of_the_labels(offset: float) -> None:
    x = X.astype(np.float64) + offset
    model = KMeans(6, random_state=0, tol=0).fit(x)
    exact = np.stack([(x[model.labels_ == k] - offset).mean(0) for k in range(6)])
    np.testing.assert_allclose(
        model.cluster_centers_ - offset, exact, rtol=0, atol=np.spacing(10 + offset) * 8
    )
    gap = x - model.cluster_centers_[model.labels_]
    assert model.inertia_ == pytest.approx(np.square(gap).sum(), rel=1e-13)
    assert model.score(x) == pytest.approx(-model.inertia_, rel=1e-13)
    assert_array_equal(model.predict(x), model.labels_)


def test_float64_means_hold_where_the_last_iteration_moved_a_point_into_an_empty_cluster() -> None:
    x = np.array([[0.1], [0.3], [0.7], [9.1]])
    model = KMeans(2, init=[[0.5], [50.0]], n_init=1, max_iter=1).fit(x)
    np.testing.assert_allclose(np.sort(model.cluster_centers_[:, 0]), [1.1 / 3, 9.1], rtol=1e-15)


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e120])
def test_float64_beyond_the_range_of_float32(scale: float) -> None:
    small = KMeans(6, random_state=0).fit(X.astype(np.float64))
    large = KMeans(6, random_state=0).fit(X.astype(np.float64) * scale)
    assert_array_equal(large.labels_, small.labels_)
    np.testing.assert_allclose(large.cluster_centers_ / scale, small.cluster_centers_, rtol=1e-12)


@both
def test_a_copy_of_rows_is_a_weight_and_their_order_does_not_matter(cls: Any) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(90, 8)), rng.integers(0, 4, 90)
    order = rng.permutation(90)
    weighted = cls(5, random_state=0).fit(x[order], sample_weight=w[order])
    repeated = cls(5, random_state=0).fit(np.repeat(x, w, axis=0))
    np.testing.assert_allclose(weighted.cluster_centers_, repeated.cluster_centers_, rtol=1e-6)
    assert weighted.inertia_ == pytest.approx(repeated.inertia_, rel=1e-6)


@both
@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_seeds_follow_the_weights(init: str, cls: Any) -> None:
    x = np.arange(40.0)[:, None]
    w = np.where(np.arange(40) < 4, 1.0, 0.0)
    centers = (
        cls(4, init=init, n_init=1, random_state=0, max_iter=1)
        .fit(x, sample_weight=w)
        .cluster_centers_
    )
    np.testing.assert_allclose(np.sort(centers[:, 0]), [0, 1, 2, 3])


@both
@pytest.mark.parametrize("w", [np.full(700, -1.0), np.zeros(700)], ids=["negative", "zero"])
def test_weights_that_mean_nothing_are_refused(w: np.ndarray, cls: Any) -> None:
    with pytest.raises(ValueError, match=r"[Nn]egative|zero"):
        cls(3).fit(X, sample_weight=w)


def memory_map(x: np.ndarray, path: Path) -> np.ndarray:
    np.save(path / "x.npy", x)
    return np.load(path / "x.npy", mmap_mode="r")


GIVEN: dict[str, Callable[[np.ndarray, Path], Any]] = {
    "list": lambda x, _: x.tolist(),
    "fortran": lambda x, _: np.asfortranarray(x),
    "every-other": lambda x, _: np.repeat(x, 2, axis=0)[::2],
    "pandas": lambda x, _: pd.DataFrame(x),
    "polars": lambda x, _: pl.DataFrame(x),
    "memmap": memory_map,
    "mlx": lambda x, _: mx.array(x),
}


@both
@pytest.mark.parametrize("kind", GIVEN)
def test_what_x_may_be(kind: str, cls: Any, tmp_path: Path) -> None:
    x = X.astype(np.float32)
    plain = cls(6, random_state=0).fit(x)
    model = cls(6, random_state=0).fit(GIVEN[kind](x, tmp_path))
    assert_array_equal(model.labels_, plain.labels_)
    assert model.cluster_centers_.dtype == (
        np.float64 if kind in ("list", "polars") else np.float32
    )  # as in scikit-learn
    np.testing.assert_allclose(model.cluster_centers_, plain.cluster_centers_, rtol=1e-5, atol=1e-5)


@both
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_mlx_in_mlx_out(dtype: mx.Dtype, cls: Any) -> None:
    x = mx.array(X.astype(np.float32)).astype(dtype)
    model = cls(6, random_state=0)
    outputs = [model.fit_predict(x), model.predict(x), model.transform(x), model.fit_transform(x)]
    assert [(type(o), o.dtype) for o in outputs] == [
        (mx.array, t) for t in (mx.int32, mx.int32, mx.float32, mx.float32)
    ]
    assert [type(a) for a in (model.labels_, model.cluster_centers_, model.inertia_)] == [
        np.ndarray,
        np.ndarray,
        float,
    ]
    assert isinstance(model.score(x), float)


@both
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_attributes(dtype: type, cls: Any) -> None:
    model = cls(6, random_state=0).fit(X.astype(dtype))
    assert (model.cluster_centers_.shape, model.cluster_centers_.dtype) == (
        (6, 17),
        np.float32 if dtype == np.float32 else float,
    )
    assert (model.labels_.shape, model.labels_.dtype, model.predict(X[:3]).dtype) == (
        (700,),
        np.int32,
        np.int32,
    )
    assert (type(model.inertia_), type(model.n_iter_), model.n_features_in_) == (float, int, 17)


@both
def test_x_is_never_written_to(cls: Any) -> None:
    x = X.copy()
    x.flags.writeable = False
    cls(6, **({"copy_x": False} if cls is KMeans else {})).fit(x).predict(x)
    assert_array_equal(x, X)


@both
def test_names_pickles_and_clones(cls: Any) -> None:
    frame = pd.DataFrame(X, columns=[f"c{i}" for i in range(17)])
    model = cls(3, random_state=0).set_output(transform="pandas").fit(frame)
    assert list(model.feature_names_in_) == list(frame.columns)
    assert list(model.transform(frame).columns) == [f"{cls.__name__.lower()}{k}" for k in range(3)]
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.predict(frame), model.labels_)
    copy: Any = clone(model)
    assert copy.get_params() == model.get_params() and not hasattr(copy, "labels_")


def test_random_state() -> None:
    def labels(state: Any) -> np.ndarray:
        return KMeans(40, random_state=state, max_iter=1).fit(X).labels_

    assert_array_equal(labels(3), labels(3))
    assert (labels(3) != labels(4)).any()
    state = np.random.RandomState(3)
    assert_array_equal(labels(state), labels(3))
    assert (labels(state) != labels(3)).any(), "a RandomState moves on"


def test_a_callable_is_given_x_as_it_is() -> None:
    seen = []

    def init(x: np.ndarray, n_clusters: int, random_state: np.random.RandomState) -> np.ndarray:
        seen.append(x)
        return x[random_state.permutation(len(x))[:n_clusters]]

    KMeans(6, init=init, random_state=0).fit(X)
    assert len(seen) == 10
    assert_array_equal(seen[0], X)


@pytest.mark.parametrize("backend", ["cpu", "portable", "reference"])
def test_backends(backend: str) -> None:
    x = X.astype(np.float32)
    model = KMeans(6, init=START, backend=backend).fit(x)
    assert model.backend_ == backend
    assert_array_equal(model.labels_, sklearn.cluster.KMeans(6, init=START).fit(x).labels_)
    assert_array_equal(model.predict(x), model.labels_)


@pytest.mark.usefixtures("metal")
@pytest.mark.parametrize("tol", [0.0, 3e-2])
def test_metal_stops_where_scikit_learn_does(tol: float) -> None:
    x = np.random.default_rng(0).normal(size=(500, 6)).astype(np.float32)
    options: dict[str, Any] = {"n_clusters": 7, "init": x[:7].copy(), "n_init": 1, "tol": tol}
    model = KMeans(**options, backend="metal").fit(x)
    assert (model.backend_, model.n_iter_) == (
        "metal",
        sklearn.cluster.KMeans(**options).fit(x).n_iter_,
    )


def test_a_wrong_backend() -> None:
    with pytest.raises(ValueError, match="The 'backend' parameter of KMeans must be"):
        KMeans(2, backend="gpu").fit(X)


def test_sparse_rows_on_a_backend_that_has_none() -> None:
    with pytest.raises(BackendUnavailableError, match="backend='portable' can't take sparse X"):
        KMeans(2, backend="portable").fit(csr_array(X))
