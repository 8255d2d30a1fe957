"""Backends: where a fit computes. Chosen once per fit; the result says which one ran."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from .._fork import check_mlx
from ..errors import BackendUnavailableError
from ..proximity import Proximity
from . import metal
from .base import Points, Problem
from .codes import Coding, scan_codes_portable, scan_codes_reference
from .neighbours import Found, Neighbours, ReferenceNeighbours, Request
from .scan import Lists, scan_mlx, scan_reference
from .sparse import SparsePoints, SparseRows

__all__ = [
    "BACKENDS",
    "Neighbours",
    "Points",
    "Problem",
    "Request",
    "available",
    "check_prune",
    "check_strategy",
    "open_neighbours",
    "open_points",
    "resolve",
    "scan",
    "scan_codes",
]

BACKENDS = ("reference", "portable", "cpu", "metal")
STRATEGIES = {"metal": ("fused", "addmm")}
PRUNE = ("auto", "off", "head", "groups")


def available() -> dict[str, str | None]:
    """Every backend with None if it can run here, or the reason why not."""
    return dict.fromkeys(BACKENDS) | {"metal": metal.missing()}


def resolve(name: str | None) -> str:
    """The backend to use: the named one or an error, or for None the best for MLX's default device."""
    found = _resolved(name)
    if found in ("metal", "portable"):
        check_mlx()
    return found


def _resolved(name: str | None) -> str:
    if name is None:
        if mx.default_device().type == mx.DeviceType.cpu:
            return "cpu"
        return "metal" if metal.missing() is None else "portable"
    if name not in BACKENDS:
        raise ValueError(f"backend={name!r} must be one of {', '.join(map(repr, BACKENDS))} or None")
    reason = available()[name]
    if reason is not None:
        raise BackendUnavailableError(f"backend={name!r} can't run here: {reason}")
    return name


def check_strategy(strategy: str | None, backend: str) -> None:
    """Refuse a strategy that the backend doesn't have; None leaves the choice to it."""
    known = STRATEGIES.get(backend, ())
    if strategy is not None and strategy not in known:
        choices = f"one of {', '.join(map(repr, known))} or None" if known else "None"
        raise ValueError(f"strategy={strategy!r} must be {choices} on backend={backend!r}")


def check_prune(prune: str, backend: str) -> None:
    """Refuse a name of no bounds; only the CPU has any."""
    known = PRUNE if backend == "cpu" else PRUNE[:2]
    if prune not in known:
        raise ValueError(f"prune={prune!r} must be one of {', '.join(map(repr, known))} on backend={backend!r}")


def open_points(backend: str, problem: Problem) -> Points:
    """The points of a problem on a backend that `resolve` returned, to be used as a context manager."""
    if isinstance(problem.x, SparseRows):
        return SparsePoints(problem)
    if backend == "cpu":
        from .cpu import open_cpu

        return open_cpu(problem)
    if backend == "metal":
        from .metal.points import MetalPoints

        return MetalPoints(problem)
    if backend == "portable":
        from .portable import PortablePoints

        return PortablePoints(problem)
    from .reference import ReferencePoints

    return ReferencePoints(problem)


def open_neighbours(backend: str, request: Request) -> Neighbours:
    """A search on a backend that `resolve` returned, to be used as a context manager."""
    if backend == "cpu":
        from .cpu.topk import CpuNeighbours

        return CpuNeighbours(request)
    if backend == "metal":
        from .metal.neighbours import MetalNeighbours

        return MetalNeighbours(request)
    if backend == "portable":
        from .topk import PortableNeighbours

        return PortableNeighbours(request)
    return ReferenceNeighbours(request)


def scan(backend: str, lists: Lists, proximity: Proximity, queries: np.ndarray, probes: np.ndarray, k: int) -> Found:
    """`scan_reference`, with its arguments and results, on a backend that `resolve` returned."""
    if backend == "cpu":
        from .cpu.scan import scan_cpu

        return scan_cpu(lists, proximity, queries, probes, k)
    if backend in ("metal", "portable"):
        return scan_mlx(lists, proximity, queries, probes, k)
    return scan_reference(lists, proximity, queries, probes, k)


def scan_codes(
    backend: str, lists: Lists, coding: Coding, proximity: Proximity, queries: np.ndarray, probes: np.ndarray, k: int
) -> Found:
    """`scan_codes_reference`, with its arguments and results, on a backend that `resolve` returned."""
    if backend == "cpu":
        from .cpu.codes import scan_codes_cpu

        return scan_codes_cpu(lists, coding, proximity, queries, probes, k)
    if backend == "reference":
        return scan_codes_reference(lists, coding, proximity, queries, probes, k)
    return scan_codes_portable(lists, coding, proximity, queries, probes, k)
