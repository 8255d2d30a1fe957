"""One fit: check arguments, open the points on a backend, seed, run, keep the best run."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np

from .. import backends, validation
from ..backends.points import Points
from ..backends.stream import RowStream
from ..distributed.blocks import BlockSource, is_collection, open_collection
from ..errors import EmptyClusterWarning
from ..files.mapped import check_mapped
from ..files.results import labels_file
from ..metrics import Metric
from ..progress import SILENT, open_progress
from ..shards.source import is_source, open_source
from . import arguments
from .checkpoint import Checkpoint, Saved, describe
from .empty_clusters import POLICIES
from .lloyd import FinalMeans, Fit, Iteration, LoopState, lloyd
from .result import KMeansResult
from .seeding import INITS, initial_centroids

__all__ = ["caller_level", "fit", "opened"]

Save = Callable[[LoopState], None]


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
    callback: Callable[[Iteration], object] | None = None,
    labels_path: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 0.0,
    resume: bool = False,
    client: Any = None,
    final_means: FinalMeans | None = None,
    summed_shift: bool = False,
    stage: str = "",
    warn: bool = True,
) -> KMeansResult:
    """Fit x under any metric: `batch_kmeans_*` of `api` with its arguments, and a few more.

    Args:
        metric: The metric.
        x: The points; all arguments down to `resume` are those of `batch_kmeans_Euclid`.
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
        callback: As there.
        labels_path: As there.
        checkpoint: As there.
        checkpoint_seconds: As there.
        resume: As there.
        client: As there.
        final_means: Computes the final centroids in more than float32; see `lloyd`.
        summed_shift: Whether `tol` bounds the norm of all moves of an iteration together, not that
            of the largest.
        stage: Printed before each line of `verbose`.
        warn: Whether to warn of fewer distinct points than clusters.
    """
    data = opened(x, dtype)
    shape = data.shape
    given_shape = data.given_shape
    n_clusters = validation.check_count("n_clusters", n_clusters, 1, shape[1], "N", given_shape)
    max_iters = validation.check_iterations("max_iters", max_iters)
    n_init = validation.check_count("n_init", n_init, 1)
    seed = validation.check_count("seed", seed, 0)
    tol = validation.check_tol(tol)
    validation.check_choice("empty", empty, POLICIES)
    weights = arguments.weights(opened_weights(sample_weight), data, check_finite)
    init = _checked_init(init, init_centroids, data, n_clusters, check_finite)
    if isinstance(init, np.ndarray):
        n_init = 1  # every run would be the same
    backend = backends.resolve(backend, data.x)
    backends.check_strategy(strategy, backend)
    saver = None
    if checkpoint is not None:
        about = {
            "metric": metric.name,
            "shape": given_shape,
            "n_clusters": n_clusters,
            "tol": tol,
            "init": init if isinstance(init, str) else describe(init),
            "seed": seed,
            "n_init": n_init,
            "empty": empty,
            "backend": backend,
            "sample_weight": describe(weights),
            "x": describe(data.x),
        }
        seconds = validation.check_real("checkpoint_seconds", checkpoint_seconds)
        saver = Checkpoint(checkpoint, about, seconds)
    elif resume:
        raise ValueError("resume=True needs the path of a checkpoint")
    saved = saver.load() if saver and validation.check_flag("resume", resume) else None
    progress = SILENT if verbose else open_progress()
    problem = backends.Problem(
        x=data.x,
        n_clusters=n_clusters,
        metric=metric,
        given_shape=given_shape,
        weights=weights,
        max_bytes=validation.cap(max_mem_gb),
        bytes_in_use=data.copied,
        check_finite=check_finite,
        compiled=compiled,
        runs=n_init,
        passes=n_init * (max_iters + 2),
        init=init if isinstance(init, str) else "",
        strategy=strategy,
        summed_shift=summed_shift,
        progress=progress,
    )
    if client is None and isinstance(data.x, RowStream) and isinstance(data.x.rows, BlockSource):
        raise ValueError("a Dask collection needs client=, the client of its cluster")

    def run(points: Points, number: int, resumed: LoopState | None, save: Save | None) -> Fit:
        c = resumed.centroids if resumed else init
        if not isinstance(c, np.ndarray):
            check_mapped(data.x)
            rng = np.random.default_rng([seed, number])
            progress.phase("seeding")
            with points.timed("seeding"):
                c = initial_centroids(points, init, data, n_clusters, rng, check_finite)
        watch = partial(_print_and_call, callback, stage and f"{stage}: ") if verbose else callback
        return lloyd(points, c, max_iters, tol, empty, watch, final_means, resumed, save)

    with progress, labels_file(labels_path, given_shape[:-1]) as own:
        progress.phase("reading")
        if own is not None:
            problem = replace(problem, labels=own.reshape(shape[:2]))
        opening = (
            backends.open_points(backend, problem)
            if client is None
            else on_client(client, problem, verbose)
        )
        with opening as points:
            best, labels, inertia = _best(points, run, n_init, saver, saved)
        if problem.labels is not None and labels is not problem.labels:
            problem.labels[...] = labels
    if labels_path is not None:
        labels = np.load(labels_path, mmap_mode="r").reshape(shape[:2])
    if warn and best.exhausted.any():
        warnings.warn(
            f"fewer distinct points than n_clusters={n_clusters} in {int(best.exhausted.sum())}"
            f" of {len(best.exhausted)} batch elements (x.shape={given_shape}):"
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


def opened(x: Any, dtype: Any = None) -> validation.Data:
    """Return points that passed the checks: an array, or a source of rows that stay where they are.

    Raises:
        ValueError, TypeError: As `validation.data`, or a dtype for a source.
        OSError: A file can't be opened.
        VectorFileError: It can't be read.
    """
    if isinstance(x, (np.ndarray, mx.array, validation.Data)):
        return arguments.points(x, dtype)
    if is_collection(x):
        source = open_collection(x)
    elif not is_source(x):
        return arguments.points(x, dtype)
    else:
        source = open_source(x)
    if dtype is not None:
        raise ValueError(f"dtype={dtype!r} must be None for points that are read from files")
    return validation.Data(RowStream(source), mlx=False, batched=False)


def _checked_init(
    init: Any, init_centroids: Any, data: validation.Data, n_clusters: int, check_finite: bool
) -> Any:
    """Return the name of a seeding, a callable, or centroids (B, K, D) float32."""
    if init_centroids is not None:
        return arguments.centroids(init_centroids, data, n_clusters, "init_centroids", check_finite)
    if isinstance(init, str) or init is None or np.isscalar(init):
        return validation.check_choice("init", init, INITS, "an array or a callable")
    if callable(init):
        return init
    return arguments.centroids(init, data, n_clusters, "init", check_finite)


def on_client(client: Any, problem: backends.Problem, verbose: bool) -> Points:
    """Return points whose shards are visited by the workers of a Dask client."""
    if not isinstance(problem.x, RowStream) or problem.x.rows.one_cursor:
        raise ValueError("client needs points in files that its workers can read: pass their paths")
    if verbose:
        print(f"dashboard: {client.dashboard_link}", flush=True)
    from ..distributed.on_dask import DaskExecutor
    from ..distributed.points import ShardedPoints

    return ShardedPoints(problem, DaskExecutor(client))


def opened_weights(weights: Any) -> Any:
    """Return weights, or those of a .npy file, mapped."""
    if not isinstance(weights, (str, os.PathLike)):
        return weights
    try:
        return np.load(weights, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"sample_weight={os.fspath(weights)!r} must be a .npy file of (N,) numbers: {error}"
        ) from None


def _best(
    points: Points,
    run: Callable[[Points, int, LoopState | None, Save | None], Fit],
    n_init: int,
    saver: Checkpoint | None,
    saved: Saved | None,
) -> tuple[Fit, np.ndarray, np.ndarray]:
    """Return each batch element's run of lowest inertia: (fit, labels (B, N), inertia (B,))."""
    best = saved.best if saved else None
    inertia = saved.inertia if saved else np.zeros(points.shape[0])
    labels = np.zeros((0, 0), np.uint32)
    if best is not None:
        points.reset()
        points.assign(best.centroids, np.ones(len(inertia), bool))
        labels = points.labels().copy()
    for number in range(saved.run if saved else 0, n_init):
        resumed = saved.state if saved and number == saved.run else None
        save = partial(_save, saver, number, best, inertia) if saver else None
        new = run(points, number, resumed, save)
        if saver:
            saver.flush()
        new_inertia = points.inertia(new.centroids)
        if best is None:
            best, inertia = new, new_inertia
            labels = points.labels() if n_init == 1 else points.labels().copy()
            continue
        better = new_inertia < inertia
        labels[better] = points.labels()[better]
        inertia = np.where(better, new_inertia, inertia)
        for kept, found in zip(best, new, strict=True):
            kept[better] = found[better]
    assert best is not None
    return best, labels, inertia


def _save(
    saver: Checkpoint, run: int, best: Fit | None, inertia: np.ndarray, state: LoopState
) -> None:
    saver.save(Saved(run, state, best, inertia))


def caller_level() -> int:
    """Return the stacklevel that puts a warning of the calling function outside this package."""
    package = __name__.partition(".")[0]
    level = 1
    frame = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith(f"{package}."):
        level += 1
        frame = frame.f_back
    return level


def _print_and_call(
    callback: Callable[[Iteration], object] | None, stage: str, i: Iteration
) -> object:
    """Print a line about an iteration, and return what the callback does."""
    print(
        f"{stage}iteration {i.n_iter}: shift {i.shift:.6g}, inertia {i.inertia:.8g},"
        f" {i.n_empty} empty clusters, {i.n_running} running",
        flush=True,
    )
    return callback is not None and callback(i)
