"""MLX operations only: runs on every device MLX has, deterministically, in tiles of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import mlx.core as mx
import numpy as np

from ... import frame as frames
from ... import validation
from ...metrics import unit_rows
from ..draws import draw_points
from ..points import PENDING, STABLE, Points, Problem, Seeding, Step, scored_once, unit_weights

__all__ = ["PortablePoints"]

UNSET = 0xFFFFFFFF
TILE_BYTES = (
    32 << 20
)  # for a batch element's scores and rows in a tile; a function of N, K and D alone keeps batches exact
PIECE = 256  # rows that are summed in one chain of float32 additions
LEAST_TILE = 64  # rows: below that a cap would be held at the price of a crawl
NOISE = 1e-6  # as in kernels/cpu/seed.py: an expanded distance below this share of the norms is rounding


class PortablePoints(Points):
    """Points as an `mx.array`; sums by sorting, never by atomics, so that they have the same bits every time."""

    backend = "portable"
    rounding = 1e-4  # of float32 sums

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        b, n, _ = self.shape
        x, metric, weights = problem.x, problem.metric, problem.weights
        self.tile = self._tile_rows(0 if isinstance(x, mx.array) else 2 * 4 * x.size)
        self._choose_frame(x, problem.check_finite)
        self._source = self.x = x
        if not isinstance(x, mx.array):
            self.x, self._plain = self._framed(x), True
        self.inverse = self._inverse_norms() if metric.spherical else None  # (B, N)
        self.weights = None if weights is None else mx.array(weights)
        if metric.unit_points and self.inverse is not None:
            self.weights = (
                self.inverse
                if weights is None
                else mx.array(unit_weights(weights)[0]) * self.inverse
            )
        self._labels = mx.full((b, n), UNSET, mx.uint32)
        self._step_tile = mx.compile(_step_tile) if problem.compiled else _step_tile
        self._best = mx.compile(_best) if problem.compiled else _best

    def _tile_rows(self, bytes_in_use: int) -> int:
        """Rows of a tile, so that tiles and the `bytes_in_use` bytes stay under the cap."""
        b, n, d = self.shape
        problem, k = self.problem, self.problem.n_clusters
        arrays = 6 + problem.runs + 2 * (problem.weights is not None) + 2 * self.metric.spherical
        arrays += {"random": 4, "k-means++": 6, "k-means||": 12}.get(problem.init, 0)
        tables = 12 + (80 if problem.init == "k-means||" else 0)
        bytes_in_use += problem.bytes_in_use + 4 * b * (n * arrays + k * d * tables) + (1 << 18)
        rows = 5 if isinstance(problem.x, mx.array) else 12  # NumPy points pass through float64
        per_row = 4 * (3 * max(k, 2 + int(np.log(k))) + rows * d + 8)
        least = bytes_in_use + min(n, LEAST_TILE) * b * per_row
        where = f"on the {self.backend} backend"
        validation.check_cap(problem.max_bytes, least, problem.given_shape, k, where, "raise it")
        room = (
            min(TILE_BYTES, (problem.max_bytes - bytes_in_use) // b)
            if problem.max_bytes
            else TILE_BYTES
        )
        return max(min(n, LEAST_TILE), min(n, room // per_row))

    # Reading points

    def _choose_frame(self, x: mx.array | np.ndarray, check_finite: bool) -> None:
        n = self.shape[1]
        sample = validation.to_numpy(x[:, :: frames.sample_step(n)])
        magnitude = np.abs(sample).max((1, 2)).astype(np.float64)
        if check_finite:
            for lo, hi in self._bounds():
                magnitude = np.maximum(magnitude, _largest(x[:, lo:hi]))
            validation.check_magnitude(magnitude, self.problem.given_shape)
        self.frame = frames.choose(sample, magnitude, self.metric)
        if self.metric.spherical and self.frame.shifted:
            tiles = (
                np.asarray(validation.to_numpy(x[:, lo:hi]), np.float64)
                for lo, hi in self._bounds()
            )
            least = np.min([np.linalg.norm(tile, axis=-1).min(1) for tile in tiles], axis=0)
            self.frame = self.frame.unshifted(self.frame.short(least / self.frame.scale))
        self._plain = bool(self.frame.identity.all())
        self._shift = mx.array(self.frame.shift.astype(np.float32))[:, None]
        self._origin = mx.array(self.frame.origin.astype(np.float32))[:, None]
        self._factor = mx.array((1.0 / self.frame.scale).astype(np.float32))[:, None, None]

    def _framed(self, x: np.ndarray) -> mx.array:
        """NumPy points as float32 in the frame, shifted and scaled before they are rounded."""
        out = np.empty(self.shape, np.float32)
        for b, element in enumerate(x):
            for lo, hi in self._bounds():
                out[b, lo:hi] = self.frame.rows(element[lo:hi], b)
        return mx.array(out)

    def _bounds(self) -> Iterator[tuple[int, int]]:
        for lo in range(0, self.shape[1], self.tile):
            yield lo, min(lo + self.tile, self.shape[1])

    def tiles(self) -> Iterator[tuple[mx.array, int, int]]:
        """Rows (B, T, D) float32 in the frame, with their bounds."""
        for lo, hi in self._bounds():
            x = self.x[:, lo:hi].astype(mx.float32)
            yield (x if self._plain else (x - self._shift) * self._factor), lo, hi

    def gather(self, tile: Callable[[mx.array, int, int], mx.array]) -> mx.array:
        """Tiles' (B, T) results side by side, evaluated one by one so that memory is one tile's."""
        parts = []
        for x, lo, hi in self.tiles():
            parts.append(tile(x, lo, hi))
            mx.eval(parts[-1])
        return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=1)

    def _inverse_norms(self) -> mx.array:
        def tile(x: mx.array, _lo: int, _hi: int) -> mx.array:
            x = x + self._origin
            largest = mx.abs(x).max(-1)  # squares must not leave float32's range
            some = mx.where(largest > 0, largest, 1.0)
            return mx.where(
                largest > 0, 1 / mx.sqrt(mx.square(x / some[..., None]).sum(-1)) / some, 0.0
            )

        return self.gather(tile)

    def reset(self) -> None:
        self._labels = mx.full(self._labels.shape, UNSET, mx.uint32)

    def labels(self) -> np.ndarray:
        return np.array(self._labels)

    def rows(self, b: int, index: np.ndarray) -> np.ndarray:
        rows = self._source[b, mx.array(index) if isinstance(self._source, mx.array) else index]
        return validation.to_numpy(rows).astype(np.float64)

    def inverse_norms(self, b: int) -> np.ndarray:
        assert self.inverse is not None
        return np.array(self.inverse[b])

    def sum_weights(self, b: int, index: np.ndarray) -> np.ndarray:
        return (
            np.ones(len(index))
            if self.weights is None
            else np.array(self.weights[b, mx.array(index)], np.float64)
        )

    # Steps

    def step(self, centroids: np.ndarray, limits: np.ndarray, tol: float, skip_empty: bool) -> Step:
        n_batch, k, d = centroids.shape
        c, bias = self._inner(centroids)
        # Sums of x - c: float32 then errs by the spread of a cluster, not by its distance from the origin.
        origin = mx.zeros(c.shape) if self.metric.spherical else c
        running = mx.array((limits > 0).tolist())[:, None]
        sums, weight_sum = np.zeros((n_batch, k, d)), np.zeros((n_batch, k))
        counts, changed = np.zeros((n_batch, k), np.int64), np.zeros(n_batch, np.int64)
        parts = []
        for x, lo, hi in self.tiles():
            weights = (
                mx.ones((n_batch, hi - lo)) if self.weights is None else self.weights[:, lo:hi]
            )
            old = self._labels[:, lo:hi]
            labels, *totals = self._step_tile(x, c, bias, origin, weights, old, running)
            mx.eval(labels, *totals)
            parts.append(labels)
            for whole, part in zip((sums, weight_sum, counts, changed), totals, strict=True):
                np.add(whole, np.array(part), out=whole)
        self._labels = parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=1)
        sums += weight_sum[..., None] * np.array(origin)
        status = np.where(changed == 0, STABLE, PENDING)
        return Step(
            (limits > 0).astype(np.int64), status, sums, weight_sum, counts, np.zeros(n_batch)
        )

    def assign(self, centroids: np.ndarray, elements: np.ndarray) -> None:
        c, bias = self._inner(centroids)
        new = self.gather(lambda x, _lo, _hi: self._best(x, c, bias))
        self._labels = mx.where(mx.array(elements.tolist())[:, None], new, self._labels)
        mx.eval(self._labels)

    def _inner(self, centroids: np.ndarray) -> tuple[mx.array, mx.array]:
        inner, bias = scored_once(self.frame, centroids)
        return mx.array(inner), mx.array(bias)

    # Costs

    def _values(self, centroids: np.ndarray) -> mx.array:
        """(B, N): the cost of points under their labels, in the frame."""
        if self.metric.unit_points:
            return self._directional_values(centroids)
        c = mx.array(centroids if self.metric.spherical else self.frame.to_frame(centroids))

        def tile(x: mx.array, lo: int, hi: int) -> mx.array:
            own = mx.take_along_axis(c, self._labels[:, lo:hi, None].astype(mx.int32), axis=1)
            return (
                -((x + self._origin) * own).sum(-1)
                if self.metric.spherical
                else mx.square(x - own).sum(-1)
            )

        return self.gather(tile)

    def _directional_values(self, centroids: np.ndarray) -> mx.array:
        """(B, N): `directional_costs`."""
        c, inverse, origin = mx.array(centroids), self.inverse, self._origin
        assert inverse is not None

        def tile(x: mx.array, lo: int, hi: int) -> mx.array:
            own = mx.take_along_axis(c, self._labels[:, lo:hi, None].astype(mx.int32), axis=1)
            half = mx.square((x + origin) * inverse[:, lo:hi, None] - own).sum(-1) / 2
            return mx.where((inverse[:, lo:hi] > 0) & (own != 0).any(axis=-1), half, 1.0)

        return self.gather(tile)

    def directional_costs(self, centroids: np.ndarray, b: int) -> np.ndarray:
        return np.array(self._directional_values(centroids)[b])

    def _costs(self, centroids: np.ndarray) -> np.ndarray:
        return np.array(self._values(centroids))

    def costs(self, centroids: np.ndarray, b: int) -> np.ndarray:
        return self._costs(centroids)[b]

    def inertia(self, centroids: np.ndarray) -> np.ndarray:
        costs = self._costs(centroids)
        if self.point_weights is None:
            total = costs.sum(axis=1, dtype=np.float64)
        else:
            total = np.einsum("bn,bn->b", costs, self.point_weights, dtype=np.float64)
        if self.metric.unit_points:
            return total
        return total * (self.frame.scale if self.metric.spherical else self.frame.scale**2)

    def seeding(self, first: np.ndarray, trials: int) -> PortableSeeding:
        return PortableSeeding(self, first)


class PortableSeeding(Seeding):
    """Distances by one product per round and tile; draws on the host."""

    def __init__(self, points: PortablePoints, first: np.ndarray) -> None:
        self.points = points
        inverse = points.inverse
        ones = mx.ones(points.shape[:2])
        weights = [points.draw_weights(b) for b in range(points.shape[0])]
        self.weights = mx.stack(
            [mx.ones((points.shape[1],)) if w is None else mx.array(w) for w in weights]
        )
        if inverse is None:
            self.square, self.inverse = (
                points.gather(lambda x, _lo, _hi: mx.square(x).sum(-1)),
                ones,
            )
        else:
            # Zero rows have no direction: at distance zero from everything they are never drawn.
            self.square, self.inverse = (inverse > 0).astype(mx.float32), inverse
            if points.frame.centred:
                self.square = self._from_centre()
            if not points.metric.unit_points:
                self.weights = self.weights * mx.where(
                    inverse > 0, 1 / mx.where(inverse > 0, inverse, 1.0), 0.0
                )
        self.nearest = mx.full(points.shape[:2], mx.inf)
        self.candidates = first[:, None]
        self.take(np.zeros(len(first), np.int64))

    def _from_centre(self) -> mx.array:
        """(B, N) squared distances of unit rows from their centre, or their squared norms; rounded once, from float64."""
        points = self.points
        _, n, _ = points.shape
        out = np.zeros(points.shape[:2], np.float32)
        for b, centre in enumerate(points.frame.centre):
            step = max(1, points.tile // 4)
            for lo in range(0, n, step):
                units = unit_rows(points.rows(b, np.arange(lo, min(lo + step, n))))
                out[b, lo : lo + step] = np.where(
                    units.any(-1), np.square(units - centre).sum(-1), 0.0
                )
        return mx.array(out)

    def draw(self, uniforms: np.ndarray) -> np.ndarray:
        return np.stack(
            [
                draw_points(potential, uniforms)
                for potential in np.array(self.weights * self.nearest)
            ]
        )

    def totals(self, candidates: np.ndarray) -> np.ndarray:
        self.candidates = candidates
        out = np.zeros(candidates.shape)
        for distances, lo, hi in self._to(candidates):
            out += np.array((distances * self.weights[:, None, lo:hi]).sum(-1), np.float64)
        return out

    def take(self, choice: np.ndarray) -> None:
        chosen = self.candidates[np.arange(len(choice)), choice]
        parts = [distances[:, 0] for distances, _, _ in self._to(chosen[:, None])]
        self.nearest = mx.concatenate(parts, axis=1)
        mx.eval(self.nearest)

    def _to(self, index: np.ndarray) -> Iterator[tuple[mx.array, int, int]]:
        """Squared distances (B, L, T) to the points index (B, L), at most the nearest so far; tile by tile."""
        frame, metric = self.points.frame, self.points.metric
        rows = (self.points.rows(b, i) for b, i in enumerate(index))
        if (
            metric.spherical
        ):  # ||u - v||^2 = ||u - m||^2 + (||v||^2 - ||m||^2) - 2 <u, v - m>, the centre m
            inner = (np.stack([unit_rows(row) for row in rows]) - frame.centre[:, None]).astype(
                np.float32
            )
            squares = (
                np.square(inner + frame.centre[:, None]).sum(-1)
                - np.square(frame.centre).sum(-1)[:, None]
            )
            start = mx.array(np.einsum("bld,bd->bl", inner, frame.origin).astype(np.float32))[
                :, :, None
            ]
        else:
            inner = np.stack([frame.rows(row, b) for b, row in enumerate(rows)]).astype(np.float32)
            squares, start = np.square(inner, dtype=np.float64).sum(-1), mx.array(0.0)
        c, c_square = mx.array(inner), mx.array(squares.astype(np.float32))[:, :, None]
        for x, lo, hi in self.points.tiles():
            norms = self.square[:, None, lo:hi] + c_square
            distance = norms - 2 * self.inverse[:, None, lo:hi] * (c @ x.swapaxes(1, 2) + start)
            distance = mx.where(distance < NOISE * norms, 0.0, distance)
            distance = mx.minimum(distance, self.nearest[:, None, lo:hi])
            mx.eval(distance)
            yield distance, lo, hi


def _best(x: mx.array, c: mx.array, bias: mx.array) -> mx.array:
    """(B, T) uint32: the best centroid of rows x (B, T, D)."""
    return mx.argmax(mx.addmm(bias[:, None], x, c.swapaxes(1, 2)), axis=-1)


def _step_tile(
    x: mx.array,
    c: mx.array,
    bias: mx.array,
    origin: mx.array,
    weights: mx.array,
    old: mx.array,
    running: mx.array,
) -> tuple[mx.array, ...]:
    """E-step of a tile and its sums: labels (B, T), sums (B, K, D) of x - origin, weight_sum (B, K), counts (B, K), changed (B,)."""
    n_batch, t, d = x.shape
    k = c.shape[1]
    labels = mx.where(running, _best(x, c, bias), old)
    # Rows sorted by batch element and cluster, cut at the ends of clusters and of pieces; pieces are summed, then clusters of pieces.
    key = (labels.astype(mx.int32) + mx.arange(n_batch, dtype=mx.int32)[:, None] * k).reshape(-1)
    order = mx.argsort(key)
    ends = mx.searchsorted(key[order], mx.arange(n_batch * k, dtype=mx.int32), side="right").astype(
        mx.int32
    )
    starts = mx.concatenate([mx.zeros((1,), mx.int32), ends[:-1]])
    pieces = (
        mx.arange(PIECE, t, PIECE, dtype=mx.int32) + mx.arange(n_batch, dtype=mx.int32)[:, None] * t
    )
    cuts = mx.sort(mx.concatenate([ends, pieces.reshape(-1)]))
    last = mx.searchsorted(cuts, ends, side="right").astype(mx.int32)
    w = weights.reshape(-1)[order]
    x = x.reshape(-1, d)[order] - origin.reshape(-1, d)[key[order]]
    x = mx.concatenate([x, mx.ones((w.size, 1))], axis=1)  # the last column sums the weights
    parts = mx.segmented_mm(w[None], x, _segments(cuts))[:, 0]
    sums = mx.segmented_mm(mx.ones((1, len(parts))), parts, _segments(last))[:, 0]
    some = mx.concatenate([mx.zeros((1,), mx.int32), mx.cumsum((w > 0).astype(mx.int32))])
    counts = some[ends] - some[starts]
    changed = (labels != old).sum(axis=1)
    shape = (n_batch, k)
    return (
        labels,
        sums[:, :d].reshape(*shape, d),
        sums[:, d].reshape(shape),
        counts.reshape(shape),
        changed,
    )


def _segments(ends: mx.array) -> mx.array:
    """(S, 2) uint32: where ranges that follow one another start and end."""
    return mx.stack([mx.concatenate([mx.zeros((1,), ends.dtype), ends[:-1]]), ends], axis=1).astype(
        mx.uint32
    )


def _largest(x: mx.array | np.ndarray) -> np.ndarray:
    """(B,) float64 largest magnitude, Inf or NaN if x has one."""
    if isinstance(x, np.ndarray):
        return np.abs(x).max((1, 2)).astype(np.float64)
    size = mx.abs(x.astype(mx.float32))
    fine = (size < mx.inf).all(axis=(1, 2))  # false for NaN too, whatever MLX's maximum makes of it
    return np.array(mx.where(fine, size.max(axis=(1, 2)), mx.inf), np.float64)
