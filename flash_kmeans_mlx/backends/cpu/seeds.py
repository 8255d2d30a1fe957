"""k-means++ on the CPU backend: many rounds are one call of a kernel; see kernels/cpu/seed.py."""

from __future__ import annotations

import numpy as np

from . import kernels
from .int8 import Int8, empty_centroids, empty_points
from .pruning import Features
from .store import empty_lines
from .team import CALL, alone, run_team
from .tiles import NOTHING, TiledPoints

__all__ = ["kmeans_plusplus"]

# Products of a round that are not worth waking other threads for.
ALONE = 200_000
NO_FEATURES = np.zeros((0, 0), np.float32)


def kmeans_plusplus(
    points: TiledPoints,
    first: np.ndarray,
    uniforms: np.ndarray,
    kept: Features | Int8 | None,
) -> np.ndarray:
    """Return (B, K) rows by greedy k-means++; -1 from where every point coincides with a centre.

    Args:
        points: The points.
        first: (B,) the first centres.
        uniforms: (K, L) uniform numbers, for L candidates in each round.
        kept: Features or bytes of the points, which tell what points a candidate is far from.
    """
    b, n, d = points.shape
    k, trials = uniforms.shape
    chosen = np.full((b, k), -1, np.int64)
    square = points.squares() if points.inverse is None else _squares_from_centre(points)
    threads = points.plan.threads
    width = kept.width if isinstance(kept, Features) else 0
    memory = [_memory(points, width) for _ in range(threads)]
    work = n * d * trials
    rounds = max(1, CALL // work)
    progress = points.problem.progress
    progress.begin(b * k)
    if b >= threads or threads == 1 or work < ALONE:
        size = -(-b // max(1, min(b, 4 * threads)))

        def some_elements(slot: int, i: int) -> None:
            team = alone()
            candidates, scratch = memory[slot]
            for m in range(i * size, min(b, (i + 1) * size)):
                run = _Run(points, m, square[m], kept)
                for k0 in range(0, k, rounds):
                    k1 = min(k, k0 + rounds)
                    run(team, candidates, scratch, k0, k1, first, uniforms, chosen)
                    progress.advance(k1 - k0)

        points.workers.run(some_elements, -(-b // size))
        return chosen
    size = min(threads, len(points.shards))
    candidates = memory[0][0]
    for m in range(b):
        run = _Run(points, m, square[m], kept)
        for k0 in range(0, k, rounds):
            k1 = min(k, k0 + rounds)

            def together(
                slot: int, team: kernels.team.Team, run: _Run = run, k0: int = k0, k1: int = k1
            ) -> None:
                run(team, candidates, memory[slot][1], k0, k1, first, uniforms, chosen)

            run_team(points.workers, size, together)
            progress.advance(k1 - k0)
    return chosen


class _Run:
    """k-means++ of one batch element."""

    def __init__(
        self,
        points: TiledPoints,
        b: int,
        square: np.ndarray,
        kept: Features | Int8 | None,
    ) -> None:
        n = points.shape[1]
        self.source = points.source(b)
        self.b = b
        if points.inverse is not None and np.isinf(points.inverse[b].max()):
            kept = None  # distances of rows with norms below float32's range are no numbers
        self.filters = kernels.near.Filters(
            columns=kept.columns[b] if isinstance(kept, Features) else NO_FEATURES,
            points=kept.of_element(b)
            if isinstance(kept, Int8)
            else empty_points(0, points.shape[2]),
        )
        self.measure = _measure(points, b, square)
        threshold = np.full(n + kernels.lanes.POINTS if kept else 0, np.inf, np.float32)
        threshold[:n] = -np.inf
        self.state = kernels.seed.Nearest(
            nearest=np.full(n, np.inf, np.float32),
            threshold=threshold,
            blocks=np.zeros(-(-n // kernels.seed.DRAW)),
            found=np.empty(n, np.int32),
            bits=np.empty(n, np.uint16),
        )
        self.cuts = points.cuts

    def __call__(
        self,
        team: kernels.team.Team,
        candidates: kernels.candidates.Candidates,
        scratch: kernels.candidates.SeedScratch,
        k0: int,
        k1: int,
        first: np.ndarray,
        uniforms: np.ndarray,
        chosen: np.ndarray,
    ) -> None:
        """Run rounds k0:k1."""
        kernels.seed.seed_element(
            self.source,
            self.filters,
            self.measure,
            uniforms,
            first[self.b],
            k0,
            k1,
            chosen[self.b],
            self.cuts,
            self.state,
            candidates,
            team,
            scratch,
        )


def _measure(points: TiledPoints, b: int, square: np.ndarray) -> kernels.seed.Measure:
    """Return how seeds of batch element b are drawn.

    Args:
        points: The points.
        b: The batch element.
        square: (N,) squared norms of the rows or, for unit rows, squared distances from the centre.
    """
    weights = points.draw_weights(b)
    if points.metric.spherical and not points.metric.unit_points:
        weights = _times_norms(weights, points.inverse_norms(b))
    own = whole = square
    inverse = np.ones(1, np.float32)
    centre = origin = np.zeros(points.shape[2])
    noise = 0.0
    if points.inverse is not None:
        inverse = points.inverse[b]
        whole = (inverse > 0).astype(np.float32)
        centre = points.frame.centre[b]
        origin = points.frame.origin[b]
        if not centre.any():
            own = whole
        elif not origin.any():
            # Rows without a shift are longer than their distance: so is the rounding of products.
            noise = float(kernels.candidates.NOISE)
    return kernels.seed.Measure(
        own=own,
        inverse=inverse,
        whole=whole,
        centre=centre,
        origin=origin,
        noise=noise,
        eps=kernels.candidates.NOISE + points.eps,
        potential=NOTHING if weights is None else weights,
    )


def _squares_from_centre(points: TiledPoints) -> np.ndarray:
    """Return (B, N) float32: squared distances of unit rows from the frame's centres.

    0 for zero rows; (B, 0) without centres.
    """
    frame = points.frame
    if not frame.centred:
        return np.zeros((points.shape[0], 0), np.float32)
    out = np.zeros(points.shape[:2], np.float32)
    elements = np.flatnonzero(frame.centre.any(-1)).tolist()

    def shard(slot: int, m: int, s: int) -> None:
        b = elements[m]
        kernels.tile.from_centre_rows(
            points.source(b),
            frame.centre[b],
            points.inverse_norms(b),
            *points.shards[s],
            out[b],
            points.scratch[slot].rows,
        )

    points.run_shards(shard, len(elements))
    return out


def _memory(
    points: TiledPoints, width: int
) -> tuple[kernels.candidates.Candidates, kernels.candidates.SeedScratch]:
    """Return the memory of one thread; a team shares the candidates of one of its threads.

    Args:
        points: The points.
        width: Columns of the features, or 0.
    """
    d = points.shape[2]
    n_shards = len(points.shards)
    lanes = kernels.candidates.CANDIDATES
    n = kernels.candidates.AT_ONCE
    candidates = kernels.candidates.Candidates(
        lanes=empty_lines((d, lanes)),
        norms=empty_lines((3, lanes)),
        rows=np.zeros((lanes, d), np.float32),
        features=np.zeros((lanes, width), np.float32),
        bias=np.zeros(lanes, np.float32),
        table=empty_centroids(lanes, d),
        least=np.zeros(1, np.float32),
        picks=np.zeros(lanes + 1, np.int64),
        number=np.zeros(1, np.int64),
        counts=np.zeros(n_shards, np.int64),
        gains=np.zeros((n_shards, lanes)),
    )
    scratch = kernels.candidates.SeedScratch(
        rows=np.empty((n, 1, d), np.float32),
        identity=np.arange(n, dtype=np.int32),
        values=empty_lines((n * lanes,)),
        masks=np.empty(max(n, kernels.lanes.ROWS), np.int64),
        none=np.full(kernels.lanes.POINTS, -1, np.int32),
        idle=empty_lines((kernels.lanes.POINTS,)),
        limits=empty_lines((3, kernels.lanes.POINTS)),
        bounds=empty_lines((kernels.lanes.ROWS, kernels.lanes.POINTS)),
        points=np.empty(kernels.seed.SCAN + n, np.int32),
    )
    return candidates, scratch


def _times_norms(weights: np.ndarray | None, inverse: np.ndarray) -> np.ndarray:
    """Return (N,) weights times norms, 0 for rows without direction."""
    ones = np.float32(1) if weights is None else weights
    return np.divide(ones, inverse, out=np.zeros(len(inverse), np.float32), where=inverse > 0)
