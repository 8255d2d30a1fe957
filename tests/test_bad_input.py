"""Every refusal by its text: the argument, its value, the bound, the shape as the caller wrote it, and the cure."""

from __future__ import annotations

import re
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import FITS, KINDS, every_backend, given

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.backends import BACKENDS

X = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
X2 = np.stack([X, X + 1])
METRIC_NAMES = "must be one of 'euclidean', 'cosine', 'dot'"
BACKEND_NAMES = ", ".join(map(repr, BACKENDS))
INIT_NAMES = "'random', 'k-means++', 'k-means||'"


def says(text: str) -> str:
    return "^" + re.escape(text)


ARGUMENTS = [
    ({"n_clusters": 0}, ValueError, "n_clusters=0 must be >= 1 (x.shape=(20, 3))"),
    ({"n_clusters": -1}, ValueError, "n_clusters=-1 must be >= 1 (x.shape=(20, 3))"),
    ({"n_clusters": 21}, ValueError, "n_clusters=21 must be <= N=20 (x.shape=(20, 3))"),
    ({"n_clusters": 3.0}, TypeError, "n_clusters=3.0 must be an integer"),
    ({"n_clusters": True}, TypeError, "n_clusters=True must be an integer"),
    ({"n_clusters": np.bool_(True)}, TypeError, "n_clusters=np.True_ must be an integer"),
    ({"n_clusters": "3"}, TypeError, "n_clusters='3' must be an integer"),
    ({"n_clusters": None}, TypeError, "n_clusters=None must be an integer"),
    ({"max_iters": -1}, ValueError, "max_iters=-1 must be >= 0"),
    ({"max_iters": 1.5}, TypeError, "max_iters=1.5 must be an integer"),
    ({"max_iters": None}, TypeError, "max_iters=None must be an integer"),
    ({"tol": -1e-9}, ValueError, "tol=-1e-09 must be finite and >= 0"),
    ({"tol": float("nan")}, ValueError, "tol=nan must be finite and >= 0"),
    ({"tol": float("inf")}, ValueError, "tol=inf must be finite and >= 0"),
    ({"tol": None}, TypeError, "tol=None must be a number"),
    ({"tol": "0"}, TypeError, "tol='0' must be a number"),
    ({"tol": 1j}, TypeError, "tol=1j must be a number"),
    ({"seed": -1}, ValueError, "seed=-1 must be >= 0"),
    ({"seed": 0.5}, TypeError, "seed=0.5 must be an integer"),
    ({"seed": None}, TypeError, "seed=None must be an integer"),
    ({"n_init": 0}, ValueError, "n_init=0 must be >= 1"),
    ({"n_init": "auto"}, TypeError, "n_init='auto' must be an integer"),
    ({"empty": "drop"}, ValueError, "empty='drop' must be one of 'farthest', 'split', 'keep'"),
    ({"empty": None}, ValueError, "empty=None must be one of 'farthest', 'split', 'keep'"),
    ({"init": "kmeans++"}, ValueError, f"init='kmeans++' must be one of {INIT_NAMES}"),
    ({"init": None}, ValueError, f"init=None must be one of {INIT_NAMES}"),
    (
        {"backend": "gpu"},
        ValueError,
        f"backend='gpu' must be one of {BACKEND_NAMES} or None",
    ),
    ({"backend": 1}, ValueError, "backend=1 must be one of"),
    (
        {"dtype": "float64"},
        ValueError,
        "dtype='float64' must be one of float32, float16, bfloat16 or None",
    ),
    ({"dtype": np.int32}, ValueError, "dtype=<class 'numpy.int32'> must be one of float32"),
    ({"max_mem_gb": -1}, ValueError, "max_mem_gb=-1 must be finite and >= 0"),
    ({"max_mem_gb": float("nan")}, ValueError, "max_mem_gb=nan must be finite and >= 0"),
    ({"max_mem_gb": "1"}, TypeError, "max_mem_gb='1' must be a number"),
]


@pytest.mark.parametrize("metric", FITS)
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    ARGUMENTS,
    ids=lambda v: str(v) if isinstance(v, dict) else "",
)
def test_an_argument(
    metric: str, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=says(message)):
        FITS[metric](X, **{"n_clusters": 3, **arguments})


def test_an_impossible_element_count_names_the_batch_shape() -> None:
    with pytest.raises(
        ValueError, match=says("n_clusters=21 must be <= N=20 (x.shape=(2, 20, 3))")
    ):
        fk.batch_kmeans_Euclid(X2, 21)


POINTS = [
    (X[0], ValueError, "x must have shape (N, D) or (B, N, D), got 1 dimensions (x.shape=(3,))"),
    (
        X2[None, None],
        ValueError,
        "x must have shape (N, D), (B, N, D) or (B, H, N, D), got 5 dimensions (x.shape=(1, 1, 2, 20, 3))",
    ),
    (2.5, ValueError, "x must have shape (N, D) or (B, N, D), got 0 dimensions (x.shape=())"),
    (
        mx.array(X)[0],
        ValueError,
        "x must have shape (N, D) or (B, N, D), got 1 dimensions (x.shape=(3,))",
    ),
    (X[:0], ValueError, "x must have no empty dimension (x.shape=(0, 3))"),
    (X[:, :0], ValueError, "x must have no empty dimension (x.shape=(20, 0))"),
    (X2[:0], ValueError, "x must have no empty dimension (x.shape=(0, 20, 3))"),
    (mx.zeros((2, 0, 3)), ValueError, "x must have no empty dimension (x.shape=(2, 0, 3))"),
    ([], ValueError, "x must have shape (N, D) or (B, N, D), got 1 dimensions (x.shape=(0,))"),
    ([[1.0, 2.0], [3.0]], ValueError, "x must be a rectangular array of numbers"),
    (X.astype(np.complex64), TypeError, "x must hold real numbers, got dtype complex64"),
    (mx.array(X.astype(np.complex64)), TypeError, "x must be real, got mlx.core.complex64"),
    ([["a", "b"]], TypeError, "x must hold real numbers, got dtype <U1"),
    (b"points", TypeError, "x must hold real numbers, got dtype |S6"),
    (None, TypeError, "x must hold real numbers, got dtype object"),
    ([[1, None]], TypeError, "x must hold real numbers, got dtype object"),
    (np.zeros((4, 2), "M8[D]"), TypeError, "x must hold real numbers, got dtype datetime64[D]"),
    (
        np.zeros((4, 2), "f4,f4"),
        TypeError,
        "x must hold real numbers, got dtype [('f0', '<f4'), ('f1', '<f4')]",
    ),
]


@pytest.mark.parametrize(("x", "error", "message"), POINTS, ids=[m for *_, m in POINTS])
def test_points(x: Any, error: type[Exception], message: str) -> None:
    for fit in FITS.values():
        with pytest.raises(error, match=says(message)):
            fit(x, 1)
    with pytest.raises(error, match=says(message)):
        fk.assign(x, X[:2])
    with pytest.raises(error, match=says(message)):
        fk.FlashKMeans(k=1).fit(x)


# One row in each region that a backend may look at apart: sampled rows, tiles, shards, the remainder.
PLACES = [(0, 0), (1, 2), (6007, 5), (-1, -1)]


@every_backend
@pytest.mark.parametrize("kind", KINDS)
def test_one_bad_value_anywhere_in_x(backend: str, kind: str) -> None:
    clean = np.random.default_rng(0).standard_normal((6100, 6))
    for place in PLACES:
        for value in (np.nan, np.inf, -np.inf):
            x = clean.copy()
            x[place] = value
            with pytest.raises(
                ValueError,
                match=says("x must be finite, got NaN or Inf (x.shape=(6100, 6)); clean it"),
            ):
                fk.batch_kmeans_Euclid(given(x, kind), 3, 1, backend=backend)


@pytest.mark.parametrize("metric", FITS)
@every_backend
def test_one_bad_value_is_found_in_views_batches_and_every_verb(metric: str, backend: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 500, 4)).astype(np.float32)
    model = fk.FlashKMeans(k=2, metric=metric, backend=backend).fit(x)
    x[1, 321, 2] = np.nan
    text = says("x must be finite, got NaN or Inf")
    for view in (x, x[:, ::-1], x.transpose(0, 2, 1), mx.array(x).swapaxes(1, 2)):
        with pytest.raises(ValueError, match=text):
            FITS[metric](view, 2, backend=backend)
    with pytest.raises(ValueError, match=text):
        fk.assign(x, x[0, :3], metric, backend=backend)
    for verb in (model.fit, model.fit_predict, model.predict, model.score, model.transform):
        with pytest.raises(ValueError, match=text):
            verb(x)


@every_backend
@pytest.mark.parametrize("row", [0, 1, 299])
def test_check_finite_false_looks_at_nothing(backend: str, row: int) -> None:
    x = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float32)
    expected = fk.assign(x, x[10:13], backend=backend)
    x[row] = np.nan
    labels = fk.assign(x, x[10:13], check_finite=False, backend=backend)
    fitted = fk.batch_kmeans_Euclid(
        x, 3, 0, init_centroids=x[10:13], check_finite=False, backend=backend
    )
    others = np.arange(300) != row
    np.testing.assert_array_equal(labels[others], expected[others])
    np.testing.assert_array_equal(fitted.labels, labels)


@every_backend
@pytest.mark.parametrize(
    ("x", "arguments", "target"),
    [
        (np.array([[1.0, 2.0], [3.0, 1e39]]), {}, "float32"),
        (np.full((4, 2), -1e300), {}, "float32"),
        (np.array([[1.0, 2.0], [3.0, 1e39]]), {"dtype": "float32"}, "float32"),
        (np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 1e40]], np.longdouble), {}, "float32"),
        (np.array([[1.0, 2.0], [3.0, 7e4]], np.float32), {"dtype": "float16"}, "float16"),
        (mx.array([[1.0, 2.0], [3.0, 7e4]]), {"dtype": "float16"}, "float16"),
    ],
    ids=["float64", "all", "float64-cast", "longdouble", "float16", "mlx-float16"],
)
def test_values_beyond_the_dtype_of_the_computation(
    backend: str, x: Any, arguments: dict[str, Any], target: str
) -> None:
    shape = re.escape(f"(x.shape={tuple(x.shape)})")
    pattern = rf"^x must fit in {target}, got (a magnitude of \d[.\de+]*|larger values) {shape}; rescale it"
    with pytest.raises(ValueError, match=pattern):
        fk.batch_kmeans_Euclid(x, 1, backend=backend, **arguments)


SHAPES = "must have shape (K, D)=(4, 3) or (B, K, D)=(1, 4, 3), got"
CENTROIDS = [
    (X[:5], ValueError, f"{SHAPES} (5, 3) (x.shape=(20, 3))"),
    (X[:4, :2], ValueError, f"{SHAPES} (4, 2) (x.shape=(20, 3))"),
    (X2[:, :4], ValueError, f"{SHAPES} (2, 4, 3) (x.shape=(20, 3))"),
    (X[0], ValueError, f"{SHAPES} (3,) (x.shape=(20, 3))"),
    (mx.array(X[:5]), ValueError, f"{SHAPES} (5, 3) (x.shape=(20, 3))"),
    ([[1.0], [2.0, 3.0]], ValueError, "must be a rectangular array of numbers"),
    (np.zeros((4, 3), complex), TypeError, "must hold real numbers, got dtype complex128"),
    (np.full((4, 3), "a"), TypeError, "must hold real numbers, got dtype <U1"),
    (np.full((4, 3), np.nan), ValueError, "must be finite, got NaN or Inf"),
    (mx.full((4, 3), np.inf), ValueError, "must be finite, got NaN or Inf"),
    (np.full((4, 3), 1e39), ValueError, "must fit in float32, got a magnitude of 1e+39"),
]


@pytest.mark.parametrize(("value", "error", "message"), CENTROIDS, ids=[m for *_, m in CENTROIDS])
def test_initial_centroids(value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=says("init_centroids " + message)):
        fk.batch_kmeans_Euclid(X, 4, init_centroids=value)
    with pytest.raises(error, match=says("init " + message)):
        fk.batch_kmeans_Euclid(X, 4, init=value)
    with pytest.raises(error, match=says("init(x, n_clusters, rng) " + message)):
        fk.batch_kmeans_Euclid(X, 4, init=lambda *_: value)
    with pytest.raises(error, match=says("init_centroids " + message)):
        fk.FlashKMeans(k=4).fit(X, init_centroids=value)


ASSIGNED = [
    (
        {"centroids": X[:0]},
        ValueError,
        "centroids must have shape (K, D) or (B, K, D), got (0, 3) (x.shape=(20, 3))",
    ),
    (
        {"centroids": X[0]},
        ValueError,
        "centroids must have shape (K, D) or (B, K, D), got (3,) (x.shape=(20, 3))",
    ),
    ({"centroids": X[:4, :2]}, ValueError, f"centroids {SHAPES} (4, 2) (x.shape=(20, 3))"),
    ({"centroids": X2[:, :4]}, ValueError, f"centroids {SHAPES} (2, 4, 3) (x.shape=(20, 3))"),
    (
        {"centroids": [[1.0], [2.0, 3.0]]},
        ValueError,
        "centroids must be a rectangular array of numbers",
    ),
    (
        {"centroids": np.full((4, 3), np.nan)},
        ValueError,
        "centroids must be finite, got NaN or Inf",
    ),
    ({"metric": "l2"}, ValueError, f"metric='l2' {METRIC_NAMES}"),
    ({"metric": None}, ValueError, f"metric=None {METRIC_NAMES}"),
    ({"backend": "gpu"}, ValueError, "backend='gpu' must be one of"),
    ({"max_mem_gb": -1}, ValueError, "max_mem_gb=-1 must be finite and >= 0"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), ASSIGNED, ids=[m for *_, m in ASSIGNED])
def test_assign(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=says(message)):
        fk.assign(X, **{"centroids": X[:4], **arguments})


ONE = "sample_weight must have shape (N,)=(20,) or (B, N)=(1, 20), got"
WEIGHTS = [
    (np.ones(19), ValueError, f"{ONE} (19,) (x.shape=(20, 3))"),
    (np.ones((2, 20)), ValueError, f"{ONE} (2, 20) (x.shape=(20, 3))"),
    (np.ones((20, 1)), ValueError, f"{ONE} (20, 1) (x.shape=(20, 3))"),
    (1.0, ValueError, f"{ONE} () (x.shape=(20, 3))"),
    (
        np.arange(20) - 3.0,
        ValueError,
        "sample_weight must be >= 0, got -3.0 (sample_weight.shape=(20,))",
    ),
    (
        np.zeros(20),
        ValueError,
        "sample_weight must have a positive value for every batch element (sample_weight.shape=(20,))",
    ),
    (
        np.full(20, np.nan),
        ValueError,
        "sample_weight must be finite, got NaN or Inf (sample_weight.shape=(20,))",
    ),
    (mx.array([np.inf] + 19 * [1.0]), ValueError, "sample_weight must be finite, got NaN or Inf"),
    (np.full(20, 1e39), ValueError, "sample_weight must fit in float32, got a magnitude of 1e+39"),
    (np.ones(20, complex), TypeError, "sample_weight must hold real numbers, got dtype complex128"),
    (["a"] * 20, TypeError, "sample_weight must hold real numbers, got dtype <U1"),
    ([[1.0], [1.0, 2.0]], ValueError, "sample_weight must be a rectangular array of numbers"),
]


@pytest.mark.parametrize(("value", "error", "message"), WEIGHTS, ids=[m for *_, m in WEIGHTS])
def test_weights(value: Any, error: type[Exception], message: str) -> None:
    model = fk.FlashKMeans(k=2).fit(X)
    calls = (
        lambda: fk.batch_kmeans_Euclid(X, 2, sample_weight=value),
        lambda: model.fit(X, value),
        lambda: model.score(X, value),
    )
    for call in calls:
        with pytest.raises(error, match=says(message)):
            call()


def test_weights_of_one_element_all_zero() -> None:
    weights = np.stack([np.ones(20), np.zeros(20)])
    with pytest.raises(
        ValueError, match=says("sample_weight must have a positive value for every batch element")
    ):
        fk.batch_kmeans_Euclid(X2, 2, sample_weight=weights)


def test_a_refused_call_changes_none_of_its_inputs() -> None:
    x, start, weights = X.copy(), X[:4].copy(), np.ones(20)
    weights[3] = -1
    before = [a.tobytes() for a in (x, start, weights)]
    with pytest.raises(ValueError, match="sample_weight"):
        fk.batch_kmeans_Euclid(x, 4, init_centroids=start, sample_weight=weights)
    x[-1, -1] = np.nan
    before[0] = x.tobytes()
    with pytest.raises(ValueError, match="x must be finite"):
        fk.batch_kmeans_Cosine(x, 4, init_centroids=start)
    assert [a.tobytes() for a in (x, start, weights)] == before
