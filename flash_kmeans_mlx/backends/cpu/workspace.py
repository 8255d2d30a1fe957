"""The memory that a thread searches in: queries as lanes, their candidates, and scratch."""

from __future__ import annotations

import numpy as np

from . import kernels
from .scoring import Scoring
from .store import empty_lines

__all__ = ["NO_ROW", "Workspace"]

NO_ROW = -(1 << 60)  # added to the number of any query: the index of no row


class Workspace:
    """Some queries and their candidates, for one task after another.

    Attributes:
        scratch: What the kernels work in; its `tile` serves other kernels, too.
        lanes: The queries, see kernels/cpu/topk.py.
        buffers: Their candidates, see kernels/cpu/select.py.
    """

    def __init__(self, group: int, capacity: int, tile: int, d: int) -> None:
        width, rows = kernels.scores.WIDE, kernels.scores.NARROW_ROWS
        blocks = -(-group // width)
        self.scratch = kernels.topk.Scratch(
            tile=empty_lines((tile, d)),
            scores=empty_lines((rows, width)),
            masks=np.zeros(rows, np.int64),
            tail=np.zeros((rows, d), np.float32),
            wide=np.empty(d),
        )
        self._lanes = empty_lines((blocks, d, width))
        self._keys = np.empty((group, capacity), np.uint64)
        self._counts = np.zeros(group, np.int64)
        self._least = empty_lines((blocks * width,))

    def load(self, scoring: Scoring, source: tuple, lo: int, hi: int) -> None:
        """Read queries lo:hi of a source; `start` must follow."""
        n = hi - lo
        self.lanes = self._lanes[: -(-n // kernels.scores.WIDE)]
        self.buffers = kernels.select.Buffers(self._keys[:n], self._counts[:n], self._least)
        kernels.topk.read_queries(
            scoring.op, source, lo, n, self.lanes, scoring.centre, self.scratch
        )

    def measure(self, scoring: Scoring, norms: np.ndarray) -> None:
        """Set norms (Q,) to those of the queries."""
        kernels.topk.measure_queries(scoring.op, self.lanes, norms)

    def start(self, least: np.ndarray | float) -> None:
        """Forget all candidates; others must score more than `least`, (Q,) or a number."""
        self.buffers.counts.fill(0)
        self._least.fill(np.inf)
        self._least[: len(self.buffers.counts)] = least

    def search(
        self, scoring: Scoring, lo: int, hi: int, *, skip: int, keep: int
    ) -> tuple[int, float]:
        """Collect the best of rows lo:hi; arguments and result as of `search_rows`."""
        largest_bits, largest_square = kernels.topk.search_rows(
            scoring.op,
            self.lanes,
            scoring.row_source,
            lo,
            hi,
            skip,
            keep,
            self.buffers,
            scoring.centre,
            self.scratch,
        )
        return int(largest_bits), float(largest_square)
