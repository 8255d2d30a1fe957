"""Offsets, magnitudes and outliers that float32 squares can't hold: finite, as good as float64 says, never one cluster."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import (
    FITS,
    INITS,
    Array,
    assert_labels_optimal,
    blobs,
    every_backend,
    every_metric,
    given,
    inertia,
    sift_like,
    to_float64,
)

import flash_kmeans_mlx as fk

# N, D, K. The CPU backend reads few dimensions in another way than many.
FEW, MANY = (700, 6, 5), (600, 41, 5)
BIG = (21000, 30, 17)  # N * K * D > 1e7: over threads


def sizes(backend: str) -> list[tuple[int, int, int]]:
    """Return the sizes at which a backend works in ways of its own."""
    return [FEW, MANY] if backend == "cpu" else [MANY]


def check(
    x: Any, k: int, metric: str, backend: str, init: str, rel: float = 1e-4
) -> fk.KMeansResult:
    """Return a fit, known to have the best labels, no empty cluster and the inertia that float64 finds.

    Args:
        rel: Relative error of the inertia, a sum of costs each right to 1e-5 or so in float32.
    """
    result = FITS[metric](x, k, 8, init=init, backend=backend)
    centroids = to_float64(result.centroids)
    assert np.isfinite(centroids).all()
    assert_labels_optimal(x, result.centroids, result.labels, metric)
    assert len(np.unique(np.asarray(result.labels))) == k
    exact = inertia(x, centroids, result.labels, metric)
    np.testing.assert_allclose(result.inertia, exact, rtol=rel)
    return result


def spread(n: int, d: int, k: int) -> Array:
    """Return centred points of unit spread (standard deviation over all coordinates)."""
    x = blobs(1, n, d, k)[0]
    x -= x.mean(0)
    return x / x.std()


@pytest.mark.parametrize("scale", [3e38, 1e30, 1e18, 1e-18, 1e-30, 1e-37, 1e-40])
@every_backend
@every_metric
def test_magnitudes(metric: str, backend: str, scale: float) -> None:
    for n, d, k in (
        [*sizes(backend), BIG] if metric == "euclidean" and backend == "cpu" else sizes(backend)
    ):
        x = spread(n, d, k)
        x = (x / np.abs(x).max() * scale).astype(np.float32)
        for init in INITS:
            check(x, k, metric, backend, init)


@pytest.mark.parametrize("scale", [1e30, 1e-30])
@every_backend
@pytest.mark.parametrize("empty", ["farthest", "split"])
def test_a_power_of_two_changes_nothing_but_the_units(
    empty: str, backend: str, scale: float
) -> None:
    x = spread(500, 6, 4).astype(np.float32)
    start = np.concatenate([x[:2], x[:2] + 50])  # two clusters start empty
    power = 2.0 ** np.round(np.log2(scale))
    plain = fk.batch_kmeans_Euclid(x, 4, 3, init_centroids=start, empty=empty, backend=backend)
    scaled = fk.batch_kmeans_Euclid(
        (x * power).astype(np.float32),
        4,
        3,
        init_centroids=start * power,
        empty=empty,
        backend=backend,
    )
    np.testing.assert_array_equal(scaled.labels, plain.labels)
    # A few ulp of unit spread.
    np.testing.assert_allclose(scaled.centroids / power, plain.centroids, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("offset", "unit"), [(1e4, 1.0), (-1e4, 1.0), (100.0, 1e-3)])
@every_backend
def test_an_offset_gives_the_clusters_of_the_centred_points(
    backend: str, offset: float, unit: float
) -> None:
    for n, d, k in [*sizes(backend), BIG] if backend == "cpu" else sizes(backend):
        x = (spread(n, d, k) * unit + offset).astype(np.float32)
        centred = x.astype(np.float64) - x.astype(np.float64).mean(0)
        start = np.random.default_rng(0).choice(n, k, replace=False)
        result = fk.batch_kmeans_Euclid(x, k, 8, init_centroids=x[start], backend=backend)
        # Centroids are float32 in the user's coordinates: half an ulp of the offset in each.
        moved = to_float64(result.centroids) - x.astype(np.float64).mean(0)
        assert_labels_optimal(centred, moved, result.labels, "euclidean")
        want = fk.batch_kmeans_Euclid(
            centred, k, 8, init_centroids=centred[start], backend="reference"
        )
        lost = n * d * float(np.spacing(np.float32(abs(offset)))) ** 2 / 4
        # Relative: near ties may go another way while they converge.
        assert result.inertia == pytest.approx(want.inertia, rel=1e-3, abs=lost)
        for init in INITS:
            check(x, k, "euclidean", backend, init, rel=1e-3)


@every_backend
def test_float64_points_are_centred_before_they_are_rounded(backend: str) -> None:
    n, d, k = FEW
    x = spread(n, d, k) + 1e6
    start = x[:k]
    result = fk.batch_kmeans_Euclid(x, k, 8, init_centroids=start, backend=backend)
    want = fk.batch_kmeans_Euclid(x - 1e6, k, 8, init_centroids=start - 1e6, backend="reference")
    # Centroids sit on a grid of 1/16 about 1e6, 1/32 at most from the mean: d / 3 / 32**2 per point.
    assert result.inertia == pytest.approx(want.inertia, rel=d / 3 / 32**2)
    assert len(np.unique(result.labels)) == k


@every_backend
def test_an_offset_that_the_centroids_cannot_hold_is_not_one_silent_cluster(backend: str) -> None:
    x = spread(*FEW) + 1e9
    with pytest.raises(
        ValueError,
        match=r"^x must be resolved by float32 centroids, got .*; subtract the mean first",
    ):
        fk.batch_kmeans_Euclid(x, 5, backend=backend)


@every_backend
def test_integers_that_the_centroids_cannot_tell_apart(backend: str) -> None:
    nanoseconds = (spread(*FEW) * 1e4).astype(np.int64) + 1_700_000_000_000_000_000
    with pytest.raises(
        ValueError,
        match=r"^x must be resolved by float32 centroids, got .*; subtract the mean first",
    ):
        fk.batch_kmeans_Euclid(nanoseconds, 5, backend=backend)


@every_backend
def test_elements_of_a_batch_with_different_offsets_and_magnitudes(backend: str) -> None:
    n, d, k = FEW
    base = spread(n, d, k)
    x = np.stack(
        [base, base * 1e-30, base * 1e18, base + 1e4, base * 1e-3 + 100, base * 1e-40]
    ).astype(np.float32)
    result = fk.batch_kmeans_Euclid(x, k, 8, init="k-means++", backend=backend)
    assert_labels_optimal(x, result.centroids, result.labels, "euclidean")
    np.testing.assert_allclose(
        result.inertia, inertia(x, result.centroids, result.labels, "euclidean"), rtol=1e-3
    )
    assert [len(np.unique(labels)) for labels in result.labels] == [k] * len(x)


@pytest.mark.parametrize("kind", ["numpy-float16", "mlx-float16", "mlx-bfloat16"])
@every_backend
@every_metric
def test_sift_in_half_precision(metric: str, backend: str, kind: str) -> None:
    x = given(sift_like(600), kind)  # squared norms are four times the largest float16
    for init in INITS:
        check(x, 12, metric, backend, init)


@every_backend
@pytest.mark.parametrize(
    ("dtype", "scale"),
    [("float16", 6e4), ("float16", 4e-6), ("bfloat16", 3e38), ("bfloat16", 1e-39)],
)
def test_the_ends_of_half_precision(backend: str, dtype: str, scale: float) -> None:
    n, d, k = FEW
    x = spread(n, d, k)
    x = mx.array((x / np.abs(x).max() * scale).astype(np.float32)).astype(getattr(mx, dtype))
    for metric in FITS:
        for init in INITS:
            check(x, k, metric, backend, init)


@every_backend
@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_zero_rows_have_no_direction(metric: str, backend: str) -> None:
    for n, d, k in sizes(backend):
        x = spread(n, d, k).astype(np.float32)
        x[::7] = 0
        for init in INITS:
            result = check(x, k, metric, backend, init)
            assert not result.labels[::7].any()
            norms = np.linalg.norm(result.centroids, axis=1)
            np.testing.assert_allclose(norms, 1, rtol=1e-6)  # a few ulp
        kept = np.delete(x, np.s_[::7], 0)
        start = kept[:k]
        with_zeros = FITS[metric](x, k, 8, init_centroids=start, backend=backend)
        without = FITS[metric](kept, k, 8, init_centroids=start, backend=backend)
        # Sums are added in another order.
        np.testing.assert_allclose(with_zeros.centroids, without.centroids, rtol=1e-4, atol=1e-5)
        rest = 1.0 * len(x[::7]) if metric == "cosine" else 0.0
        assert with_zeros.inertia - rest == pytest.approx(without.inertia, rel=1e-4)


@every_backend
@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_only_zero_rows(metric: str, backend: str) -> None:
    with pytest.warns(fk.EmptyClusterWarning, match="fewer distinct points than n_clusters=3"):
        result = FITS[metric](np.zeros((20, 4), np.float32), 3, backend=backend)
    assert not result.labels.any()
    assert result.inertia == (20.0 if metric == "cosine" else 0.0)


@every_backend
@pytest.mark.parametrize("far", [1e6, 1e12, 1e18])
def test_outliers_get_a_cluster_and_the_others_stay_optimal(backend: str, far: float) -> None:
    n, d, k = FEW
    x = spread(n, d, k).astype(np.float32)
    x[7], x[300] = far, -far
    result = fk.batch_kmeans_Euclid(x, k, 8, init="k-means++", backend=backend)
    assert_labels_optimal(x, result.centroids, result.labels, "euclidean")
    alone = result.labels[[7, 300]]
    assert [(result.labels == label).sum() for label in alone] == [1, 1]
    np.testing.assert_array_equal(result.centroids[alone], x[[7, 300]])


@every_backend
@every_metric
@pytest.mark.parametrize("outlier", [1e18, 1e30])
def test_an_outlier_between_the_rows_that_a_sample_would_see(
    metric: str, outlier: float, backend: str
) -> None:
    x = spread(700, 6, 5).astype(np.float32)
    x[5] = outlier
    result = FITS[metric](x, 2, init_centroids=x[[0, 5]], backend=backend)
    assert result.labels[5] == 1
    assert_labels_optimal(x, result.centroids, result.labels, metric)
    assert np.isfinite(result.inertia)


@every_backend
@pytest.mark.parametrize("decades", [12, 18])
def test_cosine_does_not_see_norms(decades: int, backend: str) -> None:
    for n, d, k in sizes(backend):
        x = spread(n, d, k)
        norms = 10.0 ** np.random.default_rng(0).uniform(-decades, decades, (n, 1))
        start = x[:k]
        result = fk.batch_kmeans_Cosine(
            (x * norms).astype(np.float32), k, 8, init_centroids=start, backend=backend
        )
        want = fk.batch_kmeans_Cosine(x, k, 8, init_centroids=start, backend="reference")
        assert_labels_optimal(x, result.centroids, result.labels, "cosine")
        # Near ties may go another way while they converge.
        assert result.inertia == pytest.approx(want.inertia, rel=1e-4)


@every_backend
def test_a_constant_coordinate_far_away(backend: str) -> None:
    for n, d, k in sizes(backend):
        x = spread(n, d, k).astype(np.float32)
        x[:, 0] = 1e6
        result = check(x, k, "euclidean", backend, "k-means++", rel=1e-3)
        np.testing.assert_array_equal(result.centroids[:, 0], np.float32(1e6))


@every_backend
@pytest.mark.parametrize("scale", [1e30, 1e-30, 1e-40])
@every_metric
def test_assign_at_extreme_magnitudes(metric: str, scale: float, backend: str) -> None:
    x = (spread(400, 6, 5) * scale).astype(np.float32)
    assert_labels_optimal(x, x[:9], fk.assign(x, x[:9], metric, backend=backend), metric)


@every_backend
@pytest.mark.parametrize(
    ("points", "centroids"),
    [(1.0, 1e18), (1.0, 1e25), (1e-30, 1.0), (1e-40, 1e18), (1e18, 1.0), (1e18, 1e-20)],
)
@every_metric
def test_assign_to_centroids_of_another_magnitude(
    metric: str, points: float, centroids: float, backend: str
) -> None:
    x = (np.random.default_rng(0).standard_normal((50, 3)) * points).astype(np.float32)
    c = (np.array([[3, 0, 0], [1, 0, 0], [2, 0, 0]]) * centroids).astype(np.float32)
    labels = fk.assign(x, c, metric, backend=backend)
    assert_labels_optimal(x, c, labels, metric)
    if metric == "euclidean" and centroids > points:
        assert (labels == 1).all()  # the nearest by far


@every_backend
def test_weights_of_any_magnitude_only_scale_the_inertia(backend: str) -> None:
    x = spread(*FEW).astype(np.float32)
    w = np.random.default_rng(0).random(700).astype(np.float32)
    for init in INITS:
        want = fk.batch_kmeans_Euclid(x, 5, 4, sample_weight=w, init=init, backend=backend)
        for power in (2.0**-100, 2.0**100):
            got = fk.batch_kmeans_Euclid(
                x, 5, 4, sample_weight=w * np.float32(power), init=init, backend=backend
            )
            np.testing.assert_array_equal(got.labels, want.labels)
            assert got.inertia == pytest.approx(want.inertia * power, rel=1e-5)  # float32 costs
