"""Exact search on an Apple GPU: scores stay in registers, the best of each query in a simdgroup."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from ..topk import PortableNeighbours, framed, unit
from ..view import View
from .topk import top_of_rows, topk

__all__ = ["MetalNeighbours"]


class MetalNeighbours(PortableNeighbours):
    """`PortableNeighbours` with the top-k kernels: one for products and their best, one for the best of MLX's differences."""

    backend = "metal"

    def _candidates(self, queries: mx.array, data: Any, seen: View, *, expanded: bool) -> tuple[np.ndarray, np.ndarray]:
        if not expanded:
            return super()._candidates(queries, data, seen, expanded=expanded)
        rows = framed(data, seen.row_shift, seen.row_scale)
        if self.request.proximity.unit:
            queries, rows = unit(queries), unit(rows)
        square = mx.square(rows).sum(1)
        bias = mx.zeros_like(square) if self.request.proximity.product else -0.5 * square
        index, score = topk(queries[None], rows[None], bias[None], self.keep)
        mx.eval(index, score)
        self._reach = float(np.sqrt(np.array(square.max())))
        return np.array(score[0]), np.array(index[0], np.int64)

    def _top(self, scores: mx.array, k: int) -> tuple[mx.array, mx.array]:
        return top_of_rows(scores, k)
