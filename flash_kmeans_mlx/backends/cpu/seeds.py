"""k-means++ on the CPU backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..base import Seeding
from .plan import LANE_DIMS

if TYPE_CHECKING:
    from .points import CpuPoints

__all__ = ["CpuSeeding"]

NOTHING, NO_LANES = np.zeros(0, np.float32), np.zeros((0, 0), np.float32)


class CpuSeeding(Seeding):
    """One pass over x per round: the products with all candidates, their distances and the totals."""

    def __init__(self, points: CpuPoints, first: np.ndarray, trials: int) -> None:
        self.points = points
        b, n, _ = points.shape
        inverse = points.inverse
        self.inverse = np.zeros((b, 0), np.float32) if inverse is None else inverse
        self.square = points.squares() if inverse is None else np.zeros((b, 0), np.float32)
        weights = [points.draw_weights(m) for m in range(b)]
        if points.metric.spherical and not points.metric.unit_points:
            weights = [times_norms(w, points.inverse_norms(m)) for m, w in enumerate(weights)]
        self.weights = [NOTHING if w is None else w for w in weights]
        self.nearest = np.full((b, n), np.inf, np.float32)
        self.blocks = np.zeros((b, -(-n // points.kernels.DRAW)))
        self.tried = np.empty((b, trials, n) if points.plan.keep_seeds else (b, 1, 0), np.float32)
        self._add(first)

    def draw(self, uniforms: np.ndarray) -> np.ndarray:
        out = np.full((len(self.nearest), len(uniforms)), -1, np.int64)
        for b, chosen in enumerate(out):
            self.points.kernels.draw(self.nearest[b], self.weights[b], self.blocks[b], uniforms, chosen)
        return out

    def totals(self, candidates: np.ndarray) -> np.ndarray:
        self.candidates = candidates
        return self._try(candidates, self.tried)

    def take(self, choice: np.ndarray) -> None:
        if not self.tried.shape[2]:
            self._add(self.candidates[np.arange(len(choice)), choice])
            return

        def copy(_slot: int, b: int, s: int) -> None:
            lo, hi = self.points.shards[s]
            self.nearest[b, lo:hi] = self.tried[b, choice[b], lo:hi]
            self.points.kernels.sum_blocks(self.nearest[b], self.weights[b], lo, hi, self.blocks[b])

        self.points.run_shards(copy, len(choice))

    def _add(self, index: np.ndarray) -> None:
        """Make point index[b] a centre."""
        self._try(index[:, None], self.nearest[:, None])
        for b in range(len(index)):
            self.points.kernels.sum_blocks(self.nearest[b], self.weights[b], 0, self.nearest.shape[1], self.blocks[b])

    def _try(self, index: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Totals (B, L) for the points index (B, L); out (B, L, N) or (B, 1, 0)."""
        points = self.points
        rows = np.stack([points.frame.rows(points.rows(b, i), b) for b, i in enumerate(index)])
        candidates = points.metric.start(rows).astype(np.float32)
        squares = np.einsum("bld,bld->bl", candidates, candidates)
        totals = np.zeros((len(index), len(points.shards), index.shape[1]))

        def shard(slot: int, b: int, s: int) -> None:
            products, tile, *_, work = points.scratch[slot]
            lanes = points.lanes[slot][0] if points.shape[2] <= LANE_DIMS else NO_LANES
            points.kernels.try_rows(
                points.sgemm, points.store.source(b), self.square[b], self.inverse[b],
                self.weights[b], candidates[b], squares[b], *points.shards[s], self.nearest[b], out[b],
                totals[b, s], (products, tile, lanes, work),
            )  # fmt: skip

        points.run_shards(shard, len(index))
        return totals.sum(axis=1)


def times_norms(weights: np.ndarray | None, inverse: np.ndarray) -> np.ndarray:
    """(N,) weights times norms, 0 for rows without direction."""
    ones = np.float32(1) if weights is None else weights
    return np.divide(ones, inverse, out=np.zeros(len(inverse), np.float32), where=inverse > 0)
