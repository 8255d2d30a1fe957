"""Points, centroids and biases for the kernels of the package, with the truth in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx
import numpy as np
from helpers import tolerance

from flash_kmeans_mlx.backends.metal.kernels import Normalisation
from metal.emulator import emulation

DTYPES = (mx.float32, mx.float16, mx.bfloat16)
DIMS = (1, 3, 8, 17, 64, 130)


def run(kernel: Callable[[], tuple[mx.array, ...]]) -> tuple[np.ndarray, ...]:
    """The kernel's arrays, the same bits whatever the order of threads."""
    results = []
    for order in range(3):
        with emulation(order=order):
            results.append([np.array(a) for a in kernel()])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
    return tuple(results[0])


class Data(NamedTuple):
    """Points, centroids and bias; `rows` are the points as kernels read them, exactly."""

    x: mx.array
    c: mx.array
    bias: mx.array
    normalisation: Normalisation | None
    rows: np.ndarray

    @property
    def scores(self) -> np.ndarray:
        products = np.einsum("bnd,bkd->bnk", self.rows, np.array(self.c, np.float64))
        return products + np.array(self.bias, np.float64)[:, None]

    @property
    def tolerance(self) -> float:
        """Rounding of a score, absolute."""
        points = np.linalg.norm(self.rows, axis=-1).max()
        centroids = np.linalg.norm(np.array(self.c), axis=-1).max()
        largest = points * centroids + np.abs(np.array(self.bias)).max() + 1e-30
        return tolerance(self.x.shape[2]) * largest


def make(
    b: int, n: int, k: int, d: int, dtype: mx.Dtype, *, framed: bool, integers: bool = False
) -> Data:
    rng = np.random.default_rng(1000 * n + 10 * k + d)

    def draw(*shape: int) -> np.ndarray:
        values = rng.integers(-2, 3, shape) if integers else rng.standard_normal(shape)
        return values.astype(np.float32)

    x = mx.array(draw(b, n, d) + (3 if framed else 0)).astype(dtype)
    c = draw(b, k, d)
    rows = np.array(x.astype(mx.float32), np.float64)
    bias = (-0.5 * np.square(c.astype(np.float64)).sum(-1)).astype(np.float32)
    if not framed:
        return Data(x, mx.array(c), mx.array(bias), None, rows)
    shift = np.full((b, d), 3, np.float32) + np.arange(d, dtype=np.float32) % 2
    factor = np.ldexp(1.0, np.arange(b) - 1).astype(np.float32)
    rows = (rows - shift[:, None]) * factor[:, None, None]
    normalisation = Normalisation(mx.array(shift), mx.array(factor))
    return Data(x, mx.array(c), mx.array(bias), normalisation, rows)


def variant(d: int) -> tuple[mx.Dtype, bool]:
    """One dtype, and framed or not, for each D, so that few kernels are compiled."""
    at = DIMS.index(d)
    return DTYPES[at % 3], at % 2 == 0
