"""The coordinates a fit is computed in: far offsets and extreme magnitudes removed while points are read, never in a copy.

A shift keeps the products from cancelling when the data sit far from the origin; a scale, a power of two, keeps squares
inside float32's range. Data that need neither, most data, are used as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .metrics import Metric

__all__ = ["Frame", "choose"]

SAMPLE_ROWS = 32  # a mean within a fifth of the spread is all that a shift needs
FAR = 4.0  # shift where ||mean||^2 is more than this many times the variance: costs at most two bits otherwise
LARGE_UNIT, SMALL_UNIT = 2.0**100, 2.0**-100  # the same for cosine
LARGE, SMALL = 2.0**40, 2.0**-40  # magnitudes whose squares, summed over any D, stay inside float32
REACH = 2.0**60  # norms of centroids whose squares do


@dataclass(frozen=True)
class Frame:
    """Points are read as ``(x - shift) / scale``; spherical centroids have no scale and no origin.

    Attributes:
        shift: (B, D) float64.
        scale: (B,) float64, powers of two.
        spherical: centroids are unit vectors.
    """

    shift: np.ndarray
    scale: np.ndarray
    spherical: bool

    @property
    def identity(self) -> np.ndarray:
        """(B,) bool: members whose points are used as they are."""
        return (self.scale == 1.0) & ~self.shift.any(-1)

    def inward(self, c: np.ndarray) -> np.ndarray:
        """Centroids (B, K, D) in the frame, float32."""
        if self.spherical:
            return np.ascontiguousarray(c, np.float32)
        inner = c if self.identity.all() else (c.astype(np.float64) - self.shift[:, None]) / self.scale[:, None, None]
        if np.abs(inner).max() > REACH / 64:  # so may the norm, up to 4096 dimensions
            inner = _drawn_in(inner.astype(np.float64))
        return np.ascontiguousarray(inner, np.float32)

    def outward(self, c: np.ndarray) -> np.ndarray:
        """Centroids (B, K, D) float64 of the frame in the user's coordinates, float32."""
        if self.spherical:
            return c.astype(np.float32)
        return (c * self.scale[:, None, None] + self.shift[:, None]).astype(np.float32)

    def rows(self, x: np.ndarray, b: int) -> np.ndarray:
        """Rows (n, D) of member b in the frame, float64."""
        return (x.astype(np.float64) - self.shift[b]) / self.scale[b]


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
        metric: spherical metrics have an origin, so they are scaled but never shifted.
    """
    double = sample.dtype == np.float64
    sample = sample.astype(np.float64)
    mean = np.einsum("bsd->bd", sample) / sample.shape[1]
    if metric.spherical:
        shift = np.zeros_like(mean)
    else:
        with np.errstate(over="ignore", invalid="ignore"):  # an infinite variance shifts nothing
            second = np.einsum("bsd,bsd->b", sample, sample) / sample.shape[1]
        square = np.einsum("bd,bd->b", mean, mean)
        if double:
            _refuse_unresolved(mean, np.square(sample - mean[:, None]).sum(2).mean(1))
        far = square > FAR * np.maximum(second - square, 0.0)
        shift = np.where(far[:, None], mean.astype(np.float32), 0.0).astype(np.float64)
    exponent = np.frexp(np.maximum(magnitude, np.finfo(np.float64).tiny))[1]
    # Cosine squares nothing and looks at each row alone: norms may differ as far as float32 goes.
    large, small = (LARGE_UNIT, SMALL_UNIT) if metric.unit_points else (LARGE, SMALL)
    outside = (magnitude > large) | ((magnitude < small) & (magnitude > 0))
    scale = np.ldexp(1.0, np.clip(exponent, -126, 126))  # its inverse is a float32 too
    return Frame(shift, np.where(outside, scale, 1.0), metric.spherical)


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
