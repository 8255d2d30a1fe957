"""Backends: where a fit or a search computes. Results say which one ran.

Each backend is a folder with the functions of `Backend`. `BACKENDS` is the only list of their
names: messages, the command line, scikit-learn's classes and the tests read it.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any, Protocol, cast

import mlx.core as mx
import numpy as np

from .._fork import check_mlx
from ..errors import BackendUnavailableError
from ..metrics import Proximity
from .codes import Coding
from .neighbours import Found, Neighbours, Request
from .points import Points, Problem
from .scan import Lists
from .sparse import SparsePoints, SparseRows
from .stream import RowStream

__all__ = [
    "BACKENDS",
    "Backend",
    "Neighbours",
    "Points",
    "Problem",
    "Request",
    "available",
    "check_strategy",
    "measure_rows",
    "open_neighbours",
    "open_points",
    "resolve",
    "scan_codes",
    "scan_lists",
    "spawn",
]


class Backend(Protocol):
    """The functions of a backend's folder.

    Attributes:
        STRATEGIES: Names that `strategy` may have, besides None.
        USES_MLX: Whether it computes with MLX, which does not work in every forked process.
    """

    STRATEGIES: tuple[str, ...]
    USES_MLX: bool

    def missing(self) -> str | None:
        """Return why it can't run here, or None."""
        ...

    def open_points(self, problem: Problem) -> Points:
        """Return the points of a fit."""
        ...

    def open_neighbours(self, request: Request) -> Neighbours:
        """Return a search for nearest rows."""
        ...

    def measure_rows(
        self, proximity: Proximity, queries: np.ndarray, rows: np.ndarray, places: np.ndarray
    ) -> np.ndarray:
        """Return distances from some of the rows; see `measure_rows` of this module."""
        ...

    def scan_lists(
        self, lists: Lists, proximity: Proximity, queries: np.ndarray, probes: np.ndarray, k: int
    ) -> Found:
        """Return the nearest rows of inverted lists; see `scan_lists` of this module."""
        ...

    def scan_codes(
        self,
        lists: Lists,
        coding: Coding,
        proximity: Proximity,
        queries: np.ndarray,
        probes: np.ndarray,
        k: int,
    ) -> Found:
        """Return the nearest codes of inverted lists; see `scan_codes` of this module."""
        ...


BACKENDS: dict[str, Backend] = {
    name: cast(Backend, import_module(f".{name}", __package__))
    for name in ("reference", "portable", "cpu", "metal")
}


def available() -> dict[str, str | None]:
    """Return every backend with None if it can run here, or the reason why not."""
    return {name: backend.missing() for name, backend in BACKENDS.items()}


def resolve(name: str | None, x: Any = None) -> str:
    """Return the backend to use: the named one, or for None the best for MLX's default device.

    Points `x` that are read again in each pass are for "cpu" alone.

    Raises:
        ValueError: There is no backend of that name.
        BackendUnavailableError: The named backend can't run here.
    """
    if name is None:
        name = "cpu" if isinstance(x, RowStream) else _best()
    elif name not in BACKENDS:
        raise ValueError(
            f"backend={name!r} must be one of {', '.join(map(repr, BACKENDS))} or None"
        )
    elif (reason := BACKENDS[name].missing()) is not None:
        raise BackendUnavailableError(f"backend={name!r} can't run here: {reason}")
    if isinstance(x, RowStream) and name != "cpu":
        raise BackendUnavailableError(
            f"backend={name!r} can't fit points that are read from files: use 'cpu' or None"
        )
    if BACKENDS[name].USES_MLX:
        check_mlx()
    return name


def _best() -> str:
    if mx.default_device().type == mx.DeviceType.cpu:
        return "cpu"
    return "metal" if BACKENDS["metal"].missing() is None else "portable"


def check_strategy(strategy: str | None, backend: str) -> None:
    """Refuse a strategy that the backend does not have; None leaves the choice to it.

    Raises:
        ValueError: Naming the strategies that it has.
    """
    known = BACKENDS[backend].STRATEGIES
    if strategy is not None and strategy not in known:
        choices = f"one of {', '.join(map(repr, known))} or None" if known else "None"
        raise ValueError(f"strategy={strategy!r} must be {choices} on backend={backend!r}")


def open_points(backend: str, problem: Problem) -> Points:
    """Return the points of a fit, a context manager, on a backend that `resolve` returned."""
    if isinstance(problem.x, SparseRows):
        return SparsePoints(problem)
    return BACKENDS[backend].open_points(problem)


def spawn(
    points: Points, x: np.ndarray, weights: np.ndarray | None, bytes_in_use: int | None = None
) -> Points:
    """Return other points (B, M, D) with weights (B, M), under the same metric and memory limit.

    They are known to be finite, and are on the same backend, or on "reference" where `points` are
    sparse rows. `bytes_in_use` is what counts towards the limit, if it is not the same as before.
    """
    backend = points.backend if points.backend in BACKENDS else "reference"
    problem = replace(
        points.problem,
        x=x,
        weights=weights,
        check_finite=False,
        runs=1,
        init="k-means++",
        labels=None,
    )
    if bytes_in_use is not None:
        problem = replace(problem, bytes_in_use=bytes_in_use)
    return open_points(backend, problem)


def open_neighbours(backend: str, request: Request) -> Neighbours:
    """Return a search, a context manager, on a backend that `resolve` returned."""
    return BACKENDS[backend].open_neighbours(request)


def measure_rows(
    backend: str,
    proximity: Proximity,
    queries: np.ndarray,
    rows: np.ndarray,
    places: np.ndarray,
) -> np.ndarray:
    """Return the distances of queries from some of the rows, and read no others.

    Args:
        backend: One that `resolve` returned.
        proximity: The distance.
        queries: (Q, D) float32.
        rows: (N, D) float32 in C order, which may be mapped from a file.
        places: (Q, M) int64, the rows of each query; negative for none.

    Returns:
        (Q, M) float64, the same bits as those of `Neighbours.nearest`; inf where there is no row.
    """
    return BACKENDS[backend].measure_rows(proximity, queries, rows, places)


def scan_lists(
    backend: str,
    lists: Lists,
    proximity: Proximity,
    queries: np.ndarray,
    probes: np.ndarray,
    k: int,
) -> Found:
    """Return the nearest rows of the inverted lists that each query names.

    Args:
        backend: One that `resolve` returned.
        lists: The inverted lists of the rows.
        proximity: The distance.
        queries: (Q, D) float32.
        probes: (Q, P) int64, distinct lists.
        k: Neighbours of every query.

    Returns:
        (Q, k) float64 distances and int64 ids, by distance, then by id; inf and -1 where there are
        fewer rows.
    """
    return BACKENDS[backend].scan_lists(lists, proximity, queries, probes, k)


def scan_codes(
    backend: str,
    lists: Lists,
    coding: Coding,
    proximity: Proximity,
    queries: np.ndarray,
    probes: np.ndarray,
    k: int,
) -> Found:
    """Return the nearest of the vectors that codes of inverted lists stand for.

    Args:
        backend: One that `resolve` returned.
        lists: The inverted lists of the codes.
        coding: The meaning of the codes.
        proximity: The distance.
        queries: (Q, D) float32.
        probes: (Q, P) int64, distinct lists.
        k: Neighbours of every query.

    Returns:
        (Q, k) float64 distances and int64 ids, as `scan_lists` returns them.
    """
    return BACKENDS[backend].scan_codes(lists, coding, proximity, queries, probes, k)
