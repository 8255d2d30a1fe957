"""E-steps by 8-bit integers, exact; see kernels/cpu/int8.py."""

from __future__ import annotations

import numpy as np

from . import kernels
from .store import empty_lines
from .tiles import TiledPoints

__all__ = [
    "Int8",
    "empty_centroids",
    "empty_points",
    "empty_scratch",
    "int8_bytes",
    "is_worthwhile",
    "most_compared",
]

# Dimensions from which products of bytes are faster, and the least number of products a point, less
# what other work a point takes: where it has a label to start from, and without.
MIN_DIMS, OTHER_WORK = 32, 16
MIN_PRODUCTS, MIN_FIRST_PRODUCTS = 4096, 20_000
# A pair whose score is compared takes as long as 3 D and this many more products in tiles.
COMPARISON = 500
LEAST_ROWS = 512  # after which it is clear whether bytes are fine enough
GAIN = 0.7  # share of the time of tiles that bytes save without comparisons


class Int8:
    """Points of a fit as bytes, and the centroids of a pass.

    Attributes:
        kept: Whether the bytes of all points are kept; otherwise those of a tile, which are rounded
            again in every pass.
        work: (threads, 2) int64, pairs whose scores were compared so far, and points.
    """

    def __init__(self, points: TiledPoints, kept: bool) -> None:
        b, n, d = points.shape
        threads = points.plan.threads
        self.points = points
        self.kept = kept
        self._scratch = [empty_scratch(d) for _ in range(threads)]
        self._bytes = [
            empty_points(size, d) for size in ([n] * b if kept else [points.plan.tile] * threads)
        ]
        self._filled = np.zeros((b, len(points.shards)), np.bool_)
        self._tables: list[kernels.int8.Int8Centroids | None] = [None] * b
        self._scored: kernels.tile.Scored | None = None
        self._n_clusters = 0
        self.work = np.zeros((threads, 2), np.int64)

    def of_element(self, b: int) -> kernels.int8.Int8Points:
        """Return the bytes of all points of batch element b, which must be kept and filled."""
        return self._bytes[b]

    def fill(self) -> None:
        """Round all points; their bytes must be kept."""
        points = self.points

        def shard(slot: int, b: int, s: int) -> None:
            if self._filled[b, s]:
                return
            scratch = points.scratch[slot].rows, self._scratch[slot].values
            for piece in points.pieces(slot, b, s):
                lo, hi = piece.lo, piece.hi
                kernels.near.fill_rows(piece.source, self._bytes[b], lo, hi, *scratch)
            self._filled[b, s] = True

        points.run_shards(shard, points.shape[0])

    def prepare(self, scored: kernels.tile.Scored, elements: np.ndarray) -> None:
        """Round the centroids of the next pass, which are in the frame, of some batch elements."""
        self._scored = scored
        _, self._n_clusters, d = scored.c.shape
        for b in elements:
            table = empty_centroids(self._n_clusters, d)
            kernels.int8.round_centroids(scored.c[b], scored.bias[b], table)
            self._tables[b] = table

    def step_rows(self, slot: int, b: int, s: int, changes: kernels.tile.Changes) -> int:
        """Do the E-step of shard s of batch element b; return how many labels changed."""
        points = self.points
        assert self._scored is not None
        changed = 0
        for piece in points.pieces(slot, b, s):
            found, compared = kernels.int8_labels.step_rows(
                piece.source,
                points.weights[b],
                kernels.tile.Scored(self._scored.c[b], self._scored.bias[b]),
                self._tables[b],
                self._bytes[b if self.kept else slot],
                self.kept,
                not (self.kept and self._filled[b, s]),
                piece.lo,
                piece.hi,
                points.labels()[b],
                changes,
                points.scratch[slot],
                self._scratch[slot],
            )
            changed += found
            self.work[slot] += compared, piece.hi - piece.lo
        self._filled[b, s] = True
        return changed

    def rows(self) -> int:
        return int(self.work[:, 1].sum())

    def products(self) -> float:
        return float(self.work.sum()) * self.points.shape[2]  # each point has one with its label

    def pays(self) -> bool:
        compared, rows = self.work.sum(0).tolist()
        _, _, d = self.points.shape
        return compared <= most_compared(rows, self._n_clusters, d) or rows < LEAST_ROWS


def most_compared(n: int, k: int, d: int) -> int:
    """Return how many pairs may be compared before bytes take longer than tiles."""
    return int(GAIN * n * k * d / (3 * d + COMPARISON))


def is_worthwhile(d: int, k: int, labelled: bool) -> bool:
    """Return whether a pass over points of D dimensions and K centroids is faster than by tiles."""
    least = MIN_PRODUCTS if labelled else MIN_FIRST_PRODUCTS
    return d >= MIN_DIMS and (d - OTHER_WORK) * k >= least


def int8_bytes(shape: tuple[int, int, int], k: int, tile: int, threads: int, kept: bool) -> int:
    """Return the bytes that E-steps by integers take.

    Args:
        shape: (B, N, D).
        k: Number of centroids.
        tile: Rows of a tile.
        threads: Number of threads.
        kept: Whether the bytes of all points are kept.
    """
    b, n, d = shape
    row = kernels.int8.QUAD * kernels.int8.words_of(d) + 12
    padded = 128  # points of a block, and the beginning of a line
    rows = b * (n + padded) if kept else threads * (tile + padded)
    return rows * row + b * k * (row + 8) + threads * (1 << 16)


def empty_points(n: int, d: int) -> kernels.int8.Int8Points:
    """Return memory for N points of D dimensions as bytes."""
    lanes = kernels.lanes.POINTS
    blocks = -(-n // lanes)
    return kernels.int8.Int8Points(
        words=empty_lines((blocks, kernels.int8.words_of(d), lanes), np.int32),
        measures=empty_lines((3, blocks * lanes)),
    )


def empty_centroids(k: int, d: int) -> kernels.int8.Int8Centroids:
    """Return memory for K centroids of D dimensions as bytes."""
    return kernels.int8.Int8Centroids(
        values=np.zeros((k, kernels.int8.QUAD * kernels.int8.words_of(d)), np.int8),
        start=np.empty(k, np.int32),
        terms=np.empty((k, 3), np.float32),
        worst=np.empty(3, np.float32),
        top=np.empty(1, np.int64),
    )


def empty_scratch(d: int) -> kernels.int8_labels.Int8Scratch:
    """Return the memory of one thread, for points of D dimensions."""
    lanes, rows = kernels.lanes.POINTS, kernels.lanes.ROWS
    room = kernels.int8_labels.PENDING + rows * lanes
    return kernels.int8_labels.Int8Scratch(
        values=np.empty(kernels.int8.QUAD * kernels.int8.words_of(d), np.int8),
        limits=empty_lines((3, lanes)),
        best=empty_lines((2, lanes)),
        chain=empty_lines((lanes,)),
        known=np.empty(lanes, np.bool_),
        wanted=np.empty(lanes, np.bool_),
        bounds=empty_lines((rows, lanes)),
        masks=np.empty(rows, np.int64),
        point=np.empty(room, np.int32),
        rival=np.empty(room, np.int32),
        reach=np.empty(room, np.float32),
    )
