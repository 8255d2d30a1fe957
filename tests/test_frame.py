"""The coordinates of a fit: as given where that serves, shifted and scaled where float32 would not."""

from __future__ import annotations

import helpers
import numpy as np
import pytest

from flash_kmeans_mlx import frame
from flash_kmeans_mlx.backends.cpu import kernels
from flash_kmeans_mlx.frame import Frame, choose
from flash_kmeans_mlx.metrics import COSINE, DOT, EUCLIDEAN, METRICS, Metric


def chosen(x: np.ndarray, metric: Metric = EUCLIDEAN) -> Frame:
    return choose(
        x[:, :: frame.sample_step(x.shape[1])], np.abs(x).max((1, 2)).astype(np.float64), metric
    )


def test_centred_data_are_used_as_they_are() -> None:
    x = helpers.blobs(2, 300, 5, 4).astype(np.float32)
    for metric in METRICS.values():
        assert chosen(x, metric).identity.tolist() == [True, True]


def test_moderate_offsets_are_left_alone() -> None:
    """||mean||^2 of at most four times the variance costs two bits."""
    x = np.random.default_rng(0).standard_normal((1, 1000, 4)).astype(np.float32)
    assert chosen(x + np.float32(1.5)).identity.all()
    assert not chosen(x + np.float32(2.5)).identity.any()


@pytest.mark.parametrize("offset", [10.0, 1e4, -3e6])
def test_far_offsets_are_shifted_away(offset: float) -> None:
    x = helpers.blobs(1, 500, 5, 4) + offset
    found = chosen(x)
    spread = x.std()
    assert (np.abs(found.shift - x.mean(1)) < spread).all() and found.scale.tolist() == [1.0]
    # Kernels hold it in float32.
    np.testing.assert_array_equal(found.shift, found.shift.astype(np.float32))
    assert np.abs(found.rows(x[0], 0)).max() < 5 * spread


@pytest.mark.parametrize("metric", [COSINE, DOT], ids=["cosine", "dot"])
def test_spherical_metrics_are_centred_only_where_rows_are_nearly_parallel(metric: Metric) -> None:
    found = chosen(helpers.blobs(1, 500, 5, 4), metric)
    assert not found.shift.any() and not found.centre.any() and found.identity.all()
    x = helpers.blobs(2, 500, 5, 4) + np.array([1e4, -30.0])[:, None, None]
    # Of all norms: a shift would not be near them.
    x[1] *= np.exp(2 * np.random.default_rng(0).standard_normal((500, 1)))
    found = chosen(x, metric)
    mean = helpers.unit(helpers.unit(x).mean(1))
    np.testing.assert_allclose(np.linalg.norm(found.centre, axis=1), 1.0, rtol=1e-7)
    assert (np.einsum("bd,bd->b", mean, found.centre) > 0.99).all()
    for vectors in (found.centre, found.shift):
        # Kernels hold them in float32.
        np.testing.assert_array_equal(vectors, vectors.astype(np.float32))
    np.testing.assert_allclose(found.shift[0], x[0].mean(0), rtol=1e-3)
    assert not found.shift[1].any()
    assert found.short(np.array([2e4, 1.0])).tolist() == [False, False]
    assert found.short(np.array([5e3, 1.0])).tolist() == [True, False]
    assert not found.unshifted(np.array([True, False])).shift.any()


def test_unit_vectors_are_centred_after_division_by_their_norms() -> None:
    x = 1 + 1e-3 * np.random.default_rng(0).standard_normal((1, 500, 8))
    found, c = chosen(x, COSINE), helpers.unit(x[:, :9]).astype(np.float32)
    inner, bias = found.scored(c)
    centre, rows = found.centre[0], found.rows(x[0], 0)
    directions = helpers.unit(helpers.to_float64(c[0]))
    np.testing.assert_allclose(inner[0], directions - centre, rtol=2**-23)
    scores = rows @ inner[0].T.astype(np.float64) + bias
    exact = x[0] @ (directions - centre).T
    np.testing.assert_allclose(scores, exact, rtol=0, atol=1e-6 * np.abs(exact).max())


def test_centroids_of_any_norm_are_centred_for_dot_where_that_brings_them_closer() -> None:
    x = 1 + 1e-3 * np.random.default_rng(0).standard_normal((2, 500, 8))
    found, c = chosen(x, DOT), (300 * x[:, :9]).astype(np.float32)
    c[1, 0] *= 1e-3
    inner, bias = found.scored(c)
    assert np.abs(inner[0]).max() < 3 and np.abs(inner[1]).max() > 300
    exact = np.einsum("bnd,bkd->bnk", x, helpers.to_float64(c))
    scores = (
        np.einsum("bnd,bkd->bnk", x - found.shift[:, None], helpers.to_float64(inner))
        + bias[:, None]
    )
    gaps = (scores - scores[..., :1]) - (exact - exact[..., :1])
    np.testing.assert_allclose(gaps[0], 0, rtol=0, atol=1e-6)
    np.testing.assert_allclose(gaps[1], 0, rtol=0, atol=1e-3)


@pytest.mark.parametrize("size", [1e31, 2.0**40, 2.0**-44, 1e-33, 1e-40])
@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_extreme_sizes_are_scaled_by_powers_of_two(metric: Metric, size: float) -> None:
    x = (size * helpers.blobs(1, 300, 5, 4)).astype(np.float32)
    found = chosen(x, metric)
    if metric is COSINE and 1e-32 < size < 1e30:  # cosine squares no values: it has more room
        assert found.identity.all()
        return
    assert (np.frexp(found.scale)[0] == 0.5).all() and not found.identity.any()
    rows = found.rows(x[0], 0)
    # Denormals are scaled as far as a float32 factor goes: their squares must be normal numbers.
    assert 2.0**-30 < np.abs(rows).max() <= 1.0
    assert (
        np.isfinite(np.float32(1 / found.scale)).all() and (np.float32(1 / found.scale) > 0).all()
    )


@pytest.mark.parametrize("size", [2.0**40, 1.0, 2.0**-40])
def test_ordinary_sizes_are_not_scaled(size: float) -> None:
    assert chosen((size * np.ones((1, 1, 1)) * [[[-1.0], [1.0]]]).astype(np.float32)).identity.all()


def test_elements_have_frames_of_their_own() -> None:
    x = helpers.blobs(4, 300, 5, 4) * [[[1.0]], [[1e30]], [[1e-30]], [[1.0]]] + [
        [[0.0]],
        [[0.0]],
        [[0.0]],
        [[1e4]],
    ]
    found = chosen(x)
    assert found.identity.tolist() == [True, False, False, False]
    assert (found.scale == 1).tolist() == [True, False, False, True]
    assert found.shift.any(1).tolist() == [False, False, False, True]


@pytest.mark.parametrize("constant", [0.0, 1.0, -1e30, 1e-40])
def test_constant_data_have_a_frame(constant: float) -> None:
    x = np.full((1, 50, 3), constant, np.float32)
    found = chosen(x)
    assert (
        np.isfinite(found.shift).all()
        and (found.scale > 0).all()
        and np.isfinite(found.rows(x[0], 0)).all()
    )


def test_centroids_go_in_and_come_back() -> None:
    rng = np.random.default_rng(0)
    c = (rng.standard_normal((2, 7, 3)) * 1e20 + 1e21).astype(np.float32)
    found = Frame(np.full((2, 3), 1e21), np.full(2, 2.0**68), EUCLIDEAN, np.zeros((2, 3)))
    inner = found.to_frame(c)
    assert inner.dtype == np.float32 and np.abs(inner).max() < 4
    np.testing.assert_allclose(
        found.from_frame(inner.astype(np.float64)), c, rtol=helpers.EPS["float32"]
    )
    np.testing.assert_array_equal(inner[1], found.rows(c[1], 1).astype(np.float32))


def test_the_identity_returns_the_same_bits() -> None:
    c = np.random.default_rng(0).standard_normal((2, 7, 3)).astype(np.float32)
    found = Frame(np.zeros((2, 3)), np.ones(2), EUCLIDEAN, np.zeros((2, 3)))
    np.testing.assert_array_equal(found.to_frame(c), c)
    np.testing.assert_array_equal(found.from_frame(c.astype(np.float64)), c)


def test_spherical_centroids_have_no_scale() -> None:
    c = helpers.unit(np.random.default_rng(0).standard_normal((1, 7, 3))).astype(np.float32)
    found = Frame(np.zeros((1, 3)), np.array([2.0**50]), COSINE, np.zeros((1, 3)))
    np.testing.assert_array_equal(found.to_frame(c), c)
    np.testing.assert_allclose(found.centroids(c, np.ones((1, 7)), c), c, rtol=0, atol=1e-7)
    np.testing.assert_array_equal(found.rows(c[0] * 2.0**50, 0), c[0])


@pytest.mark.parametrize(("n", "step"), [(1, 1), (32, 1), (63, 1), (64, 2), (32_000, 1000)])
def test_about_thirty_two_rows_are_looked_at(n: int, step: int) -> None:
    assert frame.sample_step(n) == step


@pytest.mark.parametrize("metric", METRICS.values(), ids=list(METRICS))
def test_the_kernel_sees_no_plain_frame_where_numpy_sees_another(metric: Metric) -> None:
    rng = np.random.default_rng(0)
    limits = frame.SMALL, frame.LARGE, frame.FAR
    n_plain = n_others = 0
    for _ in range(1000):
        n, d = rng.integers(1, 80), rng.integers(1, 20)
        x = rng.standard_normal((2, n, d)).astype(np.float32)
        if rng.random() < 0.7:  # about as far as where shifts begin, and centres of directions
            x[rng.integers(2)] += np.float32(rng.uniform(1.8, 2.2))
        x *= np.float32(2.0) ** rng.choice([-42, -38, 0, 0, 0, 38, 42])
        step = frame.sample_step(int(n))
        found = kernels.frames.is_plain(x, step, metric.spherical, *limits, np.empty(d))
        sample = x[:, ::step]
        chosen = frame.choose(sample, np.abs(sample).max((1, 2)).astype(np.float64), metric)
        is_plain = not (chosen.shifted or chosen.centred or (chosen.scale != 1).any())
        assert is_plain or not found
        n_plain += found
        n_others += is_plain and not found
    assert n_plain > 100
    assert n_others < 300  # close calls, and cosine's wider range
