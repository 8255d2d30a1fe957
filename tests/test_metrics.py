"""The metrics against their definitions."""

from __future__ import annotations

import helpers
import numpy as np
import pytest

from flash_kmeans_mlx.metrics import COSINE, DOT, EUCLIDEAN, METRICS, Metric, unit_rows

every_metric = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)


def problem() -> tuple[np.ndarray, np.ndarray]:
    x = helpers.blobs(1, 300, 5, 4)[0]
    return x, x[:7].astype(np.float32)


def test_the_public_names() -> None:
    assert {"euclidean": EUCLIDEAN, "cosine": COSINE, "dot": DOT} == METRICS
    assert all(name == metric.name for name, metric in METRICS.items())


@every_metric
def test_the_best_score_is_the_least_distance(metric: Metric) -> None:
    x, c = problem()
    c = metric.start(c)
    scores = x @ c.T + metric.bias(c)
    np.testing.assert_array_equal(scores.argmax(1), helpers.costs(x, c, metric.name).argmin(1))


@every_metric
def test_distances(metric: Metric) -> None:
    x, c = problem()
    found, expected = metric.distances(x, c.astype(np.float64)), helpers.costs(x, c, metric.name)
    assert found.dtype == np.float64
    found = np.square(found) if metric is EUCLIDEAN else found
    # Squares are expanded: forty units of float64, about the mean.
    np.testing.assert_allclose(
        found, expected, rtol=0, atol=40 * np.finfo(float).eps * np.abs(expected).max()
    )


def test_distances_do_not_feel_an_offset() -> None:
    x, c = problem()
    near, far = (EUCLIDEAN.distances(x + o, c.astype(np.float64) + o) for o in (0.0, 1e6))
    # The root of what 1e6 leaves of float64, at distance zero.
    np.testing.assert_allclose(far, near, rtol=0, atol=1e-4)
    np.testing.assert_allclose(np.square(far), np.square(near), rtol=0, atol=1e-8)


def test_bias_is_half_the_squared_norm_or_nothing() -> None:
    c = np.array([[[3.0, 4.0], [0.0, 1.0]]], np.float32)
    assert EUCLIDEAN.bias(c).tolist() == [[-12.5, -0.5]]
    assert COSINE.bias(c).tolist() == DOT.bias(c).tolist() == [[0.0, 0.0]]
    assert all(m.bias(c).dtype == np.float32 for m in METRICS.values())


def test_bias_is_summed_in_float64() -> None:
    c = np.full((1, 100_000), np.float32(0.1))
    assert EUCLIDEAN.bias(c)[0] == np.float32(-0.5 * np.square(c.astype(np.float64)).sum())


@every_metric
def test_finalize_minimises_the_cost(metric: Metric) -> None:
    x, c = problem()
    labels, w = np.arange(300) % 7, np.random.default_rng(0).gamma(1.0, size=300)
    rows = helpers.unit(x) if metric.unit_points else x
    sums = np.stack([(w[:, None] * rows)[labels == k].sum(0) for k in range(7)])
    weight_sum = np.bincount(labels, w)
    new = metric.finalize(sums, weight_sum, c)
    np.testing.assert_allclose(new, helpers.centre(x, labels, c, metric.name, w), rtol=1e-12)


@every_metric
def test_finalize_keeps_clusters_without_points(metric: Metric) -> None:
    previous = np.array([[[0.6, 0.8], [1.0, 0.0]]])
    sums, weight_sum = np.array([[[0.0, 0.0], [0.0, 4.0]]]), np.array([[0.0, 2.0]])
    expected = [[[0.6, 0.8], [0.0, 2.0 if metric is EUCLIDEAN else 1.0]]]
    assert metric.finalize(sums, weight_sum, previous).tolist() == expected


def test_finalize_of_points_that_cancel() -> None:
    """Their mean is the origin; a direction they have none, so the old one stays."""
    previous, sums, weight_sum = np.array([[1.0, 0.0]]), np.zeros((1, 2)), np.array([2.0])
    assert EUCLIDEAN.finalize(sums, weight_sum, previous).tolist() == [[0.0, 0.0]]
    assert COSINE.finalize(sums, weight_sum, previous).tolist() == [[1.0, 0.0]]


@every_metric
def test_start_is_idempotent_and_unit_where_it_must_be(metric: Metric) -> None:
    _, c = problem()
    once = metric.start(c)
    np.testing.assert_array_equal(
        metric.start(once.astype(np.float32)).astype(np.float32), once.astype(np.float32)
    )
    norms = np.linalg.norm(once, axis=1)
    assert (once is c) if metric is EUCLIDEAN else np.allclose(norms, 1, rtol=1e-15)


@pytest.mark.parametrize("size", [1.0, 1e-300, 5e-324, 1e300, 1.7e308], ids=str)
def test_unit_rows_of_any_size(size: float) -> None:
    x = size * np.array([[1.0, 0.0], [0.0, -1.0], [1.0, 1.0], [0.0, 0.0]])
    half = 0.5**0.5
    np.testing.assert_allclose(unit_rows(x), [[1, 0], [0, -1], [half, half], [0, 0]], rtol=1e-15)


def test_unit_rows_are_float64_and_leave_their_input_alone() -> None:
    x = np.array([[3, 4]], np.float16)
    out = unit_rows(x)
    assert out.dtype == np.float64 and x.tolist() == [[3.0, 4.0]]
    np.testing.assert_allclose(out, [[0.6, 0.8]], rtol=1e-15)
