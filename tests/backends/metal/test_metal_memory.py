"""The Metal backend takes no more memory than it says, by MLX's own count.

That holds under a cap, for one iteration and over many.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import FITS, assert_labels_optimal

from flash_kmeans_mlx.backends import Problem, open_points
from flash_kmeans_mlx.backends.metal import sums_launch
from flash_kmeans_mlx.backends.metal.device import Device
from flash_kmeans_mlx.backends.metal.memory import step_bytes
from flash_kmeans_mlx.metrics import EUCLIDEAN

pytestmark = pytest.mark.usefixtures("metal")

# Shapes: B, N, D and K.
TWO_DIGITS = (1, 900, 3, 300)
SHAPES = [
    (1, 5000, 4, 4),  # dense sums
    (1, 1500, 16, 130),  # sorted sums
    TWO_DIGITS,
    (1, 300, 300, 5),  # many dimensions
    (2, 40, 17, 36),  # centroids in parts
    (10, 300, 16, 8),  # a batch
]


@pytest.fixture
def _small_table(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels of TWO_DIGITS are sorted by two digits, which takes 8193 clusters otherwise."""
    *_, k = shape = request.getfixturevalue("shape")
    if shape == TWO_DIGITS:
        monkeypatch.setattr(sums_launch, "TABLE", 256)
        assert len(sums_launch.sort_launch(1, 900, k).digits) == 2


def points(b: int, n: int, d: int) -> mx.array:
    x = mx.array(np.random.default_rng([b, n, d]).standard_normal((b, n, d), np.float32))
    mx.eval(x)
    return x


def peak(call: Callable[[], Any]) -> int:
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    call()
    return mx.get_peak_memory() - before


def check_cap(call: Callable[[float], Any]) -> Any:
    """A fit runs under the least cap that the error message names."""
    with pytest.raises(
        ValueError, match=r"^max_mem_gb=1e-09 must be >= .* needs on the metal backend"
    ) as caught:
        call(1e-9)
    match = re.match(r"max_mem_gb=1e-09 must be >= (\S+) GB", str(caught.value))
    assert match
    need = float(match[1])
    results: list[Any] = []
    assert peak(lambda: results.append(call(need))) <= need * 1e9
    return results[0]


@pytest.mark.usefixtures("_small_table")
@pytest.mark.parametrize("strategy", ["fused", "addmm"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_a_cap(shape: tuple[int, int, int, int], strategy: str) -> None:
    *size, k = shape
    x = points(*size)
    w = np.random.default_rng(0).random(size[:2], np.float32)

    def call(cap: float) -> Any:
        return FITS["euclidean"](
            x,
            k,
            2,
            sample_weight=w,
            max_mem_gb=cap,
            empty="keep",
            strategy=strategy,
            backend="metal",
        )

    result = check_cap(call)
    assert result.strategy == strategy
    assert_labels_optimal(np.array(x), result.centroids, result.labels, "euclidean")


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.usefixtures("_small_table")
@pytest.mark.parametrize("strategy", ["fused", "addmm"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_an_iteration_takes_what_is_said(
    shape: tuple[int, int, int, int], strategy: str, weighted: bool
) -> None:
    *size, k = shape
    x = points(*size)
    w = np.ones(size[:2], np.float32) if weighted else None
    start = np.array(x[:, :k])
    with open_points("metal", Problem(x, k, EUCLIDEAN, x.shape, w, strategy=strategy)) as opened:
        taken = peak(lambda: opened.step(start, np.ones(size[0], int), 0.0, True))
        said = step_bytes(opened.shape, k, Device(), products=strategy == "addmm")
    assert taken <= said + 4096  # small arrays of a few bytes each
    # Products may need copies of rows, here they do not.
    assert strategy == "addmm" or taken >= said / 4


@pytest.mark.parametrize("metric", FITS)
def test_a_cap_counts_the_copy_of_strided_points(metric: str) -> None:
    x = points(1, 17, 4000).swapaxes(1, 2)
    result = check_cap(lambda cap: FITS[metric](x, 5, 2, max_mem_gb=cap, backend="metal"))
    assert_labels_optimal(np.array(x), result.centroids, result.labels, metric)


def test_memory_does_not_grow_with_iterations() -> None:
    k = 80
    x = points(1, 3000, 16)
    start = np.array(x[:, :k])

    def run(limit: int, at_least: int) -> None:
        with open_points("metal", Problem(x, k, EUCLIDEAN, x.shape)) as opened:
            opened.reset()
            step = opened.step(start.copy(), np.array([limit]), 0.0, True)
            assert step.iterations[0] >= at_least

    few = peak(lambda: run(15, 15))  # 1, 2, 4, 8: blocks have grown to their full length
    assert peak(lambda: run(1000, 24)) <= 1.02 * few
