"""Initial centroids, which max_iters=0 returns."""

from __future__ import annotations

from functools import cache
from typing import Any

import helpers
import mlx.core as mx
import numpy as np
import pytest
from helpers import BACKENDS, FITS, every_backend, every_init, every_metric
from sklearn.cluster import kmeans_plusplus

from flash_kmeans_mlx import batch_kmeans_Euclid


def chosen(x: np.ndarray, k: int, metric: str = "euclidean", **options: Any) -> np.ndarray:
    """Return (K,), the rows of x (N, D) that the initial centroids are, all of them different."""
    c = np.array(FITS[metric](x, k, 0, **options).centroids)
    rows = x if metric == "euclidean" else helpers.unit(x.astype(np.float64)).astype(np.float32)
    same = (c[:, None] == rows).all(-1)
    assert (same.sum(1) == 1).all(), "a centroid is no row of x, or several"
    return same.argmax(1)


def potential(x: np.ndarray, centroids: np.ndarray) -> float:
    return float(helpers.costs(x, helpers.to_float64(centroids), "euclidean").min(1).sum())


@every_backend
@every_init
@every_metric
@pytest.mark.parametrize("k", [1, 40, 211], ids=lambda k: f"K{k}")
def test_initial_centroids_are_distinct_rows(k: int, metric: str, init: str, backend: str) -> None:
    x = helpers.blobs(1, 211, 17, 7)[0].astype(np.float32)
    assert len(set(chosen(x, k, metric, init=init, backend=backend).tolist())) == k


@every_backend
@every_init
@every_metric
def test_elements_are_seeded_as_they_would_be_alone(metric: str, init: str, backend: str) -> None:
    x = helpers.blobs(3, 211, 17, 7).astype(np.float32)
    w = np.random.default_rng(0).gamma(1.0, size=(3, 211))
    for weights in (None, w):
        stack = FITS[metric](
            x, 7, 0, init=init, sample_weight=weights, seed=4, backend=backend
        ).centroids
        for b in range(3):
            own = None if weights is None else weights[b]
            alone = FITS[metric](
                x[b], 7, 0, init=init, sample_weight=own, seed=4, backend=backend
            ).centroids
            np.testing.assert_array_equal(stack[b], alone)


@pytest.mark.usefixtures("metal")
@every_init
@every_metric
def test_backends_choose_the_same_rows(metric: str, init: str) -> None:
    """Draws differ only where rounding moves a cumulative sum over a uniform number: not in small data."""
    x = helpers.blobs(1, 211, 17, 7)[0].astype(np.float32)
    w = np.random.default_rng(0).gamma(1.0, size=211)
    for options in ({"seed": 0}, {"seed": 3, "sample_weight": w}):
        rows = [chosen(x, 7, metric, init=init, backend=b, **options).tolist() for b in BACKENDS]
        assert all(r == rows[0] for r in rows)


@every_backend
@every_init
@every_metric
def test_points_without_weight_are_never_chosen(metric: str, init: str, backend: str) -> None:
    x = helpers.blobs(1, 611, 17, 7)[0].astype(np.float32)
    x[::2] *= 50  # those that k-means++ likes best
    w = np.arange(611) % 2
    for seed in range(3):
        assert (
            chosen(x, 30, metric, init=init, sample_weight=w, seed=seed, backend=backend) % 2 == 1
        ).all()


@every_backend
@every_init
def test_all_points_with_weight_are_chosen_if_needed(init: str, backend: str) -> None:
    x = helpers.blobs(1, 211, 17, 7)[0].astype(np.float32)
    w = (np.arange(211) % 3 == 0).astype(np.float64)
    rows = chosen(x, 71, init=init, sample_weight=w, backend=backend)
    assert sorted(rows) == list(range(0, 211, 3))


@every_backend
@every_init
@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_rows_without_direction_are_never_chosen(metric: str, init: str, backend: str) -> None:
    x = helpers.blobs(1, 211, 17, 7)[0].astype(np.float32)
    x[1::2] = 0
    for seed in range(5):
        c = FITS[metric](x, 20, 0, init=init, seed=seed, backend=backend).centroids
        assert (np.linalg.norm(c, axis=-1) > 0.5).all()


@every_init
def test_draws_follow_the_weights(init: str) -> None:
    """The first centroid, over 300 seeds: within four standard deviations of its share for each of eight points.

    No backend draws it, and all of them choose the same rows.
    """
    x = helpers.blobs(1, 8, 17, 2)[0].astype(np.float32)
    w = np.array([1.0, 2, 3, 4, 0, 6, 7, 1])
    n = 300
    rows = [chosen(x, 1, init=init, sample_weight=w, seed=s, backend="cpu")[0] for s in range(n)]
    p = w / w.sum()
    assert (np.abs(np.bincount(rows, minlength=8) - n * p) <= 4 * np.sqrt(n * p * (1 - p))).all()


SEEDS = 15
QUALITY = {
    "digits": (lambda: helpers.digits()[:600], 20),
    "blobs": (lambda: helpers.blobs(1, 1500, 3, 30)[0].astype(np.float32) * 10, 30),
    "offset": (lambda: (helpers.blobs(1, 700, 17, 30)[0] + 1e3).astype(np.float32), 30),
    "pixels": (lambda: helpers.pixels(2000), 16),
}


@cache
def scikit_learn(name: str) -> list[float]:
    make, k = QUALITY[name]
    x = make().astype(np.float64)
    return [potential(x, kmeans_plusplus(x, k, random_state=s)[0]) for s in range(SEEDS)]


@every_backend
@pytest.mark.parametrize("init", ["k-means++", "k-means||"])
@pytest.mark.parametrize("name", QUALITY)
def test_seeds_are_as_good_as_those_of_scikit_learn(name: str, init: str, backend: str) -> None:
    """The means over the seeds may differ by three standard errors: chance, in 999 of 1000 cases."""
    make, k = QUALITY[name]
    x, theirs = make(), scikit_learn(name)
    every = [
        batch_kmeans_Euclid(x, k, 0, init=init, seed=s, backend=backend).centroids
        for s in range(SEEDS)
    ]
    ours = [potential(x, c) for c in every]
    assert np.mean(ours) <= np.mean(theirs) + 3 * np.sqrt((np.var(ours) + np.var(theirs)) / SEEDS)


@cache
def random_inertia(metric: str) -> np.ndarray:
    """Return (SEEDS,), the inertia of random rows: the same rows on every backend."""
    x = helpers.blobs(1, 700, 17, 30)[0].astype(np.float32)
    fits = [FITS[metric](x, 30, 0, init="random", seed=s, backend="cpu") for s in range(SEEDS)]
    return np.array([fit.inertia for fit in fits])


@every_backend
@every_metric
@pytest.mark.parametrize("init", ["k-means++", "k-means||"])
def test_seeds_are_better_than_random_rows(init: str, metric: str, backend: str) -> None:
    """By more than three standard errors, on separated clusters."""
    x = helpers.blobs(1, 700, 17, 30)[0].astype(np.float32)
    fits = [FITS[metric](x, 30, 0, init=init, seed=s, backend=backend) for s in range(SEEDS)]
    ours = np.array([fit.inertia for fit in fits])
    random = random_inertia(metric)
    assert ours.mean() < random.mean() - 3 * np.sqrt((ours.var() + random.var()) / SEEDS)


@every_backend
@pytest.mark.parametrize("init", ["k-means++", "k-means||"])
@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize("d", [3, 33])
def test_duplicates_are_drawn_once(d: int, offset: float, init: str, backend: str) -> None:
    """A copy of a centroid has distance zero, rounding or not: as many draws as distinct points find them all."""
    x = helpers.duplicates(1300, 40, d) + np.float32(offset)
    for seed in range(3):
        c = batch_kmeans_Euclid(x, 40, 0, init=init, seed=seed, backend=backend).centroids
        assert len(np.unique(c, axis=0)) == 40


@every_backend
@every_init
@pytest.mark.filterwarnings("ignore::flash_kmeans_mlx.EmptyClusterWarning")
def test_more_clusters_than_distinct_points(init: str, backend: str) -> None:
    x = helpers.duplicates(300, 5, 3)
    result = batch_kmeans_Euclid(np.stack([x, x]), 30, init=init, backend=backend)
    assert np.all(result.converged)
    assert [len(np.unique(labels)) for labels in result.labels] == [5, 5]


@every_backend
@pytest.mark.parametrize("library", ["numpy", "mlx"])
def test_a_callable_gets_what_the_user_gave(library: str, backend: str) -> None:
    """It may return an array of any library."""
    seen: list[tuple[Any, int, Any]] = []

    def first_rows(x: Any, n_clusters: int, rng: Any) -> Any:
        seen.append((x, n_clusters, rng))
        return x[..., :n_clusters, :]

    def first_rows_in_numpy(x: Any, n_clusters: int, rng: Any) -> np.ndarray:
        return np.array(first_rows(x, n_clusters, rng))

    for shape in ((3, 41, 3), (41, 3)):
        x = helpers.given(np.random.default_rng(0).standard_normal(shape), f"{library}-float32")
        for init in (first_rows, first_rows_in_numpy):
            result = batch_kmeans_Euclid(x, 4, 0, init=init, backend=backend)
            got, k, rng = seen.pop()
            assert type(got) is type(x) and got.shape == x.shape
            assert k == 4 and isinstance(rng, np.random.Generator)
            np.testing.assert_array_equal(np.array(result.centroids), np.array(x)[..., :4, :])


@every_backend
def test_a_callable_draws_from_the_seed_and_is_called_for_every_run(backend: str) -> None:
    x = helpers.blobs(1, 211, 17, 7)[0].astype(np.float32)
    calls: list[int] = []

    def draw(x: np.ndarray, n_clusters: int, rng: np.random.Generator) -> np.ndarray:
        calls.append(n_clusters)
        return x[rng.choice(len(x), n_clusters, replace=False)]

    one, two, other = (
        batch_kmeans_Euclid(x, 7, init=draw, seed=s, n_init=3, backend=backend) for s in (1, 1, 2)
    )
    assert calls == [7] * 9
    np.testing.assert_array_equal(one.centroids, two.centroids)
    assert not np.array_equal(one.centroids, other.centroids)


@every_backend
@every_metric
def test_arrays_start_every_element_or_each_its_own(metric: str, backend: str) -> None:
    x = helpers.blobs(3, 211, 17, 7).astype(np.float32)
    shared, own = x[0, :7], x[:, :7]
    for init, rows in ((shared, np.stack([shared] * 3)), (mx.array(own), own)):
        expected = (
            rows
            if metric == "euclidean"
            else helpers.unit(rows.astype(np.float64)).astype(np.float32)
        )
        for options in (
            {"init": init},
            {"init_centroids": init},
            {"init_centroids": init, "init": "k-means++"},
        ):
            result = FITS[metric](x, 7, 0, backend=backend, **options)
            np.testing.assert_array_equal(result.centroids, expected)
