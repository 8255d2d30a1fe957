"""Vectors that stay in files: read piece by piece to be added, and drawn by row to train on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from ..shards import source as shards
from ..shards.source import Source
from ..validation import check_magnitude
from .arguments import check_limit, vectors

__all__ = ["DrawnRows", "TrainingRows", "is_source", "mapped", "rows_to_add", "rows_to_train"]

PIECE_BYTES = 4 << 20  # of float32 rows that are added at a time
LARGEST = float(np.finfo(np.float32).max)


class DrawnRows:
    """Rows (N, D) of a source, of which only those that are asked for are read.

    Args:
        source: The rows.
        limit: The largest magnitude.
        steps: Functions of rows (n, D) that are applied in turn to what is read.
    """

    def __init__(
        self, source: Source, limit: float, steps: tuple[Callable[[Any], Any], ...] = ()
    ) -> None:
        self._source = source
        self._limit = limit
        self._steps = steps

    def __len__(self) -> int:
        return self._source.shape[0]

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        rows = _float32(self._source.take(index), self._source, index, self._limit)
        for step in self._steps:
            rows = step(rows)
        return rows

    def mapped(self, step: Callable[[Any], Any]) -> DrawnRows:
        """Return these rows after one more function of rows (n, D)."""
        return DrawnRows(self._source, self._limit, (*self._steps, step))


TrainingRows = np.ndarray | DrawnRows


def is_source(x: Any) -> bool:
    """Return whether the rows of x are read in pieces: files, iterables and memory maps are."""
    is_map = isinstance(x, np.memmap) and x.ndim == 2 and getattr(x, "_mmap", None) is not None
    return is_map or shards.is_source(x)


def open_rows(x: Any, d: int) -> Source:
    """Return the source of rows (N, d) that x names; nothing but headers is read.

    Raises:
        ValueError, TypeError, OSError: As `open_source`; or rows have other dimensions.
    """
    source = shards.open_source(x)
    if source.shape[1] != d:
        raise ValueError(f"x must have shape (N, D)=(N, {d}), got {source.shape} from {source}")
    return source


def rows_to_add(x: Any, d: int, limit: float) -> tuple[int, Iterable[tuple[int, np.ndarray]]]:
    """Return N, and x in pieces: (first row, rows (n, d) float32), in order.

    Raises:
        ValueError, TypeError, OSError: As `vectors` and `open_rows`.
    """
    if is_source(x):
        source = open_rows(x, d)
        return source.shape[0], _pieces(source, limit)
    rows, _ = vectors(x, d, limit)
    return len(rows), ((0, rows),)


def _pieces(source: Source, limit: float) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first row, rows (n, D) float32) in order; rows are valid until the next ones.

    Raises:
        ValueError: A row is not finite; the message says where it is.
    """
    n, d = source.shape
    step = max(1, PIECE_BYTES // (4 * d))
    with source.cursor() as cursor:
        for lo in range(0, n, step):
            hi = min(n, lo + step)
            yield lo, _float32(cursor.read(lo, hi), source, np.arange(lo, hi), limit)


def rows_to_train(x: Any, d: int, limit: float = np.inf) -> TrainingRows:
    """Return vectors x to draw samples from: (N, d) float32, or a source's rows.

    Raises:
        ValueError, TypeError, OSError: As `vectors` and `open_rows`.
    """
    if isinstance(x, DrawnRows):
        return x
    return DrawnRows(open_rows(x, d), limit) if is_source(x) else vectors(x, d, limit)[0]


def mapped(rows: TrainingRows, step: Callable[[Any], Any]) -> TrainingRows:
    """Return rows after a function of rows (n, D): at once, or when they are read."""
    return rows.mapped(step) if isinstance(rows, DrawnRows) else step(rows)


def _float32(rows: np.ndarray, source: Source, index: np.ndarray, limit: float) -> np.ndarray:
    """Return rows (n, D) of these indices as float32; refuse magnitudes beyond the limit."""
    largest = np.maximum(rows.max(1), -rows.min(1)).astype(np.float64)
    fits = largest <= min(limit, LARGEST)
    if not fits.all():
        wrong = int(fits.argmin())
        place = source.place(int(index[wrong]))
        check_magnitude(largest[wrong : wrong + 1], source.shape, place=place)
        check_limit(float(largest[wrong]), limit, source.shape, place=place)
    return np.ascontiguousarray(rows, np.float32)
