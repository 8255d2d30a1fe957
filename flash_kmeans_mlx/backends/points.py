"""What a backend is: `Points`, the points of one fit, held where the backend computes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..frame import Frame
from ..metrics import Metric

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "PENDING",
    "SETTLED",
    "STABLE",
    "Points",
    "Problem",
    "Seeding",
    "Step",
    "scored_once",
    "unit_weights",
]

PENDING, STABLE, SETTLED = 0, 1, 2


@dataclass(frozen=True)
class Problem:
    """What a backend is asked to hold.

    Attributes:
        x: (B, N, D) as `validation.data` passes it.
        n_clusters: the most centroids that steps will be given.
        metric: the metric.
        given_shape: x.shape as the caller wrote it, for messages.
        weights: (B, N) float32, or None for ones.
        max_bytes: cap on what is allocated beyond what the caller gave; 0 for none.
        bytes_in_use: how much of it is in use already.
        check_finite: whether to look for NaN and Inf.
        compiled: whether MLX's graphs go through `mx.compile`.
        runs, init: how many times it will be fitted and how it will be seeded, for what that takes of `max_bytes`.
        strategy: how the backend assigns, by name, or None for its own choice.
        summed_shift: `tol` bounds the norm of all centroids' shifts together, not the largest one.
    """

    x: Any
    n_clusters: int
    metric: Metric
    given_shape: tuple[int, ...]
    weights: np.ndarray | None = None
    max_bytes: int = 0
    bytes_in_use: int = 0
    check_finite: bool = True
    compiled: bool = True
    runs: int = 1
    init: str = ""
    strategy: str | None = None
    summed_shift: bool = False


@dataclass
class Step:
    """Where the batch elements are after one call of `Points.step`.

    Attributes:
        iterations: (B,) E-steps done.
        status: (B,) PENDING: labels and sums belong to the centroids, the M-step is still to come; STABLE: the last E-step
            changed no label; SETTLED: the last M-step's shift was at most tol, labels are one step behind.
        sums: (B, K, D) float64, of the points in the frame.
        weight_sum: (B, K) float64, the weights in `sums`.
        counts: (B, K) int64, points with a positive weight.
        shift: (B,) float64, the largest move (or the norm of all) in the last M-step done inside.
    """

    iterations: np.ndarray
    status: np.ndarray
    sums: np.ndarray
    weight_sum: np.ndarray
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
        strategy: how it assigns, where it has a choice.
        seconds: wall time by phase, as `KMeansResult` has it.
        rounding: by how much, relative to a point's norm, the mean of copies of that point may miss it.
        problem: what it was made from.
        shape: (B, N, D).
        metric: the metric.
        frame: the coordinates that sums are in.
        point_weights: (B, N) float32, what the user gave, or None for ones.
    """

    backend: ClassVar[str]
    rounding: ClassVar[float] = 1e-6
    strategy: str = ""
    frame: Frame

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.shape: tuple[int, int, int] = tuple(problem.x.shape)
        self.metric = problem.metric
        self.point_weights = problem.weights
        self.seconds: dict[str, float] = {
            "choice": 0.0,
            "seeding": 0.0,
            "assignment": 0.0,
            "update": 0.0,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time of what is done inside to `seconds`."""
        begin = perf_counter()
        yield
        self.seconds[phase] += perf_counter() - begin

    def products(self) -> float:
        """Multiply-adds of points and centroids computed so far, as a share of all of them."""
        return 1.0

    @abstractmethod
    def reset(self) -> None:
        """Forget labels and sums: the next step is the first of a run."""

    @abstractmethod
    def step(self, centroids: np.ndarray, limits: np.ndarray, tol: float, skip_empty: bool) -> Step:
        """At least one E-step, at most limits[b] (B,), for every batch element whose limit is positive.

        A backend may go on by itself, moving `centroids` in place, up to an E-step that must be looked at: one at the limit,
        one that changed nothing or, unless `skip_empty`, one that left a cluster empty. The Step's arrays may be views
        of the backend's own; they hold until the next call.
        """

    @abstractmethod
    def assign(self, centroids: np.ndarray, elements: np.ndarray) -> None:
        """Label the points of batch elements (B,) bool by these centroids, leaving the sums alone."""

    @abstractmethod
    def labels(self) -> np.ndarray:
        """(B, N) uint32, NumPy; the backend's own array."""

    @abstractmethod
    def inertia(self, centroids: np.ndarray) -> np.ndarray:
        """(B,) float64: the weighted sum of the costs of the points under their labels."""

    @abstractmethod
    def costs(self, centroids: np.ndarray, b: int) -> np.ndarray:
        """(N,) float: the cost of each point of batch element b under its label, without weights, in the frame."""

    def means(
        self, sums: np.ndarray, weight_sum: np.ndarray, centroids: np.ndarray, elements: np.ndarray
    ) -> np.ndarray:
        """The M-step for batch elements (B,) bool: (B, K, D) centroids; those without weight or direction stay where they are."""
        new = self.frame.centroids(sums, weight_sum, centroids)
        stay = ~elements[:, None] | (weight_sum <= 0)
        new[stay] = centroids[stay]  # exactly, not through the frame and back
        return new

    @abstractmethod
    def inverse_norms(self, b: int) -> np.ndarray:
        """(N,) float: 1 / ||row|| of batch element b in the frame, 0 for zero rows. For spherical metrics."""

    def excess(self, centroids: np.ndarray, b: int) -> np.ndarray:
        """(N,): `costs` above the least that any centroid could give: the distance that k-means|| samples by."""
        if not self.metric.spherical or self.metric.unit_points:
            return self.costs(centroids, b)
        costs, inverse = self.directional_costs(centroids, b), self.inverse_norms(b)
        return np.divide(costs, inverse, out=np.zeros_like(costs), where=inverse > 0)

    def directional_costs(self, centroids: np.ndarray, b: int) -> np.ndarray:
        """(N,) float: 1 - cos of each point of batch element b and its centroid, from differences; 1 without a direction.

        For spherical metrics.
        """
        raise NotImplementedError

    def draw_weights(self, b: int) -> np.ndarray | None:
        """(N,) float32 weights that seeds are drawn by, or None for ones. Points without direction have none."""
        weights = None if self.point_weights is None else self.point_weights[b]
        if weights is not None and not 1e-6 < weights.max() < 1e6:
            weights = weights / weights.max()  # sums and products stay inside float32
        if self.metric.spherical:
            some = self.inverse_norms(b) > 0
            if some.any() and not some.all():
                return some.astype(np.float32) if weights is None else weights * some
        return weights

    @abstractmethod
    def rows(self, b: int, index: np.ndarray) -> np.ndarray:
        """Rows (n, D) of batch element b in the user's coordinates, float64."""

    @abstractmethod
    def sum_weights(self, b: int, index: np.ndarray) -> np.ndarray:
        """(n,) float64: the factor of these points in the sums: weight, times 1 / norm where points count by direction."""

    def kmeans_plusplus(self, first: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        """(B, K) rows by greedy k-means++ from the points first (B,): round k keeps the best of the draws at uniforms[k] (L,).

        -1 from where every point coincides with a centre.
        """
        chosen = np.full((len(first), len(uniforms)), -1, np.int64)
        chosen[:, 0] = first
        state = self.seeding(first, uniforms.shape[1])
        for k in range(1, len(uniforms)):
            candidates = state.draw(uniforms[k])
            some = candidates[:, 0] >= 0
            if not some.any():
                break
            best = state.totals(np.maximum(candidates, 0)).argmin(axis=1)
            state.take(best)
            chosen[some, k] = candidates[some, best[some]]
        return chosen

    def seeding(self, first: np.ndarray, trials: int) -> Seeding:
        """Begin k-means++ with the point first[b] as the only centre of batch element b; rounds try `trials` candidates.

        For backends that leave the rounds to `kmeans_plusplus`.
        """
        raise NotImplementedError


def unit_weights(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights (B, N) over a power of two per batch element, 1 at most, and those powers (B, 1): products stay inside float32."""
    unit = np.exp2(np.ceil(np.log2(weights.max(1, keepdims=True)))).astype(np.float32)
    return weights / unit, unit


def scored_once(frame: Frame, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`Frame.scored` of centroids (B, K, D) with a bias of -inf for one that equals an earlier one.

    A matrix product may round equal columns differently; without the copies, ties still go to the lowest index.
    """
    c, bias = frame.scored(centroids)
    key = np.einsum("bkd,d->bk", c, np.cos(np.arange(c.shape[2])), dtype=np.float64)
    order = np.argsort(key, axis=1, kind="stable")
    ranked = np.take_along_axis(key, order, axis=1)
    for b, i in zip(*np.nonzero(ranked[:, 1:] == ranked[:, :-1]), strict=True):
        if np.array_equal(c[b, order[b, i]], c[b, order[b, i + 1]]):
            bias[b, order[b, i + 1]] = -np.inf
    return c, bias
