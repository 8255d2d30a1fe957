"""MetalPoints under Lloyd's loop give the same fit however it is cut into blocks.

It is also the fit of the portable backend, and the same bits whatever the order of threads.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from metal.emulator import emulation

from flash_kmeans_mlx import batch_kmeans_Euclid
from flash_kmeans_mlx.backends.metal import kernels, launch, points, sources
from flash_kmeans_mlx.backends.metal.block import Constants, Options, State, block
from flash_kmeans_mlx.backends.metal.device import Device
from flash_kmeans_mlx.backends.metal.points import MetalPoints
from flash_kmeans_mlx.backends.metal.strategy import Strategy
from flash_kmeans_mlx.backends.points import Points, Problem
from flash_kmeans_mlx.backends.portable.points import PortablePoints
from flash_kmeans_mlx.errors import BackendUnavailableError
from flash_kmeans_mlx.kmeans.empty_clusters import POLICIES
from flash_kmeans_mlx.kmeans.lloyd import Fit, lloyd
from flash_kmeans_mlx.metrics import COSINE, DOT, EUCLIDEAN, Metric

B, N, D, K = 2, 700, 17, 9

pytestmark = pytest.mark.usefixtures("metal")


def blobs(offset: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(3)
    centers = 2 * rng.standard_normal((B, K, D))
    means = np.take_along_axis(centers, rng.integers(0, K, (B, N, 1)), axis=1)
    return (means + rng.standard_normal((B, N, D)) + offset).astype(np.float32)


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
    with cls(Problem(mx.array(x), c.shape[1], metric, x.shape, weights)) as opened:
        result = lloyd(opened, c, **arguments, callback=report)
        return result, opened.labels(), opened.inertia(result.centroids)


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
    # Fits with many clusters come apart after a few iterations, where two are almost equally far.
    options = {"weights": weights, "max_iters": 30 if k == K else 4}
    ours, theirs = (
        fit(cls, x, start(x, k), metric, **options) for cls in (MetalPoints, PortablePoints)
    )
    np.testing.assert_array_equal(ours[0].n_iter, theirs[0].n_iter)
    assert (ours[1] != theirs[1]).mean() <= 2e-3
    np.testing.assert_allclose(ours[2], theirs[2], rtol=1e-5)


@pytest.mark.parametrize("empty", POLICIES)
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


@pytest.mark.parametrize("shape", [(2, 700, 17, 9), (1, 900, 3, 70), (1, 300, 130, 100)], ids=str)
@pytest.mark.parametrize("metric", [EUCLIDEAN, COSINE], ids=lambda m: m.name)
def test_any_order_of_threads_gives_the_same_bits(
    metric: Metric, shape: tuple[int, int, int, int]
) -> None:
    *size, k = shape
    x = np.random.default_rng(0).standard_normal(size, np.float32) + np.float32(5)
    fits = []
    for order in range(3):
        with emulation(order=order):
            fits.append(fit(MetalPoints, x, start(x, k), metric))
    same(fits[0], fits[1])
    same(fits[0], fits[2])
    np.testing.assert_array_equal(fits[0][2], fits[1][2])


@pytest.mark.parametrize("max_iters", [1, 2, 5])
def test_limit(max_iters: int) -> None:
    x = blobs()
    blocks = fit(MetalPoints, x, start(x), max_iters=max_iters)
    same(blocks, fit(MetalPoints, x, start(x), max_iters=max_iters, step_by_step=True))
    np.testing.assert_array_equal(blocks[0].n_iter, max_iters)


def test_no_limit_is_too_large_to_count() -> None:
    x = blobs()
    ended = fit(MetalPoints, x, start(x), max_iters=2**40)
    assert ended[0].converged.all()
    same(ended, fit(MetalPoints, x, start(x), max_iters=1000))


@pytest.mark.parametrize("scale", [2.0**64, 2.0**-64])
def test_tolerance_where_squares_of_moves_leave_float32(scale: float) -> None:
    x = blobs()
    plain = fit(MetalPoints, x, start(x), tol=0.3)
    scaled = fit(MetalPoints, x * np.float32(scale), start(x) * np.float32(scale), tol=0.3 * scale)
    np.testing.assert_array_equal(scaled[0].n_iter, plain[0].n_iter)
    np.testing.assert_array_equal(scaled[1], plain[1])


def test_tolerance() -> None:
    x = blobs()
    blocks = fit(MetalPoints, x, start(x), tol=0.3)
    same(blocks, fit(MetalPoints, x, start(x), tol=0.3, step_by_step=True))
    assert blocks[0].converged.all()
    assert blocks[0].n_iter.max() < fit(MetalPoints, x, start(x))[0].n_iter.max()


def test_a_block_computes_no_more_than_a_launch_may(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    real = points.block

    def spy(length: int, *rest: Any) -> Any:
        lengths.append(length)
        return real(length, *rest)

    monkeypatch.setattr(points, "block", spy)
    x = blobs()
    whole = fit(MetalPoints, x, start(x), max_iters=9)
    assert set(lengths) == {8}
    lengths.clear()
    monkeypatch.setattr(launch, "MAX_PRODUCTS", 3 * B * 1024 * K * D)
    same(whole, fit(MetalPoints, x, start(x), max_iters=9))
    assert set(lengths) == {4}
    lengths.clear()
    fit(MetalPoints, x, start(x), max_iters=1)
    assert lengths == [1]


@pytest.mark.parametrize("rows", [512, 1024], ids=["cut points", "whole batch elements"])
def test_an_e_step_of_several_launches(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU is waited for between launches; bits are those of one launch."""
    x = blobs(100.0)
    whole = fit(MetalPoints, x, start(x), step_by_step=True)
    monkeypatch.setattr(launch, "MAX_PRODUCTS", rows * K * D)
    launches: list[tuple[int, ...]] = []
    real = kernels.assign

    def spy(x: mx.array, *rest: Any, **options: Any) -> tuple[mx.array, mx.array]:
        launches.append(x.shape)
        return real(x, *rest, **options)

    monkeypatch.setattr(kernels, "assign", spy)
    same(whole, fit(MetalPoints, x, start(x)))
    assert set(launches) == {(1, min(rows, N), D), *([(1, N - rows, D)] if rows < N else [])}


def block_arguments(k: int) -> tuple[Constants, State]:
    x = blobs()
    with MetalPoints(Problem(mx.array(x), k, EUCLIDEAN, x.shape)) as opened:
        return opened._constants, opened._start(start(x, k), np.full(B, 8))


OPTIONS = Options(spherical=False, skip_empty=True, strategy=Strategy("fused"), device=Device())


@pytest.mark.parametrize(("k", "launches"), [(K, 7), (70, 8)])
def test_an_iteration_is_few_launches(
    k: int, launches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block is one graph of these kernels and of nothing else.

    It can be traced without data and without Metal, since nothing inside waits for the device.
    """
    constants, state = block_arguments(k)
    monkeypatch.undo()
    used = [i for i, a in enumerate(constants) if a is not None]

    def flat(*arrays: Any) -> list[Any]:
        filled: list[Any] = [None] * len(constants)
        for i, a in zip(used, arrays, strict=False):
            filled[i] = a
        state = State(*arrays[len(used) :])
        return list(block(8, OPTIONS, False)(Constants(*filled), state))[:-1]

    names: list[str] = []
    mx.export_function(
        lambda event: names.append(str(event.get("name"))),
        flat,
        *(constants[i] for i in used),
        *state[:-1],
    )
    operations = [name for name in names if name != "None"]
    assert operations == ["CustomKernel"] * (8 * launches)


@pytest.mark.parametrize("k", [8, 70])
def test_batch_elements_that_have_stopped_cost_copies_only(k: int) -> None:
    b, n, d = 32, 96, 64
    x = np.random.default_rng(0).standard_normal((b, n, d), np.float32)
    with MetalPoints(Problem(mx.array(x), k, EUCLIDEAN, x.shape)) as opened:
        constants, state = opened._constants, opened._start(x[:, :k].copy(), np.full(b, 9))
    state = block(1, OPTIONS, False)(constants, state)  # labels and sums

    def counted(running: np.ndarray) -> tuple[int, int, State]:
        started = state._replace(running=mx.array(running.astype(np.uint32)))
        with emulation(count=True) as run:
            after = block(1, OPTIONS, False)(constants, started)
        traffic = (t for one in run.launches for t in one.buffers)
        moved = sum(t.read_once + t.written_once for t in traffic)
        return moved, sum(one.work.matrix for one in run.launches), after

    bytes_of_all, products_of_all, _ = counted(np.ones(b))
    moved, products, after = counted(np.arange(b) % 2)
    copied = 2 * b // 2 * 4 * (n + k * (3 * d + 3))
    assert products == products_of_all // 2
    assert moved <= bytes_of_all // 2 + 1.1 * copied
    for name, before, now in zip(State._fields, state, after, strict=True):
        if name != "running":
            np.testing.assert_array_equal(np.array(now)[::2], np.array(before)[::2], name)
    assert not np.array(after.running)[::2].any()


def test_blocks_of_any_length_share_kernels() -> None:
    """All that a fit compiles are the kernels of one iteration, each once."""
    x = blobs()
    with emulation() as run:
        fit(MetalPoints, x, start(x, 70), max_iters=9)
        fit(MetalPoints, x, start(x, 70), max_iters=1)
    assert len({launched.source.msl for launched in run.launches}) == 8 + 1  # take_labels


def test_block_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    constants, state = block_arguments(K)

    def factory(**_: Any) -> Any:
        return lambda **call: [
            mx.zeros(s, t)
            for s, t in zip(call["output_shapes"], call["output_dtypes"], strict=True)
        ]

    monkeypatch.setattr(mx.fast, "metal_kernel", factory)
    mx.enable_compile()  # the emulator has turned it off
    try:
        run = block(2, OPTIONS, True)
        for _ in range(2):
            after = run(constants, state)
            mx.eval(*after)
            assert all(
                a.shape == b.shape and a.dtype == b.dtype
                for a, b in zip(after[:-1], state[:-1], strict=True)
            )
    finally:
        mx.disable_compile()
        block.cache_clear()  # it holds the stand-in


@pytest.mark.parametrize(("offset", "dtype"), [(0.0, mx.float16), (100.0, mx.float32)])
def test_numpy_points_that_need_no_frame_keep_their_dtype(offset: float, dtype: mx.Dtype) -> None:
    x = blobs(offset).astype(np.float16)
    with MetalPoints(Problem(x, K, EUCLIDEAN, x.shape)) as opened:
        assert opened.x.dtype == dtype
        np.testing.assert_array_equal(opened.rows(1, np.arange(3)), x[1, :3].astype(np.float64))


def test_refuses_what_kernels_cannot_take() -> None:
    x = mx.zeros((65536, 1, 1))
    message = (
        r"backend='metal' can't take x.shape=\(65536, 1, 1\) with n_clusters=1: B=65536 must be <= 65535, the most that a"
        r" launch takes; use backend='portable'"
    )
    with pytest.raises(BackendUnavailableError, match=message):
        batch_kmeans_Euclid(x, 1, backend="metal")


def test_a_kernel_that_does_not_compile_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(
        mx.fast, "metal_kernel", lambda **arguments: made.append(arguments["header"])
    )
    sources.build("argmax")
    assert made[0].startswith('#line 2 "flash_kmeans_argmax"\n')

    def refuse(*_: mx.array) -> None:
        raise RuntimeError("[metal::Device] Unable to build: flash_kmeans_argmax:7:1: error")

    monkeypatch.setattr(mx, "eval", refuse)
    with pytest.raises(
        RuntimeError, match=rf"under MLX {version('mlx')}: .* flash_kmeans_argmax:7:1"
    ):
        points._evaluate(mx.zeros(1))
