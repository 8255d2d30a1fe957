"""Assignment of points to given centroids."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np

from .. import backends, validation
from ..backends import Points
from ..files.results import labels_file
from ..progress import open_progress
from . import arguments
from .fit import opened, opened_weights

__all__ = ["Labelling", "assign", "assigned", "labels_of"]

# Opens points, and labels them; see `assigned`.
Labelling = AbstractContextManager[tuple[validation.Data, Points, np.ndarray]]


def assign(
    x: Any,
    centroids: Any,
    metric: str = "euclidean",
    *,
    max_mem_gb: float = 0.0,
    backend: str | None = None,
    check_finite: bool = True,
    labels_path: str | os.PathLike[str] | None = None,
) -> Any:
    """Label every point by its best centroid, the exact nearest one; ties go to the lowest index.

    Args:
        x: (B, N, D), (N, D) or (B, H, N, D) points, or a source of them, as `batch_kmeans_Euclid`
            takes them.
        centroids: (B, K, D), or (K, D) for all batch elements. For cosine their norms do not count;
            for dot they do.
        metric: "euclidean", "cosine" or "dot".
        max_mem_gb: A hard cap on what is allocated beyond x, in 1e9 bytes; 0 for none.
        backend: As in `batch_kmeans_Euclid`.
        check_finite: Refuse NaN and Inf.
        labels_path: As in `batch_kmeans_Euclid`.

    Returns:
        (B, N) uint32 labels, or (N,); `mx.array` if x is one.
    """
    labelling = assigned(
        x,
        centroids,
        metric,
        None,
        max_mem_gb,
        backend,
        check_finite,
        labels_path=labels_path,
    )
    return labels_of(labelling, labels_path)


def labels_of(labelling: Labelling, labels_path: str | os.PathLike[str] | None) -> Any:
    """Return the labels of points that `assigned` yields, in the form of x."""
    with labelling as (data, points, _):
        if labels_path is None:
            return data.to_caller(points.labels(), array=True)
    return np.load(labels_path, mmap_mode="r")


@contextmanager
def assigned(
    x: Any,
    centroids: Any,
    metric: str,
    sample_weight: Any,
    max_mem_gb: float,
    backend: str | None,
    check_finite: bool,
    strategy: str | None = None,
    labels_path: str | os.PathLike[str] | None = None,
) -> Iterator[tuple[validation.Data, Points, np.ndarray]]:
    """Yield (x, points labelled by their best centroids, centroids (B, K, D)) for `assign`."""
    data = opened(x)
    kind = validation.metric(metric)
    shape = validation.shape_of(centroids, "centroids")
    if len(shape) not in (2, 3, 2 + len(data.lead)) or 0 in shape:
        raise ValueError(
            f"centroids must have shape (K, D) or (B, K, D), got {shape}"
            f" (x.shape={data.given_shape})"
        )
    c = arguments.centroids(centroids, data, shape[-2], "centroids", check_finite)
    if kind.unit_points:
        norm = np.sqrt(np.square(c, dtype=np.float64).sum(-1, keepdims=True))
        is_unit = np.abs(norm - 1) <= 2.0**-22  # centroids of a fit keep their bits
        c = np.where(is_unit, c, kind.start(c).astype(np.float32))
    weights = arguments.weights(opened_weights(sample_weight), data, check_finite)
    backend = backends.resolve(backend, data.x)
    backends.check_strategy(strategy, backend)
    max_bytes = validation.cap(max_mem_gb)
    progress = open_progress()
    with labels_file(labels_path, data.given_shape[:-1]) as own, progress:
        labels = None if own is None else own.reshape(data.shape[:2])
        problem = backends.Problem(
            x=data.x,
            n_clusters=c.shape[1],
            metric=kind,
            given_shape=data.given_shape,
            weights=weights,
            max_bytes=max_bytes,
            bytes_in_use=data.copied,
            check_finite=check_finite,
            strategy=strategy,
            labels=labels,
            progress=progress,
        )
        progress.phase("reading")
        with backends.open_points(backend, problem) as points:
            progress.phase("labelling")
            points.reset()
            points.assign(c, np.ones(len(c), bool))
            if labels is not None and points.labels() is not labels:
                labels[...] = points.labels()
            yield data, points, c
