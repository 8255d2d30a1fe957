"""scikit-learn's checks of what an estimator is, none of them expected to fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from flash_kmeans_mlx.sklearn import KMeans, MiniBatchKMeans, NearestNeighbors

TWICE: dict[str, Any] = {"n_clusters": 2, "n_init": 2}


@pytest.mark.filterwarnings(
    "ignore:Number of distinct clusters:sklearn.exceptions.ConvergenceWarning"
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(
    [KMeans(), MiniBatchKMeans(), KMeans(**TWICE), MiniBatchKMeans(**TWICE), NearestNeighbors()]
)
def test_estimator(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)
