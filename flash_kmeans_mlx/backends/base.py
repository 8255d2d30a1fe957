"""What a backend is: `Points`, the points of one fit, held where the backend computes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..frame import Frame
from ..metrics import Metric

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["PENDING", "SETTLED", "STABLE", "Points", "Problem", "Seeding", "Step", "cost_of"]

PENDING, STABLE, SETTLED = 0, 1, 2


@dataclass(frozen=True)
class Problem:
    """What a backend is asked to hold.

    Attributes:
        x: (B, N, D) as `validation.data` passes it.
        n_clusters: the most centroids that steps will be given.
        metric: the metric.
        weights: (B, N) float32, or None for ones.
        max_bytes: cap on what is allocated beyond x; 0 for none.
        check_finite: whether to look for NaN and Inf.
        compiled: whether MLX's graphs go through `mx.compile`.
        runs, init: how many times it will be fitted and how it will be seeded, for what that takes of `max_bytes`.
    """

    x: Any
    n_clusters: int
    metric: Metric
    weights: np.ndarray | None = None
    max_bytes: int = 0
    check_finite: bool = True
    compiled: bool = True
    runs: int = 1
    init: str = ""


@dataclass
class Step:
    """Where the members of a batch are after one call of `Points.step`.

    Attributes:
        iterations: (B,) E-steps done.
        status: (B,) PENDING: labels and sums belong to the centroids, the M-step is still to come; STABLE: the last E-step
            changed no label; SETTLED: the last M-step moved no centroid by more than tol, labels are one step behind.
        sums: (B, K, D) float64, of the points in the frame.
        mass: (B, K) float64, the weights in `sums`.
        counts: (B, K) int64, points with a positive weight.
        shift: (B,) float64, the largest move of the last M-step done inside.
    """

    iterations: np.ndarray
    status: np.ndarray
    sums: np.ndarray
    mass: np.ndarray
    counts: np.ndarray
    shift: np.ndarray


class Seeding(ABC):
    """A run of k-means++: the distance of every point to the nearest centre so far.

    Spherical metrics seed by the squared distance of unit rows, ``2 - 2 cos``; dot weighs a row by its norm as well.
    """

    @abstractmethod
    def draw(self, uniforms: np.ndarray) -> np.ndarray:
        """(B, L) candidates at uniforms (L,) in [0, 1): points drawn by weight times squared distance to the nearest centre.

        -1 where every point coincides with a centre.
        """

    @abstractmethod
    def totals(self, candidates: np.ndarray) -> np.ndarray:
        """(B, L) float64: the weighted sum of squared distances with candidates[b, l] as a further centre."""

    @abstractmethod
    def take(self, choice: np.ndarray) -> None:
        """Make candidate choice[b] of the last `totals` a centre."""


class Points(ABC):
    """The points of one problem on one backend; a context manager that frees what it holds.

    Centroids go in and out as (B, K, D) float32 NumPy arrays in the user's coordinates. Labels stay inside until asked for.

    Attributes:
        backend: the backend's name.
        problem: what it was made from.
        shape: (B, N, D).
        metric: the metric.
        frame: the coordinates that sums are in.
        point_weights: (B, N) float32, what the user gave, or None for ones.
    """

    backend: ClassVar[str]
    frame: Frame

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.shape: tuple[int, int, int] = tuple(problem.x.shape)
        self.metric = problem.metric
        self.point_weights = problem.weights

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    @abstractmethod
    def reset(self) -> None:
        """Forget labels and sums: the next step is the first of a run."""

    @abstractmethod
    def step(self, centroids: np.ndarray, limits: np.ndarray, tol: float, skip_empty: bool) -> Step:
        """At least one E-step, at most limits[b] (B,), for every member whose limit is positive.

        A backend may go on by itself, moving `centroids` in place, up to an E-step that must be looked at: one at the limit,
        one that changed nothing or, unless `skip_empty`, one that left a cluster empty. The Step's arrays may be views
        of the backend's own; they hold until the next call.
        """

    @abstractmethod
    def assign(self, centroids: np.ndarray, members: np.ndarray) -> None:
        """Label the points of members (B,) bool by these centroids, leaving the sums alone."""

    @abstractmethod
    def labels(self) -> np.ndarray:
        """(B, N) uint32, NumPy; the backend's own array."""

    @abstractmethod
    def inertia(self, centroids: np.ndarray) -> np.ndarray:
        """(B,) float64: the weighted sum of the costs of the points under their labels."""

    @abstractmethod
    def costs(self, centroids: np.ndarray, b: int) -> np.ndarray:
        """(N,) float32: the cost of each point of member b under its label, without weights."""

    @abstractmethod
    def rows(self, b: int, index: np.ndarray) -> np.ndarray:
        """Rows (n, D) of member b in the user's coordinates, float64."""

    @abstractmethod
    def sum_weights(self, b: int, index: np.ndarray) -> np.ndarray:
        """(n,) float64: the factor of these points in the sums: weight, times 1 / norm where points count by direction."""

    def like(self, x: np.ndarray, weights: np.ndarray) -> Points:
        """Other points (B, M, D) with weights (B, M), known to be finite, under the same metric and memory limit."""
        from . import open_points  # which imports this module

        return open_points(
            self.backend, replace(self.problem, x=x, weights=weights, check_finite=False, runs=1, init="k-means++")
        )

    @abstractmethod
    def seeding(self, first: np.ndarray, trials: int) -> Seeding:
        """Begin k-means++ with the point first[b] as the only centre of member b; rounds try `trials` candidates."""


def cost_of(metric: Metric, value: Any, inverse: Any, scale: Any) -> Any:
    """A point's cost from ||x - c||^2 or, for spherical metrics, from <x, c>, both of the frame."""
    if not metric.spherical:
        return value * scale**2
    return 1.0 - value * inverse if metric.unit_points else -value * scale
