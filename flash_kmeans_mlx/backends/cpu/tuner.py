"""Choose by measuring how a fit on the CPU assigns: by tiles of products, or with bounds.

All give the same bits, so the choice may be measured: on a sample of the points, with the current
centroids, on this machine as it is now. It is revised as iterations go on.
"""

from __future__ import annotations

import weakref
from dataclasses import replace
from time import perf_counter

import numpy as np

from ..points import Problem
from . import kernels
from .plan import RESIDENT_BYTES
from .pruning import (
    Features,
    Pruning,
    count_rivals,
    principal_directions,
    pruning_bytes,
    rows_for_bounds,
)
from .tiles import NO_CHANGES, TiledPoints

__all__ = ["PruningTuner"]

MIN_POINTS = 64 * 64  # below which nothing is chosen: the sample would be too small
MIN_PRODUCTS = 2_000_000_000  # of a pass, below which choosing takes longer than it saves
# Points of all passes together, below which choosing would take more than about 5% of their time.
MIN_POINT_PASSES = 100_000
PASSES = 10  # that a fit is expected to take

SAMPLE = 256  # points that are tried; no more than 1 in 64
RUN = 64  # of them in a row: neighbours are often alike, which is cheaper
RIVAL_ROWS = 64  # of them that rivals are counted for
BASIS_ROWS = 512  # points that directions are found from
WIDTHS = (63, 31, 15)  # numbers of directions; fewer are tried as long as that is faster

# Share of the time of tiles that bounds must stay under to be taken.
GAIN = 0.9
# Share of the time of more directions that fewer must stay under to be taken: the sample's
# distances are read from cache.
NARROWER = 0.9
# Share of the time of the best number of directions above which fewer are worse still.
WORSE = 1.2
# Seconds of a distance, and of each of its dimensions. They reject hopeless bounds.
DISTANCE, DIMENSION = 2e-8, 1.5e-10

MIN_GROUPED = 256  # centroids below which groups are not tried
# Shares of the pairs not ruled out: groups begin below the first and are dropped above the second.
START_SHARE, STOP_SHARE = 0.4, 0.75
AHEAD = 5  # passes that must be allowed still for groups to gain what their beginning takes
# Passes between two trials of groups, and before the first: centroids move far at first.
EVERY, FIRST = 8, 2

# Seeding reads points as lanes if they have so few dimensions or bytes.
COPIED_DIMS, COPIED_BYTES = 16, 8 << 20


class PruningTuner:
    """Chooses and keeps the bounds that a fit uses.

    Attributes:
        pruning: The bounds in use, None for tiles.
        open: Whether bounds may be used yet.
        share: Multiply-adds computed so far, as a share of all of them.
    """

    def __init__(self, points: TiledPoints, strategy: str | None) -> None:
        _, n, d = points.shape
        # Points keep their tuner: without a circle of references, both are freed at once.
        self.points: TiledPoints = weakref.proxy(points)
        self.asked = strategy
        points.strategy = "tiles"
        self.pruning: Pruning | None = None
        self.features: Features | None = None
        self._pass_products = n * points.problem.n_clusters * d  # of one batch element
        self._computed = 0.0
        self._all_products = 0.0
        self._before = (0.0, 0)  # products and pairs of `pruning` before this pass
        enough = self._pass_products >= MIN_PRODUCTS and n >= MIN_POINTS
        self.open = strategy in ("head", "groups") or (strategy is None and enough)
        self._chosen = strategy == "groups"  # whether the width of features is settled
        self._sample_points: TiledPoints | None = None
        self._sample_groups: Pruning | None = None
        self._tiles = 0.0  # seconds of the sample's tiles
        self._trial_passes = -1
        self._passes_without_gain = 0

    @property
    def share(self) -> float:
        return self._computed / self._all_products if self._all_products else 1.0

    def reset(self) -> None:
        """Begin a new run: bounds are forgotten, features stay."""
        if self.pruning:
            self.pruning.reset()
            self.pruning = self.pruning if self.features else None

    def close(self) -> None:
        """Free everything: the points are not used any more."""
        self._end_trials()
        self.pruning = None
        self.features = None

    def _end_trials(self) -> None:
        self._sample_groups = None
        if self._sample_points:
            self._sample_points.__exit__()
            self._sample_points = None

    def for_seeding(self) -> Features | None:
        """Return features that tell seeding which points a candidate is far from."""
        points = self.points
        b, n, d = points.shape
        if self.open and not self._chosen:
            k = points.problem.n_clusters
            index = np.arange(0, n, max(1, n // k))[:k]
            starts = np.stack([points.rows(m, index) for m in range(b)])
            self._choose(points.metric.start(starts).astype(np.float32), PASSES)
        if self.features:
            return self.features
        size = 4 * b * (n + 128) * d
        room = min(RESIDENT_BYTES, points.plan.spare)
        if size <= room and (d <= COPIED_DIMS or size <= COPIED_BYTES):
            return Features(points, np.zeros((b, 0, d), np.float32))
        return None

    def prepare(self, centroids: np.ndarray, elements: np.ndarray, passes: int) -> Pruning | None:
        """Return the bounds for the next pass, prepared for its centroids, or None.

        Args:
            centroids: (B, K, D) float32.
            elements: Indices of the batch elements to assign.
            passes: How many passes may follow, this one included.
        """
        points = self.points
        if centroids.shape[1] != points.problem.n_clusters:  # rounds of k-means||
            return None
        if self.open and not self.pruning:
            self._begin(centroids, passes)
        if self.pruning:
            self._before = self.pruning.products(), self.pruning.crossing()
            self.pruning.prepare(centroids, points.scored(centroids), elements)
        return self.pruning

    def _begin(self, centroids: np.ndarray, passes: int) -> None:
        """Choose, if that is still to be done, and begin with bounds if it is time."""
        points = self.points
        labelled = points.labels()[0, 0] != kernels.tile.UNSET
        if not self._chosen:
            passes = min(passes, PASSES)
            # Means have shorter tails than the points that a fit starts from.
            early = passes > 1 and not labelled
            short = points.shape[1] * passes < MIN_POINT_PASSES
            if self.asked is None and (early or short):
                return
            self._choose(centroids, passes)
        if self.features:
            self.pruning = Pruning(points, self.features, grouped=self.asked is None)
            return
        if not labelled:
            return
        wanted = self.asked == "groups" or self._groups_pay(centroids[:1], passes)
        if wanted and self._fits(0):
            self.pruning = Pruning(points, None, grouped=True)
            points.strategy = "groups"

    def count(self, n_elements: int) -> None:
        """Add up the products of a pass, and drop bounds that rule too little out."""
        whole = n_elements * self._pass_products
        self._all_products += whole
        if not self.pruning:
            self._computed += whole
            return
        products, crossing = self._before
        self._computed += self.pruning.products() - products
        pairs = (self.pruning.crossing() - crossing) * self.points.shape[2]
        gained = pairs <= STOP_SHARE * whole
        self._passes_without_gain = 0 if gained else self._passes_without_gain + 1
        if self.asked is None and not self.features and self._passes_without_gain == 2:
            self.pruning = None
            self.open = False

    def _fits(self, width: int) -> bool:
        """Return whether bounds with so many directions, or 0 for none, stay under the cap."""
        points = self.points
        d, k = points.shape[2], points.problem.n_clusters
        grouped = self.asked != "head"
        kept = width > 0
        columns = width + 1 if kept else d
        size = pruning_bytes(points.shape, k, columns, kept, grouped, points.plan.threads)
        return size + 4 * BASIS_ROWS * (2 * d + 3 * WIDTHS[0]) <= points.plan.spare

    def _directions(self, width: int) -> np.ndarray:
        """Return (B, width, D): principal directions of every batch element."""
        points = self.points
        b, n, _ = points.shape
        index = np.arange(0, n, max(1, n // BASIS_ROWS))
        rows = (rows_for_bounds(points, m, index) for m in range(b))
        return np.stack([principal_directions(some, width) for some in rows])

    def _choose(self, centroids: np.ndarray, passes: int) -> None:
        """Compute features for bounds, or none if tiles are faster."""
        self._chosen = True
        with self.points.timed("choice"):
            if self.asked == "head":
                directions = self._asked_for()
            else:
                directions = self._fastest(centroids[:1], passes)
        self.open = self.asked != "head" or directions is not None
        if directions is not None:
            self._end_trials()
            self.features = Features(self.points, directions)
            groups = "" if self.asked == "head" else ", groups"
            self.points.strategy = f"head {directions.shape[1]}{groups}"

    def _asked_for(self) -> np.ndarray | None:
        """Return the directions (B, Q, D) of strategy "head", or None if they don't fit."""
        _, n, d = self.points.shape
        width = min(WIDTHS[-1], d - 1, n)
        return self._directions(width) if self._fits(width) else None

    def _fastest(self, centroids: np.ndarray, passes: int) -> np.ndarray | None:
        """Return as many directions (B, Q, D) as make passes fastest, or None for tiles."""
        points = self.points
        widths = [w for w in WIDTHS if 2 * (w + 1) <= points.shape[2] and self._fits(w)]
        if not widths:
            return None
        begin = perf_counter()
        directions = self._directions(widths[0])
        finding = perf_counter() - begin
        sample = self._sample()
        if not kernels.is_loaded(kernels.prune.prune_rows):
            self._time_head(centroids, directions[:1], 1)  # the time to load or compile is left out
        tiles = self._time_tiles(centroids)
        distance = DISTANCE + DIMENSION * points.shape[2]
        if distance * self._rivals(centroids[0], directions[0]) > GAIN * tiles:
            return None
        best = GAIN * passes * tiles
        chosen = 0
        scale = sample.shape[1] / (points.shape[0] * points.shape[1])
        for width in widths:
            cost = self._time_head(centroids, directions[:1, :width], passes) + finding * scale
            if cost < best * (NARROWER if chosen else 1):
                best = cost
                chosen = width
            elif cost > WORSE * best:
                break
        return np.ascontiguousarray(directions[:, :chosen]) if chosen else None

    def _sample(self) -> TiledPoints:
        """Return some points of batch element 0, as points of their own for one thread."""
        if self._sample_points is None:
            points = self.points
            n = points.shape[1]
            runs = np.linspace(0, n - RUN, min(SAMPLE, n // 64) // RUN).astype(np.int64)
            index = (runs[:, None] + np.arange(RUN)).ravel()
            rows = points.rows(0, index).astype(np.float32)
            problem = Problem(
                x=rows[None],
                n_clusters=points.problem.n_clusters,
                metric=points.metric,
                given_shape=(1, *rows.shape),
                check_finite=False,
            )
            plan = replace(points.plan, threads=1, shards=1, flight=1)
            self._sample_points = TiledPoints(problem, plan).__enter__()
        return self._sample_points

    def _rivals(self, centroids: np.ndarray, basis: np.ndarray) -> float:
        """Estimate the distances in all dimensions that bounds leave in a pass over the sample.

        Args:
            centroids: (K, D) float32.
            basis: (Q, D) directions of the bounds.
        """
        sample = self._sample()
        n = sample.shape[1]
        x = rows_for_bounds(sample, 0, np.arange(0, n, n // min(RIVAL_ROWS, n)))
        c = centroids if sample.metric.spherical else sample.frame.to_frame(centroids[None])[0]
        return count_rivals(x, c, sample.metric.bias(c), basis) * n / len(x)

    def _time_tiles(self, centroids: np.ndarray) -> float:
        """Return the seconds of a pass over the sample, by tiles."""
        return min(self._time(centroids) for _ in range(2))

    def _time_head(self, centroids: np.ndarray, basis: np.ndarray, passes: int) -> float:
        """Return the seconds of `passes` passes over the sample with features along this basis.

        Computing the features is included. basis: (1, Q, D).
        """
        sample = self._sample()
        begin = perf_counter()
        features = Features(sample, np.ascontiguousarray(basis))
        making = perf_counter() - begin
        pruning = Pruning(sample, features, grouped=False)
        sample.reset_labels()
        scored = sample.scored(centroids)
        times = []
        for again in range(3 if passes > 1 else 1):  # the first one guesses the labels
            if again < 2:  # the second one knows what the first one met
                pruning.prepare(centroids, scored, np.zeros(1, np.int64))
            pruning.forget()
            begin = perf_counter()
            pruning.step_rows(0, 0, 0, NO_CHANGES)
            times.append(perf_counter() - begin)
        return making + times[0] + (passes - 1) * min(times[1:], default=0.0)

    def _time(self, centroids: np.ndarray, pruning: Pruning | None = None) -> float:
        """Return the seconds of a pass over the sample; work per centroid is left out."""
        sample = self._sample()
        element = np.zeros(1, np.int64)
        if pruning:
            pruning.prepare(centroids, sample.scored(centroids), element)
            step_rows = pruning.step_rows
        else:
            step_rows = sample.prepared_step(centroids, element, 1)
        begin = perf_counter()
        step_rows(0, 0, 0, NO_CHANGES)
        return perf_counter() - begin

    def _groups_pay(self, centroids: np.ndarray, passes: int) -> bool:
        """Return whether bounds carried over from the last centroids rule most pairs out.

        They are tried on the sample now and then.
        """
        k = self.points.problem.n_clusters
        if k < MIN_GROUPED or passes < AHEAD:
            return False
        self._trial_passes += 1
        turn = (self._trial_passes - FIRST) % EVERY
        if self._trial_passes < FIRST or turn > 1:
            return False
        with self.points.timed("choice"):
            sample = self._sample()
            if self._sample_groups is None:
                self._sample_groups = Pruning(sample, None, grouped=True)
            groups = self._sample_groups
            if turn == 0:
                self._tiles = self._time(centroids)  # and labels
                groups.forget()
            before = groups.crossing()
            seconds = self._time(centroids, groups)
            crossing = groups.crossing() - before
        few = crossing < START_SHARE * sample.shape[1] * k
        return turn == 1 and seconds < self._tiles and few
