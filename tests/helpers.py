"""Oracles in float64, tolerances, data and parametrizations for the tests: computed here, never by the package."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
from metal import compiler
from scipy.spatial.distance import cdist

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.backends import available

Array = npt.NDArray[Any]

# Backend "metal" runs in the emulator, by conftest's fixture `metal`.
EMULATED = available()["metal"] is not None and compiler.why_not() is None
# The backends that run here: the only list of their names in the tests.
BACKENDS = tuple(
    name for name, reason in available().items() if reason is None or (name == "metal" and EMULATED)
)
FITS: dict[str, Callable[..., Any]] = {
    "euclidean": fk.batch_kmeans_Euclid,
    "cosine": fk.batch_kmeans_Cosine,
    "dot": fk.batch_kmeans_Dot,
}
METRICS = tuple(FITS)
INITS = ("random", "k-means++", "k-means||")
# As `given` reads them.
KINDS = (
    "numpy-float32",
    "numpy-float16",
    "numpy-float64",
    "mlx-float32",
    "mlx-float16",
    "mlx-bfloat16",
)
every_backend = pytest.mark.parametrize("backend", BACKENDS)
every_metric = pytest.mark.parametrize("metric", METRICS)
every_init = pytest.mark.parametrize("init", INITS)
EPS = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
# Two scores are compared, and data up to two bits off centre are used as they are (frame.FAR).
SLACK = 8


def backends_but(*names: str) -> tuple[str, ...]:
    """Return the backends that run here, without these."""
    return tuple(name for name in BACKENDS if name not in names)


def tolerance(d: int, dtype: str = "float32") -> float:
    """Return the error that rounding of sums over D coordinates explains, relative to the size of the terms."""
    return SLACK * EPS[dtype] * float(np.sqrt(d))


def to_float64(x: Any) -> Array:
    """Return the exact values of an MLX or NumPy array of any float dtype."""
    return np.array(x.astype(mx.float32) if isinstance(x, mx.array) else x, np.float64)


def unit(x: Array) -> Array:
    """Return rows of norm 1; zero rows stay zero."""
    norm = np.sqrt(np.square(x).sum(-1, keepdims=True))
    return x / np.where(norm > 0, norm, 1.0)


def costs(x: Any, centroids: Any, metric: str) -> Array:
    """Return (N, K) float64, the cost of every point (N, D) at every centroid (K, D)."""
    x, centroids = to_float64(x), to_float64(centroids)
    if metric == "euclidean":
        return cdist(x, centroids, "sqeuclidean")
    return 1.0 - unit(x) @ unit(centroids).T if metric == "cosine" else -(x @ centroids.T)


def regret(x: Any, centroids: Any, labels: Any, metric: str) -> Array:
    """Return (..., N), the excess cost of the chosen centroid over the best one, relative to the sizes of all three.

    Sizes are measured from the mean of the data, so that an offset can't hide wrong labels; for dot they are
    ``||x|| ||c||``, for cosine 1.
    """
    x, centroids, labels = to_float64(x), to_float64(centroids), np.asarray(labels).astype(np.int64)
    if x.ndim == 3:
        return np.stack(
            [regret(*element, metric) for element in zip(x, centroids, labels, strict=True)]
        )
    cost = costs(x, centroids, metric)
    every = np.arange(len(x))
    best = cost.argmin(1)
    excess = cost[every, labels] - cost[every, best]
    if metric == "euclidean":
        mean = x.mean(0)
        of_points = np.square(x - mean).sum(1)
        of_centroids = np.square(centroids - mean).sum(1)
        size = of_points + of_centroids[labels] + of_centroids[best] + of_points.mean()
    elif metric == "dot":
        norms = np.linalg.norm(centroids, axis=1)
        size = np.linalg.norm(x, axis=1) * np.maximum(norms[labels], norms[best])
    else:
        size = np.ones(len(x))
    return excess / np.where(size > 0, size, 1.0)


def parallel_regret(x: Array, centroids: Any, labels: Any, metric: str) -> Array:
    """Return (N,), the excess of 1 - cos (of minus the product with the unit row for "dot"), relative to the mean of 1 - cos.

    Of the centroids as they were returned; for cosine by their directions.
    """
    units = unit(to_float64(x))
    c = to_float64(centroids)
    c = unit(c) if metric == "cosine" else c
    scores = units @ (c - c.mean(0)).T  # ranks as <x, c>, and keeps 16 digits of the differences
    chosen = np.take_along_axis(scores, np.asarray(labels).astype(np.int64)[:, None], 1)[:, 0]
    spread = np.square(units - units.mean(0)).sum(1).mean() / 2
    return (scores.max(1) - chosen) / (spread if spread > 0 else 1.0)


def parallel_limit(x: Array, *, rows: bool = False) -> float:
    """Return the `parallel_regret` that rounding explains.

    Rounding of differences where norms are alike, of the rows themselves where they are not.

    Args:
        x: (N, D) points.
        rows: Whether rounding of the rows counts in any case.
    """
    x = to_float64(x)
    norms = np.linalg.norm(x, axis=1)
    units = unit(x)
    spread = np.sqrt(np.square(units - units.mean(0)).sum(1).mean())
    unlike = 1.0 if rows else min(1.0, np.abs(norms / norms.mean() - 1).max())
    return tolerance(x.shape[1]) * (1 + unlike / (spread if spread > 0 else 1.0))


def assert_labels_optimal(
    x: Any, centroids: Any, labels: Any, metric: str, dtype: str = "float32"
) -> None:
    """Assert that every label is a best centroid, up to rounding in `dtype`."""
    labels = np.asarray(labels)
    assert labels.shape == tuple(x.shape[:-1]), f"labels {labels.shape} for x {tuple(x.shape)}"
    assert labels.min() >= 0 and labels.max() < centroids.shape[-2], "labels out of range"
    excess = regret(x, centroids, labels, metric)
    limit = tolerance(x.shape[-1], dtype)
    wrong = np.argwhere(~(excess <= limit))
    assert not len(wrong), (
        f"{len(wrong)} of {excess.size} labels not the best, up to {excess.max():.2e} > {limit:.2e}: {wrong[:3]}"
    )


def own_centroids(centroids: Any, labels: Any) -> Array:
    """Return (..., N, D) float64, the centroid of every point."""
    return np.take_along_axis(
        to_float64(centroids), np.asarray(labels).astype(np.int64)[..., None], -2
    )


def inertia(x: Any, centroids: Any, labels: Any, metric: str, weights: Any = None) -> Array:
    """Return (...,), the weighted sum of the costs under the labels; for cosine centroids must be unit rows."""
    x = to_float64(x)
    own = own_centroids(centroids, labels)
    if metric == "euclidean":
        cost = np.square(x - own).sum(-1)
    else:
        cost = 1.0 - (unit(x) * own).sum(-1) if metric == "cosine" else -(x * own).sum(-1)
    return (cost if weights is None else cost * weights).sum(-1)


def inertia_scale(x: Any, centroids: Any, labels: Any, metric: str, weights: Any = None) -> Array:
    """Return (...,), the size of an inertia: squares around the mean, the number or the summed norms of the points."""
    x = to_float64(x)
    if metric == "euclidean":
        mean = x.mean(-2, keepdims=True)
        own = own_centroids(centroids, labels)
        size = np.square(x - mean).sum(-1) + np.square(own - mean).sum(-1)
    else:
        size = np.ones(x.shape[:-1]) if metric == "cosine" else np.linalg.norm(x, axis=-1)
    return (size if weights is None else size * weights).sum(-1)


def centre(
    x: Array, labels: Array, previous: Array, metric: str, weights: Array | None = None
) -> Array:
    """Return (K, D), the M-step by its definition; clusters without weight keep their previous centroid."""
    w = (np.ones(len(x)) if weights is None else np.asarray(weights, np.float64))[:, None]
    x = unit(to_float64(x)) if metric == "cosine" else to_float64(x)
    new = previous.astype(np.float64).copy()
    for k in range(len(new)):
        own = labels == k
        if w[own].sum() > 0:
            total = (w[own] * x[own]).sum(0)
            size = w[own].sum() if metric == "euclidean" else np.linalg.norm(total)
            new[k] = total / size if size > 0 else new[k]
    return new


def assert_centroids_optimal(
    x: Any, centroids: Any, labels: Any, metric: str, weights: Any = None
) -> None:
    """Assert that every centroid is the mean, or the direction of the sum, of its points, up to rounding in float32.

    Relative to the sum of the norms, so that sums which cancel have whatever direction rounding gives them.
    """
    x, centroids, labels = to_float64(x), to_float64(centroids), np.asarray(labels)
    if x.ndim == 3:
        for b, element in enumerate(x):
            assert_centroids_optimal(
                element, centroids[b], labels[b], metric, None if weights is None else weights[b]
            )
        return
    w = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    rows = w[:, None] * (unit(x) if metric == "cosine" else x)
    for k, c in enumerate(centroids):
        own = labels == k
        total, weight_sum = rows[own].sum(0), w[own].sum()
        error = np.linalg.norm(
            c * (weight_sum if metric == "euclidean" else np.linalg.norm(total)) - total
        )
        limit = tolerance(x.shape[1]) * np.linalg.norm(rows[own], axis=1).sum()
        assert error <= limit, (
            f"centroid {k} of {own.sum()} points off by {error:.2e} > {limit:.2e}"
        )


def lloyd(
    x: Array, start: Array, metric: str, n_iter: int, weights: Array | None = None
) -> tuple[Array, Array]:
    """Return centroids (K, D) after n_iter M-steps in float64, and labels (N,) under them; empty clusters stay."""
    c = start.astype(np.float64) if metric == "euclidean" else unit(start.astype(np.float64))
    for _ in range(n_iter):
        c = centre(x, costs(x, c, metric).argmin(1), c, metric, weights)
    return c, costs(x, c, metric).argmin(1)


def given(x: Array, kind: str) -> Any:
    """Return x as a caller would pass it: "numpy-float64", "mlx-bfloat16", ..."""
    library, dtype = kind.split("-")
    if library == "numpy":
        return x.astype(dtype)
    return mx.array(x.astype(np.float32)).astype(getattr(mx, dtype))


def bits(result: fk.KMeansResult) -> dict[str, bytes]:
    """Return the bits of a fit, by field."""
    fields = ("labels", "centroids", "inertia", "n_iter_per_batch", "converged")
    return {name: np.asarray(getattr(result, name)).tobytes() for name in fields}


def same_partition(a: Any, b: Any) -> bool:
    """Return whether two labelings (N,) differ by a renaming of the clusters only, seen from either side."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape:
        return False
    pairs = set(zip(a.tolist(), b.tolist(), strict=True))
    return len(pairs) == len(set(a.tolist())) == len(set(b.tolist()))


def blobs(b: int, n: int, d: int, k: int, seed: int = 0) -> Array:
    """Return (B, N, D) float64: K overlapping normal clusters per batch element, every batch element its own."""
    rng = np.random.default_rng([seed, b, n, d, k])
    centres = 2.0 * rng.standard_normal((b, k, d))
    which = rng.integers(k, size=(b, n))
    return np.take_along_axis(centres, which[..., None], 1) + rng.standard_normal((b, n, d))


def low_rank(n: int, d: int, rank: int, noise: float = 0.02, seed: int = 0) -> Array:
    """Return (N, D) float32: clusters in a subspace of this rank, and a little noise around it."""
    rng = np.random.default_rng([seed, n, d, rank])
    centres = 3 * rng.standard_normal((max(1, n // 40), rank))
    low = centres[rng.integers(len(centres), size=n)] + 0.5 * rng.standard_normal((n, rank))
    return (low @ rng.standard_normal((rank, d)) + noise * rng.standard_normal((n, d))).astype(
        np.float32
    )


def duplicates(n: int, distinct: int, d: int, seed: int = 0) -> Array:
    """Return (N, D) float32 with exactly `distinct` different rows, each of them present."""
    rng = np.random.default_rng(seed)
    which = np.concatenate([np.arange(distinct), rng.integers(distinct, size=n - distinct)])
    return rng.standard_normal((distinct, d)).astype(np.float32)[rng.permutation(which)]


def sift_like(n: int, d: int = 128, seed: int = 0) -> Array:
    """Return (N, D) float32 whole numbers, non-negative and heavy-tailed, of norm about 512."""
    rng = np.random.default_rng(seed)
    raw = rng.gamma(0.4, size=(32, d))[rng.integers(32, size=n)] + rng.gamma(0.4, size=(n, d))
    return np.rint(512 * unit(raw)).astype(np.float32)


@cache
def photograph() -> Array:
    """Return (427, 640, 3) uint8."""
    from sklearn.datasets import load_sample_image

    return load_sample_image("china.jpg")


def pixels(n: int) -> Array:
    """Return (n, 3) float32 colours of a photograph, 0 to 255: many duplicates, far from the origin."""
    flat = photograph().reshape(-1, 3)
    return flat[:: len(flat) // n][:n].astype(np.float32)


def patches(n: int) -> Array:
    """Return (n, 192) float32: 8 x 8 patches of a photograph."""
    windows = np.lib.stride_tricks.sliding_window_view(photograph(), (8, 8, 3))[::4, ::4].reshape(
        -1, 192
    )
    return windows[:: len(windows) // n][:n].astype(np.float32)


@cache
def digits() -> Array:
    """Return (1797, 64) float32."""
    from sklearn.datasets import load_digits

    x, _ = load_digits(return_X_y=True)
    return x.astype(np.float32)
