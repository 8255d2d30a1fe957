"""MetalPoints under Lloyd's loop: the same fit however it is cut into blocks, and that of the portable backend."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from metal.compiler import why_not
from metal.emulator import EmulatedKernel, emulation

from flash_kmeans_mlx.backends.base import Points, Problem
from flash_kmeans_mlx.backends.metal import points as metal_points
from flash_kmeans_mlx.backends.metal.launch import Device
from flash_kmeans_mlx.backends.metal.points import MetalPoints
from flash_kmeans_mlx.backends.portable import PortablePoints
from flash_kmeans_mlx.errors import BackendUnavailableError
from flash_kmeans_mlx.lloyd import Fit, lloyd
from flash_kmeans_mlx.metrics import COSINE, DOT, EUCLIDEAN, Metric

B, N, D, K = 2, 700, 17, 9


@pytest.fixture(autouse=True)
def _emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    if not mx.metal.is_available():
        if reason := why_not():
            pytest.skip(reason)
        monkeypatch.setattr(mx.fast, "metal_kernel", EmulatedKernel)


def blobs(offset: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(3)
    centers = 2 * rng.standard_normal((B, K, D))
    own = np.take_along_axis(centers, rng.integers(0, K, (B, N, 1)), axis=1)
    return (own + rng.standard_normal((B, N, D)) + offset).astype(np.float32)


def start(x: np.ndarray, k: int = K) -> np.ndarray:
    return x[:, np.random.default_rng(0).choice(x.shape[1], k, replace=False)].copy()


def fit(
    cls: type[Points],
    x: np.ndarray,
    c: np.ndarray,
    metric: Metric = EUCLIDEAN,
    *,
    step_by_step: bool = False,
    **options: Any,
) -> tuple[Fit, np.ndarray, np.ndarray]:
    arguments = {"max_iters": 30, "tol": 0.0, "empty": "farthest"} | options
    weights = arguments.pop("weights", None)
    report = (lambda _: None) if step_by_step else None
    with emulation(), cls(Problem(mx.array(x), c.shape[1], metric, weights)) as points:
        result = lloyd(points, c, **arguments, report=report)
        return result, points.labels(), points.inertia(result.centroids)


def same(a: tuple[Fit, np.ndarray, np.ndarray], b: tuple[Fit, np.ndarray, np.ndarray]) -> None:
    np.testing.assert_array_equal(a[0].n_iter, b[0].n_iter)
    np.testing.assert_array_equal(a[0].converged, b[0].converged)
    np.testing.assert_array_equal(a[1], b[1])
    np.testing.assert_array_equal(a[0].centroids, b[0].centroids)


@pytest.mark.parametrize("metric", [EUCLIDEAN, COSINE, DOT], ids=lambda m: m.name)
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_blocks_equal_single_steps(metric: Metric, offset: float) -> None:
    x = blobs(offset)
    blocks = fit(MetalPoints, x, start(x), metric)
    same(blocks, fit(MetalPoints, x, start(x), metric, step_by_step=True))
    assert blocks[0].n_iter.max() > 4


@pytest.mark.parametrize("metric", [EUCLIDEAN, COSINE, DOT], ids=lambda m: m.name)
@pytest.mark.parametrize("k", [K, 70])
def test_same_fit_as_portable(metric: Metric, k: int) -> None:
    x = blobs()
    weights = (np.random.default_rng(1).random((B, N)) * (np.arange(N) % 5 > 0)).astype(np.float32)
    ours, theirs = (fit(cls, x, start(x, k), metric, weights=weights) for cls in (MetalPoints, PortablePoints))
    np.testing.assert_array_equal(ours[0].n_iter, theirs[0].n_iter)
    assert (ours[1] != theirs[1]).mean() <= 2e-3
    np.testing.assert_allclose(ours[2], theirs[2], rtol=1e-5)


@pytest.mark.parametrize("empty", ["farthest", "split", "keep"])
def test_empty_clusters(empty: str) -> None:
    x = blobs()
    c = start(x)
    c[1, :3] += 1000
    blocks = fit(MetalPoints, x, c, empty=empty)
    same(blocks, fit(MetalPoints, x, c, empty=empty, step_by_step=True))
    np.testing.assert_allclose(blocks[2], fit(PortablePoints, x, c, empty=empty)[2], rtol=1e-5)


def test_stack_of_fits_is_the_fits_of_the_stack() -> None:
    x = blobs()
    c = start(x)
    both = fit(MetalPoints, x, c)
    for b in range(B):
        alone = fit(MetalPoints, x[b : b + 1], c[b : b + 1])
        np.testing.assert_array_equal(alone[0].centroids[0], both[0].centroids[b])
        np.testing.assert_array_equal(alone[1][0], both[1][b])
        assert alone[0].n_iter[0] == both[0].n_iter[b]


@pytest.mark.parametrize("max_iters", [1, 2, 5])
def test_limit(max_iters: int) -> None:
    x = blobs()
    blocks = fit(MetalPoints, x, start(x), max_iters=max_iters)
    same(blocks, fit(MetalPoints, x, start(x), max_iters=max_iters, step_by_step=True))
    np.testing.assert_array_equal(blocks[0].n_iter, max_iters)


def test_tolerance() -> None:
    x = blobs()
    blocks = fit(MetalPoints, x, start(x), tol=0.3)
    same(blocks, fit(MetalPoints, x, start(x), tol=0.3, step_by_step=True))
    assert blocks[0].converged.all()
    assert blocks[0].n_iter.max() < fit(MetalPoints, x, start(x))[0].n_iter.max()


def test_blocks_grow_from_one(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    block = metal_points._block

    def spy(length: int, *rest: Any) -> Any:
        lengths.append(length)
        return block(length, *rest)

    monkeypatch.setattr(metal_points, "_block", spy)
    x = blobs()
    fit(MetalPoints, x, start(x), max_iters=9)
    assert lengths[:3] == [1, 2, 4][: len(lengths)]
    assert sum(lengths) <= 9


@pytest.fixture
def block_arguments() -> tuple[metal_points.Held, metal_points.State]:
    x = blobs()
    with MetalPoints(Problem(mx.array(x), K, EUCLIDEAN)) as points:
        return points._held, points._start(start(x), np.full(B, 8))


def test_block_is_one_graph(block_arguments: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing runs without data, and on a machine without Metal: nothing inside a block waits for the device."""
    monkeypatch.undo()
    held, state = block_arguments
    used = [i for i, a in enumerate(held) if a is not None]
    block = metal_points._block(8, spherical=False, skip_empty=False, gpu=Device(), compiled=False)

    def flat(*arrays: mx.array) -> list[mx.array]:
        given: list[Any] = [None] * len(held)
        for i, a in zip(used, arrays, strict=False):
            given[i] = a
        return list(block(metal_points.Held(*given), metal_points.State(*arrays[len(used) :])))

    names: list[str] = []
    mx.export_function(lambda event: names.append(str(event.get("name"))), flat, *(held[i] for i in used), *state)
    assert names.count("CustomKernel") == 3 * 8


def test_block_compiles(block_arguments: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def factory(**_: Any) -> Any:
        return lambda **call: [
            mx.zeros(s, t) for s, t in zip(call["output_shapes"], call["output_dtypes"], strict=True)
        ]

    monkeypatch.setattr(mx.fast, "metal_kernel", factory)
    block = metal_points._block(2, spherical=False, skip_empty=True, gpu=Device(), compiled=True)
    for _ in range(2):
        state = block(*block_arguments)
        mx.eval(*state)
        np.testing.assert_array_equal(np.array(state.left), 6)
    metal_points._block.cache_clear()  # it holds the stand-in


def test_refuses_what_kernels_cannot_take() -> None:
    x = mx.zeros((65536, 1, 1))
    with pytest.raises(BackendUnavailableError, match=r"backend='metal' can't run here: B=65536"):
        MetalPoints(Problem(x, 1, EUCLIDEAN))
