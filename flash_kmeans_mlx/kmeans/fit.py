"""One fit: check arguments, open the points on a backend, seed, run, keep the best run."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .. import backends, validation
from ..backends.points import Points
from ..errors import EmptyClusterWarning
from ..files.mapped import check_mapped
from ..metrics import Metric
from .empty_clusters import POLICIES
from .lloyd import FinalMeans, Fit, Iteration, lloyd
from .result import KMeansResult
from .seeding import INITS, initial_centroids

__all__ = ["caller_level", "fit"]


def fit(
    metric: Metric,
    x: Any,
    n_clusters: int,
    max_iters: int = 100,
    tol: float = 0.0,
    init_centroids: Any = None,
    verbose: bool = False,
    *,
    init: Any = "random",
    seed: int = 0,
    sample_weight: Any = None,
    n_init: int = 1,
    empty: str = "farthest",
    compiled: bool = True,
    max_mem_gb: float = 0.0,
    dtype: Any = None,
    backend: str | None = None,
    strategy: str | None = None,
    check_finite: bool = True,
    report: Callable[[Iteration], None] | None = None,
    final_means: FinalMeans | None = None,
    summed_shift: bool = False,
    warn: bool = True,
) -> KMeansResult:
    """Fit x under any metric: `batch_kmeans_*` of `api` with its arguments, and a few more.

    Args:
        metric: The metric.
        x: The points; all arguments down to `check_finite` are those of `batch_kmeans_Euclid`.
        n_clusters: As there.
        max_iters: As there.
        tol: As there.
        init_centroids: As there.
        verbose: As there.
        init: As there.
        seed: As there.
        sample_weight: As there.
        n_init: As there.
        empty: As there.
        compiled: As there.
        max_mem_gb: As there.
        dtype: As there.
        backend: As there.
        strategy: As there.
        check_finite: As there.
        report: Called after every iteration.
        final_means: Computes the final centroids in more than float32; see `lloyd`.
        summed_shift: Whether `tol` bounds the norm of all moves of an iteration together, not that
            of the largest.
        warn: Whether to warn of fewer distinct points than clusters.
    """
    data = validation.data(x, dtype)
    n = data.shape[1]
    n_clusters = validation.check_count("n_clusters", n_clusters, 1, n, "N", data.given_shape)
    max_iters = validation.check_iterations("max_iters", max_iters)
    n_init = validation.check_count("n_init", n_init, 1)
    seed = validation.check_count("seed", seed, 0)
    tol = validation.check_real("tol", tol)
    validation.check_choice("empty", empty, POLICIES)
    weights = validation.weights(sample_weight, data, check_finite)
    if init_centroids is not None:
        init = validation.centroids(
            init_centroids, data, n_clusters, "init_centroids", check_finite
        )
    elif isinstance(init, str) or init is None or np.isscalar(init):
        validation.check_choice("init", init, INITS, "an array or a callable")
    if not isinstance(init, str) and not callable(init):
        n_init = 1  # every run would be the same
    backend = backends.resolve(backend)
    backends.check_strategy(strategy, backend)
    problem = backends.Problem(
        x=data.x,
        n_clusters=n_clusters,
        metric=metric,
        given_shape=data.given_shape,
        weights=weights,
        max_bytes=validation.cap(max_mem_gb),
        bytes_in_use=data.copied,
        check_finite=check_finite,
        compiled=compiled,
        runs=n_init,
        init=init if isinstance(init, str) else "",
        strategy=strategy,
        summed_shift=summed_shift,
    )
    with backends.open_points(backend, problem) as points:

        def start(run: int) -> np.ndarray:
            check_mapped(data.x)
            rng = np.random.default_rng([seed, run])
            with points.timed("seeding"):
                return initial_centroids(points, init, data, n_clusters, rng, check_finite)

        watch = _print if verbose else report
        runs = (
            lloyd(points, start(run), max_iters, tol, empty, watch, final_means)
            for run in range(n_init)
        )
        best, labels, inertia = _best(points, runs, n_init)
    if warn and best.exhausted.any():
        warnings.warn(
            f"fewer distinct points than n_clusters={n_clusters} in {int(best.exhausted.sum())}"
            f" of {len(best.exhausted)} batch elements (x.shape={data.given_shape}):"
            " the extra clusters are empty",
            EmptyClusterWarning,
            stacklevel=caller_level(),
        )
    return KMeansResult(
        labels=data.to_caller(labels, array=True),
        centroids=data.to_caller(best.centroids, array=True),
        n_iter=int(best.n_iter.max()),
        inertia=data.to_caller(inertia),
        converged=data.to_caller(best.converged),
        n_iter_per_batch=data.to_caller(best.n_iter),
        backend=points.backend,
        strategy=points.strategy,
        products=points.products(),
        seconds=points.seconds,
    )


def _best(points: Points, runs: Iterator[Fit], n_init: int) -> tuple[Fit, np.ndarray, np.ndarray]:
    """Return each batch element's run of lowest inertia: (fit, labels (B, N), inertia (B,))."""
    best = next(runs)
    inertia = points.inertia(best.centroids)
    labels = points.labels() if n_init == 1 else points.labels().copy()
    for new in runs:
        new_inertia = points.inertia(new.centroids)
        better = new_inertia < inertia
        labels[better] = points.labels()[better]
        inertia = np.where(better, new_inertia, inertia)
        for kept, found in zip(best, new, strict=True):
            kept[better] = found[better]
    return best, labels, inertia


def caller_level() -> int:
    """Return the stacklevel that puts a warning of the calling function outside this package."""
    package = __name__.partition(".")[0]
    level = 1
    frame = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith(f"{package}."):
        level += 1
        frame = frame.f_back
    return level


def _print(i: Iteration) -> None:
    print(
        f"iteration {i.n_iter}: shift {i.shift:.6g}, inertia {i.inertia:.8g},"
        f" {i.n_empty} empty clusters, {i.n_running} running",
        flush=True,
    )
