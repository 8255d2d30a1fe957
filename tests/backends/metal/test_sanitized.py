"""Every kernel is clean under the sanitizers and passes the lint, on awkward shapes."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest
from metal.emulator import emulation
from metal.kit import needs_gpp
from metal.lint import lint, why_not

from flash_kmeans_mlx.backends.metal import groups, kernels, launch, order, sums, sums_launch, topk
from flash_kmeans_mlx.backends.metal.kernels import Moved, Normalisation
from flash_kmeans_mlx.backends.metal.sources import DEFINITIONS

pytestmark = [needs_gpp, pytest.mark.usefixtures("metal")]

Kernel = Callable[[], tuple[mx.array, ...]]


def draw(*shape: int, dtype: mx.Dtype = mx.float32) -> mx.array:
    return mx.array(np.random.default_rng(shape).standard_normal(shape).astype(np.float32)).astype(
        dtype
    )


def labels(b: int, n: int, k: int) -> mx.array:
    values = np.random.default_rng(n).integers(0, k, (b, n))
    values[:, ::2] = k // 2  # half of the points in one cluster
    return mx.array(values.astype(np.uint32))


def normalisation(b: int, d: int) -> Normalisation | None:
    """Points with an even number of features are normalised."""
    return None if d % 2 else Normalisation(draw(b, d), mx.ones((b,)))


def assign(b: int, n: int, k: int, d: int, dtype: mx.Dtype = mx.float32, tiles: int = 0) -> Kernel:
    return lambda: kernels.assign(
        draw(b, n, d, dtype=dtype),
        draw(b, k, d),
        draw(b, k),
        normalisation(b, d),
        tiles=launch.assign_tiles(d)[tiles],
    )


def assign_twice(b: int, n: int, k: int, d: int, dtype: mx.Dtype = mx.float32) -> Kernel:
    """Two E-steps by bounds; the second finds what the first left."""
    tiles = groups.tiles_for(k, d)
    assert tiles is not None

    def call() -> tuple[mx.array, ...]:
        x, c, frame = draw(b, n, d, dtype=dtype), draw(b, k, d), normalisation(b, d)
        rows = x.astype(mx.float32)
        if frame is not None:
            rows = (rows - frame.shift[:, None]) * frame.factor[:, None, None]
        grouping = groups.group_centroids(np.array(c), tiles)
        bounds = groups.start(n, c, tiles)
        for inner in (c, c + 1e-3 * draw(b, k, d)):
            bias = -0.5 * mx.square(inner).sum(-1)
            labels, bounds = groups.assign(
                x,
                inner,
                bias,
                frame,
                tiles=tiles,
                grouping=grouping,
                square=mx.square(rows).sum(-1),
                bounds=bounds,
            )
        return labels, *bounds

    return call


def accumulate(b: int, n: int, k: int, d: int, dtype: mx.Dtype = mx.float32) -> Kernel:
    """Points with an odd number of features have weights."""
    weights = mx.abs(draw(b, n)) if d % 2 else None
    return lambda: tuple(
        sums.accumulate(
            draw(b, n, d, dtype=dtype), labels(b, n, k), k, weights, normalisation(b, d)
        )
    )


def in_small_chunks(kernel: Kernel, *, dense: bool = False) -> Kernel:
    """The kernel with few rows a chunk, and unless `dense` with a sort for any number of clusters.

    The thread sanitizer follows few threads, slowly: so a few rows and clusters reach what takes
    thousands otherwise.
    """

    def call() -> tuple[mx.array, ...]:
        with pytest.MonkeyPatch.context() as patch:
            if not dense:
                patch.setattr(sums_launch, "DENSE_CLUSTERS", 0)
            patch.setattr(sums_launch, "JOIN_SIMDGROUPS", 2)
            patch.setattr(sums_launch, "LEAST_SORT_CHUNK", 64)
            patch.setattr(sums_launch, "LEAST_SUM_CHUNK", 32)
            return kernel()

    return call


def sort(b: int, n: int, k: int) -> Kernel:
    return lambda: tuple(order.counting_sort(labels(b, n, k), k))


def move(b: int, k: int, d: int, *, spherical: bool) -> Kernel:
    return lambda: kernels.move_centroids(
        sums=draw(b, k, d),
        weight_sum=mx.arange(b * k).reshape(b, k).astype(mx.float32),
        old=draw(b, k, d),
        active=mx.array([1, 0], mx.uint32),
        spherical=spherical,
        shift=None if spherical else draw(b, d),
        scale=None if spherical else mx.full((b,), 2.0),
    )


def check_moves(b: int, k: int) -> Kernel:
    unread = squares = draw(b, k)
    moved = Moved(unread, unread, unread, squares, still=labels(b, k, 2))
    return lambda: tuple(
        kernels.check_moves(
            moved,
            active=mx.array([1, 0], mx.uint32),
            status=mx.zeros((b,), mx.int32),
            shift=mx.ones((b,)),
            tol=mx.array(0.5),
        )
    )


SANITIZED: dict[str, Kernel] = {
    "assign: points": assign(2, 700, 259, 3, mx.float16),
    "assign: rows": assign(2, 67, 70, 33),
    "assign: streamed": assign(1, 65, 65, 131, mx.float16),
    "groups: rows": assign_twice(2, 67, 70, 33),
    "groups: streamed": assign_twice(1, 69, 65, 131, mx.float16),
    "argmax: long rows": lambda: kernels.argmax(draw(7, 133, dtype=mx.bfloat16)),
    "sums: dense": in_small_chunks(accumulate(1, 69, 33, 35), dense=True),
    "sums: sorted": in_small_chunks(accumulate(2, 300, 7, 17)),
    "sort: by two digits": in_small_chunks(sort(1, 300, 9000)),
    "move: means": move(2, 5, 33, spherical=False),
    "move: stop": check_moves(2, 37),
    "topk: fused": lambda: topk.topk(draw(2, 35, 17), draw(2, 70, 17), draw(2, 70), 5),
    "topk: of rows": lambda: topk.top_of_rows(draw(5, 133), 7),
}
CASES = SANITIZED | {
    "assign: one of everything": assign(1, 1, 1, 1),
    "assign: few features": assign(1, 133, 37, 9, mx.bfloat16),
    "groups: few of everything": assign_twice(1, 3, 2, 9, mx.bfloat16),
    "assign: second tiles": assign(1, 130, 35, 66, tiles=1),
    "argmax: short rows": lambda: kernels.argmax(draw(1, 5)),
    "sums: one of everything": accumulate(1, 1, 1, 1),
    "sums: dense, half": accumulate(1, 1100, 5, 6, mx.float16),
    "sums: sorted, half": in_small_chunks(accumulate(1, 1100, 9, 130, mx.float16)),
    "move: directions": move(2, 3, 1, spherical=True),
    "topk: in rounds": lambda: topk.topk(draw(1, 3, 2), draw(1, 41, 2), draw(1, 41), 40),
    "topk: of one row": lambda: topk.top_of_rows(draw(1, 5), 3),
}


def arrays(kernel: Kernel) -> list[np.ndarray]:
    return [np.array(a) for a in kernel()]


@pytest.mark.skipif(mx.metal.is_available(), reason="on a GPU kernels are not emulated")
@pytest.mark.sanitizer
@pytest.mark.parametrize("sanitizer", ["address", "thread"])
@pytest.mark.parametrize("case", SANITIZED)
def test_kernels_are_clean_under_sanitizers(case: str, sanitizer: str) -> None:
    plain = arrays(SANITIZED[case])
    with emulation(sanitizer=sanitizer, order=2) as run:
        for a, b in zip(plain, arrays(SANITIZED[case]), strict=True):
            np.testing.assert_allclose(
                a, b, rtol=1e-5, atol=1e-5
            )  # another optimiser contracts other products
    assert run.launches


@pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
@pytest.mark.parametrize("case", CASES)
def test_kernels_pass_the_lint(case: str) -> None:
    with emulation(dry=True) as run:
        CASES[case]()
    assert run.launches
    for found in run.launches:
        assert lint(found.source, found.name) == []


@pytest.mark.skipif(mx.metal.is_available(), reason="on a GPU kernels are not emulated")
def test_every_kernel_is_sanitized() -> None:
    with emulation(dry=True) as run:
        for case in SANITIZED.values():
            case()
    assert {found.name.removeprefix("flash_kmeans_") for found in run.launches} == set(DEFINITIONS)
