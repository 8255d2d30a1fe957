"""One fit: validate, open the points, seed, run, keep the best."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import backends, validation
from ..backends.points import Points
from ..errors import EmptyClusterWarning
from ..metrics import Metric
from .lloyd import EMPTY_POLICIES, Fit, Iteration, lloyd
from .result import KMeansResult
from .seeding import INITS, initial_centroids

__all__ = ["Terms", "caller_level", "fit"]


@dataclass(frozen=True)
class Terms:
    """What scikit-learn's estimators ask of a fit beyond the arguments of `batch_kmeans_*`. No warning is given.

    Attributes:
        report: called after every iteration.
        means: ``means(labels (B, N), centroids (B, K, D))`` computes the final centroids in more than float32.
    """

    report: Callable[[Iteration], None] | None = None
    means: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None


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
    terms: Terms | None = None,
    report: Callable[[Iteration], None] | None = None,
) -> KMeansResult:
    """`batch_kmeans_*` of `api` for any metric, with the same arguments.

    `report` is called after every iteration. With `terms`, `tol` bounds the norm of all shifts of an iteration together.
    """
    data = validation.data(x, dtype)
    n = data.shape[1]
    n_clusters = validation.check_count("n_clusters", n_clusters, 1, n, "N", data.given_shape)
    max_iters = validation.check_iterations("max_iters", max_iters)
    n_init = validation.check_count("n_init", n_init, 1)
    seed = validation.check_count("seed", seed, 0)
    tol = validation.check_real("tol", tol)
    validation.check_choice("empty", empty, EMPTY_POLICIES)
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
        summed_shift=terms is not None,
    )
    with backends.open_points(backend, problem) as points:
        report = _print if verbose else report or (terms and terms.report)
        means = terms and terms.means

        def start(run: int) -> np.ndarray:
            validation.check_mapped(data.x)
            with points.timed("seeding"):
                return initial_centroids(
                    points, init, data, n_clusters, np.random.default_rng([seed, run]), check_finite
                )

        starts = (start(run) for run in range(n_init))
        runs = (lloyd(points, start, max_iters, tol, empty, report, means) for start in starts)
        best, labels, inertia = _best(points, runs, n_init)
    if best.exhausted.any() and terms is None:
        warnings.warn(
            f"fewer distinct points than n_clusters={n_clusters} in {int(best.exhausted.sum())} of {len(best.exhausted)}"
            f" batch elements (x.shape={data.given_shape}): the extra clusters are empty",
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
    """The run of lowest inertia for every batch element: (fit, labels (B, N), inertia (B,))."""
    best = next(runs)
    inertia = points.inertia(best.centroids)
    labels = points.labels() if n_init == 1 else points.labels().copy()
    for new in runs:
        cost = points.inertia(new.centroids)
        better = cost < inertia
        labels[better] = points.labels()[better]
        inertia = np.where(better, cost, inertia)
        for kept, found in zip(best, new, strict=True):
            kept[better] = found[better]
    return best, labels, inertia


def caller_level() -> int:
    """The stacklevel, for a warning in the function that asks, of its first caller outside this package."""
    package = __name__.partition(".")[0]
    level, frame = 1, sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith(f"{package}."):
        level, frame = level + 1, frame.f_back
    return level


def _print(i: Iteration) -> None:
    print(
        f"iteration {i.n_iter}: shift {i.shift:.6g}, inertia {i.inertia:.8g}, {i.n_empty} empty clusters,"
        f" {i.n_running} running",
        flush=True,
    )
