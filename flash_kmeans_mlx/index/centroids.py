"""The centroids of an index, as searches for the nearest of them read them."""

from __future__ import annotations

import numpy as np

from .. import backends
from ..metrics import PROXIMITIES
from ..neighbours.search import nearest_rows
from .lists import InvertedLists

__all__ = ["LARGEST", "Centroids", "with_inverse_norms"]

# Magnitude of vectors up to which squared distances are float32 numbers.
LARGEST = 2.0**40
# From so many queries on, rows in blocks of SIMD lanes are faster than rows one after another; with
# more centroids, bytes are faster.
MIN_QUERIES, MAX_CENTROIDS = 8, 4096


class Centroids:
    """Centroids, to be searched exactly.

    Attributes:
        rows: (nlist, D) float32.
    """

    def __init__(self, centroids: np.ndarray, metric: str) -> None:
        self.rows = centroids
        self._proximity = PROXIMITIES[metric]
        self._lists: InvertedLists | None = None
        n = len(centroids)
        if n <= MAX_CENTROIDS and np.abs(centroids).max() <= LARGEST:
            rows = with_inverse_norms(centroids) if metric == "cosine" else centroids
            lists = InvertedLists(1, rows.shape[1], np.float32)
            self._lists = lists.added(np.zeros(n, np.int64), rows, np.arange(n))

    def nearest(self, queries: np.ndarray, nprobe: int, backend: str) -> np.ndarray:
        """Return the lists (Q, nprobe) int64 of the nearest centroids, nearest first."""
        is_few = len(queries) < MIN_QUERIES or backends.BACKENDS[backend].USES_MLX
        if self._lists is None or is_few:
            return nearest_rows(queries, self.rows, nprobe, self._proximity, backend)[1]
        probes = np.zeros((len(queries), 1), np.int64)
        return backends.scan_lists(backend, self._lists, self._proximity, queries, probes, nprobe)[
            1
        ]


def with_inverse_norms(rows: np.ndarray) -> np.ndarray:
    """Return rows (N, D) float32 with 1 / their norms behind them, as scans for cosine read."""
    norm = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    inverse = np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0)
    # The largest float32 tells scans that a row is too small for its factor.
    inverse = np.minimum(inverse, np.finfo(np.float32).max)
    return np.concatenate([rows, inverse[:, None].astype(np.float32)], axis=1)
