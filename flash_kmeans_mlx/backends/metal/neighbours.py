"""Exact search on an Apple GPU: scores stay in registers, each simdgroup keeps the best."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ..portable.neighbours import Chunk, PortableNeighbours
from .topk import top_of_rows, topk

__all__ = ["MetalNeighbours"]


class MetalNeighbours(PortableNeighbours):
    """`PortableNeighbours` with the top-k kernels.

    `topk` computes products and finds their best at once; `top_of_rows` finds the best of MLX's
    differences.
    """

    backend = "metal"

    def _candidates(self, queries: mx.array, chunk: Chunk) -> tuple[np.ndarray, np.ndarray]:
        if not chunk.products:
            return super()._candidates(queries, chunk)
        rows = self._read(chunk.rows, chunk, of_queries=False)
        square = mx.square(rows).sum(1)
        bias = mx.zeros_like(square) if self.request.proximity.product else -0.5 * square
        index, scores = topk(queries[None], rows[None], bias[None], self.keep)
        mx.eval(index, scores)
        self._set_reach(square.max())
        return np.array(scores[0]), np.array(index[0], np.int64)

    def _rounding(self) -> float:
        return 0.0  # the kernel's products are those of float32

    def _top(self, scores: mx.array, k: int) -> tuple[mx.array, mx.array]:
        return top_of_rows(scores, k)
