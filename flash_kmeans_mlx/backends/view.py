"""How a search reads queries and rows: shifted and scaled, so that float32 loses neither neighbours nor its range."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..proximity import Proximity
from .bounds import EPS

__all__ = ["SAMPLE_ROWS", "View", "inside", "view"]

SAMPLE_ROWS = 64
REACH = (2.0**-20, 2.0**40)  # magnitudes whose squares stay inside float32, also those of what is 2^-24 of them
PARALLEL = 128  # neighbours this many times closer than rounding of products are rather told apart by differences


@dataclass(frozen=True)
class View:
    """Queries and rows of a member are read as ``(x - shift) / scale``; None is no shift.

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


def view(proximity: Proximity, queries: float, rows: float, sample: np.ndarray, *, centred: bool) -> View:
    """The view of a member.

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
        centre = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0) @ sample / max(1, len(sample))
        return View(None, 1.0, None, 1.0, centre, 1.0 - np.square(centre).sum() < PARALLEL * (d + 8) * EPS)
    if proximity.product:  # a shift adds the same to all products of a query
        return View(None, _scale(queries, REACH), _shift(sample), _scale(rows, REACH), zero)
    shift, scale = _shift(sample) if centred else None, _scale(max(queries, rows), REACH)
    return View(shift, scale, shift, scale, zero)


def inside(proximity: Proximity, magnitude: float) -> bool:
    """Whether squares of values of this magnitude stay inside float32; those of unit rows do."""
    return proximity.unit or magnitude == 0 or REACH[0] <= magnitude <= REACH[1]


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
