"""What MiniBatchKMeans promises beyond scikit-learn's own tests."""

from __future__ import annotations

from typing import Any

import helpers
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn import cluster

from flash_kmeans_mlx.sklearn import KMeans, MiniBatchKMeans

X = helpers.blobs(1, 5000, 9, 6)[0]


def test_a_step_is_scikit_learns() -> None:
    options: dict[str, Any] = {
        "n_clusters": 6,
        "init": X[:6].copy(),
        "n_init": 1,
        "reassignment_ratio": 0,
    }
    mine: Any = MiniBatchKMeans(**options)
    theirs: Any = cluster.MiniBatchKMeans(**options)
    for lo in range(0, 1000, 100):
        w = np.random.default_rng(lo).gamma(1.0, size=100)
        mine.partial_fit(X[lo : lo + 100], sample_weight=w)
        theirs.partial_fit(X[lo : lo + 100], sample_weight=w)
        np.testing.assert_allclose(mine.cluster_centers_, theirs.cluster_centers_, rtol=1e-9)
        assert_array_equal(mine.labels_, theirs.labels_)
        assert mine.inertia_ == pytest.approx(theirs.inertia_, rel=1e-9)
    assert mine.n_steps_ == theirs.n_steps_ == 10


def test_rare_centres_are_given_rows_of_the_batch() -> None:
    init = np.concatenate([X[:4], np.full((2, 9), 1e3)])
    options: dict[str, Any] = {"init": init, "n_init": 1, "random_state": 0}
    model = MiniBatchKMeans(6, **options).partial_fit(X[:200])
    rows = {tuple(row) for row in X[:200]}
    assert [tuple(c) in rows for c in model.cluster_centers_[4:]] == [True, True]
    kept = MiniBatchKMeans(6, **options, reassignment_ratio=0).partial_fit(X[:200])
    assert_array_equal(kept.cluster_centers_[4:], init[4:])


def test_it_comes_close_to_the_whole_fit() -> None:
    def mean(cls: Any) -> float:
        return float(
            np.mean([cls(6, random_state=seed, n_init=3).fit(X).inertia_ for seed in range(3)])
        )

    assert mean(KMeans) <= mean(MiniBatchKMeans) <= 1.05 * mean(KMeans)


def test_batches_are_drawn_by_weight() -> None:
    w = np.where(np.arange(5000) < 300, 1.0, 0.0)
    far = X + np.where(w[:, None] > 0, 0.0, 100.0)

    def centers(x: np.ndarray) -> np.ndarray:
        return (
            MiniBatchKMeans(3, random_state=0, batch_size=50, max_iter=2)
            .fit(x, sample_weight=w)
            .cluster_centers_
        )

    assert_array_equal(centers(far), centers(X))
    assert np.abs(centers(far)).max() < np.abs(X).max()


def test_without_labels() -> None:
    model = MiniBatchKMeans(6, random_state=0, compute_labels=False, batch_size=256).fit(X)
    assert not hasattr(model, "labels_")
    assert model.inertia_ == pytest.approx(-model.score(X), rel=0.3)


def test_a_tolerance_stops_it() -> None:
    options: dict[str, Any] = {
        "random_state": 0,
        "batch_size": 500,
        "max_no_improvement": None,
        "max_iter": 20,
    }
    assert (
        MiniBatchKMeans(6, tol=1.0, **options).fit(X).n_steps_
        < MiniBatchKMeans(6, **options).fit(X).n_steps_
        == 200
    )
