"""Nearly parallel rows, as embeddings often are: cosine and dot lose nothing where products agree in all leading digits."""

from __future__ import annotations

from typing import Any

import helpers
import numpy as np
import pytest
from helpers import FITS, every_backend
from hypothesis import given, settings
from hypothesis import strategies as st

import flash_kmeans_mlx as fk

spherical = pytest.mark.parametrize("metric", ["cosine", "dot"])
pytestmark = pytest.mark.filterwarnings("ignore::flash_kmeans_mlx.EmptyClusterWarning")


def cone(n: int, d: int, spread: float, *, norms: float = 0.0, seed: int = 0) -> np.ndarray:
    """Return (N, D) float64: clusters within this distance of a direction; norms vary by this share, or are 1."""
    rng = np.random.default_rng([seed, n, d])
    inside = helpers.blobs(1, n, d, 1 + n // 40, seed)[0] / np.sqrt(5 * d)
    x = helpers.unit(helpers.unit(rng.standard_normal(d)) + spread * inside)
    return x * np.exp(norms * rng.standard_normal((n, 1)))


def check(x: np.ndarray, result: Any, metric: str) -> None:
    worst = helpers.parallel_regret(x, result.centroids, result.labels, metric).max()
    assert worst <= helpers.parallel_limit(x), (
        f"a label misses the best by {worst:.2e} > {helpers.parallel_limit(x):.2e} of the spread"
    )
    if metric == "cosine":
        own = helpers.unit(helpers.own_centroids(result.centroids, result.labels))
        exact = np.square(helpers.unit(helpers.to_float64(x)) - own).sum() / 2
        rounding = helpers.parallel_limit(x, rows=result.backend != "reference")
        assert (
            abs(result.inertia - exact)
            <= rounding * np.square(helpers.unit(x) - helpers.unit(x).mean(0)).sum() / 2
        )


@every_backend
@spherical
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("spread", "norms"), [(1e-2, 0.0), (1e-3, 0.0), (1e-4, 0.0), (1e-3, 0.1), (1e-3, 1.0)]
)
def test_labels_and_inertia(
    spread: float, norms: float, dtype: str, metric: str, backend: str
) -> None:
    for n, d, k in ((307, 19, 11), (111, 131, 7), (413, 3, 23)):
        x = cone(n, d, spread, norms=norms).astype(dtype)
        check(x, FITS[metric](x, k, 3, backend=backend), metric)


@every_backend
@spherical
def test_far_offsets(metric: str, backend: str) -> None:
    x = (300 + np.random.default_rng(0).standard_normal((600, 33))).astype(np.float32)
    check(x, FITS[metric](x, 9, 4, init="k-means++", backend=backend), metric)


@spherical
@pytest.mark.parametrize(("n", "d", "k"), [(700, 5, 30), (6000, 150, 40), (4000, 30, 300)])
def test_every_strategy_of_the_cpu(n: int, d: int, k: int, metric: str) -> None:
    """Loops of one thread and of a team, tiles, bounds, in float64 too; to the same bits whatever is skipped."""
    for norms, spread, dtype in ((0.3, 1e-2, "float32"), (0.0, 1e-4, "float64")):
        x = cone(n, d, spread, norms=norms).astype(dtype)
        options = {"init_centroids": x[:: n // k][:k], "backend": "cpu"}
        plain = FITS[metric](x, k, 3, strategy="tiles", **options)
        check(x, plain, metric)
        for strategy in ("head", "int8"):
            result = FITS[metric](x, k, 3, strategy=strategy, **options)
            np.testing.assert_array_equal(result.labels, plain.labels, strategy)
            np.testing.assert_array_equal(result.centroids, plain.centroids, strategy)
            assert result.inertia == plain.inertia, strategy


@every_backend
@spherical
@pytest.mark.parametrize("init", ["k-means++", "k-means||"])
def test_seeds_tell_clusters_apart(init: str, metric: str, backend: str) -> None:
    """Twelve tight bundles of rows: k-means++ takes one of each, which chance does once in 18,000 times."""
    rng, k = np.random.default_rng(3), 12
    directions = helpers.unit(np.ones(24) / np.sqrt(24) + 1e-3 * rng.standard_normal((k, 24)))
    bundle = np.arange(360) % k
    x = helpers.unit(directions[bundle] + 3e-6 * rng.standard_normal((360, 24)))
    for seed in range(3):
        found = FITS[metric](x, k, 0, init=init, seed=seed, backend=backend).centroids
        nearest = np.square(helpers.to_float64(found)[:, None] - directions).sum(-1).argmin(1)
        assert sorted(nearest) == list(range(k))


@every_backend
@spherical
def test_copies_are_no_seeds(backend: str, metric: str) -> None:
    x = cone(40, 17, 1e-3)[np.random.default_rng(0).integers(20, size=300)]
    found = np.unique(x, axis=0)
    seeds = FITS[metric](x, len(found), 0, init="k-means++", backend=backend).centroids
    assert len(np.unique(seeds, axis=0)) == len(found)


@every_backend
@spherical
@pytest.mark.parametrize("empty", ["farthest", "split"])
def test_empty_clusters_are_given_a_place(empty: str, metric: str, backend: str) -> None:
    x = cone(400, 19, 1e-3).astype(np.float32)
    start = np.repeat(x[:4], 3, axis=0)  # eight of twelve begin as copies
    result = FITS[metric](x, 12, 20, init_centroids=start, empty=empty, backend=backend)
    check(x, result, metric)
    assert len(np.unique(result.labels)) == 12


@every_backend
@spherical
def test_rows_without_direction_and_rows_far_off(metric: str, backend: str) -> None:
    """Zero rows get label 0; short rows and opposite ones are labelled as well as the others."""
    x = cone(300, 19, 1e-3)
    x[::50] = 0
    x[1::50] *= 1e-4
    x[2::50] *= -1
    x = x.astype(np.float32)
    result = FITS[metric](x, 9, 5, init_centroids=x[3:12], backend=backend)
    assert (np.asarray(result.labels)[::50] == 0).all()
    rest = np.any(x, axis=1) & (helpers.to_float64(x) @ x[3] > 0)
    own = np.asarray(result.labels)[rest]
    assert helpers.parallel_regret(
        x[rest], result.centroids, own, metric
    ).max() <= helpers.tolerance(19) * (1 + 1e3)


@every_backend
@spherical
def test_elements_of_a_batch_are_the_fits_of_the_elements(metric: str, backend: str) -> None:
    """Some nearly parallel, some not: each is read its own way."""
    x = np.stack(
        [cone(260, 9, 1e-3), helpers.blobs(1, 260, 9, 5)[0], cone(260, 9, 1e-2, norms=1.0)]
    ).astype(np.float32)
    stacked = FITS[metric](x, 6, 4, init="k-means++", backend=backend)
    for b, element in enumerate(x):
        alone = FITS[metric](element, 6, 4, init="k-means++", backend=backend)
        check(element, alone, metric) if b != 1 else helpers.assert_labels_optimal(
            element, alone.centroids, alone.labels, metric
        )
        np.testing.assert_array_equal(stacked.labels[b], alone.labels)


@every_backend
@spherical
def test_an_element_of_zero_rows_beside_nearly_parallel_ones(metric: str, backend: str) -> None:
    x = np.stack([cone(60, 9, 1e-3), np.zeros((60, 9))]).astype(np.float32)
    result = FITS[metric](x, 4, 5, backend=backend)
    helpers.assert_labels_optimal(x, result.centroids, result.labels, metric)
    assert not result.labels[1].any()


@every_backend
@spherical
def test_assign_takes_centroids_of_any_norm(metric: str, backend: str) -> None:
    x = cone(500, 19, 1e-3).astype(np.float32)
    means = 300 * cone(12, 19, 1e-3, seed=1)
    labels = fk.assign(x, means, metric, backend=backend)
    assert helpers.parallel_regret(
        x, means.astype(np.float32) / 300, labels, metric
    ).max() <= helpers.parallel_limit(x)
    tiny = np.concatenate([means / 300, 1e-6 * means / 300])  # which the others must not blur
    helpers.assert_labels_optimal(x, tiny, fk.assign(-x, -tiny, metric, backend=backend), metric)


@spherical
def test_the_estimator(metric: str) -> None:
    x = cone(700, 31, 1e-3).astype(np.float32)
    model = fk.FlashKMeans(31, 8, metric=metric).fit(x)
    assert helpers.parallel_regret(
        x, model.centroids, model.labels_, metric
    ).max() <= helpers.parallel_limit(x)
    other = cone(300, 31, 1e-3, seed=0).astype(np.float32)
    assert helpers.parallel_regret(
        other, model.centroids, model.predict(other), metric
    ).max() <= helpers.parallel_limit(other)
    distances = model.transform(other)
    units, c = helpers.unit(helpers.to_float64(other)), helpers.to_float64(model.centroids)
    if metric == "dot":
        np.testing.assert_allclose(distances, -(other @ c.T), rtol=1e-6)
        return
    exact = np.square(units[:, None] - helpers.unit(c)).sum(-1) / 2
    np.testing.assert_allclose(distances, exact, rtol=1e-6)
    assert -model.score(x) == pytest.approx(model.inertia_) == pytest.approx(lowest(x, c), rel=1e-5)


def lowest(x: np.ndarray, c: np.ndarray) -> float:
    """Return the inertia of the best labels."""
    units = helpers.unit(helpers.to_float64(x))
    return np.square(units[:, None] - helpers.unit(c)).sum(-1).min(1).sum() / 2


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["cosine", "dot"]),
    st.sampled_from(["tiles", None, "head", "int8"]),
)
def test_random_problems(seed: int, metric: str, strategy: str | None) -> None:
    rng = np.random.default_rng(seed)
    n, d = int(rng.integers(2, 900)), int(rng.choice([2, 3, 5, 17, 33, 140, 160, 300]))
    k = int(rng.integers(1, min(n, 90) + 1))
    x = cone(
        n,
        d,
        float(rng.choice([1e-1, 1e-2, 1e-3, 1e-4])),
        norms=float(rng.choice([0.0, 0.1, 1.0])),
        seed=seed % 1000,
    )
    x = (float(rng.choice([1.0, 1e-20, 3e4])) * x).astype(rng.choice(["float32", "float64"]))
    init = str(rng.choice(["random", "k-means++"]))
    check(
        x,
        FITS[metric](x, k, int(rng.integers(0, 9)), init=init, strategy=strategy, backend="cpu"),
        metric,
    )
