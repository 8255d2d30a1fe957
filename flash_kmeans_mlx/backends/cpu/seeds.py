"""k-means++ on the CPU backend: the primitives that `seeding` decides with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .points import CpuPoints

__all__ = ["Seeds"]

NOTHING = np.zeros(0, np.float32)


class Seeds:
    """Mixed into CpuPoints. Spherical metrics seed by the squared distance of unit rows, ``2 - 2 cos``."""

    def seed_start(self: CpuPoints, index: np.ndarray, trials: int) -> None:
        b, n, _ = self.shape
        if self.inverse is None:
            self._square, self._inverse, self._potential = self.squares(), NOTHING, self._given(self.point_weights)
        else:
            # Zero rows have no direction: at distance zero from everything they are never drawn.
            self._square, self._inverse = (self.inverse > 0).astype(np.float32), self.inverse
            norms = self.squares() ** 0.5 if not self.metric.unit_points else None
            self._potential = _product(self.point_weights, norms)
        self._nearest = np.full((b, n), np.inf, np.float32)
        self._blocks = np.zeros((b, -(-n // self.kernels.DRAW)))
        self._tried = np.empty((b, trials, n) if self.plan.keep_seeds else (b, 1, 0), np.float32)
        self._candidates = index[:, None]
        self._add(index)

    def seed_draw(self: CpuPoints, uniforms: np.ndarray) -> np.ndarray:
        out = np.full((self.shape[0], len(uniforms)), -1, np.int64)
        for b in range(self.shape[0]):
            potential = self._potential[b] if self._potential.size else NOTHING
            self.kernels.draw(self._nearest[b], potential, self._blocks[b], uniforms, out[b])
        return out

    def seed_try(self: CpuPoints, index: np.ndarray) -> np.ndarray:
        self._candidates = index
        return self._try(index, self._tried)

    def seed_take(self: CpuPoints, choice: np.ndarray) -> None:
        members = np.arange(self.shape[0])
        if not self._tried.shape[2]:
            return self._add(self._candidates[members, choice])

        def copy(_slot: int, i: int) -> None:
            b, s = divmod(i, len(self.shards))
            lo, hi = self.shards[s]
            self._nearest[b, lo:hi] = self._tried[b, choice[b], lo:hi]
            self._sum(b, lo, hi)

        self.workers.run(copy, self.shape[0] * len(self.shards))

    def seed_end(self: CpuPoints) -> None:
        del self._square, self._inverse, self._potential, self._nearest, self._blocks, self._tried, self._candidates

    def _add(self: CpuPoints, index: np.ndarray) -> None:
        """Make point index[b] a centre."""
        self._try(index[:, None], self._nearest[:, None])
        for b in range(self.shape[0]):
            self._sum(b, 0, self.shape[1])

    def _sum(self: CpuPoints, b: int, lo: int, hi: int) -> None:
        potential = self._potential[b] if self._potential.size else NOTHING
        self.kernels.sum_blocks(self._nearest[b], potential, lo, hi, self._blocks[b])

    def _try(self: CpuPoints, index: np.ndarray, out: np.ndarray) -> np.ndarray:
        b, trials = index.shape
        candidates = np.stack([self.frame.rows(self.rows(m, index[m]), m) for m in range(b)])
        candidates = self.metric.start(candidates).astype(np.float32)
        squares = np.einsum("bld,bld->bl", candidates, candidates)
        totals = np.zeros((b, len(self.shards), trials))

        def shard(slot: int, i: int) -> None:
            m, s = divmod(i, len(self.shards))
            inverse = self._inverse[m] if self._inverse.size else NOTHING
            potential = self._potential[m] if self._potential.size else NOTHING
            products, tile, *_, work = self.scratch[slot]
            self.kernels.try_rows(
                self.sgemm, self.store.x[m], self.store.kernel_frame(m), self._square[m], inverse, potential,
                candidates[m], squares[m], self.dims, *self.shards[s], self._nearest[m], out[m], totals[m, s],
                (products, tile, work),
            )  # fmt: skip

        self.workers.run(shard, b * len(self.shards))
        return totals.sum(axis=1)


def _product(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray:
    if a is None or b is None:
        return NOTHING if a is None and b is None else (a if b is None else b)
    return a * b
