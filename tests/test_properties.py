"""Invariants, on problems that Hypothesis makes: small, with duplicates, ties and unlike scales."""

from __future__ import annotations

from typing import Any, NamedTuple

import helpers
import numpy as np
import pytest
from helpers import BACKENDS, FITS, METRICS
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flash_kmeans_mlx import assign, batch_kmeans_Cosine, batch_kmeans_Euclid

EXAMPLES = settings(deadline=None, max_examples=25, derandomize=True, print_blob=False)
every_backend = pytest.mark.parametrize("backend", BACKENDS)
every_metric = pytest.mark.parametrize("metric", METRICS)
pytestmark = pytest.mark.filterwarnings("ignore::flash_kmeans_mlx.EmptyClusterWarning")


class Problem(NamedTuple):
    """x (N, D) float32, K, and a generator for what else a test draws."""

    x: np.ndarray
    k: int
    rng: np.random.Generator

    @property
    def start(self) -> np.ndarray:
        """(K, D) different rows' values."""
        return self.x[self.rng.choice(len(self.x), self.k, replace=False)]


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Reals, or small whole numbers with their ties and duplicates."""
    n, d = draw(st.integers(1, 40)), draw(st.sampled_from([1, 3, 17]))
    k, seed = draw(st.integers(1, n)), draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    if draw(st.booleans()):
        x = rng.integers(-2, 3, (n, d)).astype(np.float32)
    else:
        x = (rng.standard_normal((n, d)) + 2 * rng.integers(-1, 2, (n, 1))).astype(np.float32)
    return Problem(x, k, rng)


def slack(x: np.ndarray, *results: Any) -> float:
    """What rounding may do to an inertia of these points: relative to their squared or plain norms, whichever is larger."""
    norms = np.linalg.norm(helpers.to_float64(x), axis=-1)
    return helpers.tolerance(x.shape[-1]) * float((norms**2 + norms + 1).sum())


@every_backend
@every_metric
@given(problem=problems(), empty=st.sampled_from(["farthest", "keep"]), weighted=st.booleans())
@EXAMPLES
def test_inertia_never_rises(backend: str, metric: str, problem: Problem, empty: str, weighted: bool) -> None:
    x, k, rng = problem
    w = rng.integers(0, 3, len(x)) if weighted else None
    assume(w is None or w.any())
    options = {"init_centroids": problem.start, "sample_weight": w, "empty": empty, "backend": backend}
    path = [FITS[metric](x, k, i, **options).inertia for i in range(6)]
    assert (np.diff(path) <= 3 * slack(x)).all()


@every_backend
@every_metric
@given(problem=problems())
@EXAMPLES
def test_results_agree_with_themselves(backend: str, metric: str, problem: Problem) -> None:
    x, k, rng = problem
    result = FITS[metric](x, k, int(rng.integers(8)), seed=int(rng.integers(9)), backend=backend)
    helpers.assert_labels_optimal(x, result.centroids, result.labels, metric)
    np.testing.assert_array_equal(assign(x, result.centroids, metric, backend=backend), result.labels)
    exact = helpers.inertia(x, result.centroids, result.labels, metric)
    assert abs(result.inertia - exact) <= slack(x)


@every_backend
@every_metric
@given(problem=problems())
@EXAMPLES
def test_permuting_points_permutes_labels(backend: str, metric: str, problem: Problem) -> None:
    x, k, rng = problem
    order, start = rng.permutation(len(x)), problem.start
    options = {"max_iters": 1, "init_centroids": start, "empty": "keep", "backend": backend}
    one, other = FITS[metric](x, k, **options), FITS[metric](x[order], k, **options)
    np.testing.assert_allclose(other.centroids, one.centroids, rtol=0, atol=helpers.tolerance(x.shape[1]) * 4)
    permuted = np.empty_like(one.labels)
    permuted[order] = other.labels
    helpers.assert_labels_optimal(x, one.centroids, permuted, metric)


@every_backend
@given(problem=problems(), shift=st.sampled_from([1.0, -64.0, 4096.0]), power=st.sampled_from([-60, -3, 5, 50]))
@EXAMPLES
def test_euclidean_follows_translation_and_scale(backend: str, problem: Problem, shift: float, power: int) -> None:
    x, k, _ = problem
    x, start, scale = np.rint(4 * x), np.rint(4 * problem.start), np.float32(2.0**power)  # all of it exact in float32
    options = {"max_iters": 1, "empty": "keep", "backend": backend}
    one = batch_kmeans_Euclid(x, k, init_centroids=start, **options)
    moved = batch_kmeans_Euclid(x + np.float32(shift), k, init_centroids=start + np.float32(shift), **options)
    scaled = batch_kmeans_Euclid(x * scale, k, init_centroids=start * scale, **options)
    limit = helpers.tolerance(x.shape[1]) * (16 + abs(shift))
    np.testing.assert_allclose(moved.centroids - np.float32(shift), one.centroids, rtol=0, atol=limit)
    np.testing.assert_allclose(scaled.centroids / scale, one.centroids, rtol=0, atol=helpers.tolerance(x.shape[1]) * 16)
    helpers.assert_labels_optimal(x * scale, scaled.centroids, scaled.labels, "euclidean")
    assert scaled.inertia / float(scale) ** 2 == pytest.approx(one.inertia, rel=1e-5, abs=slack(x))


@every_backend
@given(problem=problems())
@EXAMPLES
def test_cosine_sees_directions_only(backend: str, problem: Problem) -> None:
    x, k, rng = problem
    x, start = np.rint(4 * x), problem.start
    stretched = x * np.exp2(rng.integers(-9, 10, (len(x), 1))).astype(np.float32)
    options = {"max_iters": 1, "init_centroids": start, "empty": "keep", "backend": backend}
    one, other = batch_kmeans_Cosine(x, k, **options), batch_kmeans_Cosine(stretched, k, **options)
    helpers.assert_labels_optimal(x, one.centroids, other.labels, "cosine")
    assert other.inertia == pytest.approx(one.inertia, abs=slack(helpers.unit(x.astype(np.float64))))


@every_backend
@given(problem=problems())
@EXAMPLES
def test_a_cluster_for_every_point_costs_nothing(backend: str, problem: Problem) -> None:
    x = np.unique(problem.x, axis=0)
    for init in ("random", "k-means++", "k-means||"):
        result = batch_kmeans_Euclid(x, len(x), init=init, backend=backend)
        assert result.inertia == 0.0 and len(np.unique(result.labels)) == len(x)


@every_backend
@every_metric
@given(problem=problems())
@EXAMPLES
def test_weights_of_two_are_points_given_twice(backend: str, metric: str, problem: Problem) -> None:
    x, k, rng = problem
    w = rng.integers(1, 3, len(x))
    options = {"max_iters": 1, "init_centroids": problem.start, "empty": "keep", "backend": backend}
    weighted, repeated = FITS[metric](x, k, sample_weight=w, **options), FITS[metric](np.repeat(x, w, 0), k, **options)
    np.testing.assert_allclose(weighted.centroids, repeated.centroids, rtol=0, atol=helpers.tolerance(x.shape[1]) * 4)
    assert weighted.inertia == pytest.approx(repeated.inertia, abs=2 * slack(x))


@every_backend
@every_metric
@given(problem=problems(), init=st.sampled_from(["random", "k-means++", "k-means||"]))
@EXAMPLES
def test_more_restarts_are_never_worse(backend: str, metric: str, problem: Problem, init: str) -> None:
    x, k, rng = problem
    options = {"max_iters": 5, "init": init, "seed": int(rng.integers(99)), "backend": backend}
    path = [FITS[metric](x, k, n_init=n, **options).inertia for n in (1, 2, 4)]
    assert path[0] >= path[1] >= path[2]
