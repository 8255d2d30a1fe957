"""One suite for every backend: each metric, dtype and awkward shape, judged in float64."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import helpers
import mlx.core as mx
import numpy as np
import pytest

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.backends import available, portable

BACKENDS = tuple(name for name, reason in available().items() if reason is None)
FITS = {"euclidean": fk.batch_kmeans_Euclid, "cosine": fk.batch_kmeans_Cosine, "dot": fk.batch_kmeans_Dot}
ITERATIONS = 4

every_backend = pytest.mark.parametrize("backend", BACKENDS)
every_metric = pytest.mark.parametrize("metric", helpers.METRICS)


class Shape(NamedTuple):
    """Sizes; no two of N, D and K alike, so that a transposed argument can't pass."""

    b: int
    n: int
    d: int
    k: int

    def __str__(self) -> str:
        return f"B{self.b}-N{self.n}-D{self.d}-K{self.k}"


SHAPES = (
    Shape(1, 1, 3, 1),
    Shape(3, 41, 3, 1),
    Shape(1, 29, 1, 4),
    Shape(3, 2, 3, 1),
    Shape(1, 23, 3, 23),  # K = N
    Shape(3, 211, 17, 7),
    Shape(2, 997, 33, 13),
    Shape(2, 1601, 3, 530),  # more centroids than a block, few dimensions
    Shape(1, 701, 19, 523),  # more centroids than a block, products
)
LARGE = (  # N * K * D > 1e7: shards and threads on the CPU backend
    Shape(1, 5003, 3, 709),
    Shape(1, 4999, 17, 131),
    Shape(2, 1201, 19, 523),
    Shape(1, 9001, 65, 18),
)
# What the caller passes: the array type and the dtype its values are rounded to.
INPUTS = ("numpy-float32", "numpy-float16", "numpy-float64", "mlx-float32", "mlx-float16", "mlx-bfloat16")


def given(x: np.ndarray, kind: str) -> Any:
    library, dtype = kind.split("-")
    return x.astype(dtype) if library == "numpy" else mx.array(x.astype(np.float32)).astype(getattr(mx, dtype))


@cache
def points(shape: Shape, kind: str) -> Any:
    b, n, d, k = shape
    return given(helpers.blobs(b, n, d, min(k, 12)), kind)


@cache
def start(shape: Shape, kind: str) -> np.ndarray:
    """(B, K, D): rows at a stride, so that every cluster begins with a point of its own."""
    return helpers.to_float64(points(shape, kind))[:, :: shape.n // shape.k][:, : shape.k]


@cache
def expected(shape: Shape, kind: str, metric: str) -> np.ndarray:
    """(B,) inertia of Lloyd in float64 after ITERATIONS steps."""
    x = helpers.to_float64(points(shape, kind))
    runs = [(m, *helpers.lloyd(m, c, metric, ITERATIONS)) for m, c in zip(x, start(shape, kind), strict=True)]
    return np.array([helpers.inertia(m, c, labels, metric) for m, c, labels in runs])


def check(x: Any, result: fk.KMeansResult, metric: str, weights: Any = None) -> None:
    """Labels, centroids and inertia agree with each other and with the contract."""
    library = mx.array if isinstance(x, mx.array) else np.ndarray
    assert isinstance(result.labels, library) and isinstance(result.centroids, library)
    assert "uint32" in str(result.labels.dtype) and "float32" in str(result.centroids.dtype)
    labels, c = np.array(result.labels), np.array(result.centroids)
    helpers.assert_labels_optimal(x, c, labels, metric)
    limit = helpers.tolerance(x.shape[-1])
    if metric != "euclidean":
        np.testing.assert_allclose(np.linalg.norm(c, axis=-1), 1.0, atol=limit)
    error = np.abs(result.inertia - helpers.inertia(x, c, labels, metric, weights))
    assert (error <= limit * helpers.inertia_scale(x, metric, weights)).all(), f"inertia off by {error}"


def check_fixed_point(x: Any, result: fk.KMeansResult, metric: str, weights: Any = None) -> None:
    """Centroids are those of their own labels; of size one, or of the data's spread, up to rounding."""
    labels, c = np.array(result.labels), np.array(result.centroids)
    x = helpers.to_float64(x)
    for b, member in enumerate(x):
        new = helpers.centre(member, labels[b], c[b], metric, None if weights is None else weights[b])
        size = np.abs(member).max() if metric == "euclidean" else 1.0
        limit = helpers.tolerance(x.shape[-1]) * size
        np.testing.assert_allclose(c[b], new, rtol=0, atol=limit)


@every_backend
@every_metric
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fit(shape: Shape, kind: str, metric: str, backend: str) -> None:
    x, c0 = points(shape, kind), start(shape, kind)
    result = FITS[metric](x, shape.k, ITERATIONS, init_centroids=c0, empty="keep", backend=backend)
    assert result.backend == backend and result.labels.shape == (shape.b, shape.n)
    check(x, result, metric)
    error = np.abs(result.inertia - expected(shape, kind, metric))
    scale = helpers.inertia_scale(x, metric)
    print("\nERR", (error/np.maximum(scale,1e-30)).max(), helpers.regret(x, result.centroids, result.labels, metric).max()/helpers.tolerance(shape.d)*8)
