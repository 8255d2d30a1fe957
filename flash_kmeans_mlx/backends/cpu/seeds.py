"""k-means++ on the CPU backend: all rounds in one kernel; see kernels/cpu/seed.py."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from . import kernels
from .store import empty_lines

if TYPE_CHECKING:
    from .points import CpuPoints
    from .pruning import Features

__all__ = ["kmeans_plusplus", "sched_yield"]

CALL = 3_000_000_000  # products in one call of the kernel, some 50 ms: Ctrl-C waits for its end
ALONE = 200_000  # products of a round that are not worth waking other threads for
NOTHING, NO_FEATURES = np.zeros(0, np.float32), np.zeros((0, 0), np.float32)


def kmeans_plusplus(
    points: CpuPoints, first: np.ndarray, uniforms: np.ndarray, features: Features | None
) -> np.ndarray:
    """(B, K) rows; -1 from where every point coincides with a centre. See `Points.kmeans_plusplus`."""
    b, n, d = points.shape
    k, trials = uniforms.shape
    chosen = np.full((b, k), -1, np.int64)
    square = points.squares() if points.inverse is None else points.from_centres()
    threads = points.plan.threads
    work = n * d * trials
    rounds = max(1, CALL // work)
    if b >= threads or threads == 1 or work < ALONE:
        size = -(-b // max(1, min(b, 4 * threads)))

        def alone(slot: int, i: int) -> None:
            for m in range(i * size, min(b, (i + 1) * size)):
                run = _Run(points, m, square[m], features)
                for at in range(0, k, rounds):
                    run(
                        slot,
                        (np.zeros(3, np.int64), 0, 1, 0),
                        at,
                        min(k, at + rounds),
                        first,
                        uniforms,
                        chosen,
                    )

        points.workers.run(alone, -(-b // size))
        return chosen
    team = min(threads, len(points.shards))
    for m in range(b):
        run = _Run(points, m, square[m], features)
        for at in range(0, k, rounds):
            state = np.zeros(3, np.int64)

            def join(
                slot: int, _i: int, run: _Run = run, at: int = at, state: np.ndarray = state
            ) -> None:
                run(
                    slot,
                    (state, slot, team, sched_yield()),
                    at,
                    min(k, at + rounds),
                    first,
                    uniforms,
                    chosen,
                )

            def abort(state: np.ndarray = state) -> None:
                state[kernels.team.ABORTED] = 1

            points.workers.run(join, team, abort)
    return chosen


class _Run:
    """What seeding keeps of one batch element."""

    def __init__(
        self, points: CpuPoints, b: int, square: np.ndarray, features: Features | None
    ) -> None:
        _, n, d = points.shape
        self.points, self.b = points, b
        self.columns = features.columns[b] if features else NO_FEATURES
        if points.inverse is None:
            self.norms = square, np.ones(1, np.float32), square
            self.centre = np.zeros(d), np.zeros(d), 0.0
        else:
            some = (points.inverse[b] > 0).astype(np.float32)
            self.norms = some, points.inverse[b], some
            centre, origin = points.frame.centre[b], points.frame.origin[b]
            if centre.any():
                self.norms = square, points.inverse[b], some
            # Rows that are not shifted are longer than their distance: so is the rounding of their products.
            self.centre = (
                centre,
                origin,
                float(kernels.candidates.NOISE) if centre.any() and not origin.any() else 0.0,
            )
        weights = points.draw_weights(b)
        if points.metric.spherical and not points.metric.unit_points:
            weights = times_norms(weights, points.inverse_norms(b))
        self.potential = NOTHING if weights is None else weights
        threshold = np.full(n + kernels.lanes.POINTS if features else 0, np.inf, np.float32)
        threshold[:n] = -np.inf
        self.state = (
            np.full(n, np.inf, np.float32),
            threshold,
            np.zeros(-(-n // kernels.seed.DRAW)),
            np.empty(n, np.int32),
            np.empty(n, np.uint16),
        )
        lanes = kernels.candidates.CANDIDATES
        self.table = (
            empty_lines((d, lanes)),
            empty_lines((3, lanes)),
            np.zeros((lanes, len(self.columns)), np.float32),
            np.zeros(lanes, np.float32),
            np.zeros(lanes + 1, np.int64),
            np.zeros(1, np.int64),
        )
        self.cuts = np.array([lo for lo, _ in points.shards] + [n])
        self.shared = (
            np.zeros(len(points.shards), np.int64),
            np.zeros((len(points.shards), lanes)),
        )
        self.eps = np.float32(kernels.candidates.NOISE) + points.eps

    def __call__(
        self,
        slot: int,
        team: tuple,
        k0: int,
        k1: int,
        first: np.ndarray,
        uniforms: np.ndarray,
        chosen: np.ndarray,
    ) -> None:
        points = self.points
        kernels.seed.seed_element(
            points.store.source(self.b),
            self.columns,
            self.norms,
            self.centre,
            self.potential,
            uniforms,
            first[self.b],
            k0,
            k1,
            chosen[self.b],
            self.cuts,
            self.state,
            self.table,
            self.shared,
            self.eps,
            team,
            points.seed_scratch[slot],
        )


def seed_scratch(points: CpuPoints) -> tuple[np.ndarray, ...]:
    """The scratch of kernels/cpu/seed.py for one thread."""
    d = points.shape[2]
    n = kernels.candidates.AT_ONCE
    return (
        np.empty((n, 1, d), np.float32),
        np.arange(n, dtype=np.int32),
        empty_lines((n * kernels.candidates.CANDIDATES,)),
        np.empty(max(n, kernels.lanes.ROWS), np.int64),
        np.full(kernels.lanes.POINTS, -1, np.int32),
        empty_lines((kernels.lanes.POINTS,)),
        np.empty(kernels.seed.DRAW + n, np.int32),
    )


def times_norms(weights: np.ndarray | None, inverse: np.ndarray) -> np.ndarray:
    """(N,) weights times norms, 0 for rows without direction."""
    ones = np.float32(1) if weights is None else weights
    return np.divide(ones, inverse, out=np.zeros(len(inverse), np.float32), where=inverse > 0)


@cache
def sched_yield() -> int:
    """The address of the C function."""
    return ctypes.cast(ctypes.CDLL(None).sched_yield, ctypes.c_void_p).value or 0
