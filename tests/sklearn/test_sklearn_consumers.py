"""Code written for scikit-learn's KMeans, run on ours."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from flash_kmeans_mlx.sklearn import KMeans, MiniBatchKMeans

BLOBS: Any = make_blobs(600, centers=4, cluster_std=0.7, random_state=3)
X, TRUTH = BLOBS
both = pytest.mark.parametrize("cls", [KMeans, MiniBatchKMeans])


def bisect(x: np.ndarray, n_clusters: int, model: Any) -> np.ndarray:
    """Labels (N,) from cutting the cluster of largest inertia in two until there are enough, as BisectingKMeans does."""
    labels = np.zeros(len(x), int)
    for new in range(1, n_clusters):
        cost = [np.square(x[labels == k] - x[labels == k].mean(0)).sum() for k in range(new)]
        worst = np.flatnonzero(labels == int(np.argmax(cost)))
        halves: Any = clone(model)
        labels[worst[halves.fit_predict(x[worst]) == 1]] = new
    return labels


@cache
def fits_over_k(cls: Any) -> dict[int, Any]:
    return {k: cls(k, random_state=0, n_init=5).fit(X) for k in range(2, 8)}


@both
def test_an_elbow_over_k(cls: Any) -> None:
    fits = fits_over_k(cls).values()
    inertia = np.array([fit.inertia_ for fit in fits])
    np.testing.assert_allclose([-fit.score(X) for fit in fits], inertia, rtol=1e-9)
    assert np.argmax(np.diff(inertia, 2)) + 3 == 4, "the sharpest bend is at the true number"


@both
def test_silhouettes_over_k(cls: Any) -> None:
    scores = {k: silhouette_score(X, fit.labels_) for k, fit in fits_over_k(cls).items()}
    assert max(scores, key=lambda k: scores[k]) == 4


@both
def test_a_bisecting_recursion(cls: Any) -> None:
    assert adjusted_rand_score(bisect(X, 4, cls(2, random_state=0, n_init=5)), TRUTH) > 0.99


@both
def test_a_pipeline_and_a_grid(cls: Any) -> None:
    pipe = make_pipeline(StandardScaler(), cls(random_state=0))
    name = cls.__name__.lower()
    search = GridSearchCV(
        pipe, {f"{name}__n_clusters": [2, 4], f"{name}__init": ["k-means++", "random"]}, cv=3
    ).fit(X)
    assert search.best_params_[f"{name}__n_clusters"] == 4
    assert adjusted_rand_score(search.predict(X), TRUTH) > 0.99


@both
def test_distances_to_centres_as_features(cls: Any) -> None:
    pipe = make_pipeline(cls(8, random_state=0), LinearSVC(random_state=0))
    assert cross_val_score(pipe, X, TRUTH, cv=3).mean() > 0.95


def test_fits_in_threads_are_the_fits_one_after_another() -> None:
    options: dict[str, Any] = {"param_grid": {"n_clusters": [3, 4, 5]}, "cv": 3}
    one = GridSearchCV(KMeans(random_state=0), **options).fit(X)
    from joblib import parallel_backend

    with parallel_backend("threading", n_jobs=2):
        two = GridSearchCV(KMeans(random_state=0), **options, n_jobs=2).fit(X)
    np.testing.assert_array_equal(
        one.cv_results_["mean_test_score"], two.cv_results_["mean_test_score"]
    )
