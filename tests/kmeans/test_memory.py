"""Measure peak memory beyond the input: NumPy reports its allocations to tracemalloc, MLX counts its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import FITS, assert_labels_optimal, backends_but
from memory import Call, check_cap, peak, points

import flash_kmeans_mlx as fk

# As B, N, D, K.
CPU_SHAPES = {
    "many points": (1, 630_000, 4, 4),
    "many clusters": (1, 3000, 16, 260),
    "many dimensions": (1, 1800, 1500, 5),
    "many elements": (60, 400, 16, 8),
    "large elements": (2, 20_000, 16, 33),
    "small": (1, 3000, 5, 30),
}
# At the least cap a tile is one row.
PORTABLE_SHAPES = {
    "many points": (1, 5000, 4, 4),
    "many clusters": (1, 500, 16, 30),
    "many dimensions": (1, 200, 900, 5),
    "many elements": (10, 200, 16, 8),
}
# Spherical metrics add arrays of one value a point and change nothing else: half of the shapes show each.
CPU_CASES = [
    *(("euclidean", shape) for shape in CPU_SHAPES),
    *(("cosine", shape) for shape in ("many points", "many dimensions", "many elements")),
    *(("dot", shape) for shape in ("many clusters", "large elements", "small")),
]
PORTABLE_CASES = [
    *(("euclidean", shape) for shape in PORTABLE_SHAPES),
    *(("cosine", shape) for shape in ("many points", "many elements")),
    *(("dot", shape) for shape in ("many points", "many clusters")),
]


def options(x: np.ndarray, k: int, metric: str) -> list[dict[str, Any]]:
    weights = np.random.default_rng(0).random(x.shape[:2], np.float32)
    far = x[:, :k] + np.where(np.arange(k) % 2, 100, 0)[:, None]  # half of the clusters start empty
    seeded = [
        {"init": "random", "sample_weight": weights, "n_init": 2},
        {"init": "k-means++", "sample_weight": weights},
        {"init": "k-means||", "sample_weight": weights},
    ]
    if metric != "euclidean":
        return seeded
    return [
        *seeded,
        {"init": far, "empty": "farthest"},
        {"init": far, "empty": "split", "sample_weight": weights},
    ]


def sized(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


@pytest.mark.parametrize(("metric", "shape"), CPU_CASES)
def test_a_cap_on_the_cpu_backend(metric: str, shape: str) -> None:
    *size, k = CPU_SHAPES[shape]
    x = points(*size)
    for o in options(x, k, metric):
        result = check_cap(
            lambda cap, o=o: FITS[metric](x, k, 2, max_mem_gb=cap, backend="cpu", **o)
        )
        assert_labels_optimal(x, result.centroids, result.labels, metric)


@pytest.mark.parametrize(("metric", "shape"), PORTABLE_CASES)
def test_a_cap_on_the_portable_backend(metric: str, shape: str) -> None:
    *size, k = PORTABLE_SHAPES[shape]
    x = points(*size)
    given = mx.array(x)
    for o in options(x, k, metric):
        result = check_cap(
            lambda cap, o=o: FITS[metric](given, k, 2, max_mem_gb=cap, backend="portable", **o)
        )
        assert_labels_optimal(x, result.centroids, result.labels, metric)


@pytest.mark.parametrize("backend", backends_but("reference", "metal"))
@pytest.mark.parametrize(
    "dtype",
    ["uint8", "float16", "float64", "big-endian", "mlx-int32", "mlx-bfloat16", "mlx-transposed"],
)
def test_a_cap_counts_conversions(dtype: str, backend: str) -> None:
    x = np.random.default_rng(0).integers(0, 200, (30_000, 24))
    if dtype == "mlx-transposed":
        given = mx.array(np.ascontiguousarray(x.T).astype(np.float32)).T
    elif dtype.startswith("mlx"):
        given = mx.array(x).astype(getattr(mx, dtype.removeprefix("mlx-")))
        mx.eval(given)
    else:
        given = x.astype(">f4" if dtype == "big-endian" else dtype)
    check_cap(lambda cap: fk.batch_kmeans_Euclid(given, 5, 2, max_mem_gb=cap, backend=backend))


@pytest.mark.parametrize("backend", backends_but("reference", "metal"))
@pytest.mark.parametrize("library", [np.asarray, mx.array], ids=["numpy", "mlx"])
def test_a_cap_counts_casts(library: Callable[[Any], Any], backend: str) -> None:
    x = library(points(1, 30_000, 24)[0])
    for dtype in ("float16", "bfloat16"):
        check_cap(
            lambda cap, dtype=dtype: fk.batch_kmeans_Euclid(
                x, 5, 2, max_mem_gb=cap, backend=backend, dtype=dtype
            )
        )


def test_a_cap_on_the_reference_backend() -> None:
    x = points(2, 1000, 11)  # its need is one formula at any size
    for metric, fit in FITS.items():
        for o in options(x, 7, metric):
            result = check_cap(
                lambda cap, o=o, fit=fit: fit(x, 7, 2, max_mem_gb=cap, backend="reference", **o)
            )
            assert_labels_optimal(x, result.centroids, result.labels, metric)


@pytest.mark.parametrize("backend", backends_but("reference", "metal"))
@pytest.mark.parametrize(
    ("metric", "shape"),
    [
        ("euclidean", (1, 75_000, 9, 15)),
        ("euclidean", (1, 1500, 16, 420)),
        ("euclidean", (20, 400, 16, 8)),
        ("cosine", (1, 75_000, 9, 15)),
        ("dot", (1, 75_000, 9, 15)),
    ],
    ids=str,
)
def test_a_cap_on_every_verb(shape: tuple[int, int, int, int], metric: str, backend: str) -> None:
    *size, k = shape
    x = points(*size)
    x = x if backend == "cpu" else x[:, :900]  # at the least cap a tile is one row
    given = mx.array(x) if backend == "portable" else x
    model = fk.FlashKMeans(k=k, niter=2, metric=metric, init="random", backend=backend).fit(x)

    def verb(name: str, *arguments: Any) -> Call:
        def call(cap: float) -> Any:
            model.max_mem_gb = cap
            return getattr(model, name)(given, *arguments)

        return call

    labels = check_cap(verb("predict"))
    assert_labels_optimal(x, model.centroids, labels, metric)
    np.testing.assert_array_equal(np.array(check_cap(verb("fit_predict"))), np.array(model.labels_))
    check_cap(verb("score", np.ones(x.shape[:2], np.float32)))
    centroids = np.array(model.centroids)
    check_cap(lambda cap: fk.assign(given, centroids, metric, max_mem_gb=cap, backend=backend))


@pytest.mark.parametrize("library", [np.asarray, mx.array], ids=["numpy", "mlx"])
@pytest.mark.parametrize("metric", FITS)
def test_a_cap_on_transform_counts_its_result(metric: str, library: Callable[[Any], Any]) -> None:
    x = library(points(2, 20_000, 12))
    model = fk.FlashKMeans(k=30, niter=2, metric=metric, init="random").fit(x)

    def call(cap: float) -> Any:
        model.max_mem_gb = cap
        return model.transform(x)

    assert tuple(check_cap(call).shape) == (2, 20_000, 30)


N = 6_000_000  # 64 MB are 11 bytes per point


@pytest.mark.parametrize(
    ("metric", "init", "weighted"),
    [
        ("euclidean", "random", True),
        ("euclidean", "k-means++", False),
        ("euclidean", "k-means||", True),
        ("cosine", "random", True),
        ("cosine", "k-means++", True),
        ("cosine", "k-means||", False),
        ("dot", "k-means++", True),
    ],
)
def test_the_bound_without_a_cap_for_many_points(metric: str, init: str, weighted: bool) -> None:
    x = points(1, N, 2)[0]
    weights = np.random.default_rng(0).random(N, np.float32) if weighted else None

    def call(rows: int = N) -> None:
        w = None if weights is None else weights[:rows]
        FITS[metric](x[:rows], 4, 1, init=init, sample_weight=w, backend="cpu")

    call(1_300_000)  # N * K * D > 1e7: loads the kernels
    assert peak(call) <= 64e6 + 16 * N + 4 * 4 * 2 * 8


@pytest.mark.parametrize(
    "shape", [(1, 20_000, 900, 600), (1, 20_000, 8, 9000), (200, 500, 16, 8)], ids=sized
)
def test_the_bound_without_a_cap_for_large_tables(shape: tuple[int, int, int, int]) -> None:
    b, n, d, k = shape
    x = points(b, n, d)
    fk.batch_kmeans_Euclid(x[:, : n // 2], k // 2, 1, backend="cpu")
    assert (
        peak(lambda: fk.batch_kmeans_Euclid(x, k, 1, backend="cpu"))
        <= 64e6 + 16 * b * n + 4 * b * k * d * 8
    )
