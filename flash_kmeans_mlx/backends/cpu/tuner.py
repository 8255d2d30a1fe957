"""Which way of assigning a fit on the CPU takes: tiles of products, or bounds first, whatever is faster for these points.

Every way gives the same bits, so the choice may be measured: on a sample of the points, with the centroids at hand, on this
machine as it is now. It is revised as iterations go.
"""

from __future__ import annotations

import weakref
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from . import kernels
from .plan import RESIDENT_BYTES
from .pruning import Features, Pruning, principal_directions, pruning_bytes

if TYPE_CHECKING:
    from .points import CpuPoints

__all__ = ["NO_SUMS", "PruningTuner"]

NO_SUMS = (
    np.zeros((0, 0)),
    np.zeros(0),
    np.zeros(0, np.int64),
    np.zeros(0, np.bool_),
)  # for passes that only label

FEW_POINTS = 64 * 64  # below which nothing is chosen: the sample would be too small
FEW_GROUPS = 256  # centroids below which groups are not tried
WORTH = 2_000_000_000  # products of a pass from which choosing pays for itself
SAMPLE = 256  # points that are tried; no more than 1 in 64
RUN = 64  # of them in a row: neighbours are often alike, which is cheaper
BASIS_ROWS = 512  # that directions are found from
WIDTHS = (63, 31, 15)  # directions; fewer are tried as long as that is faster
RIVAL_ROWS = 64
PASSES = 10  # that a fit is expected to take
AMPLE = (
    100_000  # points of all passes, below which choosing would take more than some 5% of their time
)
NARROWER = 0.9  # of the time that more directions take, before fewer are chosen: the sample's distances are read from cache
WORSE = 1.2  # than the best width so far: then fewer directions are worse still
GAIN = 0.9  # of the time of tiles, that bounds must promise to be taken
START, STOP = (
    0.4,
    0.75,
)  # share of the pairs not ruled out, below which groups are begun and above which they are dropped
AHEAD = 5  # passes that must be allowed still for groups to pay for their beginning
EVERY, FIRST = (
    8,
    2,
)  # passes from one trial of groups to the next, and before the first one: centroids move far at first
DISTANCE, DIMENSION = (
    2e-8,
    1.5e-10,
)  # seconds that a distance in all dimensions takes, and each of them: rejects the hopeless
COPIED_DIMS, COPIED_BYTES = 16, 8 << 20  # seeding reads points as lanes up to either


class PruningTuner:
    """Chooses and keeps what `CpuPoints` prunes with.

    Attributes:
        pruning: the bounds in use, None for tiles.
        open: bounds may be used yet.
        share: of the multiply-adds of all passes so far, those computed.
    """

    def __init__(self, points: CpuPoints, mode: str | None) -> None:
        _, n, d = points.shape
        self.points: CpuPoints = weakref.proxy(
            points
        )  # which keep us: freed at once, not when a cycle is found
        self.mode = mode
        points.strategy = "tiles"
        self._computed = self._all_products = 0.0
        self.pruning: Pruning | None = None
        self.features: Features | None = None
        self._all = n * points.problem.n_clusters * d
        self.open = mode in ("head", "groups") or (
            mode is None and self._all >= WORTH and n >= FEW_POINTS
        )
        self._before = (0.0, 0)
        self._chosen = mode == "groups"  # whether there shall be features, and of what width
        self._probe: CpuPoints | None = None
        self._groups: Pruning | None = None  # of the probe
        self._passes = -1
        self._tiles = 0.0  # seconds of the sample's tiles
        self._passes_without_gain = 0  # passes in a row in which bounds did not pay

    @property
    def share(self) -> float:
        return self._computed / self._all_products if self._all_products else 1.0

    def reset(self) -> None:
        """A new run begins: bounds are forgotten, features stay."""
        if self.pruning:
            self.pruning.reset()
            self.pruning = self.pruning if self.features else None

    def close(self) -> None:
        """The points are not used any more."""
        self._end_trials()
        self.pruning = self.features = None

    def _end_trials(self) -> None:
        self._groups = None
        if self._probe:
            self._probe.__exit__()
            self._probe = None

    def for_seeding(self) -> Features | None:
        """Features that tell which points a candidate is far from."""
        points = self.points
        b, n, d = points.shape
        if self.open and not self._chosen:
            step = max(1, n // points.problem.n_clusters)
            starts = np.stack(
                [
                    points.rows(m, np.arange(0, n, step)[: points.problem.n_clusters])
                    for m in range(b)
                ]
            )
            self._choose(points.metric.start(starts).astype(np.float32), PASSES)
        if self.features:
            return self.features
        size = 4 * b * (n + 128) * d
        if (d <= COPIED_DIMS or size <= COPIED_BYTES) and size <= min(
            RESIDENT_BYTES, points.plan.spare
        ):
            return Features(points, np.zeros((b, 0, d), np.float32))
        return None

    def prepare(
        self,
        centroids: np.ndarray,
        scored: tuple[np.ndarray, np.ndarray],
        elements: np.ndarray,
        passes: int,
    ) -> Pruning | None:
        """What the next pass over `batch elements` is to be pruned with, aimed at the centroids (`Frame.scored`), or None."""
        points = self.points
        if centroids.shape[1] != points.problem.n_clusters:  # rounds of k-means||
            return None
        if self.open and not self.pruning:
            self._begin(centroids, passes)
        if self.pruning:
            self._before = self.pruning.products(), self.pruning.crossing()
            self.pruning.prepare(centroids, scored, elements)
        return self.pruning

    def _begin(self, centroids: np.ndarray, passes: int) -> None:
        """Choose, if that is still to be done, and begin with bounds if it is time."""
        points = self.points
        labelled = points.labels()[0, 0] != kernels.tile.UNSET
        if not self._chosen:
            passes = min(passes, PASSES)
            early = (
                passes > 1 and not labelled
            )  # means have shorter tails than the points to start from
            if self.mode is None and (early or points.shape[1] * passes < AMPLE):
                return
            self._choose(centroids, passes)
        if self.features:
            self.pruning = Pruning(points, self.features, grouped=self.mode is None)
            return
        if (
            labelled
            and (self.mode == "groups" or self._groups_pay(centroids[:1], passes))
            and self._fits(0)
        ):
            self.pruning = Pruning(points, None, grouped=True)
            points.strategy = "groups"

    def count(self, n_batch: int) -> None:
        """After a pass: add up its products, and drop bounds that rule too little out."""
        whole = n_batch * self._all
        self._all_products += whole
        if not self.pruning:
            self._computed += whole
            return
        products, crossing = self._before
        self._computed += self.pruning.products() - products
        pairs = (self.pruning.crossing() - crossing) * self.points.shape[2]
        self._passes_without_gain = self._passes_without_gain + 1 if pairs > STOP * whole else 0
        if self.mode is None and not self.features and self._passes_without_gain == 2:
            self.pruning, self.open = None, False

    def _fits(self, width: int) -> bool:
        points = self.points
        d, k = points.shape[2], points.problem.n_clusters
        grouped = self.mode != "head"
        kept = width > 0
        size = pruning_bytes(
            points.shape, k, width + 1 if kept else d, kept, grouped, points.plan.threads
        )
        return size + 4 * BASIS_ROWS * (2 * d + 3 * WIDTHS[0]) <= points.plan.spare

    def _directions(self, width: int) -> np.ndarray:
        """(B, width, D): principal directions of every batch element."""
        points = self.points
        b, n, _ = points.shape
        index = np.arange(0, n, max(1, n // BASIS_ROWS))
        return np.stack(
            [principal_directions(points.for_bounds(m, index), width) for m in range(b)]
        )

    def _choose(self, centroids: np.ndarray, passes: int) -> None:
        """Features for bounds, or none if tiles are faster."""
        self._chosen = True
        with self.points.timed("choice"):
            directions = (
                self._named() if self.mode == "head" else self._fastest(centroids[:1], passes)
            )
        self.open = self.mode != "head" or directions is not None
        if directions is not None:
            self._end_trials()
            self.features = Features(self.points, directions)
            self.points.strategy = f"head {directions.shape[1]}" + ", groups" * (
                self.mode != "head"
            )

    def _named(self) -> np.ndarray | None:
        """Directions (B, Q, D) if they fit."""
        _, n, d = self.points.shape
        width = min(WIDTHS[-1], d - 1, n)
        return self._directions(width) if self._fits(width) else None

    def _fastest(self, centroids: np.ndarray, passes: int) -> np.ndarray | None:
        """Directions (B, Q, D), as many as make `passes` passes fastest, or None if tiles are faster."""
        points = self.points
        widths = [w for w in WIDTHS if 2 * (w + 1) <= points.shape[2] and self._fits(w)]
        if not widths:
            return None
        begin = perf_counter()
        directions = self._directions(widths[0])
        found = perf_counter() - begin
        sample = self._sample()
        if not kernels.prune.prune_rows.signatures:
            self._time_head(centroids, directions[:1], 1)  # the kernels are compiled or loaded
        tiles = self._time_tiles(centroids)
        distance = DISTANCE + DIMENSION * points.shape[2]
        if distance * self._rivals(centroids[0], directions[0]) > GAIN * tiles:
            return None
        best, chosen = GAIN * passes * tiles, 0
        scale = sample.shape[1] / (points.shape[0] * points.shape[1])
        for width in widths:
            cost = self._time_head(centroids, directions[:1, :width], passes) + found * scale
            if cost < best * (NARROWER if chosen else 1):
                best, chosen = cost, width
            elif cost > WORSE * best:
                break
        return np.ascontiguousarray(directions[:, :chosen]) if chosen else None

    def _sample(self) -> CpuPoints:
        """Some of batch element 0's points, as points of their own."""
        if self._probe is None:
            points = self.points
            n = points.shape[1]
            runs = np.linspace(0, n - RUN, min(SAMPLE, n // 64) // RUN).astype(np.int64)
            index = (runs[:, None] + np.arange(RUN)).ravel()
            self._probe = points.few(points.rows(0, index).astype(np.float32)).__enter__()
        return self._probe

    def _rivals(self, centroids: np.ndarray, basis: np.ndarray) -> float:
        """About how many distances in all dimensions bounds along this basis would leave in a pass over the sample."""
        sample = self._sample()
        few = min(RIVAL_ROWS, sample.shape[1])
        index = np.arange(0, sample.shape[1], sample.shape[1] // few)
        x = sample.for_bounds(0, index)
        c = centroids if sample.metric.spherical else sample.frame.to_frame(centroids[None])[0]
        bias = sample.metric.bias(c)
        parts = [(a @ basis.T, np.einsum("nd,nd->n", a, a)) for a in (x, c)]
        tail = [
            np.sqrt(np.maximum(square - np.einsum("nq,nq->n", head, head), 0))
            for head, square in parts
        ]
        least = (x @ c.T + bias).max(1)
        most = parts[0][0] @ parts[1][0].T + np.outer(*tail) + bias
        return float((most > least[:, None]).sum()) * sample.shape[1] / len(x)

    def _time_tiles(self, centroids: np.ndarray) -> float:
        """Seconds of a pass over the sample, by tiles."""
        return min(self._time(centroids) for _ in range(2))

    def _time_head(self, centroids: np.ndarray, basis: np.ndarray, passes: int) -> float:
        """Seconds of `passes` passes with features along this basis (1, Q, D), the features included."""
        sample = self._sample()
        begin = perf_counter()
        features = Features(sample, np.ascontiguousarray(basis))
        made = perf_counter() - begin
        pruning = Pruning(sample, features, grouped=False)
        sample.reset_labels()
        scored = sample.inner(centroids)
        times = []
        for again in range(3 if passes > 1 else 1):  # the first one guesses the labels
            if again < 2:  # the second one knows what the first one met
                pruning.prepare(centroids, scored, np.zeros(1, np.int64))
            pruning.forget()
            begin = perf_counter()
            pruning.step_rows(0, 0, 0, NO_SUMS)
            times.append(perf_counter() - begin)
        return made + times[0] + (passes - 1) * min(times[1:], default=0.0)

    def _time(self, centroids: np.ndarray) -> float:
        """Seconds of a pass over the sample, what is done per centroid aside."""
        sample = self._sample()
        step_rows = sample.prepared_step(centroids, np.zeros(1, np.int64), 1)
        begin = perf_counter()
        step_rows(0, 0, 0, NO_SUMS)
        return perf_counter() - begin

    def _groups_pay(self, centroids: np.ndarray, passes: int) -> bool:
        """Whether bounds carried over from the last centroids would rule most pairs out: tried on the sample now and then."""
        if self.points.problem.n_clusters < FEW_GROUPS or passes < AHEAD:
            return False
        self._passes += 1
        turn = (self._passes - FIRST) % EVERY
        if self._passes < FIRST or turn > 1:
            return False
        with self.points.timed("choice"):
            sample = self._sample()
            if self._groups is None:
                self._groups = Pruning(sample, None, grouped=True)
            if turn == 0:
                self._tiles = self._time(centroids)  # and labels
                self._groups.forget()
            sample.tuner.pruning = self._groups
            before = self._groups.crossing()
            spent = self._time(centroids)
            sample.tuner.pruning = None
            crossing = self._groups.crossing() - before
        return (
            turn == 1
            and spent < self._tiles
            and crossing < START * sample.shape[1] * self.points.problem.n_clusters
        )
