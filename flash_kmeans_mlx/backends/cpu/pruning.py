"""Bounds that let an E-step on the CPU skip most products; see kernels/cpu/prune.py for what they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import kernels
from .plan import PAD
from .store import empty_lines

if TYPE_CHECKING:
    from .points import CpuPoints

__all__ = ["Features", "Pruning", "principal_directions", "pruning_bytes"]

NOTHING = np.zeros(0, np.float32)
GROUP = 64  # centroids that share a lower bound
SLACK = 1e-6  # of a squared norm: as in kernels/cpu/prune.py
OFTEN = 0.5  # rivals per point, from which its own distance will be asked for anyway
TILE_VALUES = 1 << 17  # of a tile that stays in cache


class Features:
    """A few columns per point that bound its products with anything from above.

    Attributes:
        width: columns (Q); 0 for none, where the rows themselves are read.
        columns: (B, Q, N + padding) float32.
        basis: (B, Q - 1, D) orthonormal rows, or (B, 0, D) if the columns are the rows themselves.
    """

    def __init__(self, points: CpuPoints, basis: np.ndarray) -> None:
        b, n, d = points.shape
        self.points, self.basis = points, basis
        self.width = basis.shape[1] + 1 if basis.shape[1] else d
        self.columns = empty_lines((b, self.width, n + kernels.lanes.POINTS + -n % PAD + PAD))

        def shard(slot: int, m: int, s: int) -> None:
            self.fill(slot, m, points.store.unshifted(m), *points.shards[s], self.columns[m])

        points.run_shards(shard, b)

    def fill(self, slot: int, b: int, source: tuple, lo: int, hi: int, out: np.ndarray) -> None:
        """The columns lo:hi of rows of batch element b."""
        scratch = self.points.scratch[slot]
        inverse = NOTHING if self.points.inverse is None else self.points.inverse[b]
        if self.basis.shape[1]:
            zeros = np.zeros(self.basis.shape[1], np.float32)
            lanes = self.points.lanes[slot]
            kernels.features.project_rows(
                source, self.basis[b], zeros, inverse, lo, hi, out, scratch[0], lanes
            )
        else:
            kernels.features.copy_rows(source, inverse, lo, hi, out, scratch[0])

    def of(self, c: np.ndarray, square: np.ndarray, b: int) -> np.ndarray:
        """The features (K, Q) of centroids (K, D) of batch element b; square (K,) float64, their squared norms."""
        if not self.basis.shape[1]:
            return c
        head = c @ self.basis[b].T
        left = square * (1 + SLACK) - np.einsum("kq,kq->k", head, head, dtype=np.float64)
        return np.concatenate(
            [head, np.sqrt(np.maximum(left, 0))[:, None].astype(np.float32)], axis=1
        )


class Pruning:
    """The bounds of one run of Lloyd's loop, and what they need of the centroids.

    Attributes:
        group: centroids that share a lower bound.
        work: (threads, 4) scores by features, distances of rivals and of own centroids, points whose bounds crossed: so far.
    """

    def __init__(self, points: CpuPoints, features: Features | None, grouped: bool) -> None:
        b, n, d = points.shape
        k = points.problem.n_clusters
        self.points, self.features = points, features
        self.group = min(GROUP, k) if grouped else k
        self.square = np.zeros((b, 0), np.float32) if points.metric.spherical else points.squares()
        self.inverse = np.zeros((b, 0), np.float32) if points.inverse is None else points.inverse
        self.upper, self.lower = (
            np.empty((b, n), np.float32),
            np.empty((b, -(-k // self.group), n), np.float32),
        )
        self.columns = features.columns if features else np.zeros((b, 0, 0), np.float32)
        self.width = features.width if features else d
        self.tail = features is not None and features.basis.shape[1] > 0
        tile = tile_rows(d, self.width, grouped)
        self.scratch = [self._scratch(tile, d) for _ in range(points.plan.threads)]
        self.work = np.zeros((points.plan.threads, 4), np.int64)
        self._before = self.work.sum(0)
        self.tables: list[tuple] = [()] * b
        self.reset()

    def _scratch(self, tile: int, d: int) -> tuple:
        room = tile + kernels.lanes.POINTS
        near = empty_lines((0 if self.features else d, room + PAD))
        floats, ints = empty_lines((8, room)), empty_lines((4, room), np.int32)
        return (
            near,
            empty_lines((self.width, room + PAD)),
            tuple(floats),
            tuple(ints),
            np.zeros(room, np.bool_),
            np.empty((1, d), np.float32),
            np.empty(kernels.lanes.ROWS, np.int64),
        )

    def forget(self) -> None:
        """Forget the bounds."""
        self.upper.fill(np.inf)
        self.lower.fill(0)

    def reset(self) -> None:
        """Forget the bounds and the centroids they were for."""
        self.forget()
        self.seen = np.zeros((0, 0, 0), np.float32)

    def prepare(
        self, centroids: np.ndarray, scored: tuple[np.ndarray, np.ndarray], elements: np.ndarray
    ) -> None:
        """Take the centroids (B, K, D) of the next pass over `batch elements` (indices); scored: `Frame.scored` of them.

        Bounds are of unit rows and unit centroids as they are, where centroids are unit vectors; of rows and centroids in the
        frame otherwise.
        """
        (inner, offsets), metric = scored, self.points.metric
        k = inner.shape[1]
        bounding = np.ascontiguousarray(centroids, np.float32) if metric.spherical else inner
        _, rivals, _, crossed = self.work.sum(0) - self._before
        self._before = self.work.sum(0)
        exact = bool(rivals > OFTEN * crossed)
        if not self.seen.size:
            self.seen = bounding.copy()
            self.order: list[np.ndarray | None] = [None] * len(inner)
        biases = metric.bias(bounding)
        for b in elements:
            c, bias = bounding[b], biases[b]
            square = np.einsum("kd,kd->k", c, c, dtype=np.float64)
            features = self.features.of(c, square, b) if self.features else c
            order = self.order[b] = (
                halved(features, self.group) if self.order[b] is None else self.order[b]
            )
            moved = c - self.seen[b]
            drift = np.sqrt(np.einsum("kd,kd->k", moved, moved)) * np.float32(
                1 + 1e-6 * np.sqrt(c.shape[1])
            )
            group_drift = np.maximum.reduceat(drift[order], np.arange(0, k, self.group))
            self.seen[b] = c
            position = np.empty_like(order)
            position[order] = np.arange(k, dtype=np.int32)
            rows = np.ascontiguousarray(features[order], np.float32)
            table = (
                order,
                position,
                self.group,
                rows,
                np.ascontiguousarray(rows.T),
                bias[order],
                self.tail,
                drift,
                group_drift,
                self.points.eps,
                np.float32(square.max()),
                exact,
            )
            self.tables[b] = (c, (inner[b], offsets[b]), table)

    def step_rows(self, slot: int, b: int, s: int, sums: tuple[np.ndarray, ...]) -> int:
        """The E-step of shard s of batch element b, as `CpuPoints.step` has it."""
        points = self.points
        store, state = points.store, (self.square[b], self.inverse[b], self.upper[b], self.lower[b])
        return kernels.prune.prune_rows(
            (store.source(b), store.unshifted(b)),
            points.weights[b],
            *self.tables[b],
            self.columns[b],
            state,
            points.metric.spherical,
            *points.shards[s],
            points.labels()[b],
            sums[0].size > 0,
            *sums,
            self.scratch[slot],
            self.work[slot],
        )

    def products(self) -> float:
        """Multiply-adds so far."""
        scores, rivals, own, _ = self.work.sum(0).tolist()
        return scores * self.width + (rivals + own) * self.points.shape[2]

    def crossing(self) -> int:
        """Pairs of a point and a centroid that bounds did not rule out so far."""
        return int(self.work[:, 0].sum())


def tile_rows(d: int, width: int, grouped: bool) -> int:
    """Points per tile: with groups, enough that a group's few still fill vectors; otherwise rows that stay in cache."""
    return max(256, min(768, TILE_VALUES // (width if grouped else d) // 64 * 64))


def pruning_bytes(
    shape: tuple[int, int, int], k: int, width: int, kept: bool, grouped: bool, threads: int
) -> int:
    """What features of this width (all D if they are not `kept`) and their bounds take."""
    b, n, d = shape
    groups = -(-k // GROUP) if grouped else 1
    scratch = (tile_rows(d, width, grouped) + 128) * 4 * (width + (0 if kept else d) + 13)
    return (
        4 * b * (n + 128) * (width * kept + groups + 3)
        + threads * scratch
        + b * k * 4 * (2 * d + 3 * width + 16)
    )


def principal_directions(rows: np.ndarray, width: int) -> np.ndarray:
    """(width, D) orthonormal rows, about the directions along which the rows (S, D) extend most, largest first.

    By subspace iteration from a random start (Halko, Martinsson and Tropp, 2011).
    """
    start = np.random.default_rng(0).standard_normal((len(rows), width + 8), dtype=np.float32)
    v = rows.T @ (rows @ np.linalg.qr(rows.T @ start)[0])
    v = np.linalg.qr(v)[0]
    seen = rows @ v
    along = np.linalg.eigh(seen.T @ seen)[1][:, ::-1]
    return np.ascontiguousarray((v @ along[:, :width]).T)


def halved(c: np.ndarray, size: int) -> np.ndarray:
    """(K,) int32 order of centroids (K, D) in which every `size` of them lie close together.

    By halving, over and over, at multiples of `size` along the direction in which they extend most.
    """

    def cut(part: np.ndarray) -> list[np.ndarray]:
        if len(part) <= size:
            return [part]
        rows = c[part] - c[part].mean(0)
        direction = rows.T @ np.random.default_rng(len(part)).standard_normal(len(part)).astype(
            np.float32
        )
        for _ in range(4):
            direction = rows.T @ (rows @ direction)
            direction /= np.linalg.norm(direction) + 1e-30
        ranked = part[np.argsort(rows @ direction, kind="stable")]
        half = -(-len(part) // size) // 2 * size
        return cut(ranked[:half]) + cut(ranked[half:])

    return np.concatenate(cut(np.arange(len(c)))).astype(np.int32)
