"""Bounds that let an E-step on the CPU skip most products; see kernels/cpu/prune.py."""

from __future__ import annotations

import numpy as np

from ..grouping import halved
from . import kernels
from .plan import PAD
from .store import empty_lines
from .tiles import TiledPoints

__all__ = [
    "Features",
    "Pruning",
    "count_rivals",
    "principal_directions",
    "pruning_bytes",
    "rows_for_bounds",
]

GROUP = 64  # centroids that share a lower bound
LONGER = 1e-6  # relative to a squared norm: SLACK of kernels/cpu/features.py
# Rivals per point from which its own distance will be asked for anyway.
OFTEN = 0.5
TILE_VALUES = 1 << 17  # of a tile that stays in cache
# A pair that is computed by itself takes as long as its products and this many more in tiles.
COMPARISON = 500
LEAST_ROWS = 512  # after which it is clear whether bounds pay
SLACK = 1.25  # times the work of tiles: the first pass, without labels, takes longest


class Features:
    """A few columns per point that bound its products with anything from above.

    Attributes:
        width: Columns (Q); all D where they are the rows themselves.
        columns: (B, Q, N + padding) float32.
        basis: (B, Q - 1, D) orthonormal rows, or (B, 0, D) if the columns are the rows themselves.
    """

    def __init__(self, points: TiledPoints, basis: np.ndarray) -> None:
        b, n, d = points.shape
        self.points = points
        self.basis = basis
        self.width = basis.shape[1] + 1 if basis.shape[1] else d
        self.columns = empty_lines((b, self.width, n + kernels.lanes.POINTS + -n % PAD + PAD))
        points.run_shards(self._fill, b)

    def _fill(self, slot: int, b: int, s: int) -> None:
        """Compute the columns of shard s of batch element b."""
        points = self.points
        scratch = points.scratch[slot]
        for piece in points.pieces(slot, b, s):
            rows = points.norms[b], piece.lo, piece.hi, self.columns[b]
            if self.basis.shape[1]:
                kernels.features.project_rows(piece.unshifted, self.basis[b], *rows, scratch)
            else:
                kernels.features.copy_rows(piece.unshifted, *rows, scratch.rows)

    def of_centroids(self, c: np.ndarray, square: np.ndarray, b: int) -> np.ndarray:
        """Return the features (K, Q) of centroids of batch element b.

        Args:
            c: (K, D) float32.
            square: (K,) float64, their squared norms.
            b: The batch element.
        """
        if not self.basis.shape[1]:
            return c
        head = c @ self.basis[b].T
        along = np.einsum("kq,kq->k", head, head, dtype=np.float64)
        tail = np.sqrt(np.maximum(square * (1 + LONGER) - along, 0))
        return np.concatenate([head, tail[:, None].astype(np.float32)], axis=1)


class Pruning:
    """Bounds of one run of Lloyd's loop, and the tables of centroids that they need.

    Attributes:
        group: Centroids that share a lower bound.
        work: (threads, 5) int64, what was done so far: see kernels/cpu/prune.py.
    """

    def __init__(self, points: TiledPoints, features: Features) -> None:
        b, n, d = points.shape
        k = points.problem.n_clusters
        self.points = points
        self.features = features
        self.group = min(GROUP, k)
        self.square = np.zeros((b, 0), np.float32) if points.metric.spherical else points.squares()
        self.upper = np.empty((b, n), np.float32)
        self.lower = np.empty((b, -(-k // self.group), n), np.float32)
        tile = tile_rows(features.width)
        self.scratch = [self._scratch(tile, d) for _ in range(points.plan.threads)]
        self.work = np.zeros((points.plan.threads, 5), np.int64)
        self._crossed = np.zeros(2, np.int64)  # rivals, and points whose bounds crossed, so far
        self.tables: list[kernels.bounds.Table | None] = [None] * b
        self.reset()

    def _scratch(self, tile: int, d: int) -> kernels.bounds.PruneScratch:
        room = tile + kernels.lanes.POINTS
        floats = empty_lines((8, room))
        ints = empty_lines((4, room), np.int32)
        return kernels.bounds.PruneScratch(
            gathered=empty_lines((self.features.width, room + PAD)),
            reach=floats[0],
            threshold=floats[1],
            gaps=floats[2],
            lost=floats[3],
            slack=floats[4],
            bound=floats[5],
            rest=floats[6],
            limit=floats[7],
            label=ints[0],
            place=ints[1],
            chosen=ints[2],
            mine=ints[3],
            known=np.zeros(room, np.bool_),
            row=np.empty((1, d), np.float32),
            masks=np.empty(kernels.lanes.ROWS, np.int64),
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
        self, centroids: np.ndarray, scored: kernels.tile.Scored, elements: np.ndarray
    ) -> None:
        """Prepare tables for the centroids of the next pass.

        Bounds are of unit rows and unit centroids as they are, where centroids are unit vectors;
        of rows and centroids in the frame otherwise.

        Args:
            centroids: (B, K, D) float32.
            scored: The same in the frame, and their bias.
            elements: Indices of the batch elements to assign.
        """
        metric = self.points.metric
        bounding = np.ascontiguousarray(centroids, np.float32) if metric.spherical else scored.c
        exact = self._often()
        if not self.seen.size:
            self.seen = bounding.copy()
            self.order: list[np.ndarray | None] = [None] * len(bounding)
        biases = metric.bias(bounding)
        for b in elements:
            self.tables[b] = self._table(b, bounding[b], biases[b], scored, exact)
            self.seen[b] = bounding[b]

    def adapt(self) -> None:
        """Prepare another pass for the same centroids, by what the last one met."""
        exact = self._often()
        self.tables = [table and table._replace(exact=exact) for table in self.tables]

    def _often(self) -> bool:
        """Return whether rivals since the last call make most points need their own distance."""
        before = self._crossed
        self._crossed = self.work[:, [kernels.prune.RIVALS, kernels.prune.CROSSED]].sum(0)
        rivals, crossed = self._crossed - before
        return bool(rivals > OFTEN * crossed)

    def _table(
        self, b: int, c: np.ndarray, bias: np.ndarray, scored: kernels.tile.Scored, exact: bool
    ) -> kernels.bounds.Table:
        """Return the table of batch element b for centroids c (K, D) with this bias (K,)."""
        k = len(c)
        square = np.einsum("kd,kd->k", c, c, dtype=np.float64)
        features = self.features.of_centroids(c, square, b)
        order = self.order[b]
        if order is None:
            order = halved(features, self.group)
            self.order[b] = order
        moved = c - self.seen[b]
        rounding = np.float32(1 + 1e-6 * np.sqrt(c.shape[1]))
        drift = np.sqrt(np.einsum("kd,kd->k", moved, moved)) * rounding
        position = np.empty_like(order)
        position[order] = np.arange(k, dtype=np.int32)
        rows = np.ascontiguousarray(features[order], np.float32)
        return kernels.bounds.Table(
            c=c,
            inner=scored.c[b],
            bias=scored.bias[b],
            order=order,
            position=position,
            width=self.group,
            rows=rows,
            columns=np.ascontiguousarray(rows.T),
            row_bias=bias[order],
            drift=drift,
            group_drift=np.maximum.reduceat(drift[order], np.arange(0, k, self.group)),
            eps=self.points.eps,
            most=np.float32(square.max()),
            exact=exact,
            spherical=self.points.metric.spherical,
        )

    def step_rows(self, slot: int, b: int, s: int, changes: kernels.tile.Changes) -> int:
        """Do the E-step of shard s of batch element b; return how many labels changed."""
        points = self.points
        bounds = kernels.bounds.Bounds(
            self.square[b], points.norms[b], self.upper[b], self.lower[b]
        )
        return sum(
            kernels.prune.prune_rows(
                piece.source,
                piece.unshifted,
                points.weights[b],
                self.tables[b],
                self.features.columns[b],
                bounds,
                piece.lo,
                piece.hi,
                points.labels()[b],
                changes,
                self.scratch[slot],
                self.work[slot],
            )
            for piece in points.pieces(slot, b, s)
        )

    def rows(self) -> int:
        return int(self.work[:, kernels.prune.ROWS_DONE].sum())

    def products(self) -> float:
        scores, rivals, own, _, _ = self.work.sum(0).tolist()
        return scores * self.features.width + (rivals + own) * self.points.shape[2]

    def pays(self) -> bool:
        _, rivals, own, _, rows = self.work.sum(0).tolist()
        one_by_one = (rivals + own) * COMPARISON
        _, _, d = self.points.shape
        whole = rows * d * self.points.problem.n_clusters
        return self.products() + one_by_one <= SLACK * whole or rows < LEAST_ROWS


def tile_rows(width: int) -> int:
    """Return the points per tile: the few of them that a group concerns still fill vectors."""
    return max(256, min(768, TILE_VALUES // width // 64 * 64))


def pruning_bytes(shape: tuple[int, int, int], k: int, width: int, threads: int) -> int:
    """Return the bytes of features and their bounds.

    Args:
        shape: (B, N, D).
        k: Number of centroids.
        width: Columns of the features.
        threads: Number of threads.
    """
    b, n, d = shape
    groups = -(-k // GROUP)
    scratch = (tile_rows(width) + 128) * 4 * (width + 13)
    by_point = 4 * b * (n + 128) * (width + groups + 3)
    by_centroid = 4 * b * k * (2 * d + 3 * width + 16)
    return by_point + by_centroid + threads * scratch


def rows_for_bounds(points: TiledPoints, b: int, index: np.ndarray) -> np.ndarray:
    """Return rows (n, D) float32 of batch element b as bounds take them.

    They are unit rows where centroids are unit vectors, otherwise rows in the frame.
    """
    rows = points.rows(b, index)
    if points.metric.spherical:
        return points.metric.start(rows).astype(np.float32)
    return points.frame.rows(rows, b).astype(np.float32)


def count_rivals(x: np.ndarray, c: np.ndarray, bias: np.ndarray, basis: np.ndarray) -> int:
    """Return how many pairs of rows and centroids bounds along a basis would not rule out.

    Args:
        x: (n, D) rows, as bounds take them.
        c: (K, D) centroids.
        bias: (K,) of their scores.
        basis: (Q, D) directions.
    """

    def head_and_tail(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        head = a @ basis.T
        square = np.einsum("nd,nd->n", a, a) - np.einsum("nq,nq->n", head, head)
        return head, np.sqrt(np.maximum(square, 0))

    x_head, x_tail = head_and_tail(x)
    c_head, c_tail = head_and_tail(c)
    best = (x @ c.T + bias).max(1)
    most = x_head @ c_head.T + np.outer(x_tail, c_tail) + bias
    return int((most > best[:, None]).sum())


def principal_directions(rows: np.ndarray, width: int) -> np.ndarray:
    """Return (width, D) orthonormal rows: about the principal directions, largest first.

    By subspace iteration from a random start (Halko, Martinsson and Tropp, 2011).

    Args:
        rows: (S, D) float32.
        width: Number of directions.
    """
    start = np.random.default_rng(0).standard_normal((len(rows), width + 8), dtype=np.float32)
    v = rows.T @ (rows @ np.linalg.qr(rows.T @ start)[0])
    v = np.linalg.qr(v)[0]
    projected = rows @ v
    along = np.linalg.eigh(projected.T @ projected)[1][:, ::-1]
    return np.ascontiguousarray((v @ along[:, :width]).T)
