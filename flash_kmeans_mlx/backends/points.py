"""The interface of a backend to a fit: `Points`, the points of one problem.

A fit asks for E-steps (`step`, `assign`), costs and rows. Points and labels stay where the backend
computes; centroids go in and out as NumPy arrays in the user's coordinates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..frame import Frame
from ..metrics import Metric
from ..progress import SILENT, Progress, Timer
from .draws import Seeding, greedy
from .values import most_costly

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "MOVED",
    "PENDING",
    "SETTLED",
    "STABLE",
    "Points",
    "Problem",
    "State",
    "Step",
]


class State(IntEnum):
    """The state of a batch element in Lloyd's loop; kernels use the same numbers.

    Attributes:
        MOVED: It has not converged. The limit is reached, and the M-step is done: labels and sums
            are those before it.
        PENDING: It has not converged. After an E-step, labels and sums belong to the centroids, and
            the M-step is still to come.
        STABLE: It has converged: the last E-step changed no label.
        SETTLED: It has converged: the last M-step moved no centroid by more than `tol`. Its labels
            are those before that move.
    """

    MOVED = -1
    PENDING = 0
    STABLE = 1
    SETTLED = 2


MOVED, PENDING, STABLE, SETTLED = (int(state) for state in State)


@dataclass(frozen=True)
class Problem:
    """The points of a fit, and how to cluster them.

    Attributes:
        x: (B, N, D) as `validation.data` returns it.
        n_clusters: K, the largest number of centroids in a step.
        metric: The metric.
        given_shape: The shape of x as the caller wrote it, for messages.
        weights: (B, N) float32, or None for ones.
        max_bytes: A cap on what is allocated beyond the caller's arrays; 0 for none.
        bytes_in_use: The part of the cap that is in use already.
        check_finite: Whether to look for NaN and Inf.
        compiled: Whether MLX's graphs go through `mx.compile`.
        runs: The number of runs; it decides how much memory is set aside for results.
        passes: The most passes over the points, or about as many.
        init: The name of the seeding, or ""; it decides how much memory is set aside for it.
        strategy: The name of the way to assign, or None for the backend's choice.
        summed_shift: Whether `tol` bounds the norm of all moves together, not the largest one.
        labels: (B, N) uint32 to keep labels in, for backends on the host; None for new memory.
        progress: Is told what is done.
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
    passes: int = 1
    init: str = ""
    strategy: str | None = None
    summed_shift: bool = False
    labels: np.ndarray | None = None
    progress: Progress = SILENT


@dataclass
class Step:
    """The result of one call of `Points.step`.

    Attributes:
        iterations: (B,) int64 E-steps done, 0 where the limit is 0.
        status: (B,) a `State` for every batch element.
        sums: (B, K, D) float64, of the points in the frame.
        weight_sum: (B, K) float64, the weights in `sums`.
        counts: (B, K) int64, points with a positive weight.
        shift: (B,) float64, the largest move of a centroid in the last M-step that the backend did,
            or the norm of all moves.
    """

    iterations: np.ndarray
    status: np.ndarray
    sums: np.ndarray
    weight_sum: np.ndarray
    counts: np.ndarray
    shift: np.ndarray


class Points(ABC):
    """The points of one problem on one backend; a context manager that frees what it allocated.

    Centroids are (B, K, D) float32 NumPy arrays in the user's coordinates.

    Attributes:
        backend: The name of the backend.
        strategy: The way in which it assigns, where it has several.
        seconds: Wall time by phase, as in `KMeansResult`.
        known_directions: Whether all rows are known to have a direction.
        sampled_seeds: Whether k-means++ is run on a sample, as rows are far away.
        rounding: The largest error of the mean of equal points, relative to their norm.
        problem: The problem that it was made from.
        shape: (B, N, D).
        metric: The metric.
        frame: The coordinates that sums are in.
        point_weights: (B, N) float32, as the user gave them, or None for ones.
    """

    backend: ClassVar[str]
    rounding: ClassVar[float] = 1e-6
    sampled_seeds: ClassVar[bool] = False
    strategy: str = ""
    known_directions: bool = False
    frame: Frame

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.shape: tuple[int, int, int] = tuple(problem.x.shape)
        self.metric = problem.metric
        self.point_weights = problem.weights
        self.seconds = {"choice": 0.0, "seeding": 0.0, "assignment": 0.0, "update": 0.0}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def timed(self, phase: str) -> Timer:
        """Return a context that adds the time of its block to `seconds`."""
        return Timer(self.seconds, phase)

    def products(self) -> float:
        """Return the share of the products of points and centroids that was computed so far."""
        return 1.0

    @abstractmethod
    def reset(self) -> None:
        """Forget labels and sums: the next step is the first of a run."""

    def totals_so_far(self) -> dict[str, np.ndarray]:
        """Return the arrays besides labels that the next step starts from, by name."""
        return {}

    def restore(self, centroids: np.ndarray, totals: dict[str, np.ndarray]) -> None:
        """Go back to where the labels were those of these centroids (B, K, D).

        Args:
            centroids: (B, K, D) float32.
            totals: What `totals_so_far` returned there.
        """
        del totals
        self.assign(centroids, np.ones(len(centroids), bool))

    @abstractmethod
    def step(self, centroids: np.ndarray, limits: np.ndarray, tol: float, skip_empty: bool) -> Step:
        """Do at least one E-step for every batch element whose limit is positive.

        A backend may go on by itself and move `centroids` in place. It must stop after an E-step
        that changes no label or, unless `skip_empty`, leaves a cluster empty, and at the limit,
        before or after the M-step.

        Args:
            centroids: (B, K, D) float32; moved in place.
            limits: (B,) the most E-steps of each batch element.
            tol: As in `lloyd`.
            skip_empty: Whether clusters without points keep their centroids.

        Returns:
            The step; its arrays may be views of the backend's own, valid until the next call.
        """

    @abstractmethod
    def assign(self, centroids: np.ndarray, elements: np.ndarray) -> None:
        """Label the points of the batch elements in the mask (B,), leaving the sums alone."""

    @abstractmethod
    def labels(self) -> np.ndarray:
        """Return (B, N) uint32 labels, NumPy; the backend's own array."""

    def labels_at(self, b: int, index: np.ndarray) -> np.ndarray:
        """Return the labels (n,) of some points of batch element b."""
        return self.labels()[b, index]

    @abstractmethod
    def inertia(self, centroids: np.ndarray) -> np.ndarray:
        """Return (B,) float64 weighted sums of the costs of the points under their labels."""

    @abstractmethod
    def costs(self, centroids: np.ndarray, b: int) -> np.ndarray:
        """Return (N,) costs of the points of batch element b, unweighted, in the frame."""

    def means(
        self,
        sums: np.ndarray,
        weight_sum: np.ndarray,
        centroids: np.ndarray,
        elements: np.ndarray,
    ) -> np.ndarray:
        """Do the M-step: return centroids (B, K, D) from sums and weights.

        Args:
            sums: (B, K, D) float64, in the frame.
            weight_sum: (B, K) float64.
            centroids: (B, K, D), kept where a cluster has no weight or direction.
            elements: (B,) bool, the batch elements to move.
        """
        new = self.frame.centroids(sums, weight_sum, centroids)
        stay = ~elements[:, None] | (weight_sum <= 0)
        new[stay] = centroids[stay]  # not through the frame and back, which would round
        return new

    @abstractmethod
    def inverse_norms(self, b: int) -> np.ndarray:
        """Return (N,) float 1 / ||row|| in the frame, 0 for zero rows. For spherical metrics."""

    def excess(self, centroids: np.ndarray, b: int) -> np.ndarray:
        """Return (N,) `costs` above the least possible ones: k-means|| samples by them."""
        if not self.metric.spherical or self.metric.unit_points:
            return self.costs(centroids, b)
        costs = self.directional_costs(centroids, b)
        inverse = self.inverse_norms(b)
        return np.divide(costs, inverse, out=np.zeros_like(costs), where=inverse > 0)

    def directional_costs(self, centroids: np.ndarray, b: int) -> np.ndarray:
        """Return (N,) 1 - cos of points and their centroids, from differences.

        It is 1 for points without a direction. For spherical metrics.
        """
        raise NotImplementedError

    def farthest(self, centroids: np.ndarray, b: int, n: int) -> np.ndarray:
        """Return the n points of positive weight and largest `excess`, in order; ties by index."""
        return most_costly(self._counted(self.excess(centroids, b), b), n)

    def farthest_of_clusters(self, centroids: np.ndarray, b: int) -> np.ndarray:
        """Return (K,) int64: each cluster's point of positive weight and largest cost, or -1.

        The first of equal ones.
        """
        labels = self.labels()[b]
        costs = self._counted(self.costs(centroids, b), b)
        largest_costs = np.full(centroids.shape[1], -np.inf, costs.dtype)
        np.maximum.at(largest_costs, labels, costs)
        order = np.flatnonzero((costs == largest_costs[labels]) & (costs > -np.inf))[::-1]
        found = np.full(centroids.shape[1], -1)
        found[labels[order]] = order  # the last of a cluster stays
        return found

    def _counted(self, costs: np.ndarray, b: int) -> np.ndarray:
        """Return costs (N,) with -inf for points without weight."""
        if self.point_weights is None:
            return costs
        return np.where(self.point_weights[b] > 0, costs, -np.inf)

    def draw_weights(self, b: int) -> np.ndarray | None:
        """Return (N,) float32 weights that seeds are drawn by, or None for ones.

        Points without a direction have weight 0 under spherical metrics.
        """
        weights = None if self.point_weights is None else self.point_weights[b]
        if weights is not None and not 1e-6 < weights.max() < 1e6:
            weights = weights / weights.max()  # sums and products stay inside float32
        if self.metric.spherical and not self.known_directions:
            has_direction = self.inverse_norms(b) > 0
            if has_direction.any() and not has_direction.all():
                if weights is None:
                    return has_direction.astype(np.float32)
                return weights * has_direction
        return weights

    @abstractmethod
    def rows(self, b: int, index: np.ndarray) -> np.ndarray:
        """Return rows (n, D) float64 of batch element b in the user's coordinates."""

    def sample(self, index: np.ndarray) -> np.ndarray:
        """Return rows (n, D) of batch element 0 in their own dtype, if `sampled_seeds`."""
        raise NotImplementedError

    def bytes_in_use(self) -> int:
        """Return the part of `Problem.max_bytes` that is in use between two passes."""
        return self.problem.bytes_in_use

    @abstractmethod
    def sum_weights(self, b: int, index: np.ndarray) -> np.ndarray:
        """Return (n,) float64 factors of these points in the sums.

        A factor is the point's weight, times 1 / norm where points count by direction.
        """

    def kmeans_plusplus(self, first: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        """Return (B, K) rows by greedy k-means++.

        Args:
            first: (B,) the first centre of each batch element.
            uniforms: (K, L) random numbers in [0, 1); round k keeps the best of the L draws at
                uniforms[k].

        Returns:
            (B, K) int64 rows; -1 from where every point coincides with a centre.
        """
        return greedy(self.seeding(first, uniforms.shape[1]), first, uniforms)

    def seeding(self, first: np.ndarray, trials: int) -> Seeding:
        """Begin k-means++ with the point first[b] as the only centre of batch element b.

        For backends that leave the rounds, of `trials` candidates each, to `kmeans_plusplus`.
        """
        raise NotImplementedError
