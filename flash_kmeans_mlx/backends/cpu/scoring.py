"""Scores of rows for queries on the CPU, and which of them prove that a row is too far."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...frame import EPS, View, inside
from ...metrics import Proximity
from ..bounds import least_by_differences, least_by_products
from . import kernels
from .store import Rows

__all__ = ["Measurements", "Scoring", "score_op"]

INFINITE_BITS = 0x7F800000  # of a float32: those of Inf, and below those of NaN
OPS = {"euclidean": "SQUARES", "cosine": "COSINE", "dot": "DOT", "l1": "L1", "linf": "LINF"}


def score_op(proximity: Proximity) -> int:
    """Return the kernels' number for a distance; see kernels/cpu/scores.py."""
    return int(getattr(kernels.scores, OPS[proximity.name]))


@dataclass(frozen=True)
class Measurements:
    """Measures of queries and rows, taken while they are read; candidates are proven by them.

    Attributes:
        norms: (B, Q) float64, norms of the queries as they are read, where a proof needs them.
        shift_products: (B, Q) float64, products of the queries with the rows' shift, for DOT.
        lowest_scores: (B, Q) float32, that no row left out exceeds; -inf where none was left out,
            Inf where it is not known.
        largest_squares: (B,) float64, largest sum of squares of a row as read, for DOT.
        largest_bits: (B,) int32, bits of the largest magnitude among the rows as read.
    """

    norms: np.ndarray
    shift_products: np.ndarray
    lowest_scores: np.ndarray
    largest_squares: np.ndarray
    largest_bits: np.ndarray

    @classmethod
    def empty(cls, b: int, q: int) -> Measurements:
        """Return those of a search that has not begun."""
        return cls(
            norms=np.zeros((b, q)),
            shift_products=np.zeros((b, q)),
            lowest_scores=np.empty((b, q), np.float32),
            largest_squares=np.zeros(b),
            largest_bits=np.zeros(b, np.int32),
        )


class Scoring:
    """The scores of one batch element's rows for its queries.

    Attributes:
        proximity: The distance.
        queries: All queries.
        rows: All rows.
        b: The batch element.
        view: The normalised coordinates in which its queries and rows are read.
        op: How rows score; see kernels/cpu/scores.py.
        centre: (D,) float64, taken off unit rows.
        query_source: The queries as kernels read them in the view; see kernels/cpu/rows.py.
        row_source: The rows, alike.
        given_query_source: The queries as given, neither shifted nor scaled.
        given_row_source: The rows, alike.
        rounds: Whether reading queries and rows rounds their differences.
    """

    def __init__(
        self,
        proximity: Proximity,
        queries: Rows,
        rows: Rows,
        b: int,
        view: View,
        *,
        by_chords: bool = False,
    ) -> None:
        """Unit rows score by their differences where the view says so, or with `by_chords`."""
        self.proximity = proximity
        self.queries = queries
        self.rows = rows
        self.b = b
        self.view = view
        chords = view.parallel or by_chords
        self.op = kernels.scores.CHORD if chords else score_op(proximity)
        self.centre = view.centre if chords else np.zeros(rows.x.shape[2])
        self.given_query_source = self.query_source = queries.source(b)
        self.given_row_source = self.row_source = rows.source(b)
        if view.query_shift is not None or view.query_scale != 1.0:
            self.query_source = queries.source(b, view.query_shift, view.query_scale)
        if view.row_shift is not None or view.row_scale != 1.0:
            self.row_source = rows.source(b, view.row_shift, view.row_scale)
        self.rounds = chords or "float64" in (rows.name, queries.name)

    def reads_well(self, largest_bits: int, query_magnitude: float) -> bool:
        """Return whether no square of a value, as it is read, leaves the range of float32.

        Args:
            largest_bits: Bits of the largest magnitude of the rows as they were read.
            query_magnitude: Largest magnitude of the queries as given.
        """
        if largest_bits >= INFINITE_BITS:
            return False
        magnitude = float(np.int32(largest_bits).view(np.float32))
        if not self.proximity.product:
            magnitude = max(magnitude, query_magnitude / self.view.query_scale)
        return inside(self.proximity, magnitude)

    def least_scores(
        self,
        distances: np.ndarray,
        norms: np.ndarray,
        shift_products: np.ndarray | float = 0.0,
        largest_square: float = 0.0,
    ) -> np.ndarray:
        """Return (Q,) float32: rows that score no more are not as near as `distances` (Q,).

        The other arguments are those of `Measurements`, for these queries; the last two are for
        DOT.
        """
        proximity, view, d = self.proximity, self.view, len(self.centre)
        if self.op == kernels.scores.COSINE:
            return least_by_products(proximity, distances, 1.0, d)
        if self.op == kernels.scores.DOT:
            shift = 0.0
            if view.row_shift is not None:
                shift = float(np.linalg.norm(view.row_shift)) / view.row_scale
            return least_by_products(
                proximity,
                distances,
                norms,
                d,
                bases=shift_products,
                reach=np.sqrt(largest_square) * (1.0 + (d + 8) * EPS),
                offset=shift,
                scale=view.query_scale * view.row_scale,
            )
        return least_by_differences(
            proximity, distances, norms, d, view.row_scale, rounded=self.rounds
        )

    def reads_whole_numbers(self) -> bool:
        """Return whether queries and rows are read as whole numbers: small sums are then exact."""
        tile = np.empty((8, len(self.centre)), np.float32)
        sources = (self.query_source, self.queries), (self.row_source, self.rows)
        return all(
            kernels.finish.are_whole(source, 0, vectors.x.shape[1], tile)
            for source, vectors in sources
        )
