"""The points of a fit by MLX operations only, in tiles of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import mlx.core as mx
import numpy as np

from ... import frame as frames
from ... import validation
from ...metrics import unit_rows
from ..draws import Seeding, draw_points
from ..points import PENDING, STABLE, Points, Problem, Step
from ..values import unit_weights
from .step import best, scored_once, step_tile

__all__ = ["PortablePoints"]

UNSET = 0xFFFFFFFF
# For a batch element's scores and rows in a tile. Tiles depend on N, K and D alone, so a batched
# fit gives the bits of separate fits.
TILE_BYTES = 32 << 20
LEAST_TILE = 64  # rows; with fewer a fit takes too long
# An expanded distance below this share of the norms is rounding, as in kernels/cpu/candidates.py.
NOISE = 1e-6


class PortablePoints(Points):
    """Points as an `mx.array`."""

    backend = "portable"
    rounding = 1e-4  # sums are float32

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        x = problem.x
        metric = problem.metric
        weights = problem.weights
        self.tile = self._tile_rows(0 if isinstance(x, mx.array) else 2 * 4 * x.size)
        self._choose_frame(x, problem.check_finite)
        self._source = x
        self.x = x
        if not isinstance(x, mx.array):
            self.x = self._framed(x)
            self._plain = True
        self.inverse = self._inverse_norms() if metric.spherical else None  # (B, N)
        self.weights = None if weights is None else mx.array(weights)
        if metric.unit_points and self.inverse is not None:
            self.weights = self.inverse
            if weights is not None:
                self.weights = mx.array(unit_weights(weights)[0]) * self.inverse
        self._labels = mx.full(self.shape[:2], UNSET, mx.uint32)
        self._step_tile = mx.compile(step_tile) if problem.compiled else step_tile
        self._best = mx.compile(best) if problem.compiled else best

    def _tile_rows(self, bytes_in_use: int) -> int:
        """Return the rows of a tile that fit the cap beside `bytes_in_use` bytes."""
        b, n, d = self.shape
        problem = self.problem
        k = problem.n_clusters
        arrays = 6 + problem.runs + 2 * (problem.weights is not None) + 2 * self.metric.spherical
        arrays += {"random": 4, "k-means++": 6, "k-means||": 12}.get(problem.init, 0)
        tables = 12 + (80 if problem.init == "k-means||" else 0)
        bytes_in_use += problem.bytes_in_use + 4 * b * (n * arrays + k * d * tables) + (1 << 18)
        rows = 5 if isinstance(problem.x, mx.array) else 12  # NumPy points pass through float64
        per_row = 4 * (3 * max(k, 2 + int(np.log(k))) + rows * d + 8)
        least = bytes_in_use + min(n, LEAST_TILE) * b * per_row
        where = f"on the {self.backend} backend"
        validation.check_cap(problem.max_bytes, least, problem.given_shape, k, where, "raise it")
        room = TILE_BYTES
        if problem.max_bytes:
            room = min(room, (problem.max_bytes - bytes_in_use) // b)
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
        """Return NumPy points in the frame, rounded to float32 once they are shifted and scaled."""
        out = np.empty(self.shape, np.float32)
        for b in range(len(x)):
            for lo, hi in self._bounds():
                out[b, lo:hi] = self.frame.rows(x[b, lo:hi], b)
        return mx.array(out)

    def _bounds(self) -> Iterator[tuple[int, int]]:
        """Yield the first row of every tile and the one after its last."""
        for lo in range(0, self.shape[1], self.tile):
            yield lo, min(lo + self.tile, self.shape[1])

    def tiles(self) -> Iterator[tuple[mx.array, int, int]]:
        """Yield rows (B, T, D) float32 in the frame, with their bounds."""
        for lo, hi in self._bounds():
            x = self.x[:, lo:hi].astype(mx.float32)
            yield (x if self._plain else (x - self._shift) * self._factor), lo, hi

    def gather(self, tile: Callable[[mx.array, int, int], mx.array]) -> mx.array:
        """Return results (B, N) of all tiles, evaluated one by one to save memory."""
        parts = []
        for x, lo, hi in self.tiles():
            parts.append(tile(x, lo, hi))
            mx.eval(parts[-1])
        return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=1)

    def _inverse_norms(self) -> mx.array:
        """Return 1 / ||row|| (B, N), 0 for zero rows."""

        def tile(x: mx.array, _lo: int, _hi: int) -> mx.array:
            x = x + self._origin
            largest = mx.abs(x).max(-1)  # squares must not leave float32's range
            divisor = mx.where(largest > 0, largest, 1.0)
            norm = mx.sqrt(mx.square(x / divisor[..., None]).sum(-1))
            return mx.where(largest > 0, 1 / norm / divisor, 0.0)

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
        if self.weights is None:
            return np.ones(len(index))
        return np.array(self.weights[b, mx.array(index)], np.float64)

    # Steps

    def step(self, centroids: np.ndarray, limits: np.ndarray, tol: float, skip_empty: bool) -> Step:
        n_batch, k, d = centroids.shape
        c, bias = self._inner(centroids)
        # In sums of x - c, float32 rounds by the spread of a cluster, not by its distance from 0.
        origin = mx.zeros(c.shape) if self.metric.spherical else c
        running = mx.array((limits > 0).tolist())[:, None]
        sums = np.zeros((n_batch, k, d))
        weight_sum = np.zeros((n_batch, k))
        counts = np.zeros((n_batch, k), np.int64)
        changed = np.zeros(n_batch, np.int64)
        parts = []
        for x, lo, hi in self.tiles():
            weights = mx.ones((n_batch, hi - lo))
            if self.weights is not None:
                weights = self.weights[:, lo:hi]
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
            iterations=(limits > 0).astype(np.int64),
            status=status,
            sums=sums,
            weight_sum=weight_sum,
            counts=counts,
            shift=np.zeros(n_batch),
        )

    def assign(self, centroids: np.ndarray, elements: np.ndarray) -> None:
        c, bias = self._inner(centroids)
        new = self.gather(lambda x, _lo, _hi: self._best(x, c, bias))
        self._labels = mx.where(mx.array(elements.tolist())[:, None], new, self._labels)
        mx.eval(self._labels)

    def _inner(self, centroids: np.ndarray) -> tuple[mx.array, mx.array]:
        """Return centroids (B, K, D) in the frame, and their bias (B, K)."""
        inner, bias = scored_once(self.frame, centroids)
        return mx.array(inner), mx.array(bias)

    # Costs

    def _values(self, centroids: np.ndarray) -> mx.array:
        """Return the costs (B, N) of points under their labels, in the frame."""
        if self.metric.unit_points:
            return self._directional_values(centroids)
        c = mx.array(centroids if self.metric.spherical else self.frame.to_frame(centroids))

        def tile(x: mx.array, lo: int, hi: int) -> mx.array:
            centroid = mx.take_along_axis(c, self._labels[:, lo:hi, None].astype(mx.int32), axis=1)
            if self.metric.spherical:
                return -((x + self._origin) * centroid).sum(-1)
            return mx.square(x - centroid).sum(-1)

        return self.gather(tile)

    def _directional_values(self, centroids: np.ndarray) -> mx.array:
        """Return `directional_costs` (B, N)."""
        c = mx.array(centroids)
        inverse = self.inverse
        origin = self._origin
        assert inverse is not None

        def tile(x: mx.array, lo: int, hi: int) -> mx.array:
            centroid = mx.take_along_axis(c, self._labels[:, lo:hi, None].astype(mx.int32), axis=1)
            half = mx.square((x + origin) * inverse[:, lo:hi, None] - centroid).sum(-1) / 2
            return mx.where((inverse[:, lo:hi] > 0) & (centroid != 0).any(axis=-1), half, 1.0)

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
        n_batch, n, _ = points.shape
        weights = [points.draw_weights(b) for b in range(n_batch)]
        self.weights = mx.stack([mx.ones((n,)) if w is None else mx.array(w) for w in weights])
        if inverse is None:
            self.square = points.gather(lambda x, _lo, _hi: mx.square(x).sum(-1))
            self.inverse = mx.ones((n_batch, n))
        else:
            # Zero rows have no direction: at distance zero from everything they are never drawn.
            self.square = (inverse > 0).astype(mx.float32)
            self.inverse = inverse
            if points.frame.centred:
                self.square = self._squares_from_centre()
            if not points.metric.unit_points:
                norms = mx.where(inverse > 0, 1 / mx.where(inverse > 0, inverse, 1.0), 0.0)
                self.weights = self.weights * norms
        self.nearest = mx.full(points.shape[:2], mx.inf)
        self.candidates = first[:, None]
        self.take(np.zeros(len(first), np.int64))

    def _squares_from_centre(self) -> mx.array:
        """Return squared distances (B, N) of unit rows from their centre, rounded from float64."""
        points = self.points
        _, n, _ = points.shape
        out = np.zeros(points.shape[:2], np.float32)
        step = max(1, points.tile // 4)
        for b, centre in enumerate(points.frame.centre):
            for lo in range(0, n, step):
                units = unit_rows(points.rows(b, np.arange(lo, min(lo + step, n))))
                squares = np.square(units - centre).sum(-1)
                out[b, lo : lo + step] = np.where(units.any(-1), squares, 0.0)
        return mx.array(out)

    def draw(self, uniforms: np.ndarray) -> np.ndarray:
        potentials = np.array(self.weights * self.nearest)
        return np.stack([draw_points(potential, uniforms) for potential in potentials])

    def totals(self, candidates: np.ndarray) -> np.ndarray:
        self.candidates = candidates
        out = np.zeros(candidates.shape)
        for distances, lo, hi in self._distances(candidates):
            out += np.array((distances * self.weights[:, None, lo:hi]).sum(-1), np.float64)
        return out

    def take(self, choice: np.ndarray) -> None:
        chosen = self.candidates[np.arange(len(choice)), choice]
        parts = [distances[:, 0] for distances, _, _ in self._distances(chosen[:, None])]
        self.nearest = mx.concatenate(parts, axis=1)
        mx.eval(self.nearest)

    def _distances(self, index: np.ndarray) -> Iterator[tuple[mx.array, int, int]]:
        """Yield squared distances (B, L, T) to the points index (B, L), tile by tile.

        They are at most the distances to the nearest centre so far.
        """
        frame = self.points.frame
        rows = (self.points.rows(b, i) for b, i in enumerate(index))
        if self.points.metric.spherical:
            # ||u - v||^2 = ||u - m||^2 + (||v||^2 - ||m||^2) - 2 <u, v - m> with the centre m.
            units = np.stack([unit_rows(row) for row in rows])
            inner = (units - frame.centre[:, None]).astype(np.float32)
            squares = np.square(inner + frame.centre[:, None]).sum(-1)
            squares = squares - np.square(frame.centre).sum(-1)[:, None]
            origin_products = np.einsum("bld,bd->bl", inner, frame.origin)
            start = mx.array(origin_products.astype(np.float32))[:, :, None]
        else:
            inner = np.stack([frame.rows(row, b) for b, row in enumerate(rows)]).astype(np.float32)
            squares = np.square(inner, dtype=np.float64).sum(-1)
            start = mx.array(0.0)
        c = mx.array(inner)
        c_square = mx.array(squares.astype(np.float32))[:, :, None]
        for x, lo, hi in self.points.tiles():
            norms = self.square[:, None, lo:hi] + c_square
            distance = norms - 2 * self.inverse[:, None, lo:hi] * (c @ x.swapaxes(1, 2) + start)
            distance = mx.where(distance < NOISE * norms, 0.0, distance)
            distance = mx.minimum(distance, self.nearest[:, None, lo:hi])
            mx.eval(distance)
            yield distance, lo, hi


def _largest(x: mx.array | np.ndarray) -> np.ndarray:
    """Return (B,) float64 largest magnitudes; Inf or NaN where x has one."""
    if isinstance(x, np.ndarray):
        return np.abs(x).max((1, 2)).astype(np.float64)
    size = mx.abs(x.astype(mx.float32))
    is_finite = (size < mx.inf).all(axis=(1, 2))  # false for NaN, which MLX's maximum may skip
    return np.array(mx.where(is_finite, size.max(axis=(1, 2)), mx.inf), np.float64)
