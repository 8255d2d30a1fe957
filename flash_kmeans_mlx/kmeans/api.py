"""The public functions: batched k-means and assignment over (B, N, D) points."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from ..metrics import COSINE, DOT, EUCLIDEAN
from .fit import fit
from .lloyd import Iteration
from .result import KMeansResult

__all__ = ["batch_kmeans_Cosine", "batch_kmeans_Dot", "batch_kmeans_Euclid"]


P = ParamSpec("P")
R = TypeVar("R")


def _refuse_prune(function: Callable[P, R]) -> Callable[P, R]:
    """Refuse `prune`, an argument of older versions, and say what to write instead."""

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        if "prune" in kwargs:
            raise TypeError(
                "prune is not an argument any more: write strategy=None for prune='auto',"
                " strategy='tiles' for 'off', strategy='head' for 'head'"
            )
        return function(*args, **kwargs)

    return checked


@_refuse_prune
def batch_kmeans_Euclid(
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
) -> KMeansResult:
    """Cluster points by k-means under the squared Euclidean distance.

    The algorithm is Lloyd's (1982); centroids are means of their points. Arguments are listed in
    this order: the problem, where to start, when to stop, weights, and how to compute.

    Args:
        x: (B, N, D) points, or (N, D), where B is absent from every result, or (B, H, N, D), where
            B, H stand for B in results, centroids and weights. `mx.array` or NumPy, any strides.
            float32, float16 and bfloat16 are read as they are. float64 is read as it is but
            computed in float32, centred and scaled first where the data need it. Integers and bool
            are converted to float32. Or a source of (N, D) points that is read again in each pass
            and may be larger than memory: the path of a file, several, a folder, a pattern such as
            "part-*.npy", or an object that yields chunks (n, D) whenever it is iterated over.
            Formats: .npy, .safetensors, .fvecs, .bvecs, .ivecs, .pt, .parquet, .arrow; "PATH::NAME"
            picks an array of several. A source gives the same bits as the same points in memory; it
            is for "cpu", the default then. What is slow to decode (Parquet, compressed Arrow,
            Fortran order, iterables) is copied once to a nameless temporary file in
            `tempfile.gettempdir()`, if that is a disk with room for twice as much.
        n_clusters: K, at most N.
        init: "random" (distinct rows), "k-means++" (greedy; Arthur and Vassilvitskii, 2007),
            "k-means||" (Bahmani et al., 2012), an array like `init_centroids`, or a callable
            ``init(x, n_clusters, rng)`` that returns one. For a source, "k-means++" is run on a
            sample of 256 rows per cluster: about 0.2% more inertia.
        init_centroids: (B, K, D) or (K, D) to start from; overrides `init`.
        n_init: Runs with different initial centroids; every batch element keeps its run of lowest
            inertia.
        seed: A non-negative integer. The same seed gives the same bits on the same backend,
            whatever the number of threads.
        max_iters: The most iterations; 0 returns the assignment to the initial centroids.
        tol: A batch element stops once no centroid moves farther (L2 norm, in the units of x).
            Whatever `tol` is, it stops once an assignment changes no label.
        empty: The fate of a cluster without points: "farthest" moves it to the point with the
            largest cost, "split" to one half of the largest cluster, "keep" leaves it where it was.
        sample_weight: (B, N) or (N,) non-negative weights, or the path of a .npy file of them.
            Points of weight zero are labelled and count nowhere else.
        backend: "cpu", "metal" (Apple GPUs), "portable" (MLX operations only, any device),
            "reference" (NumPy, float64), or None for the best one on MLX's default device. A named
            one runs or raises.
        strategy: The way in which the backend assigns, or None for the fastest one. On "cpu",
            with the same bits for each: "tiles" (compute all products in float32), "int8" (rule
            centroids out by products of 8-bit integers) or "head" (by bounds on a few principal
            directions); the last two are left for "tiles" where they do not pay on the data. On
            "metal": "fused" (scores stay in registers), "addmm" (MLX's own products; they may round
            apart, so name one to fix the bits) or "groups" (the bits of "fused", less what bounds
            on groups of centroids rule out; for Euclidean distances, 9 to 8192 features, up to
            32,768 clusters and no memory cap; left for "fused" elsewhere and where it does not
            pay). Nobody has timed it, so it is never chosen.
        max_mem_gb: A hard cap on what is allocated beyond x, in 1e9 bytes; 0 for none. ValueError
            if it is too low.
        dtype: Cast x first: float32, float16 or bfloat16, as a string, MLX or NumPy dtype. Products
            and sums are in float32 or better whatever the dtype; centroids are always float32.
        compiled: On MLX devices, run each step through `mx.compile`.
        verbose: Print a line per iteration: largest shift, inertia, empty clusters.
        check_finite: Refuse NaN and Inf in x; without the check they give undefined results.
        callback: Called after every iteration with an object that has `n_iter`, `shift`, `inertia`,
            `sizes`, `n_empty` and `n_running`. The fit ends once it returns a true value.
        labels_path: A .npy file for the labels, written whole or not at all. They are a read-only
            memory map then, and take no memory of their own under `max_mem_gb`.
        checkpoint: A file that the state of the fit is written to after each iteration.
        checkpoint_seconds: The least time between two such writes.
        resume: Go on from `checkpoint`, if it exists: the result has the same bits as if the fit
            had never stopped. `max_iters` may have changed; any other difference is an error.
        client: A `distributed.Client` whose workers read the files of x and compute, with the same
            bits; see flash_kmeans_mlx/distributed/README.md. `max_mem_gb` holds for each shard.

    Returns:
        KMeansResult, which unpacks into ``labels (B, N) uint32, centroids (B, K, D) float32,
        n_iter``.

    Raises:
        ValueError, TypeError: Naming the argument, its value and its bound.
        BackendUnavailableError: The named backend can't run here.

    Warns:
        EmptyClusterWarning: There are fewer distinct points than clusters; the extra clusters are
            empty.

    Example:
        >>> import numpy as np
        >>> x = np.array([[0.0, 0.0], [0.0, 1.0], [9.0, 9.0], [9.0, 8.0]])
        >>> labels, centroids, n_iter = batch_kmeans_Euclid(x, 2, init_centroids=x[[0, 2]])
        >>> labels.tolist(), centroids.tolist()
        ([0, 0, 1, 1], [[0.0, 0.5], [9.0, 8.5]])
    """
    return fit(
        EUCLIDEAN,
        x,
        n_clusters,
        max_iters,
        tol,
        init_centroids,
        verbose,
        init=init,
        seed=seed,
        sample_weight=sample_weight,
        n_init=n_init,
        empty=empty,
        compiled=compiled,
        max_mem_gb=max_mem_gb,
        dtype=dtype,
        backend=backend,
        strategy=strategy,
        check_finite=check_finite,
        callback=callback,
        labels_path=labels_path,
        checkpoint=checkpoint,
        checkpoint_seconds=checkpoint_seconds,
        resume=resume,
        client=client,
    )


@_refuse_prune
def batch_kmeans_Cosine(
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
) -> KMeansResult:
    """Cluster points by direction with spherical k-means (Dhillon and Modha, 2001).

    Centroids are unit vectors. A point's cost is ``1 - cos``. Zero rows have no direction: they are
    labelled 0, cost 1 and count nowhere else.

    Arguments, result and errors are as in `batch_kmeans_Euclid`. Initial centroids are normalised.
    """
    return fit(
        COSINE,
        x,
        n_clusters,
        max_iters,
        tol,
        init_centroids,
        verbose,
        init=init,
        seed=seed,
        sample_weight=sample_weight,
        n_init=n_init,
        empty=empty,
        compiled=compiled,
        max_mem_gb=max_mem_gb,
        dtype=dtype,
        backend=backend,
        strategy=strategy,
        check_finite=check_finite,
        callback=callback,
        labels_path=labels_path,
        checkpoint=checkpoint,
        checkpoint_seconds=checkpoint_seconds,
        resume=resume,
        client=client,
    )


@_refuse_prune
def batch_kmeans_Dot(
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
) -> KMeansResult:
    """Cluster points by k-means under the dot product.

    The best centroid of a point has the largest ``<x, c>``. A point's cost is ``-<x, c>``.
    Centroids are normalised sums, the best unit vectors for their points: with plain means the
    objective can get worse from one iteration to the next.

    Arguments, result and errors are as in `batch_kmeans_Euclid`. Initial centroids are normalised.
    """
    return fit(
        DOT,
        x,
        n_clusters,
        max_iters,
        tol,
        init_centroids,
        verbose,
        init=init,
        seed=seed,
        sample_weight=sample_weight,
        n_init=n_init,
        empty=empty,
        compiled=compiled,
        max_mem_gb=max_mem_gb,
        dtype=dtype,
        backend=backend,
        strategy=strategy,
        check_finite=check_finite,
        callback=callback,
        labels_path=labels_path,
        checkpoint=checkpoint,
        checkpoint_seconds=checkpoint_seconds,
        resume=resume,
        client=client,
    )
