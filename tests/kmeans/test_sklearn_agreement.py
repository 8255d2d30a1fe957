"""Fits beside scikit-learn's, from the same start."""

from __future__ import annotations

from functools import cache
from typing import Any

import helpers
import numpy as np
import pytest
from helpers import EMULATED, every_backend
from sklearn.cluster import KMeans

from flash_kmeans_mlx import batch_kmeans_Euclid

DATA = {
    "digits": (helpers.digits, 10),
    "blobs": (lambda: helpers.blobs(1, 2000, 17, 12)[0].astype(np.float32), 12),
    "gaussian": (
        lambda: np.random.default_rng(0).standard_normal((1500, 33)).astype(np.float32),
        9,
    ),
    "offset": (lambda: (helpers.blobs(1, 2000, 3, 12)[0] + 100).astype(np.float32), 12),
    "pixels": (lambda: helpers.pixels(3000), 16),
    "more-centroids": (lambda: helpers.blobs(1, 1200, 17, 12)[0].astype(np.float32), 60),
}
INERTIA = 1e-4  # relative: in float32, near ties may go another way


@cache
def problem(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return points (N, D), a start (K, D) of rows that all differ, weights (N,)."""
    make, k = DATA[name]
    x, rng = make(), np.random.default_rng(1)
    rows = np.unique(x, axis=0)
    return (
        x,
        rows[rng.choice(len(rows), k, replace=False)],
        rng.gamma(2.0, size=len(x)).astype(np.float32),
    )


@cache
def theirs(name: str, max_iter: int, weighted: bool = False) -> KMeans:
    x, start, w = problem(name)
    options: dict[str, Any] = {"init": start, "n_init": 1, "max_iter": max_iter, "tol": 0.0}
    return KMeans(len(start), **options).fit(x, sample_weight=w if weighted else None)


@every_backend
@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.filterwarnings(
    "ignore:Number of distinct clusters:sklearn.exceptions.ConvergenceWarning"
)
def test_the_same_iterations_end_at_the_same_inertia(
    weighted: bool, name: str, backend: str
) -> None:
    x, start, w = problem(name)
    options: dict[str, Any] = {
        "init_centroids": start,
        "sample_weight": w if weighted else None,
        "backend": backend,
    }
    for n in (1, 5) if backend == "metal" and EMULATED else (1, 5, 25):
        ours = batch_kmeans_Euclid(x, len(start), n, **options)
        assert ours.inertia == pytest.approx(theirs(name, n, weighted).inertia_, rel=INERTIA)


@every_backend
@pytest.mark.parametrize("name", DATA)
def test_their_labels_cost_as_much_under_our_centroids(name: str, backend: str) -> None:
    """Both converge to the same place: their labels are judged against our centroids, and ours against theirs."""
    x, start, _ = problem(name)
    ours = batch_kmeans_Euclid(x, len(start), 300, init_centroids=start, backend=backend)
    model = theirs(name, 300)
    assert ours.converged
    spread = helpers.inertia_scale(x, ours.centroids, ours.labels, "euclidean")
    for c, labels in ((ours.centroids, model.labels_), (model.cluster_centers_, ours.labels)):
        best = helpers.costs(x.astype(np.float64), helpers.to_float64(c), "euclidean").min(1).sum()
        assert helpers.inertia(x, c, labels, "euclidean") - best <= INERTIA * spread
    helpers.assert_labels_optimal(x, ours.centroids, ours.labels, "euclidean")


@every_backend
def test_separated_clusters_are_the_same_partition(backend: str) -> None:
    x = helpers.blobs(1, 800, 17, 6)[0].astype(np.float32)
    ours = batch_kmeans_Euclid(x, 6, init="k-means++", n_init=5, backend=backend)
    options: dict[str, Any] = {"n_init": 5, "random_state": 0}
    model = KMeans(6, **options).fit(x)
    assert helpers.same_partition(ours.labels, model.labels_)
    assert ours.inertia == pytest.approx(model.inertia_, rel=helpers.tolerance(17))
