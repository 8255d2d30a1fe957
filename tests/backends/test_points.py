"""`Points` of every backend: each metric, dtype and awkward shape, judged in float64, and ties.

A new backend joins by its entry in `backends.BACKENDS`; test_points_bits.py asks for equal bits.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import helpers
import mlx.core as mx
import numpy as np
import pytest
from helpers import BACKENDS, FITS, INITS, KINDS, METRICS, every_backend, every_metric

from flash_kmeans_mlx import KMeansResult, assign

ITERATIONS = 4


class Shape(NamedTuple):
    """Sizes; N, D and K differ wherever the case allows, so that a transposed argument can't pass."""

    b: int
    n: int
    d: int
    k: int

    def __str__(self) -> str:
        return f"B{self.b}-N{self.n}-D{self.d}-K{self.k}"


ODD = Shape(3, 211, 17, 7)
SHAPES = (
    Shape(1, 1, 3, 1),
    Shape(3, 41, 3, 1),
    Shape(1, 23, 3, 23),  # K = N
    Shape(2, 997, 33, 13),
    Shape(1, 29, 1, 4),  # on a line
    Shape(2, 7, 1, 7),
)
BLOCKS = (  # more centroids than a block of products holds
    Shape(2, 1601, 3, 530),
    Shape(1, 701, 19, 523),
)
LARGE = (  # N * K * D > 1e7: shards and threads on the CPU backend
    Shape(1, 5003, 3, 709),
    Shape(1, 4999, 17, 131),
    Shape(2, 1201, 19, 523),
    Shape(1, 9001, 65, 18),
)
SLOW = ("reference", "metal") if helpers.EMULATED else ("reference",)
ENDS = ("numpy-float32", "mlx-bfloat16")
# Types are converted before shapes matter: all of them at two shapes, the first and the last at the others.
CASES = [
    *((shape, kind, b) for shape in (ODD, Shape(3, 2, 3, 1)) for kind in KINDS for b in BACKENDS),
    *((shape, kind, b) for shape in (*SHAPES, *BLOCKS) for kind in ENDS for b in BACKENDS),
    *((shape, kind, b) for shape in LARGE for kind in ENDS for b in BACKENDS if b not in SLOW),
]


@cache
def points(shape: Shape, kind: str) -> Any:
    b, n, d, k = shape
    return helpers.given(helpers.blobs(b, n, d, min(k, 12)), kind)


@cache
def start(shape: Shape, kind: str) -> np.ndarray:
    """Return (B, K, D), rows at a stride, so that every cluster begins with a point of its own."""
    return helpers.to_float64(points(shape, kind))[:, :: shape.n // shape.k][:, : shape.k]


@cache
def weights(shape: Shape) -> np.ndarray:
    """Return (B, N) float32, a fifth of them zero."""
    rng = np.random.default_rng(shape)
    return (rng.gamma(1.0, size=shape[:2]) * (rng.random(shape[:2]) > 0.2)).astype(np.float32)


@cache
def expected(shape: Shape, kind: str, metric: str, weighted: bool) -> np.ndarray:
    """Return (B,), the inertia of Lloyd in float64 after ITERATIONS steps."""
    x = helpers.to_float64(points(shape, kind))
    out = []
    for b, c0 in enumerate(start(shape, kind)):
        w = weights(shape)[b] if weighted else None
        out.append(
            helpers.inertia(x[b], *helpers.lloyd(x[b], c0, metric, ITERATIONS, w), metric, w)
        )
    return np.array(out)


def check(x: Any, result: KMeansResult, metric: str, w: Any = None) -> np.ndarray:
    """Assert that labels, centroids and inertia agree, and return (B,), the inertia that rounding may cost."""
    library = mx.array if isinstance(x, mx.array) else np.ndarray
    assert isinstance(result.labels, library) and isinstance(result.centroids, library)
    assert "uint32" in str(result.labels.dtype) and "float32" in str(result.centroids.dtype)
    labels, c = np.array(result.labels), np.array(result.centroids)
    helpers.assert_labels_optimal(x, c, labels, metric)
    limit = helpers.tolerance(x.shape[-1])
    if metric != "euclidean":
        np.testing.assert_allclose(np.linalg.norm(c, axis=-1), 1.0, rtol=0, atol=limit)
    limit = limit * helpers.inertia_scale(x, c, labels, metric, w)
    # Of the data, or of centroids, to float32.
    rounding = helpers.EPS["float32"] * helpers.to_float64(x)
    limit = limit + np.square(rounding).sum((1, 2))
    error = np.abs(result.inertia - helpers.inertia(x, c, labels, metric, w))
    assert (error <= limit).all(), f"inertia {result.inertia} off by {error} > {limit}"
    return limit


@every_metric
@pytest.mark.parametrize(("shape", "kind", "backend"), CASES, ids=str)
def test_fit_follows_lloyd_in_float64(shape: Shape, kind: str, metric: str, backend: str) -> None:
    x, c0 = points(shape, kind), start(shape, kind)
    result = FITS[metric](x, shape.k, ITERATIONS, init_centroids=c0, empty="keep", backend=backend)
    assert result.backend == backend and result.labels.shape == (shape.b, shape.n)
    limit = check(x, result, metric)
    error = np.abs(result.inertia - expected(shape, kind, metric, False))
    assert (error <= limit).all(), f"inertia off by {error} > {limit}"


@every_backend
@every_metric
@pytest.mark.parametrize("shape", [ODD, BLOCKS[1], LARGE[1]], ids=str)
def test_weights(shape: Shape, metric: str, backend: str) -> None:
    kind = "numpy-float32"
    x, c0, w = points(shape, kind), start(shape, kind), weights(shape)
    result = FITS[metric](
        x, shape.k, ITERATIONS, init_centroids=c0, sample_weight=w, empty="keep", backend=backend
    )
    limit = check(x, result, metric, w)
    error = np.abs(result.inertia - expected(shape, kind, metric, True))
    assert (error <= limit).all(), f"inertia off by {error} > {limit}"


@every_backend
@every_metric
@pytest.mark.parametrize("size", [1e-28, 1e18])
@pytest.mark.parametrize("weight", [1e-25, 1e15])
def test_extreme_weights_on_extreme_data(
    weight: float, size: float, metric: str, backend: str
) -> None:
    shape = ODD
    x = (size * helpers.blobs(*shape)).astype(np.float32)
    w = (weight * weights(shape)).astype(np.float32)
    for init in INITS:
        result = FITS[metric](
            x, shape.k, ITERATIONS, init=init, sample_weight=w, empty="keep", backend=backend
        )
        w64, x64 = w.astype(np.float64), x.astype(np.float64)
        limit = check(x64, result, metric, w64)
        starts = FITS[metric](
            x, shape.k, 0, init=init, sample_weight=w, backend=backend
        ).centroids.astype(np.float64)
        for b in range(shape.b):
            best = helpers.lloyd(x64[b], starts[b], metric, ITERATIONS, w64[b])
            assert (
                abs(result.inertia[b] - helpers.inertia(x64[b], *best, metric, w64[b])) <= limit[b]
            )


@every_backend
@every_metric
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_a_converged_fit_is_a_fixed_point(
    weighted: bool, kind: str, metric: str, backend: str
) -> None:
    shape = ODD
    w = weights(shape) if weighted else None
    x = points(shape, kind)
    result = FITS[metric](
        x, shape.k, 300, init_centroids=start(shape, kind), sample_weight=w, backend=backend
    )
    assert result.converged.all() and result.n_iter == result.n_iter_per_batch.max() < 300
    check(x, result, metric, w)
    helpers.assert_centroids_optimal(x, result.centroids, result.labels, metric, w)


def strided_mlx(x: np.ndarray) -> mx.array:
    return (
        mx.array(np.concatenate([x, x], axis=-1))[..., : x.shape[-1]].swapaxes(0, 1).swapaxes(0, 1)
    )


RAW = {  # name: data, metrics that can tell the points apart in float32
    "offset": (lambda: (helpers.blobs(2, 600, 17, 5) + 1e4).astype(np.float32), ("euclidean",)),
    "offset-float64": (lambda: helpers.blobs(2, 600, 17, 5) + 1e4, ("euclidean",)),
    "far-float64": (lambda: helpers.blobs(2, 600, 17, 5) + 1e6, ("euclidean",)),
    "offset-line": (lambda: (helpers.blobs(1, 500, 1, 3) + 1e4).astype(np.float32), ("euclidean",)),
    "short": (lambda: (1e-6 * helpers.blobs(2, 300, 17, 5)).astype(np.float32), METRICS),
    "long": (lambda: (1e6 * helpers.blobs(2, 300, 17, 5)).astype(np.float32), METRICS),
    "huge": (lambda: (1e18 * helpers.blobs(2, 300, 17, 5)).astype(np.float32), METRICS),
    "tiny": (lambda: (1e-25 * helpers.blobs(2, 300, 17, 5)).astype(np.float32), METRICS),
    "denormal": (lambda: (1e-41 * helpers.blobs(1, 300, 17, 5)).astype(np.float32), METRICS),
    "huge-float64": (lambda: 1e18 * helpers.blobs(2, 300, 17, 5), METRICS),
    "unlike-elements": (
        lambda: helpers.blobs(3, 300, 17, 5) * [[[1.0]], [[1e18]], [[1e-25]]],
        METRICS,
    ),
    "sift-float16": (lambda: helpers.sift_like(900)[None].astype(np.float16), METRICS),
    "sift-bfloat16": (lambda: mx.array(helpers.sift_like(900)[None]).astype(mx.bfloat16), METRICS),
    "float16-limits": (
        lambda: (3e4 * np.tanh(helpers.blobs(1, 500, 33, 4))).astype(np.float16),
        METRICS,
    ),
    "pixels": (lambda: helpers.pixels(4000)[None], METRICS),
    "patches": (lambda: helpers.patches(700)[None], METRICS),
    "digits": (lambda: helpers.digits()[None], METRICS),
    "mlx-view": (lambda: strided_mlx(helpers.blobs(2, 300, 17, 5).astype(np.float32)), METRICS),
}


@every_backend
def test_large_clusters_keep_their_digits(backend: str) -> None:
    x = np.random.default_rng(0).random((1, 300_000, 3)).astype(np.float32)
    for moved in (x, x + 2):
        result = FITS["euclidean"](moved, 1, 1, backend=backend)
        helpers.assert_centroids_optimal(moved, result.centroids, result.labels, "euclidean")


@every_backend
@pytest.mark.parametrize(
    ("name", "metric"), [(name, m) for name, (_, metrics) in RAW.items() for m in metrics]
)
def test_raw_data(name: str, metric: str, backend: str) -> None:
    x = RAW[name][0]()
    exact = helpers.to_float64(x)
    c0 = exact[:, :: x.shape[1] // 8][:, :8]
    result = FITS[metric](x, 8, ITERATIONS, init_centroids=c0, backend=backend)
    limit = check(x, result, metric)
    assert all(len(np.unique(labels)) == 8 for labels in np.array(result.labels))
    for b, element in enumerate(exact):
        best = helpers.inertia(element, *helpers.lloyd(element, c0[b], metric, ITERATIONS), metric)
        # Far from the origin centroids are rounded in every iteration: 1e-4, as against scikit-learn.
        assert abs(result.inertia[b] - best) <= limit[b] + 1e-4 * abs(best)


@every_backend
def test_rows_without_direction_count_nowhere(backend: str) -> None:
    x = points(ODD, "numpy-float32").copy()
    x[:, ::3] = 0
    c0 = x[:, 1::3][:, :7]
    result = FITS["cosine"](x, 7, 50, init_centroids=c0, backend=backend)
    assert (result.labels[:, ::3] == 0).all()
    check(x, result, "cosine")
    rest = np.delete(x, np.s_[::3], axis=1)
    alone = FITS["cosine"](rest, 7, 50, init_centroids=c0, backend=backend)
    np.testing.assert_array_equal(np.delete(result.labels, np.s_[::3], axis=1), alone.labels)
    np.testing.assert_allclose(
        result.inertia, alone.inertia + x[0, ::3].shape[0], rtol=helpers.tolerance(17)
    )


@every_metric
@pytest.mark.parametrize(
    ("backend", "shape"),
    # Only the CPU backend cuts large problems in another way.
    [*((b, ODD) for b in BACKENDS), ("cpu", LARGE[0]), ("cpu", LARGE[1])],
    ids=str,
)
def test_ties_go_to_the_lowest_index(shape: Shape, metric: str, backend: str) -> None:
    """Every centroid five times over, far apart and in blocks of their own: only the first of each may win."""
    b, n, d, k = shape
    x = np.rint(4 * helpers.blobs(b, n, d, k))
    few = np.rint(4 * helpers.blobs(b, k // 5 + 1, d, 3, seed=1))
    repeated = np.tile(few, (1, 5, 1))
    labels = assign(x, repeated, metric, backend=backend)
    assert labels.max() < few.shape[1]
    assert helpers.regret(x, repeated, labels, metric).max() <= helpers.tolerance(d)


@every_backend
@pytest.mark.parametrize("d", [3, 17])
def test_ties_half_way_go_to_the_lower_index(d: int, backend: str) -> None:
    step = np.eye(d)[0]
    c = np.stack([9 * step, -2 * step, 2 * step, -2 * step])
    assert assign(np.zeros((5, d)), c, backend=backend).tolist() == [1] * 5
    assert assign(np.zeros((5, d)), c[::-1], backend=backend).tolist() == [0] * 5


@every_backend
@every_metric
def test_no_iterations_label_by_the_start(metric: str, backend: str) -> None:
    x = points(ODD, "numpy-float32")
    c0 = 2 * x[:, :7]
    result = FITS[metric](x, 7, 0, init_centroids=c0, backend=backend)
    assert result.n_iter == 0 and not result.n_iter_per_batch.any() and not result.converged.any()
    start = c0 if metric == "euclidean" else helpers.unit(c0.astype(np.float64)).astype(np.float32)
    assert np.array_equal(result.centroids, start)
    helpers.assert_labels_optimal(x, result.centroids, result.labels, metric)
