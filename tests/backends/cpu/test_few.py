"""A few queries, each row scored by itself: the same bits as queries as SIMD lanes, and bounds that hold."""

from __future__ import annotations

import numpy as np
import pytest
from exact_neighbours import METRICS

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.backends import bounds
from flash_kmeans_mlx.backends.cpu import few, kernels
from flash_kmeans_mlx.backends.cpu import neighbours as cpu_neighbours
from flash_kmeans_mlx.backends.cpu.workers import Workers
from flash_kmeans_mlx.metrics import PROXIMITIES

KINDS = ("gaussian", "whole", "repeated", "far", "tiny", "huge", "zeros", "mixed")


def make_rows(kind: str, n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    x = rng.standard_normal((n, d))
    if kind == "whole":
        x = np.rint(x)
    if kind == "repeated":
        x = x[rng.integers(0, min(7, n), n)]
    if kind == "far":
        x += 1000
    if kind == "zeros":
        x[::3] = 0
    if kind == "mixed":
        x *= np.exp2(rng.integers(-70, 70, (n, 1)))
    return (x * {"tiny": 1e-30, "huge": 1e37}.get(kind, 1.0)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", METRICS)
def test_bits_are_those_of_lanes(metric: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for n, d, q, k in ((1, 3, 2, 1), (70, 16, 3, 5), (400, 33, 70, 40), (3000, 9, 2, 128)):
        x, y = make_rows(kind, n, d, rng), make_rows(kind, q, d, rng)
        y[::2] = x[: len(y[::2])] if n > q else y[::2]
        with monkeypatch.context() as patch:
            found = fk.knn(y, x, k, metric, backend="cpu")
            patch.setattr(cpu_neighbours, "few_are_faster", lambda *_: False)
            expected = fk.knn(y, x, k, metric, backend="cpu")
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot", "l1"])
def test_bits_do_not_depend_on_threads(metric: str) -> None:
    rng = np.random.default_rng(0)
    x = np.rint(rng.standard_normal((900, 5))).astype(np.float32)
    op = cpu_neighbours.score_op(PROXIMITIES[metric])
    results = []
    for threads in (1, 3, 8):
        out = np.empty((4, 30)), np.empty((4, 30), np.int64)
        workers = Workers(threads)
        assert few.nearest_of_few(op, x[:4], x, 0, out, workers)
        workers.close()
        results.append(out)
        assert not (out[1] == np.arange(4)[:, None]).any()  # which are skipped
    for out in results[1:]:
        for a, b in zip(results[0], out, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("metric", METRICS)
def test_values_that_are_not_finite_are_found(metric: str, value: float) -> None:
    x = np.random.default_rng(0).standard_normal((50, 20)).astype(np.float32)
    queries = np.zeros((1, 20), np.float32)
    for place in (0, 17, 49):
        bad = x.copy()
        bad[place, place % 20] = value
        with pytest.raises(ValueError, match="data must be finite"):
            fk.knn(queries, bad, 3, metric, backend="cpu")


@pytest.mark.parametrize("d", [1, 16, 700])
def test_proofs_are_those_of_bounds(d: int) -> None:
    """A kernel calls no row farther of which the bounds of other backends do not say so."""
    scores = kernels.scores
    query = np.full(d, 3.0, np.float32)
    norm = float(np.sqrt(np.sum(query.astype(np.float64) ** 2)))
    distances = np.array([0.0, 1e-40, 1e-9, 0.3, 1.0, 1e9])

    def check(op: int, least: np.ndarray, reach: float) -> None:
        for distance, score in zip(distances, least, strict=True):
            near = np.float64(score) + 1e-5 * abs(np.float64(score)) + 1e-37
            is_farther = kernels.proofs.is_farther(op, near, distance, query, reach)
            assert not is_farther, (op, distance)
            far = np.float64(score) - 1e-4 * (1.0 + abs(score))
            assert kernels.proofs.is_farther(op, far, distance, query, reach)

    squares = bounds.least_by_differences(
        PROXIMITIES["euclidean"], distances, distances, d, 1.0, rounded=False
    )
    check(scores.SQUARES, squares, 0.0)
    products = bounds.least_by_products(PROXIMITIES["dot"], distances, norm, d, reach=2.0)
    check(scores.DOT, products, 2.0)
    angles = bounds.least_by_products(
        PROXIMITIES["cosine"], distances, 1.0, d, rounded=4 * bounds.EPS
    )
    check(scores.COSINE, angles, 1.0)
    assert not kernels.proofs.is_farther(scores.COSINE, -5.0, 0.1, query, np.inf)
