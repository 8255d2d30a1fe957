"""The kernels of k-means++ by themselves, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from flash_kmeans_mlx.backends.cpu import kernels

RNG = np.random.default_rng


@pytest.mark.parametrize("n", [1, 511, 512, 513, 2000])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_draws_follow_the_cumulative_potential(weighted: bool, n: int) -> None:
    nearest = np.rint(9 * RNG(0).random(n)).astype(np.float32)
    nearest[0] = 1
    w = RNG(1).integers(0, 3, n).astype(np.float32) if weighted else np.zeros(0, np.float32)
    w[:1] = 1
    potential = nearest * (w if weighted else 1)
    blocks = np.zeros(-(-n // kernels.seed.DRAW))
    uniforms = np.append((np.arange(999) + 0.5) / 999, [0.0, 1 - 2**-53])
    kernels.seed.sum_blocks(nearest, w, 0, n, blocks)
    assert blocks.sum() == potential.sum()
    out = np.full(len(uniforms), -1, np.int64)
    kernels.seed.draw(nearest, w, blocks, uniforms, out)
    whole = np.cumsum(potential, dtype=np.float64)
    np.testing.assert_array_equal(out, np.searchsorted(whole, uniforms * whole[-1], side="right"))


def test_there_is_nothing_to_draw_from_nothing() -> None:
    out = np.full(3, -1, np.int64)
    kernels.seed.draw(
        np.zeros(600, np.float32),
        np.zeros(0, np.float32),
        np.zeros(2),
        np.array([0.0, 0.5, 0.9]),
        out,
    )
    assert out.tolist() == [-1, -1, -1]
