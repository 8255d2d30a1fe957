"""Points with heads, (B, H, N, D): the bits of a batch of B * H, in shapes like those of x."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import FITS, Array, blobs, every_backend, every_metric
from numpy.testing import assert_array_equal

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.kmeans import arguments

B, H, N, D, K = 2, 3, 60, 5, 4
FLAT = blobs(B * H, N, D, 6).astype(np.float32)
X = FLAT.reshape(B, H, N, D)
WEIGHTS = np.random.default_rng(0).random((B, H, N), np.float32)


def same(found: Any, flat: Any) -> None:
    """Check that an array is that of the batch, with the dimensions B, H in place of B * H."""
    found, flat = np.asarray(found), np.asarray(flat)
    assert found.shape == (B, H, *flat.shape[1:]) and found.dtype == flat.dtype
    assert_array_equal(found.reshape(flat.shape), flat)


FIELDS = ("labels", "centroids", "inertia", "converged", "n_iter_per_batch", "cluster_sizes")


@every_backend
@every_metric
def test_a_fit(metric: str, backend: str) -> None:
    options: dict[str, Any] = {"n_clusters": K, "max_iters": 9, "backend": backend}
    found = FITS[metric](X, **options)
    flat = FITS[metric](FLAT, **options)
    for name in FIELDS:
        same(getattr(found, name), getattr(flat, name))
    assert found.n_iter == flat.n_iter


@pytest.mark.parametrize("start", [X[:, :, :K], FLAT[:, :K], FLAT[0, :K]], ids=["BH", "B", "K"])
@pytest.mark.parametrize("weights", [WEIGHTS, WEIGHTS.reshape(-1, N), WEIGHTS[0, 0], None])
def test_starts_and_weights(start: Array, weights: Any) -> None:
    found = fk.batch_kmeans_Euclid(X, K, 5, init_centroids=start, sample_weight=weights)
    flat = fk.batch_kmeans_Euclid(
        FLAT,
        K,
        5,
        init_centroids=start.reshape(-1, K, D) if start.ndim > 2 else start,
        sample_weight=None if weights is None else weights.reshape(-1, N)[: B * H].squeeze(),
    )
    for name in FIELDS:
        same(getattr(found, name), getattr(flat, name))
    # The result is a start of the next fit.
    again = fk.batch_kmeans_Euclid(X, K, 0, init_centroids=found.centroids)
    assert_array_equal(again.centroids, found.centroids)


@pytest.mark.parametrize("kind", ["mlx", "list", "transposed", "float64", "float16"])
def test_what_x_may_be(kind: str) -> None:
    forms: dict[str, Any] = {
        "mlx": mx.array(X),
        "list": X.tolist(),
        "transposed": np.ascontiguousarray(X.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3),
        "float64": X.astype(np.float64),
        "float16": X.astype(np.float16),
    }
    x = forms[kind]
    found = fk.batch_kmeans_Euclid(x, K, 5, backend="cpu")
    flat = fk.batch_kmeans_Euclid(
        np.asarray(x, None if kind != "list" else np.float64).reshape(-1, N, D),
        K,
        5,
        backend="cpu",
    )
    same(found.labels, flat.labels)
    same(found.centroids, flat.centroids)
    assert isinstance(found.labels, mx.array) == (kind == "mlx")


def test_a_callable_start_gets_x() -> None:
    seen: list[tuple[int, ...]] = []

    def start(x: Array, n_clusters: int, _: Any) -> Array:
        seen.append(x.shape)
        return x[..., :n_clusters, :]

    found = fk.batch_kmeans_Euclid(X, K, 5, init=start)
    assert seen == [X.shape]
    same(found.labels, fk.batch_kmeans_Euclid(FLAT, K, 5, init_centroids=FLAT[:, :K]).labels)


def test_assign_and_labels_in_a_file(tmp_path: Path) -> None:
    c = X[:, :, :K]
    wanted = fk.assign(FLAT, c.reshape(-1, K, D))
    same(fk.assign(X, c), wanted)
    same(fk.assign(X, c, labels_path=tmp_path / "labels.npy"), wanted)
    result = fk.batch_kmeans_Euclid(X, K, 3, labels_path=tmp_path / "fit.npy")
    same(result.labels, fk.batch_kmeans_Euclid(FLAT, K, 3).labels)


@every_metric
def test_the_estimator(metric: str, tmp_path: Path) -> None:
    models = [fk.FlashKMeans(D, K, 5, metric=metric).fit(x) for x in (X, FLAT)]
    models[0].save(tmp_path / "model")
    models.append(fk.FlashKMeans.load(tmp_path / "model"))
    for name in ("centroids", "inertia_", "counts_"):
        same(getattr(models[0], name), getattr(models[1], name))
        same(getattr(models[2], name), getattr(models[1], name))
    for found in (models[0], models[2]):
        for verb in ("predict", "transform", "score"):
            same(getattr(found, verb)(X[:, :, :9]), getattr(models[1], verb)(FLAT[:, :9]))
    for verb in ("partial_fit", "update"):
        for model, x in zip(models, (X, FLAT, X), strict=True):
            getattr(model, verb)(x + 1)
        for name in ("centroids", "inertia_", "counts_", "labels_", "_sums"):
            same(getattr(models[0], name), getattr(models[1], name))
    with pytest.raises(ValueError, match=r"^x must have B=6 batch elements like the points of fit"):
        models[0].predict(X[:1])
    with pytest.raises(ValueError, match=r"^x must have 4 dimensions like the points of fit"):
        models[0].partial_fit(FLAT)


def test_what_is_copied() -> None:
    data = arguments.points(X)
    assert np.shares_memory(data.x, X) and data.copied == 0
    assert arguments.points(X.swapaxes(1, 2)).copied == X.nbytes  # counted, as heads are inside
    assert arguments.points(mx.array(X)).copied == X.nbytes  # which MLX may have copied
    assert arguments.points(X, "float16").copied == X.nbytes


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x": X[None]}, "x must have shape (N, D), (B, N, D) or (B, H, N, D), got 5 dimensions"),
        ({"x": X[:, :0]}, "x must have no empty dimension (x.shape=(2, 0, 60, 5))"),
        (
            {"init_centroids": X[:1, :, :K]},
            "init_centroids must have shape (K, D)=(4, 5) or (B, H, K, D)=(2, 3, 4, 5), got"
            " (1, 3, 4, 5) (x.shape=(2, 3, 60, 5))",
        ),
        (
            {"sample_weight": WEIGHTS[:1]},
            "sample_weight must have shape (N,)=(60,) or (B, H, N)=(2, 3, 60), got (1, 3, 60)"
            " (x.shape=(2, 3, 60, 5))",
        ),
        ({"n_clusters": 61}, "n_clusters=61 must be <= N=60 (x.shape=(2, 3, 60, 5))"),
    ],
)
def test_messages(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        fk.batch_kmeans_Euclid(**{"x": X, "n_clusters": K, **given})


def test_searches_have_no_heads() -> None:
    with pytest.raises(
        ValueError, match=r"^queries must have shape \(N, D\) or \(B, N, D\), got 4"
    ):
        fk.knn(X, X, 2)
