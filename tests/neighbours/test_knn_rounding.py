"""Exact neighbours of rows that float32 rounds badly: far, huge, tiny, nearly equal or parallel."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from exact_neighbours import METRICS, check, judge, points
from helpers import BACKENDS
from numpy.typing import NDArray

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.backends import bounds
from flash_kmeans_mlx.backends.cpu import neighbours as cpu_neighbours
from flash_kmeans_mlx.backends.portable import neighbours as topk

Array = NDArray[Any]


@pytest.mark.parametrize("backend", [b for b in BACKENDS if b != "reference"])
def test_far_from_the_origin(backend: str) -> None:
    rng = np.random.default_rng(0)
    x = 100 + 1e-3 * rng.standard_normal((200, 20))
    tight = 50 * rng.integers(-4, 5, (200, 20))[
        rng.integers(6, size=200)
    ] + 1e-3 * rng.standard_normal((200, 20))
    for data in (
        x,
        x.astype(np.float32),
        1e6 + 1e-3 * rng.standard_normal((200, 20)),
        tight.astype(np.float32),
    ):
        for metric in ("euclidean", "l1", "linf"):
            check(data[:30], data, 5, metric, fk.knn(data[:30], data, 5, metric, backend=backend))


@pytest.mark.parametrize("scale", [1e-40, 1e-25, 1e15, 1e30])
@pytest.mark.parametrize("backend", [b for b in BACKENDS if b != "reference"])
def test_extreme_magnitudes(backend: str, scale: float) -> None:
    x = np.concatenate([np.zeros((3, 9)), points(60, 9)])
    for metric in METRICS:
        _, indices = fk.knn(
            (x * scale).astype(np.float32),
            (x * scale).astype(np.float32),
            4,
            metric,
            backend=backend,
        )
        if scale > 1e-40:
            check(x, x, 4, metric, (fk.knn(x, x, 4, metric, backend="reference")[0], indices))
        assert np.asarray(indices).max() < 63


def test_values_that_a_sample_does_not_show() -> None:
    x = points(5000, 4)
    x[4001] *= 1e25
    check(x[:50], x, 3, "l1", fk.knn(x[:50], x, 3, "l1", backend="cpu"))
    for bad in (np.nan, np.inf):
        x[4001, 2] = bad
        for metric in METRICS:
            with pytest.raises(
                ValueError,
                match=r"data must be finite, got NaN or Inf \(data.shape=\(1, 5000, 4\)\)",
            ):
                fk.knn(x[:50], x, 3, metric, backend="cpu")


def nearly_parallel(n: int, d: int, spread: float) -> Array:
    """(N, D) float64 unit rows, and others of their directions."""
    rng = np.random.default_rng([n, d])
    rows = rng.standard_normal(d) / np.sqrt(d) + spread * rng.standard_normal((n, d)) / np.sqrt(d)
    return rows * rng.uniform(0.5, 2, (n, 1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_nearly_parallel_rows(backend: str, dtype: str) -> None:
    for x in (
        nearly_parallel(300, 40, 1e-3),
        nearly_parallel(300, 40, 1e-6),
        300 + points(300, 40),
    ):
        data = x.astype(dtype)
        for metric in ("cosine", "dot"):
            judge(data[:20], data, 5, metric, fk.knn(data[:20], data, 5, metric, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_bundles_of_nearly_parallel_rows(backend: str) -> None:
    x = points(6, 33)[np.arange(240) % 6] + np.float32(1e-5) * points(
        240, 33
    )  # whose mean is no origin for any of them
    for metric in METRICS:
        judge(x[:24], x, 7, metric, fk.knn(x[:24], x, 7, metric, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_that_float32_cannot_tell_apart(backend: str) -> None:
    x = points(4, 9).astype(np.float64)[np.arange(200) % 4] * 1e3 + 1e-6 * points(200, 9)
    for metric in METRICS:
        judge(x[:12], x, 5, metric, fk.knn(x[:12], x, 5, metric, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_unlike_magnitudes(backend: str) -> None:
    sizes = 10.0 ** np.random.default_rng(0).uniform(-35, 35, (200, 1))
    for x in (
        (points(200, 9) * sizes).astype(np.float32),
        1e-200 * points(200, 9).astype(np.float64),
    ):
        for metric in METRICS if x.dtype == np.float32 else ("cosine", "dot"):
            judge(x[:12], x, 5, metric, fk.knn(x[:12], x, 5, metric, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_small_angles_are_those_of_the_rows(backend: str) -> None:
    angle = np.array([0.0, 1e-9, 1e-7, 1e-4, 1e-2, 1.0])
    rows = np.stack([np.cos(angle), np.sin(angle)], 1) * [[1], [3], [5], [7], [9], [11]]
    distances, indices = fk.knn(rows[:1], rows[::-1], 6, "cosine", backend=backend)
    np.testing.assert_array_equal(indices, [[5, 4, 3, 2, 1, 0]])
    np.testing.assert_allclose(distances, 2 * np.sin(angle[None] / 2) ** 2, rtol=1e-6)
    parallel = points(1, 30).astype(np.float64) * np.arange(40, 0, -1)[:, None] / 7
    np.testing.assert_array_equal(
        fk.knn(parallel[:2], parallel, 9, "cosine", backend=backend)[1], [range(9)] * 2
    )


def test_products_in_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounded(a: mx.array) -> mx.array:
        return (a.view(mx.uint32) + 0x1000 & 0xFFFFE000).view(mx.float32)

    def score(self: Any, queries: mx.array, rows: mx.array, products: bool) -> mx.array:
        if not products:
            return original(self, queries, rows, products)
        square = 0 if self.request.proximity.product else 0.5 * mx.square(rows).sum(1)
        return rounded(queries) @ rounded(rows).T - square

    original = topk.PortableNeighbours._score
    monkeypatch.setattr(topk.PortableNeighbours, "_score", score)
    monkeypatch.setattr(topk, "product_rounding", lambda: bounds.TF32)
    x = points(600, 30)
    for metric in ("euclidean", "cosine", "dot"):
        judge(x[:30], x, 5, metric, fk.knn(x[:30], x, 5, metric, backend="portable"))


def test_only_doubtful_queries_are_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    original = cpu_neighbours.look_again

    def look_again(scoring: Any, which: Array, *rest: Any, **options: Any) -> None:
        asked.append(len(which))
        original(scoring, which, *rest, **options)

    monkeypatch.setattr(cpu_neighbours, "look_again", look_again)
    x = points(900, 20)
    whole = np.rint(x).astype(np.float32)
    for data in (
        x,
        whole,
        whole[np.arange(900) % 5],
        x[np.arange(900) % 5],
    ):  # ties, and rows that are equal
        for metric in ("euclidean", "l1", "linf"):
            fk.knn(data[:300], data, 5, metric, backend="cpu")
    for metric in ("cosine", "dot"):
        fk.knn(x[:300], x, 5, metric, backend="cpu")
        fk.knn(np.zeros((3, 20)), x, 5, metric, backend="cpu")
    assert not asked
    bundle = x[0] + np.float32(1e-6) * x
    for metric in ("cosine", "dot"):
        fk.knn(
            np.concatenate([x[:50], bundle[:30]]),
            np.concatenate([x[1:], bundle]),
            5,
            metric,
            backend="cpu",
        )
    assert len(asked) == 2 and all(1 <= n < 80 for n in asked)
