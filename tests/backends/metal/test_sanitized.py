"""Every Metal kernel on awkward shapes under the sanitizers, and more of them before the lint."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest
from metal.emulator import emulation
from metal.kit import needs_gpp
from metal.lint import lint, why_not

from flash_kmeans_mlx.backends.metal import kernels, launch
from flash_kmeans_mlx.backends.metal import kernels as topk
from flash_kmeans_mlx.backends.metal.sources import DEFINITIONS

pytestmark = [needs_gpp, pytest.mark.usefixtures("metal")]

Kernel = Callable[[], tuple[mx.array, ...]]


def draw(*shape: int, dtype: mx.Dtype = mx.float32) -> mx.array:
    return mx.array(np.random.default_rng(shape).standard_normal(shape).astype(np.float32)).astype(
        dtype
    )


def labels(b: int, n: int, k: int) -> mx.array:
    found = np.random.default_rng(n).integers(0, k, (b, n))
    found[:, ::2] = k // 2  # half of the points in one cluster
    return mx.array(found.astype(np.uint32))


def assign(b: int, n: int, k: int, d: int, dtype: mx.Dtype = mx.float32, config: int = 0) -> Kernel:
    frame = () if d % 2 else (draw(b, d), mx.ones((b,)))
    tiles = launch.assign_configs(d)[config]
    return lambda: kernels.assign(
        draw(b, n, d, dtype=dtype), draw(b, k, d), draw(b, k), *frame, config=tiles
    )


def accumulate(
    b: int, n: int, k: int, d: int, dtype: mx.Dtype = mx.float32, dense: int = launch.DENSE_CLUSTERS
) -> Kernel:
    weights = mx.abs(draw(b, n)) if d % 2 else None
    frame = (None, None) if d % 2 else (draw(b, d), mx.ones((b,)))

    def kernel() -> tuple[mx.array, ...]:
        with (
            pytest.MonkeyPatch.context() as patch
        ):  # the thread sanitizer follows few threads: a sort of few clusters
            patch.setattr(launch, "DENSE_CLUSTERS", dense)
            return tuple(
                kernels.accumulate(draw(b, n, d, dtype=dtype), labels(b, n, k), k, weights, *frame)
            )

    return kernel


def move(b: int, k: int, d: int, *, spherical: bool) -> Kernel:
    weight_sum, going = (
        mx.array(np.arange(b * k).reshape(b, k).astype(np.float32)),
        mx.array([True, False]),
    )
    frame = () if spherical else (draw(b, d), mx.full((b,), 2.0))
    return lambda: kernels.move_centroids(
        draw(b, k, d), weight_sum, draw(b, k, d), going, *frame, spherical=spherical
    )


SANITIZED: dict[str, Kernel] = {
    "assign: points": assign(2, 700, 259, 3, mx.float16),
    "assign: rows": assign(2, 67, 70, 33),
    "assign: streamed": assign(1, 65, 65, 131, mx.float16),
    "argmax: long rows": lambda: kernels.argmax(draw(7, 133, dtype=mx.bfloat16)),
    "sums: dense": accumulate(2, 513, 33, 35),
    "sums: sorted": accumulate(2, 2300, 7, 17, dense=0),
    "sort: by two digits": lambda: tuple(kernels.counting_sort(labels(1, 700, 9000), 9000)),
    "move: means": move(2, 5, 33, spherical=False),
    "topk: fused": lambda: topk.topk(draw(2, 35, 17), draw(2, 70, 17), draw(2, 70), 5),
    "topk: of rows": lambda: topk.top_of_rows(draw(5, 133), 7),
}
CASES = SANITIZED | {
    "assign: one of everything": assign(1, 1, 1, 1),
    "assign: few features": assign(1, 133, 37, 9, mx.bfloat16),
    "assign: second tiles": assign(1, 130, 35, 66, config=1),
    "argmax: short rows": lambda: kernels.argmax(draw(1, 5)),
    "sums: one of everything": accumulate(1, 1, 1, 1),
    "sums: dense, half": accumulate(1, 1100, 5, 6, mx.float16),
    "sums: sorted, half": accumulate(1, 1100, 9, 130, mx.float16, dense=0),
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
    with emulation() as run:
        CASES[case]()
    assert run.launches
    for found in run.launches:
        assert lint(found.source, found.name) == []


@pytest.mark.skipif(mx.metal.is_available(), reason="on a GPU kernels are not emulated")
def test_every_kernel_is_sanitized() -> None:
    with emulation() as run:
        for case in SANITIZED.values():
            case()
    assert {found.name.removeprefix("flash_kmeans_") for found in run.launches} == set(DEFINITIONS)
