"""A trial of heads on a sample: the CPU time of their passes, beside that of passes without."""

from __future__ import annotations

from dataclasses import replace
from time import thread_time
from typing import TYPE_CHECKING

import numpy as np

from ..points import Problem
from . import kernels
from .int8 import Int8, is_worthwhile
from .pruning import Features, Pruning, count_rivals, rows_for_bounds
from .tiles import TiledPoints
from .totals import NO_CHANGES

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Trial"]

SAMPLE = 256  # points that are tried; no more than 1 in 64
RUN = 64  # of them in a row: neighbours are often alike, which is cheaper
RIVAL_ROWS = 64  # of them that rivals are counted for

# Share of the time without a head that it must stay under to be taken.
GAIN = 0.9
# Share of the time of the best number of directions above which fewer are worse still.
WORSE = 1.2
# Seconds of a distance, and of each of its dimensions. They reject hopeless bounds.
DISTANCE, DIMENSION = 2e-8, 1.5e-10


class Trial:
    """Some points of batch element 0, as points of their own for one thread.

    Times are CPU times of this thread: other processes don't count.
    """

    def __init__(self, points: TiledPoints) -> None:
        self._all = points
        n = points.shape[1]
        runs = np.linspace(0, n - RUN, max(1, min(SAMPLE, n // 64) // RUN)).astype(np.int64)
        index = (runs[:, None] + np.arange(min(RUN, n))).ravel().clip(0, n - 1)
        rows = points.rows(0, index).astype(np.float32)
        problem = Problem(
            x=rows[None],
            n_clusters=points.problem.n_clusters,
            metric=points.metric,
            given_shape=(1, *rows.shape),
            check_finite=False,
        )
        plan = replace(points.plan, threads=1, cuts=(0, len(rows)), flight=1)
        self._points = TiledPoints(problem, plan)

    def __enter__(self) -> Self:
        self._points.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._points.__exit__(*exc)

    def fastest_width(
        self,
        centroids: np.ndarray,
        directions: np.ndarray,
        widths: list[int],
        passes: int,
        asked: str | None,
    ) -> int:
        """Return the number of directions that makes passes fastest, 0 for no head.

        Args:
            centroids: (1, K, D) float32.
            directions: (1, Q, D), the most important ones first.
            widths: Numbers of directions to try, the largest first.
            passes: How many passes will follow.
            asked: The strategy that was asked for: with "head" there is one.
        """
        if len(widths) == 1 and asked == "head":
            return widths[0]
        if not kernels.is_loaded(kernels.prune.prune_rows):
            self._time_head(centroids, directions, 1)  # the time to load or compile is left out
        best = np.inf
        if asked != "head":
            plain = self._time_plain(centroids)
            distance = DISTANCE + DIMENSION * self._points.shape[2]
            if distance * self._rivals(centroids[0], directions[0]) > GAIN * plain:
                return 0
            best = GAIN * passes * plain
        chosen = 0
        for width in widths:
            cost = self._time_head(centroids, directions[:, :width], passes)
            if cost < best:
                best = cost
                chosen = width
            elif cost > WORSE * best:
                break
        return chosen

    def _rivals(self, centroids: np.ndarray, basis: np.ndarray) -> float:
        """Estimate the distances in all dimensions that bounds leave in a pass over the sample.

        Args:
            centroids: (K, D) float32.
            basis: (Q, D) directions of the bounds.
        """
        sample = self._points
        n = sample.shape[1]
        x = rows_for_bounds(sample, 0, np.arange(0, n, n // min(RIVAL_ROWS, n)))
        c = centroids if sample.metric.spherical else sample.frame.to_frame(centroids[None])[0]
        return count_rivals(x, c, sample.metric.bias(c), basis) * n / len(x)

    def _time_plain(self, centroids: np.ndarray) -> float:
        """Return the seconds of a pass over the sample without a head, with labels to start from.

        Work per centroid is left out.
        """
        sample = self._points
        sample.reset_labels()
        scored = sample.scored(centroids)
        element = np.zeros(1, np.int64)
        step_rows = sample.prepared_step(centroids, element, 1)
        _, k, d = centroids.shape
        if kernels.ir.INT8 and is_worthwhile(d, k, labelled=True):
            int8 = Int8(sample, kept=True)
            int8.prepare(scored, element)
            step_rows = int8.step_rows
        times = []
        for _ in range(3):
            begin = thread_time()
            step_rows(0, 0, 0, NO_CHANGES)
            times.append(thread_time() - begin)
        return min(times)

    def _time_head(self, centroids: np.ndarray, basis: np.ndarray, passes: int) -> float:
        """Return the seconds of `passes` passes over the sample with features along this basis.

        Computing the features is included. basis: (1, Q, D).
        """
        sample = self._points
        begin = thread_time()
        features = Features(sample, np.ascontiguousarray(basis))
        making = thread_time() - begin
        pruning = Pruning(sample, features)
        sample.reset_labels()
        scored = sample.scored(centroids)
        pruning.prepare(centroids, scored, np.zeros(1, np.int64))
        times = []
        for again in range(3 if passes > 1 else 1):  # the first one guesses the labels
            if again == 1:  # the second one knows what the first one met
                pruning.adapt()
            pruning.forget()
            begin = thread_time()
            pruning.step_rows(0, 0, 0, NO_CHANGES)
            times.append(thread_time() - begin)
        return making + times[0] + (passes - 1) * min(times[1:], default=0.0)
