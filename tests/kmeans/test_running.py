"""partial_fit and update: running means and fits beside old points, against their definitions."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import FITS, blobs, every_backend, every_metric, given

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.files import models
from flash_kmeans_mlx.metrics import METRICS, unit_rows

X = blobs(2, 400, 6, 5).astype(np.float32) + 3
WEIGHTS = np.random.default_rng(0).integers(0, 4, (2, 400)).astype(np.float32)


def unit(metric: str, x: np.ndarray) -> np.ndarray:
    return unit_rows(x) if metric == "cosine" else x.astype(np.float64)


def finalize(metric: str, sums: np.ndarray, counts: np.ndarray, before: np.ndarray) -> np.ndarray:
    return METRICS[metric].finalize(sums, counts, before).astype(np.float32)


def labels_of(metric: str, x: np.ndarray, c: np.ndarray) -> np.ndarray:
    return METRICS[metric].costs(unit(metric, x), c.astype(np.float64)).argmin(1)


def add(
    metric: str, x: np.ndarray, weights: np.ndarray, labels: np.ndarray, past: tuple[Any, Any]
) -> tuple[np.ndarray, np.ndarray]:
    sums, counts = past[0].copy(), past[1].copy()
    np.add.at(sums, labels, weights[:, None].astype(np.float64) * unit(metric, x))
    np.add.at(counts, labels, weights)
    return sums, counts


@pytest.mark.parametrize("weighted", [False, True])
@every_backend
@every_metric
def test_partial_fit_by_hand(metric: str, backend: str, weighted: bool) -> None:
    x, weights = X[0], WEIGHTS[0] if weighted else None
    own = np.ones(len(x), np.float32) if weights is None else weights
    model = fk.FlashKMeans(6, 5, metric=metric, backend=backend, seed=2)
    start = FITS[metric](
        x[:100],
        5,
        0,
        init="k-means++",
        seed=2,
        sample_weight=None if weights is None else weights[:100],
        backend=backend,
    ).centroids
    c = np.asarray(start)
    past = np.zeros((5, 6)), np.zeros(5)
    for i, lo in enumerate(range(0, 400, 100)):
        part = slice(lo, lo + 100)
        assert model.partial_fit(x[part], None if weights is None else weights[part]) is model
        labels = labels_of(metric, x[part], c)
        np.testing.assert_array_equal(model.labels_, labels)
        past = add(metric, x[part], own[part], labels, past)
        c = finalize(metric, *past, c)
        np.testing.assert_allclose(np.asarray(model.centroids), c, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(model.counts_, past[1])
        assert model.n_iter_ == i + 1
        c = np.asarray(model.centroids)


@every_metric
def test_running_means_are_exact(metric: str) -> None:
    """A thousand small batches give the means of all points, far from the origin too."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((5000, 3)).astype(np.float32)
    x[:, 0] += 1000
    x[:, 1] += 100 * (np.arange(5000) % 2)
    model = fk.FlashKMeans(3, 2, metric=metric, backend="cpu").partial_fit(x[:5])
    for lo in range(5, 5000, 5):
        model.partial_fit(x[lo : lo + 5])
    wanted = np.stack([unit(metric, x[i::2]).sum(0) for i in (0, 1)])
    counts = np.array([2500.0, 2500.0])
    order = np.argsort(np.asarray(model.centroids)[:, 1])
    if metric == "dot":  # whose clusters are others
        np.testing.assert_allclose(model._sums.sum(0), wanted.sum(0), rtol=1e-12)  # type: ignore[union-attr]
        return
    np.testing.assert_array_equal(model.counts_, counts)
    means = finalize(metric, wanted, counts, wanted)
    np.testing.assert_array_equal(np.asarray(model.centroids)[order], means)


@pytest.mark.parametrize("verb", ["partial_fit", "update"])
@every_backend
@every_metric
def test_a_batch_is_its_elements(metric: str, backend: str, verb: str) -> None:
    def run(x: Any, weights: Any) -> fk.FlashKMeans:
        model = fk.FlashKMeans(6, 4, metric=metric, backend=backend, init="random", niter=6)
        model.fit(x[..., :200, :], weights[..., :200])
        getattr(model, verb)(x[..., 200:300, :], weights[..., 200:300])
        return getattr(model, verb)(x[..., 300:, :], weights[..., 300:])

    both = run(X, WEIGHTS)
    for b in range(2):
        one = run(X[b], WEIGHTS[b])
        np.testing.assert_allclose(both.centroids[b], one.centroids, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(both.labels_[b], one.labels_)
        np.testing.assert_allclose(both.counts_[b], one.counts_)
        assert both.inertia_[b] == pytest.approx(one.inertia_, rel=1e-5)


def objective(
    metric: str, x: np.ndarray, c: np.ndarray, sums: np.ndarray, counts: np.ndarray
) -> float:
    """What `update` minimises, as its docstring says."""
    new = METRICS[metric].costs(unit(metric, x), c).min(1).sum()
    if metric == "euclidean":
        means = sums / np.maximum(counts, 1e-300)[:, None]
        return new + float((counts * np.square(c - means).sum(1)).sum())
    old = counts.sum() if metric == "cosine" else 0.0
    return new + float(old - (c * sums).sum())


@every_backend
@every_metric
def test_update(metric: str, backend: str) -> None:
    """It ends at a minimum of what it says that it minimises, and no iteration makes that larger."""
    old, new = X[0, :250], X[1, 250:]
    model = fk.FlashKMeans(6, 5, metric=metric, backend=backend, tol=0.0, niter=50).fit(old)
    c = np.asarray(model.centroids).astype(np.float64)
    counts = np.bincount(np.asarray(model.labels_), minlength=5).astype(np.float64)
    np.testing.assert_array_equal(model.counts_, counts)
    mean = 1.0
    if metric != "euclidean":
        costs = METRICS[metric].costs(unit(metric, old), c).min(1)
        mean = (1 - costs).mean() if metric == "cosine" else -costs.mean()
    sums = counts[:, None] * mean * c
    values = [objective(metric, new, c, sums, counts)]
    for niter in range(1, 8):
        again = fk.FlashKMeans(6, 5, metric=metric, backend=backend, tol=0.0, niter=50).fit(old)
        again.niter = niter
        again.update(new)
        values.append(
            objective(metric, new, np.asarray(again.centroids).astype(np.float64), sums, counts)
        )
    slack = 1e-6 * abs(values[0])
    assert all(b <= a + slack for a, b in pairwise(values)), values
    assert values[-1] < values[0] - slack
    model.update(new)
    labels = labels_of(metric, new, np.asarray(model.centroids))
    np.testing.assert_array_equal(model.labels_, labels)
    after = add(metric, new, np.ones(len(new)), labels, (sums, counts))
    np.testing.assert_allclose(model.counts_, after[1])
    fixed = finalize(metric, *after, np.asarray(model.centroids))
    np.testing.assert_allclose(np.asarray(model.centroids), fixed, rtol=1e-4, atol=1e-5)


def test_update_with_the_points_of_the_fit_moves_nothing() -> None:
    model = fk.FlashKMeans(6, 5, tol=0.0, niter=100).fit(X[0])
    before = np.asarray(model.centroids)
    model.update(X[0])
    np.testing.assert_allclose(np.asarray(model.centroids), before, rtol=1e-5, atol=1e-6)
    assert model.counts_.sum() == 800


@pytest.mark.parametrize("verb", ["partial_fit", "update"])
@every_metric
def test_sources_and_kinds(metric: str, verb: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X[0])
    results = []
    for x in (X[0], tmp_path / "x.npy", X[0].astype(np.float64), given(X[0], "mlx-float32")):
        model = fk.FlashKMeans(6, 5, metric=metric, backend="cpu").fit(X[0, :50])
        getattr(model, verb)(x, WEIGHTS[0])
        results.append((np.asarray(model.centroids), model.counts_, np.asarray(model.labels_)))
        assert isinstance(model.centroids, mx.array) == isinstance(x, mx.array)
    for found in results[1:]:
        for a, b in zip(found, results[0], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("before", ["fit", "partial_fit"])
@every_metric
def test_a_saved_model_goes_on(metric: str, before: str, tmp_path: Path) -> None:
    for x in (X, X[0]):
        model = fk.FlashKMeans(6, 5, metric=metric, backend="cpu")
        getattr(model, before)(x[..., :200, :])
        model.save(tmp_path / "m")
        loaded = fk.FlashKMeans.load(tmp_path / "m")
        loaded.backend = "cpu"
        for one in (model, loaded):
            one.partial_fit(x[..., 200:300, :]).update(x[..., 300:, :])
        np.testing.assert_array_equal(np.asarray(loaded.centroids), np.asarray(model.centroids))
        np.testing.assert_array_equal(loaded.counts_, model.counts_)


def test_models_of_older_versions(tmp_path: Path) -> None:
    model = fk.FlashKMeans(6, 3).fit(X[0])
    model.counts_ = None  # as they were
    model.save(tmp_path / "m")
    loaded = fk.FlashKMeans.load(tmp_path / "m")
    assert loaded.counts_ is None and loaded.predict(X[0]).shape == (400,)
    for verb in (loaded.partial_fit, loaded.update):
        with pytest.raises(ValueError, match=r"kept no weights of clusters: set counts_"):
            verb(X[0])
    loaded.counts_ = [100, 200, 100]
    loaded.partial_fit(X[0])
    assert loaded.counts_.sum() == 800


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("counts", np.zeros(4)),
        ("counts", np.full(3, -1.0)),
        ("counts", np.full(3, np.nan)),
        ("sums", np.zeros((3, 5))),
    ],
)
def test_damaged_files(name: str, array: np.ndarray, tmp_path: Path) -> None:
    fk.FlashKMeans(6, 3).partial_fit(X[0]).save(tmp_path / "m")
    arrays, metadata = models.read(tmp_path / "m")
    kept = {k: v for k, v in metadata.items() if k in ("class", "parameters")}
    models.write(tmp_path / "m", arrays | {name: array}, kept)
    with pytest.raises(ValueError, match=f"or a damaged one: {name}"):
        fk.FlashKMeans.load(tmp_path / "m")


def test_what_is_wrong_leaves_the_model_as_it_was() -> None:
    model = fk.FlashKMeans(k=3)
    with pytest.raises(fk.NotFittedError, match="call fit, or load a model"):
        model.update(X[0])
    with pytest.raises(ValueError, match="k=3 must be <= N=2"):
        model.partial_fit(X[0, :2])
    with pytest.raises(TypeError, match="yields its rows only once"):
        model.partial_fit(iter([X[0]]))
    assert model.centroids is None and model.counts_ is None
    model.partial_fit(X[0])
    before = {name: np.array(value).tolist() for name, value in vars(model).items()}
    for verb in (model.partial_fit, model.update):
        with pytest.raises(ValueError, match=r"x must have D=6 columns .*, got 5"):
            verb(X[0, :, :5])
        with pytest.raises(ValueError, match="x must have 2 dimensions like the points of fit"):
            verb(X)
        with pytest.raises(ValueError, match="x must be finite"):
            verb(np.where(X[0] > 3, np.nan, X[0]))
        with pytest.raises(ValueError, match="sample_weight must have shape"):
            verb(X[0], np.ones(3))
    assert {name: np.array(value).tolist() for name, value in vars(model).items()} == before
