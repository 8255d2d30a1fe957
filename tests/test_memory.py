"""Peak memory beyond the input, measured: NumPy reports what it allocates to tracemalloc, MLX counts its own."""

from __future__ import annotations

import gc
import re
import tracemalloc
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import FITS, assert_labels_optimal

import flash_kmeans_mlx as fk

Call = Callable[[float], Any]

# (B, N, D, K): many points, many clusters, many dimensions, a batch of small problems, a batch of large ones, a small one.
CPU_SHAPES = [
    (1, 700_000, 4, 4),
    (1, 5000, 16, 400),
    (1, 1800, 1500, 5),
    (60, 400, 16, 8),
    (3, 20_000, 16, 33),
    (1, 3000, 5, 30),
]
PORTABLE_SHAPES = [(1, 40_000, 4, 4), (1, 1500, 16, 60), (1, 700, 1500, 5), (20, 400, 16, 8)]


def points(b: int, n: int, d: int) -> np.ndarray:
    return np.random.default_rng([b, n, d]).standard_normal((b, n, d), np.float32)


def options(x: np.ndarray, k: int, metric: str) -> list[dict[str, Any]]:
    weights = np.random.default_rng(0).random(x.shape[:2], np.float32)
    far = x[:, :k] + np.where(np.arange(k) % 2, 100, 0)[:, None]  # half of the clusters start empty
    weighted: list[dict[str, Any]] = [
        {"init": "random", "sample_weight": weights, "n_init": 2},
        {"init": "k-means++", "sample_weight": weights},
        {"init": "k-means||", "sample_weight": weights},
    ]
    if metric != "euclidean":
        return weighted
    plain = [{"init": "random"}, {"init": "k-means++", "n_init": 2}, {"init": "k-means||"}]
    return [*weighted, *plain, {"init": far, "empty": "farthest"}, {"init": far, "empty": "split", "sample_weight": weights}]


def peak(call: Callable[[], Any]) -> int:
    """Bytes that a call takes at its highest point, MLX's and NumPy's peaks added up. Code must have been loaded before."""
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1] + mx.get_peak_memory() - before
    finally:
        tracemalloc.stop()


def stated_need(call: Call) -> float:
    """What the refusal of an impossible cap asks for, in GB."""
    with pytest.raises(ValueError, match=r"^max_mem_gb=1e-09 must be >= ") as caught:
        call(1e-9)
    found = re.match(r"max_mem_gb=1e-09 must be >= (\S+) GB", str(caught.value))
    assert found
    return float(found[1])


def check_cap(call: Call) -> Any:
    """The least cap that is said to suffice does, and it and a roomier one hold."""
    need = stated_need(call)
    result = call(need)
    for cap in (3 * need, need):
        assert peak(lambda cap=cap: call(cap)) <= cap * 1e9
    return result


def sized(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


@pytest.mark.parametrize("shape", CPU_SHAPES, ids=sized)
@pytest.mark.parametrize("metric", FITS)
def test_a_cap_on_the_cpu_backend(metric: str, shape: tuple[int, int, int, int]) -> None:
    *size, k = shape
    x = points(*size)
    for o in options(x, k, metric):
        result = check_cap(lambda cap, o=o: FITS[metric](x, k, 3, max_mem_gb=cap, backend="cpu", **o))
        assert_labels_optimal(x, result.centroids, result.labels, metric)


@pytest.mark.parametrize("shape", PORTABLE_SHAPES, ids=sized)
@pytest.mark.parametrize("metric", FITS)
def test_a_cap_on_the_portable_backend(metric: str, shape: tuple[int, int, int, int]) -> None:
    *size, k = shape
    x = points(*size)
    for o in options(x, k, metric):
        given = mx.array(x)
        result = check_cap(lambda cap, o=o, given=given: FITS[metric](given, k, 2, max_mem_gb=cap, backend="portable", **o))
        assert_labels_optimal(x, result.centroids, result.labels, metric)


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


@pytest.mark.parametrize("shape", [(1, 20_000, 900, 600), (1, 20_000, 8, 9000), (200, 500, 16, 8)], ids=sized)
def test_the_bound_without_a_cap_for_large_tables(shape: tuple[int, int, int, int]) -> None:
    b, n, d, k = shape
    x = points(b, n, d)
    fk.batch_kmeans_Euclid(x[:, : n // 2], k // 2, 1, backend="cpu")
    assert peak(lambda: fk.batch_kmeans_Euclid(x, k, 1, backend="cpu")) <= 64e6 + 16 * b * n + 4 * b * k * d * 8
