"""Normalised coordinates: points are shifted and scaled while they are read, never in a copy.

A shift keeps products from cancelling where the data are far from the origin. A scale, a power of
two, keeps squares inside float32's range. Most data need neither and are used as they are.

`Frame` holds the coordinates of a fit, `View` those of a search.

Nearly parallel rows have nearly parallel unit centroids, whose products with a row agree in all
leading digits. There the common part is subtracted from the centroids: for a fixed x, ``<x, c>``
ranks as ``<x, c - centre>``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .metrics import Metric, Proximity, unit_rows

__all__ = [
    "EPS",
    "VIEW_ROWS",
    "Frame",
    "View",
    "choose",
    "inside",
    "plain",
    "sample_step",
    "view",
]

EPS = 2.0**-24  # half a unit in the last place of 1 in float32
TINY = float(np.finfo(np.float64).tiny)

# Of a fit.
SAMPLE_ROWS = 32  # a mean within a fifth of the spread is all that a shift needs
FAR = 4.0  # shift where ||mean||^2 is more than this many variances: otherwise two bits are lost
APART = 64.0  # the same for spherical data: centred centroids leave three more bits
SHORT = 2.0  # the most that a shift of spherical data may have, in norms of a row
LARGE, SMALL = 2.0**40, 2.0**-40  # magnitudes whose squares, summed over any D, stay in float32
LARGE_UNIT, SMALL_UNIT = 2.0**100, 2.0**-100  # the same for cosine, which squares no value
REACH = 2.0**60  # norms of centroids whose squares stay in float32

# Of a search.
VIEW_ROWS = 64  # rows of a sample
# Magnitudes whose squares stay in float32, also those of differences that are 2^-24 of them.
VIEW_REACH = (2.0**-20, 2.0**40)
# Products of unit rows that are within this many roundings of 1 are left for differences.
PARALLEL = 128


@dataclass(frozen=True)
class Frame:
    """The coordinates of a fit: points are read as ``(x - shift) / scale``.

    Spherical centroids are not scaled, and `centre` is subtracted from them.

    Attributes:
        shift: (B, D) float64.
        scale: (B,) float64, powers of two.
        metric: The metric.
        centre: (B, D) float64, a unit vector of float32 values among nearly parallel rows, or 0.
    """

    shift: np.ndarray
    scale: np.ndarray
    metric: Metric
    centre: np.ndarray

    @cached_property
    def shifted(self) -> bool:
        """Whether any batch element has a shift."""
        return bool(self.shift.any())

    @cached_property
    def centred(self) -> bool:
        """Whether any batch element has a centre."""
        return bool(self.centre.any())

    @cached_property
    def identity(self) -> np.ndarray:
        """(B,) bool: whether the points of a batch element are used as they are."""
        return (self.scale == 1.0) & ~self.shift.any(-1)

    @cached_property
    def origin(self) -> np.ndarray:
        """(B, D) float64: added to rows in the frame, it gives scaled rows without a shift."""
        return self.shift / self.scale[:, None]

    def to_frame(self, c: np.ndarray) -> np.ndarray:
        """Return centroids (B, K, D) in the frame, float32."""
        if self.metric.spherical:
            return self._less_centre(c).astype(np.float32, copy=False)
        inner = c
        if not self.identity.all():
            inner = (c.astype(np.float64) - self.shift[:, None]) / self.scale[:, None, None]
        if np.abs(inner).max() > REACH / 64:  # the norm may be beyond REACH, up to 4096 dimensions
            inner = _within_reach(inner.astype(np.float64))
        return np.ascontiguousarray(inner, np.float32)

    def from_frame(self, c: np.ndarray) -> np.ndarray:
        """Return Euclidean centroids (B, K, D) of the frame in the user's coordinates, float32."""
        return (c * self.scale[:, None, None] + self.shift[:, None]).astype(np.float32)

    def scored(self, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return centroids in the frame and the bias (B, K) float32 of their products."""
        if self.metric.spherical and self.shifted:  # <x, c> = <x - shift, c> + <shift, c>
            inner = self._less_centre(c)
            bias = np.einsum("bkd,bd->bk", inner, self.origin, dtype=np.float64)
            return inner.astype(np.float32), bias.astype(np.float32)
        inner = self.to_frame(c)
        return inner, self.metric.bias(inner)

    def centroids(
        self, sums: np.ndarray, weight_sum: np.ndarray, previous: np.ndarray
    ) -> np.ndarray:
        """Return centroids (B, K, D) float32 in the user's coordinates; see `Metric.finalize`.

        Args:
            sums: (B, K, D) float64, of points in the frame.
            weight_sum: (B, K) float64.
            previous: (B, K, D) centroids, kept where a cluster has no weight.
        """
        if self.metric.spherical:
            sums = sums + weight_sum[..., None] * self.origin[:, None] if self.shifted else sums
            return self.metric.finalize(sums, weight_sum, previous).astype(np.float32)
        return self.from_frame(self.metric.finalize(sums, weight_sum, self.to_frame(previous)))

    def rows(self, x: np.ndarray, b: int) -> np.ndarray:
        """Return rows (n, D) of batch element b in the frame, float64."""
        return (x.astype(np.float64) - self.shift[b]) / self.scale[b]

    def centre_for(self, c: np.ndarray) -> np.ndarray:
        """Return (B, D): what is subtracted from centroids (B, K, D).

        It is the centre. Under dot, where `assign` takes centroids of any norm, it is a multiple of
        the centre.
        """
        if self.metric.unit_points or not self.centred:
            return self.centre
        norm = np.linalg.norm(c.astype(np.float64), axis=-1)
        of_a_fit = ((np.abs(norm - 1) < 1e-3) | (norm == 0)).all(1)[:, None]
        along = np.einsum("bkd,bd->bk", c, self.centre).mean(1)[:, None] * self.centre
        is_closer = (np.linalg.norm(c - along[:, None], axis=-1) <= norm).all(1)[:, None]
        return np.where(of_a_fit, self.centre, np.where(is_closer, along, 0.0))

    def unshifted(self, elements: np.ndarray) -> Frame:
        """Return the frame without a shift for the batch elements in the mask (B,)."""
        return replace(self, shift=np.where(elements[:, None], 0.0, self.shift))

    def short(self, least: np.ndarray) -> np.ndarray:
        """Return (B,) bool: whether the shift is far longer than a row.

        Args:
            least: (B,) the smallest norm of a row, in units of the scale.
        """
        return np.linalg.norm(self.origin, axis=-1) > SHORT * least

    def _less_centre(self, c: np.ndarray) -> np.ndarray:
        """Return spherical centroids less their centre."""
        if not self.centred:
            return np.ascontiguousarray(c)
        wide = c.astype(np.float64)
        if self.metric.unit_points:
            # Rounded to float32, unit vectors are not quite of norm 1: cosine divides by the norm.
            has_centre = np.any(self.centre, axis=-1, keepdims=True)[..., None]
            wide = np.where(has_centre, unit_rows(wide), wide)
        return wide - self.centre_for(c)[:, None]


def sample_step(n: int) -> int:
    """Return the stride of the rows, of n, that `choose` gets."""
    return max(1, n // SAMPLE_ROWS)


def plain(b: int, d: int, metric: Metric) -> Frame:
    """Return the frame of points (B, N, D) that are used as they are."""
    zero = np.zeros((b, d))
    return Frame(shift=zero, scale=np.ones(b), metric=metric, centre=zero)


def choose(sample: np.ndarray, magnitude: np.ndarray, metric: Metric) -> Frame:
    """Return the frame of a problem.

    Args:
        sample: (B, S, D) float, some rows of every batch element.
        magnitude: (B,) the largest absolute value of every batch element.
        metric: The metric. If it is spherical, the shift must be removed from batch elements that
            are `Frame.short`.

    Raises:
        ValueError: The spread of float64 points is too small for float32 centroids.
    """
    is_double = sample.dtype == np.float64
    sample = sample.astype(np.float64)
    if metric.spherical:
        centre, shift = _common_direction(sample)
    else:
        mean = np.einsum("bsd->bd", sample) / sample.shape[1]
        centre = shift = np.zeros(mean.shape)
        with np.errstate(over="ignore", invalid="ignore"):  # an infinite variance shifts nothing
            second = np.einsum("bsd,bsd->b", sample, sample) / sample.shape[1]
        square = np.einsum("bd,bd->b", mean, mean)
        if is_double:
            _refuse_unresolved(mean, np.square(sample - mean[:, None]).sum(2).mean(1))
        is_far = square > FAR * np.maximum(second - square, 0.0)
        if is_far.any():
            shift = np.where(is_far[:, None], mean.astype(np.float32), 0.0).astype(np.float64)
    large, small = (LARGE_UNIT, SMALL_UNIT) if metric.unit_points else (LARGE, SMALL)
    scale = np.ones(magnitude.shape)
    is_outside = (magnitude > large) | ((magnitude < small) & (magnitude > 0))
    if is_outside.any():
        exponent = np.frexp(np.maximum(magnitude, TINY))[1]
        power = np.ldexp(1.0, np.clip(exponent, -126, 126))  # its inverse is a float32 too
        scale = np.where(is_outside, power, 1.0)
    return Frame(shift=shift, scale=scale, metric=metric, centre=centre)


def _within_reach(c: np.ndarray) -> np.ndarray:
    """Return centroids with norms beyond REACH, whose squares would overflow, just beyond it.

    From there, all points look like the origin: the order of the norms is that of the distances,
    and it is kept.
    """
    norm = np.linalg.norm(c, axis=-1, keepdims=True)
    excess = np.log2(np.maximum(norm, REACH) / REACH)
    moved = c / np.maximum(norm, REACH) * (REACH * (1 + excess / 512))
    return np.where(excess > 0, moved, c)


def _common_direction(sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (centre, shift), each (B, D), of rows (B, S, D).

    The centre is the direction of nearly parallel rows, or 0. The shift is their mean along it, if
    it is large beside the spread.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # values that are not finite shift nothing
        norm = np.sqrt(np.einsum("bsd,bsd->bs", sample, sample))
        mean = ((1 / np.maximum(norm, TINY))[:, None] @ sample)[:, 0]  # times the rows that count
        square = np.einsum("bd,bd->b", mean, mean)
        is_parallel = square * (1 + FAR) > FAR * np.square((norm > 0).sum(1))
        if not is_parallel.any():
            return np.zeros_like(mean), np.zeros_like(mean)
        direction = np.where(is_parallel[:, None], unit_rows(mean), 0.0)
        centre = direction.astype(np.float32).astype(np.float64)
        shift = centre * np.einsum("bsd,bd->b", sample, centre)[:, None] / sample.shape[1]
        spread = np.square(sample - shift[:, None]).sum(-1).mean(-1)
        is_far = np.square(shift).sum(-1) > APART * spread
        shift = np.where(is_far[:, None], shift, 0.0)
        return centre, shift.astype(np.float32).astype(np.float64)


def _refuse_unresolved(mean: np.ndarray, variance: np.ndarray) -> None:
    """Refuse float64 points so far out that float32 centroids could not tell them apart."""
    magnitude = np.abs(mean).max(1)
    step = np.spacing(magnitude.astype(np.float32)).astype(np.float64)
    spread = np.sqrt(np.maximum(variance, 0.0) / mean.shape[1])
    # A smaller spread is rounding of equal points.
    is_lost = (spread > 2.0**-48 * magnitude) & (4 * step > spread)
    if is_lost.any():
        b = int(is_lost.argmax())
        raise ValueError(
            f"x must be resolved by float32 centroids, got a spread of {spread[b]:.3g} around"
            f" a mean of magnitude {magnitude[b]:.3g} (batch element {b}); subtract the mean first"
        )


@dataclass(frozen=True)
class View:
    """The coordinates of a search: queries and rows are read as ``(x - shift) / scale``.

    Rows of norm 1 are read as they are, divided by their norms and, for differences, centred.

    Attributes:
        query_shift: (D,) float64, or None for 0.
        query_scale: A power of two.
        row_shift: (D,) float64, or None for 0.
        row_scale: A power of two.
        centre: (D,) float64, the mean of unit rows.
        parallel: Whether products of unit rows are so close to 1 that differences tell more.
    """

    query_shift: np.ndarray | None
    query_scale: float
    row_shift: np.ndarray | None
    row_scale: float
    centre: np.ndarray
    parallel: bool = False


def view(
    proximity: Proximity, queries: float, rows: float, sample: np.ndarray, *, centred: bool
) -> View:
    """Return the view of a batch element.

    Args:
        proximity: The distance.
        queries: The largest magnitude of the queries.
        rows: The largest magnitude of the rows.
        sample: (S, D) float64, some of the rows; those with NaN or Inf do not count.
        centred: Whether distances are found by expanded products, or from rows of float64: both
            need an origin close by.
    """
    sample = sample[np.isfinite(sample).all(1)]
    d = sample.shape[1]
    zero = np.zeros(d)
    if proximity.unit:
        norms = np.sqrt(np.einsum("sd,sd->s", sample, sample))
        inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
        centre = inverse @ sample / max(1, len(sample))
        parallel = 1.0 - np.square(centre).sum() < PARALLEL * (d + 8) * EPS
        return View(None, 1.0, None, 1.0, centre, parallel)
    if proximity.product:  # a shift adds the same to all products of a query
        return View(None, _power_of_two(queries), _mean(sample), _power_of_two(rows), zero)
    shift = _mean(sample) if centred else None
    scale = _power_of_two(max(queries, rows))
    return View(shift, scale, shift, scale, zero)


def inside(proximity: Proximity, magnitude: float) -> bool:
    """Return whether squares of values of this magnitude stay in float32; of unit rows they do."""
    return proximity.unit or magnitude == 0 or VIEW_REACH[0] <= magnitude <= VIEW_REACH[1]


def _power_of_two(magnitude: float) -> float:
    """Return the power of two that brings a magnitude out of VIEW_REACH to 1; otherwise 1."""
    if magnitude == 0 or VIEW_REACH[0] <= magnitude <= VIEW_REACH[1]:
        return 1.0
    return float(np.ldexp(1.0, int(np.clip(np.frexp(magnitude)[1], -126, 126))))


def _mean(sample: np.ndarray) -> np.ndarray | None:
    """Return the mean of rows (S, D) in few bits, or None if it is near 0.

    With few bits, whole numbers stay whole.
    """
    if not len(sample):
        return None
    mean = sample.mean(0)
    spread = float(np.abs(sample - mean).max())
    size = float(np.abs(mean).max())
    if size <= spread:
        return None
    grain = np.exp2(np.floor(np.log2(max(spread, size * 2.0**-50))))
    return np.rint(mean / grain) * grain
