"""Scores by BLAS, which this machine's plan may not choose."""

from __future__ import annotations

import sys

import helpers
import numpy as np
import pytest
from helpers import FITS, METRICS

from flash_kmeans_mlx import assign
from flash_kmeans_mlx.backends import cpu


@pytest.fixture
def _products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "MATRIX_UNITS", True)
    monkeypatch.setattr(sys.modules["flash_kmeans_mlx.backends.cpu.plan"], "LOOPED", 0)


@pytest.mark.usefixtures("_products")
@pytest.mark.parametrize(("b", "n", "d", "k"), [(1, 1, 17, 1), (3, 211, 17, 7), (1, 5003, 33, 700), (2, 300, 100, 300)])
@pytest.mark.parametrize("metric", METRICS)
def test_fits_by_products(metric: str, b: int, n: int, d: int, k: int) -> None:
    x = (helpers.blobs(b, n, d, k) + 30).astype(np.float32)  # far enough for a frame
    w = np.random.default_rng(0).random((b, n), np.float32)
    result = FITS[metric](x, k, 5, sample_weight=w, init="k-means++", backend="cpu")
    helpers.assert_labels_optimal(x, result.centroids, result.labels, metric)
    np.testing.assert_array_equal(assign(x, result.centroids, metric, backend="cpu"), result.labels)


@pytest.mark.usefixtures("_products")
def test_copies_of_a_centroid_lose_to_the_first() -> None:
    c = np.tile(np.random.default_rng(0).standard_normal((2, 33)), (5, 1)).astype(np.float32)
    x = np.random.default_rng(1).standard_normal((3001, 33)).astype(np.float32)
    assert assign(x, c, backend="cpu").max() == 1
