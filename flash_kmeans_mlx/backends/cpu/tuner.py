"""Which way each pass of a fit assigns its points.

Tiles of float32 products serve everything. Products of bytes (int8.py) are faster from some size
on, unless bytes are too coarse for the data. Bounds by a head (pruning.py) are faster still where
few directions tell most of a distance: a trial on a sample shows it (trial.py). All ways give the
same bits, so one that does not pay is left at any shard.
"""

from __future__ import annotations

import weakref
from typing import Protocol

import numpy as np

from . import kernels
from .int8 import Int8, int8_bytes, is_worthwhile
from .plan import RESIDENT_BYTES
from .pruning import Features, Pruning, principal_directions, pruning_bytes, rows_for_bounds
from .tiles import TiledPoints
from .trial import Trial

__all__ = ["Tuner", "Way"]

MIN_POINTS = 64 * 64  # below which no head is tried: the sample would be too small
MIN_PRODUCTS = 2_000_000_000  # of a pass, below which a trial takes longer than it saves
# Points of all passes together, below which a trial would take more than about 5% of their time.
MIN_POINT_PASSES = 100_000
PASSES = 10  # that a fit is expected to take

BASIS_ROWS = 512  # points that directions are found from
WIDTHS = (63, 31, 15)  # numbers of directions; fewer are tried as long as that is faster

# Seeding reads points as lanes if they have so few dimensions, as bytes if it chooses so many, and
# otherwise as lanes if they have so few bytes.
COPIED_DIMS, MIN_SEEDS, COPIED_BYTES = 16, 16, 8 << 20


class Way(Protocol):
    """A way to assign the points of a shard, besides tiles; it counts what it computes."""

    def step_rows(self, slot: int, b: int, s: int, changes: kernels.tile.Changes) -> int:
        """Do the E-step of shard s of batch element b; return how many labels changed."""
        ...

    def pays(self) -> bool:
        """Return whether it computes less than tiles, so far."""
        ...

    def rows(self) -> int:
        """Return the points assigned so far."""
        ...

    def products(self) -> float:
        """Return the float32 multiply-adds so far."""
        ...


class Tuner:
    """Chooses the ways of a fit and keeps what they need.

    Attributes:
        pruning: Bounds by a head, if they are in use.
        int8: Points as bytes, if they are in use.
        open: Whether a head may be used yet.
        share: Float32 multiply-adds computed so far, as a share of all of them.
    """

    def __init__(self, points: TiledPoints, strategy: str | None) -> None:
        _, n, d = points.shape
        # Points keep their tuner: without a circle of references, both are freed at once.
        self.points: TiledPoints = weakref.proxy(points)
        self.asked = strategy
        points.strategy = "tiles"
        self.pruning: Pruning | None = None
        self.int8: Int8 | None = None
        self.features: Features | None = None
        self._pass_products = n * points.problem.n_clusters * d  # of one batch element
        self._computed = 0.0
        self._all_products = 0.0
        self._way: Way | None = None  # of the pass at hand
        self._before = (0, 0.0)  # its rows and products before this pass
        enough = self._pass_products >= MIN_PRODUCTS and n >= MIN_POINTS
        self.open = strategy == "head" or (strategy is None and enough)
        self._tried = False  # whether a head was
        self._bytes_open = strategy == "int8" or strategy is None

    @property
    def share(self) -> float:
        return self._computed / self._all_products if self._all_products else 1.0

    def reset(self) -> None:
        """Begin a new run: bounds are forgotten, what is known of the points stays."""
        if self.pruning:
            self.pruning.reset()

    def close(self) -> None:
        """Free everything: the points are not used any more."""
        self._way = self.pruning = self.int8 = self.features = None

    def for_seeding(self) -> Features | Int8 | None:
        """Return features or bytes that tell seeding which points a candidate is far from."""
        points = self.points
        b, n, d = points.shape
        if self.open and not self.features:
            k = points.problem.n_clusters
            index = np.arange(0, n, max(1, n // k))[:k]
            starts = np.stack([points.rows(m, index) for m in range(b)])
            self._choose(points.metric.start(starts).astype(np.float32), PASSES)
        if self.features:
            return self.features
        if self._bytes_open and d > COPIED_DIMS and points.problem.n_clusters >= MIN_SEEDS:
            self._make_bytes(points.problem.n_clusters, keep=True)
            if self.int8 and self.int8.kept:
                self.int8.fill()
                return self.int8
        size = 4 * b * (n + 128) * d
        room = min(RESIDENT_BYTES, points.plan.spare)
        if size <= room and (d <= COPIED_DIMS or size <= COPIED_BYTES):
            return Features(points, np.zeros((b, 0, d), np.float32))
        return None

    def prepare(
        self,
        centroids: np.ndarray,
        scored: kernels.tile.Scored,
        elements: np.ndarray,
        passes: int,
    ) -> Way | None:
        """Return the way of the next pass, prepared for its centroids, or None for tiles.

        Args:
            centroids: (B, K, D) float32.
            scored: The same in the frame, and their bias.
            elements: Indices of the batch elements to assign.
            passes: How many passes may follow, this one included.
        """
        points = self.points
        k = centroids.shape[1]
        labelled = bool((points.labels()[elements, 0] != kernels.tile.UNSET).all())
        whole = k == points.problem.n_clusters  # not a round of k-means||
        last = labelled or passes == 1
        if self.open and whole and not self.features and (last or not self._tried):
            if self._is_time(passes):
                self._choose(centroids, passes)
            self.open = self.features is not None or not last
        self._way = None
        if self.open and whole and self.features:
            if self.pruning is None:
                self.pruning = Pruning(points, self.features)
            self.pruning.prepare(centroids, scored, elements)
            self._way = self.pruning
        elif self._bytes_open:
            again = labelled and (passes > 1 or self.int8 is not None)
            if self.asked or is_worthwhile(points.shape[2], k, again):
                self._way = self._as_bytes(k, passes)
            if self._way:
                self._way.prepare(scored, elements)
        if self._way:
            self._before = self._way.rows(), self._way.products()
        return self._way

    def count(self, n_elements: int) -> None:
        """Add up the products of a pass, and leave a way that does not pay."""
        whole = n_elements * self._pass_products
        self._all_products += whole
        self._computed += whole
        way = self._way
        if way is None:
            return
        _, n, _ = self.points.shape
        rows, products = way.rows() - self._before[0], way.products() - self._before[1]
        self._computed += products - rows * self._pass_products / n
        if way.pays():
            return
        self.points.strategy = "tiles"
        if way is self.pruning:
            self.open = False
            self.pruning = self.features = None
        else:
            self._bytes_open = False
            self.int8 = None

    def _is_time(self, passes: int) -> bool:
        """Return whether so many passes are worth a trial."""
        enough = self.points.shape[1] * min(passes, PASSES) >= MIN_POINT_PASSES
        return enough or self.asked == "head"

    def _as_bytes(self, k: int, passes: int) -> Int8 | None:
        """Return the points as bytes, kept for further passes if there is memory."""
        if passes > 1:
            self._make_bytes(k, keep=True)
        if self.int8 is None:
            self._make_bytes(k, keep=False)
        if self.int8:
            self.points.strategy = "int8"
        return self.int8

    def _make_bytes(self, k: int, keep: bool) -> None:
        """Have the points as bytes, if there is memory: all of them if `keep`, or a tile's."""
        points, plan = self.points, self.points.plan
        if self.int8 and (self.int8.kept or not keep):
            return
        if not kernels.ir.INT8 or points.shape[2] > kernels.int8.MAX_DIMS:
            return
        if int8_bytes(points.shape, k, plan.tile, plan.threads, keep) <= plan.spare:
            self.int8 = Int8(points, keep)

    def _choose(self, centroids: np.ndarray, passes: int) -> None:
        """Compute the features of a head where one is faster.

        A fit that finds none among the points it starts from tries once more with its first means:
        they have shorter tails.
        """
        self._tried = True
        with self.points.timed("choice"):
            directions = self._fastest(centroids[:1], min(passes, PASSES))
        if directions is not None:
            self.int8 = None  # whose memory bounds may take
            self.features = Features(self.points, directions)
            self.points.strategy = f"head {directions.shape[1]}"

    def _fastest(self, centroids: np.ndarray, passes: int) -> np.ndarray | None:
        """Return as many directions (B, Q, D) as make passes fastest, or None for no head."""
        points = self.points
        _, n, d = points.shape
        widths = [w for w in WIDTHS if 2 * (w + 1) <= d]
        if self.asked == "head":
            widths = widths or [min(WIDTHS[-1], d - 1, n)]
        widths = [w for w in widths if w > 0 and self._fits(w)]
        if not widths:
            return None
        directions = self._directions(widths[0])
        with Trial(points) as trial:
            width = trial.fastest_width(centroids, directions[:1], widths, passes, self.asked)
        return np.ascontiguousarray(directions[:, :width]) if width else None

    def _fits(self, width: int) -> bool:
        """Return whether bounds with so many directions stay under the cap."""
        points = self.points
        k = points.problem.n_clusters
        size = pruning_bytes(points.shape, k, width + 1, points.plan.threads)
        return size + 4 * BASIS_ROWS * (2 * points.shape[2] + 3 * WIDTHS[0]) <= points.plan.spare

    def _directions(self, width: int) -> np.ndarray:
        """Return (B, width, D): principal directions of every batch element."""
        points = self.points
        b, n, _ = points.shape
        index = np.arange(0, n, max(1, n // BASIS_ROWS))
        rows = (rows_for_bounds(points, m, index) for m in range(b))
        return np.stack([principal_directions(some, width) for some in rows])
