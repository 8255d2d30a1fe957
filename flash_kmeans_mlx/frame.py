"""The coordinates a fit is computed in: far offsets and extreme magnitudes removed while points are read, never in a copy.

A shift keeps the products from cancelling when the data sit far from the origin; a scale, a power of two, keeps squares
inside float32's range. Data that need neither, most data, are used as they are.

Nearly parallel rows have nearly parallel unit centroids, whose products with a row agree in all leading digits. There the
common part is taken out of the centroids: for a fixed x, ``<x, c>`` ranks as ``<x, c - centre>``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .metrics import Metric, Proximity, unit_rows

__all__ = ["EPS", "VIEW_ROWS", "Frame", "View", "choose", "inside", "sample_step", "view"]

EPS = 2.0**-24  # half a unit in the last place of 1 in float32
SAMPLE_ROWS = 32  # a mean within a fifth of the spread is all that a shift needs
SHORT = 2.0  # times a row's norm, that a shift of spherical data may have: the row is read to that many roundings of its own
APART = 64.0  # a shift of spherical data needs this in place of FAR: centred centroids leave three more bits
FAR = 4.0  # shift where ||mean||^2 is more than this many times the variance: costs at most two bits otherwise
LARGE_UNIT, SMALL_UNIT = 2.0**100, 2.0**-100  # the same for cosine
TINY = float(np.finfo(np.float64).tiny)
LARGE, SMALL = 2.0**40, 2.0**-40  # magnitudes whose squares, summed over any D, stay inside float32
REACH = 2.0**60  # norms of centroids whose squares do


@dataclass(frozen=True)
class Frame:
    """Points are read as ``(x - shift) / scale``; spherical centroids are not scaled, and `centre` is taken off them.

    Attributes:
        shift: (B, D) float64.
        scale: (B,) float64, powers of two.
        metric: the metric.
        centre: (B, D) float64, a unit vector of float32 values among nearly parallel rows, otherwise 0.
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
        """(B,) bool: batch elements whose points are used as they are."""
        return (self.scale == 1.0) & ~self.shift.any(-1)

    def to_frame(self, c: np.ndarray) -> np.ndarray:
        """Centroids (B, K, D) in the frame, float32."""
        if self.metric.spherical:
            return self._centred(c).astype(np.float32, copy=False)
        inner = (
            c
            if self.identity.all()
            else (c.astype(np.float64) - self.shift[:, None]) / self.scale[:, None, None]
        )
        if np.abs(inner).max() > REACH / 64:  # so may the norm, up to 4096 dimensions
            inner = _drawn_in(inner.astype(np.float64))
        return np.ascontiguousarray(inner, np.float32)

    def _centred(self, c: np.ndarray) -> np.ndarray:
        """Spherical centroids less their centre. Rounded to float32, unit vectors are not quite: cosine divides by the norm."""
        if not self.centred:
            return np.ascontiguousarray(c)
        wide = c.astype(np.float64)
        if self.metric.unit_points:
            wide = np.where(
                np.any(self.centre, axis=-1, keepdims=True)[..., None], unit_rows(wide), wide
            )
        return wide - self.centre_for(c)[:, None]

    def centre_for(self, c: np.ndarray) -> np.ndarray:
        """(B, D): what is taken off centroids (B, K, D): the centre; along it for dot, where `assign` takes any norms."""
        if self.metric.unit_points or not self.centred:
            return self.centre
        norm = np.linalg.norm(c.astype(np.float64), axis=-1)
        of_a_fit = ((np.abs(norm - 1) < 1e-3) | (norm == 0)).all(1)[:, None]
        centre = np.einsum("bkd,bd->bk", c, self.centre).mean(1)[:, None] * self.centre
        closer = (np.linalg.norm(c - centre[:, None], axis=-1) <= norm).all(1)[:, None]
        return np.where(of_a_fit, self.centre, np.where(closer, centre, 0.0))

    def scored(self, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Centroids in the frame and the bias (B, K) float32 that is added to their products with points."""
        if self.metric.spherical and self.shifted:  # <x, c> = <x - shift, c> + <shift, c>
            centred = self._centred(c)
            bias = np.einsum("bkd,bd->bk", centred, self.origin, dtype=np.float64)
            return centred.astype(np.float32), bias.astype(np.float32)
        inner = self.to_frame(c)
        return inner, self.metric.bias(inner)

    @cached_property
    def origin(self) -> np.ndarray:
        """(B, D) float64: what is to be added to rows in the frame for scaled rows with the user's origin."""
        return self.shift / self.scale[:, None]

    def centroids(
        self, sums: np.ndarray, weight_sum: np.ndarray, previous: np.ndarray
    ) -> np.ndarray:
        """(B, K, D) float32 centroids in the user's coordinates from sums and weights in the frame; `Metric.finalize`."""
        if self.metric.spherical:
            sums = sums + weight_sum[..., None] * self.origin[:, None] if self.shifted else sums
            return self.metric.finalize(sums, weight_sum, previous).astype(np.float32)
        return self.from_frame(self.metric.finalize(sums, weight_sum, self.to_frame(previous)))

    def from_frame(self, c: np.ndarray) -> np.ndarray:
        """Euclidean centroids (B, K, D) float64 of the frame in the user's coordinates, float32."""
        return (c * self.scale[:, None, None] + self.shift[:, None]).astype(np.float32)

    def rows(self, x: np.ndarray, b: int) -> np.ndarray:
        """Rows (n, D) of batch element b in the frame, float64."""
        return (x.astype(np.float64) - self.shift[b]) / self.scale[b]

    def unshifted(self, elements: np.ndarray) -> Frame:
        """The same without a shift for batch elements (B,) bool."""
        return replace(self, shift=np.where(elements[:, None], 0.0, self.shift))

    def short(self, least: np.ndarray) -> np.ndarray:
        """(B,) bool: batch elements whose shift is far longer than a row; least (B,), the smallest norms in units of the scale."""
        return np.linalg.norm(self.origin, axis=-1) > SHORT * least


def _drawn_in(c: np.ndarray) -> np.ndarray:
    """Centroids with norms beyond REACH, whose squares would overflow, in the same order just beyond it.

    Seen from there, all points are at the origin: the order of the norms is the order of the distances.
    """
    norm = np.linalg.norm(c, axis=-1, keepdims=True)
    excess = np.log2(np.maximum(norm, REACH) / REACH)
    return np.where(excess > 0, c / np.maximum(norm, REACH) * (REACH * (1 + excess / 512)), c)


def sample_step(n: int) -> int:
    """The stride of the rows that `choose` looks at."""
    return max(1, n // SAMPLE_ROWS)


def choose(sample: np.ndarray, magnitude: np.ndarray, metric: Metric) -> Frame:
    """The frame of a problem.

    Args:
        sample: (B, S, D) some rows of every batch element, float.
        magnitude: (B,) the largest absolute value of every batch element.
        metric: where it is spherical, a shift is right only for batch elements that are not `Frame.short`.
    """
    double = sample.dtype == np.float64
    sample = sample.astype(np.float64)
    if metric.spherical:
        centre, shift = _parallel(sample)
    else:
        mean = np.einsum("bsd->bd", sample) / sample.shape[1]
        centre = np.zeros_like(mean)
        with np.errstate(over="ignore", invalid="ignore"):  # an infinite variance shifts nothing
            second = np.einsum("bsd,bsd->b", sample, sample) / sample.shape[1]
        square = np.einsum("bd,bd->b", mean, mean)
        if double:
            _refuse_unresolved(mean, np.square(sample - mean[:, None]).sum(2).mean(1))
        far = square > FAR * np.maximum(second - square, 0.0)
        shift = np.where(far[:, None], mean.astype(np.float32), 0.0).astype(np.float64)
    exponent = np.frexp(np.maximum(magnitude, TINY))[1]
    # Cosine squares nothing and looks at each row alone: norms may differ as far as float32 goes.
    large, small = (LARGE_UNIT, SMALL_UNIT) if metric.unit_points else (LARGE, SMALL)
    outside = (magnitude > large) | ((magnitude < small) & (magnitude > 0))
    scale = np.ldexp(1.0, np.clip(exponent, -126, 126))  # its inverse is a float32 too
    return Frame(shift, np.where(outside, scale, 1.0), metric, centre)


def _parallel(sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(centre, shift), each (B, D): the direction of rows (B, S, D) that are nearly parallel, and their mean along it."""
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite centres nothing
        norm = np.sqrt(np.einsum("bsd,bsd->bs", sample, sample))
        mean = ((1 / np.maximum(norm, TINY))[:, None] @ sample)[
            :, 0
        ]  # times the number of rows that are not 0
        square = np.einsum("bd,bd->b", mean, mean)
        parallel = square * (1 + FAR) > FAR * np.square((norm > 0).sum(1))
        if not parallel.any():
            return (np.zeros_like(mean),) * 2
        centre = (
            np.where(parallel[:, None], unit_rows(mean), 0.0).astype(np.float32).astype(np.float64)
        )
        shift = centre * np.einsum("bsd,bd->b", sample, centre)[:, None] / sample.shape[1]
        far = np.square(shift).sum(-1) > APART * np.square(sample - shift[:, None]).sum(-1).mean(-1)
        return centre, np.where(far[:, None], shift, 0.0).astype(np.float32).astype(np.float64)


def _refuse_unresolved(mean: np.ndarray, variance: np.ndarray) -> None:
    """Float64 points so far out that float32 centroids could not tell them apart."""
    step = np.spacing(np.abs(mean).max(1).astype(np.float32)).astype(np.float64)
    spread = np.sqrt(np.maximum(variance, 0.0) / mean.shape[1])
    lost = (spread > 2.0**-48 * np.abs(mean).max(1)) & (
        4 * step > spread
    )  # less is rounding of equal points
    if lost.any():
        b = int(lost.argmax())
        raise ValueError(
            f"x must be resolved by float32 centroids, got a spread of {spread[b]:.3g} around a mean of magnitude"
            f" {np.abs(mean[b]).max():.3g} (batch element {b}); subtract the mean first"
        )


VIEW_ROWS = 64
VIEW_REACH = (
    2.0**-20,
    2.0**40,
)  # magnitudes whose squares stay inside float32, also those of what is 2^-24 of them
PARALLEL = 128  # neighbours this many times closer than rounding of products are rather told apart by differences


@dataclass(frozen=True)
class View:
    """Queries and rows of a batch element are read as ``(x - shift) / scale``; None is no shift.

    Unit rows are read as they are, divided by their norms and, for differences, centred.

    Attributes:
        centre: (D,) float64, the mean of unit rows.
        parallel: products of unit rows are so close to 1 that differences are the better start.
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
    """The view of a batch element.

    Args:
        proximity: the distance.
        queries: their largest magnitude.
        rows: theirs.
        sample: (S, D) float64, some of the rows; those with NaN or Inf do not count.
        centred: distances are found by expanded products, or from rows of float64: both need an origin close by.
    """
    d, sample = sample.shape[1], sample[np.isfinite(sample).all(1)]
    zero = np.zeros(d)
    if proximity.unit:
        norms = np.sqrt(np.einsum("sd,sd->s", sample, sample))
        centre = (
            np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
            @ sample
            / max(1, len(sample))
        )
        return View(
            None, 1.0, None, 1.0, centre, 1.0 - np.square(centre).sum() < PARALLEL * (d + 8) * EPS
        )
    if proximity.product:  # a shift adds the same to all products of a query
        return View(
            None, _scale(queries, VIEW_REACH), _shift(sample), _scale(rows, VIEW_REACH), zero
        )
    shift, scale = _shift(sample) if centred else None, _scale(max(queries, rows), VIEW_REACH)
    return View(shift, scale, shift, scale, zero)


def inside(proximity: Proximity, magnitude: float) -> bool:
    """Whether squares of values of this magnitude stay inside float32; those of unit rows do."""
    return proximity.unit or magnitude == 0 or VIEW_REACH[0] <= magnitude <= VIEW_REACH[1]


def _scale(magnitude: float, reach: tuple[float, float]) -> float:
    """A power of two that brings a magnitude to 1, where it is out of reach."""
    if magnitude == 0 or reach[0] <= magnitude <= reach[1]:
        return 1.0
    return float(np.ldexp(1.0, int(np.clip(np.frexp(magnitude)[1], -126, 126))))


def _shift(sample: np.ndarray) -> np.ndarray | None:
    """The mean of rows (S, D), with as few bits as will do, so that whole numbers stay whole; None if it is near 0."""
    if not len(sample):
        return None
    mean = sample.mean(0)
    spread, size = float(np.abs(sample - mean).max()), float(np.abs(mean).max())
    if size <= spread:
        return None
    grain = np.exp2(np.floor(np.log2(max(spread, size * 2.0**-50))))
    return np.rint(mean / grain) * grain
