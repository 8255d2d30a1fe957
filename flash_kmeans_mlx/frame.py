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

from .metrics import Metric, unit_rows

__all__ = ["Frame", "choose"]

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
        """Whether any member has a shift."""
        return bool(self.shift.any())

    @cached_property
    def centred(self) -> bool:
        """Whether any member has a centre."""
        return bool(self.centre.any())

    @cached_property
    def identity(self) -> np.ndarray:
        """(B,) bool: members whose points are used as they are."""
        return (self.scale == 1.0) & ~self.shift.any(-1)

    def inward(self, c: np.ndarray) -> np.ndarray:
        """Centroids (B, K, D) in the frame, float32."""
        if self.metric.spherical:
            return self._centred(c).astype(np.float32, copy=False)
        inner = c if self.identity.all() else (c.astype(np.float64) - self.shift[:, None]) / self.scale[:, None, None]
        if np.abs(inner).max() > REACH / 64:  # so may the norm, up to 4096 dimensions
            inner = _drawn_in(inner.astype(np.float64))
        return np.ascontiguousarray(inner, np.float32)

    def _centred(self, c: np.ndarray) -> np.ndarray:
        """Spherical centroids less their centre. Rounded to float32, unit vectors are not quite: cosine divides by the norm."""
        if not self.centred:
            return np.ascontiguousarray(c)
        wide = c.astype(np.float64)
        if self.metric.unit_points:
            wide = np.where(np.any(self.centre, axis=-1, keepdims=True)[..., None], unit_rows(wide), wide)
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
        inner = self.inward(c)
        return inner, self.metric.bias(inner)

    @cached_property
    def origin(self) -> np.ndarray:
        """(B, D) float64: what is to be added to rows in the frame for scaled rows with the user's origin."""
        return self.shift / self.scale[:, None]

    def centroids(self, sums: np.ndarray, mass: np.ndarray, previous: np.ndarray) -> np.ndarray:
        """(B, K, D) float32 centroids in the user's coordinates from sums and weights in the frame; `Metric.finalize`."""
        if self.metric.spherical:
            sums = sums + mass[..., None] * self.origin[:, None] if self.shifted else sums
            return self.metric.finalize(sums, mass, previous).astype(np.float32)
        return self.outward(self.metric.finalize(sums, mass, self.inward(previous)))

    def outward(self, c: np.ndarray) -> np.ndarray:
        """Euclidean centroids (B, K, D) float64 of the frame in the user's coordinates, float32."""
        return (c * self.scale[:, None, None] + self.shift[:, None]).astype(np.float32)

    def rows(self, x: np.ndarray, b: int) -> np.ndarray:
        """Rows (n, D) of member b in the frame, float64."""
        return (x.astype(np.float64) - self.shift[b]) / self.scale[b]

    def unshifted(self, members: np.ndarray) -> Frame:
        """The same without a shift for members (B,) bool."""
        return replace(self, shift=np.where(members[:, None], 0.0, self.shift))

    def short(self, least: np.ndarray) -> np.ndarray:
        """(B,) bool: members whose shift is far longer than a row; least (B,), the smallest norms in units of the scale."""
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
        sample: (B, S, D) some rows of every member, float.
        magnitude: (B,) the largest absolute value of every member.
        metric: where it is spherical, a shift is right only for members that are not `Frame.short`.
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
        mean = ((1 / np.maximum(norm, TINY))[:, None] @ sample)[:, 0]  # times the number of rows that are not 0
        square = np.einsum("bd,bd->b", mean, mean)
        parallel = square * (1 + FAR) > FAR * np.square((norm > 0).sum(1))
        if not parallel.any():
            return (np.zeros_like(mean),) * 2
        centre = np.where(parallel[:, None], unit_rows(mean), 0.0).astype(np.float32).astype(np.float64)
        shift = centre * np.einsum("bsd,bd->b", sample, centre)[:, None] / sample.shape[1]
        far = np.square(shift).sum(-1) > APART * np.square(sample - shift[:, None]).sum(-1).mean(-1)
        return centre, np.where(far[:, None], shift, 0.0).astype(np.float32).astype(np.float64)


def _refuse_unresolved(mean: np.ndarray, variance: np.ndarray) -> None:
    """Float64 points so far out that float32 centroids could not tell them apart."""
    step = np.spacing(np.abs(mean).max(1).astype(np.float32)).astype(np.float64)
    spread = np.sqrt(np.maximum(variance, 0.0) / mean.shape[1])
    lost = (spread > 2.0**-48 * np.abs(mean).max(1)) & (4 * step > spread)  # less is rounding of equal points
    if lost.any():
        b = int(lost.argmax())
        raise ValueError(
            f"x must be resolved by float32 centroids, got a spread of {spread[b]:.3g} around a mean of magnitude"
            f" {np.abs(mean[b]).max():.3g} (member {b}); subtract the mean first"
        )
