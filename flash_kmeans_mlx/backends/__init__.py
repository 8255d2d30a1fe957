"""Backends: where a fit computes. Chosen once per fit; the result says which one ran."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import BackendUnavailableError
from ..metrics import Metric
from .base import Points

__all__ = ["BACKENDS", "available", "open_points", "resolve"]

BACKENDS = ("reference", "portable", "cpu")


def available() -> dict[str, str | None]:
    """Every backend with None if it can run here, or the reason why not."""
    return {name: None for name in BACKENDS}


def resolve(name: str | None) -> str:
    """The backend to use: the named one or an error, or for None the best for MLX's default device."""
    import mlx.core as mx

    if name is None:
        return "cpu" if mx.default_device().type == mx.DeviceType.cpu else "portable"
    if name not in BACKENDS:
        raise ValueError(f"backend={name!r} must be one of {', '.join(map(repr, BACKENDS))} or None")
    reason = available()[name]
    if reason is not None:
        raise BackendUnavailableError(f"backend={name!r} can't run here: {reason}")
    return name


def open_points(
    backend: str,
    x: Any,
    n_clusters: int,
    metric: Metric,
    *,
    weights: np.ndarray | None = None,
    max_bytes: int = 0,
    check_finite: bool = True,
    compiled: bool = True,
    runs: int = 1,
) -> Points:
    """The points of one fit on a backend, to be used as a context manager.

    Args:
        backend: a name that `resolve` returned.
        x: (B, N, D) as `validation.data` passed it.
        n_clusters: the most centroids that steps will be given.
        metric: the metric.
        weights: (B, N) float32 or None.
        max_bytes: cap on what is allocated beyond x; 0 for none.
        check_finite: whether to look for NaN and Inf.
        compiled: whether MLX's graphs go through `mx.compile`.
        runs: how many times it will be fitted; with more than one, a copy of the labels counts towards the cap.
    """
    if backend == "cpu":
        from .cpu import CpuPoints

        return CpuPoints(x, n_clusters, metric, weights, max_bytes, check_finite, runs)
    if backend == "portable":
        from .portable import PortablePoints

        return PortablePoints(x, n_clusters, metric, weights, max_bytes, check_finite, compiled, runs)
    from .reference import ReferencePoints

    return ReferencePoints(x, n_clusters, metric, weights, max_bytes, check_finite)
