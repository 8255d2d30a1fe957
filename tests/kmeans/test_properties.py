"""Invariants, on problems that Hypothesis makes: small, with duplicates, ties and unlike scales."""

from __future__ import annotations

from typing import NamedTuple

import helpers
import numpy as np
import pytest
from helpers import BACKENDS, FITS, METRICS, every_backend, every_metric
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flash_kmeans_mlx import assign, batch_kmeans_Cosine, batch_kmeans_Euclid

EXAMPLES = settings(deadline=None, max_examples=20, derandomize=True, print_blob=False)
pytestmark = pytest.mark.filterwarnings("ignore::flash_kmeans_mlx.EmptyClusterWarning")


class Problem(NamedTuple):
    """x (N, D) float32, K, and a generator for what else a test draws."""

    x: np.ndarray
    k: int
    rng: np.random.Generator

    @property
    def start(self) -> np.ndarray:
        """Return (K, D), the values of different rows."""
        return self.x[self.rng.choice(len(self.x), self.k, replace=False)]


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Reals to 16 binary places, or small whole numbers with their ties and duplicates."""
    n, d = draw(st.integers(1, 40)), draw(st.sampled_from([1, 3, 17]))
    k, seed = draw(st.integers(1, n)), draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    if draw(st.booleans()):
        x = rng.integers(-2, 3, (n, d)).astype(np.float32)
    else:
        x = rng.standard_normal((n, d)) + 2 * rng.integers(-1, 2, (n, 1))
        x = (np.rint(x * 2**16) / 2**16).astype(np.float32)
    return Problem(x, k, rng)


def slack(x: np.ndarray) -> float:
    """Return the error of an inertia that rounding explains: relative to squared or plain norms, whichever is larger."""
    norms = np.linalg.norm(helpers.to_float64(x), axis=-1)
    return helpers.tolerance(x.shape[-1]) * float((norms**2 + norms + 1).sum())


def unit_start(start: np.ndarray, metric: str) -> np.ndarray:
    """Return the centroids that a fit begins with."""
    return start if metric == "euclidean" else helpers.unit(start.astype(np.float64))


def first_labels(
    x: np.ndarray, start: np.ndarray, metric: str, backend: str, w: np.ndarray | None = None
) -> np.ndarray:
    """Return labels (N,) under the start, once the step that follows was found to be right."""
    options = {"init_centroids": start, "sample_weight": w, "empty": "keep", "backend": backend}
    zero, one = (FITS[metric](x, len(start), i, **options) for i in (0, 1))
    helpers.assert_centroids_optimal(x, one.centroids, zero.labels, metric, w)
    idle = np.setdiff1d(np.arange(len(start)), zero.labels)
    np.testing.assert_array_equal(one.centroids[idle], zero.centroids[idle])
    return zero.labels


@every_backend
@every_metric
@given(problem=problems(), empty=st.sampled_from(["farthest", "keep"]), weighted=st.booleans())
@EXAMPLES
def test_inertia_never_rises(
    backend: str, metric: str, problem: Problem, empty: str, weighted: bool
) -> None:
    x, k, rng = problem
    w = rng.integers(0, 3, len(x)) if weighted else None
    assume(w is None or w.any())
    options = {
        "init_centroids": problem.start,
        "sample_weight": w,
        "empty": empty,
        "backend": backend,
    }
    path = [FITS[metric](x, k, i, **options).inertia for i in range(5)]
    assert (np.diff(path) <= 3 * slack(x)).all()


@every_backend
@every_metric
@given(problem=problems())
@EXAMPLES
def test_results_agree_with_themselves(backend: str, metric: str, problem: Problem) -> None:
    x, k, rng = problem
    result = FITS[metric](x, k, int(rng.integers(8)), seed=int(rng.integers(9)), backend=backend)
    helpers.assert_labels_optimal(x, result.centroids, result.labels, metric)
    np.testing.assert_array_equal(
        assign(x, result.centroids, metric, backend=backend), result.labels
    )
    exact = helpers.inertia(x, result.centroids, result.labels, metric)
    assert abs(result.inertia - exact) <= slack(x)


@every_backend
@every_metric
@given(problem=problems())
@EXAMPLES
def test_permuting_points_permutes_labels(backend: str, metric: str, problem: Problem) -> None:
    order, start = problem.rng.permutation(len(problem.x)), problem.start
    labels = first_labels(problem.x[order], start, metric, backend)
    helpers.assert_labels_optimal(
        problem.x, unit_start(start, metric), labels[np.argsort(order)], metric
    )


@every_backend
@given(
    problem=problems(), shift=st.sampled_from([1.0, -64.0]), power=st.sampled_from([-60, -3, 5, 50])
)
@EXAMPLES
def test_euclidean_follows_translation_and_scale(
    backend: str, problem: Problem, shift: float, power: int
) -> None:
    """Both are exact in float32, so that the points stay where they were among themselves."""
    x, start, offset, scale = problem.x, problem.start, np.float32(shift), np.float32(2.0**power)
    moved = first_labels(x + offset, start + offset, "euclidean", backend)
    scaled = first_labels(x * scale, start * scale, "euclidean", backend)
    for labels in (moved, scaled):
        helpers.assert_labels_optimal(x, start, labels, "euclidean")
    one, other = (
        batch_kmeans_Euclid(v, problem.k, 0, init_centroids=v[: problem.k], backend=backend)
        for v in (x, x * scale)
    )
    assert other.inertia / float(scale) ** 2 == pytest.approx(one.inertia, abs=2 * slack(x))


@every_backend
@given(problem=problems())
@EXAMPLES
def test_cosine_sees_directions_only(backend: str, problem: Problem) -> None:
    x, start, rng = problem.x, problem.start, problem.rng
    stretched = x * np.exp2(rng.integers(-9, 10, (len(x), 1))).astype(np.float32)
    labels = first_labels(stretched, 4 * start, "cosine", backend)
    helpers.assert_labels_optimal(x, start, labels, "cosine")
    one, other = (
        batch_kmeans_Cosine(v, problem.k, 0, init_centroids=start, backend=backend)
        for v in (x, stretched)
    )
    assert other.inertia == pytest.approx(one.inertia, abs=len(x) * helpers.tolerance(x.shape[1]))


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
    x, start = problem.x, problem.start
    w = problem.rng.integers(1, 3, len(x))
    labels = first_labels(x, start, metric, backend, w)
    helpers.assert_labels_optimal(x, unit_start(start, metric), labels, metric)
    options = {"init_centroids": start, "backend": backend}
    weighted = FITS[metric](x, problem.k, 0, sample_weight=w, **options)
    repeated = FITS[metric](np.repeat(x, w, 0), problem.k, 0, **options)
    assert weighted.inertia == pytest.approx(repeated.inertia, abs=2 * slack(x))


@pytest.mark.usefixtures("metal")
@given(
    backend=st.sampled_from(BACKENDS),
    metric=st.sampled_from(METRICS),
    problem=problems(),
    init=st.sampled_from(helpers.INITS),
)
@settings(EXAMPLES, max_examples=60)
def test_more_restarts_are_never_worse(
    backend: str, metric: str, problem: Problem, init: str
) -> None:
    """The best run is chosen by code that all backends share."""
    x, k, rng = problem
    options = {"max_iters": 5, "init": init, "seed": int(rng.integers(99)), "backend": backend}
    path = [FITS[metric](x, k, n_init=n, **options).inertia for n in (1, 2, 4)]
    assert path[0] >= path[1] >= path[2]
