"""Euclidean neighbours by a tree, where measurements say that looking at all rows takes longer."""

from __future__ import annotations

import numpy as np

from ..neighbours import Found
from . import kernels
from .store import empty_lines
from .workers import Workers

__all__ = ["Tree", "order", "tree_bytes", "tree_is_faster"]

# Measured on two AMD cores with scattered rows, all rows' time over the tree's: 1,000 rows and queries 1.3 to 2.9 in up to 8
# dimensions, 10,000 of both 6.7, 3.7, 2.7 and 1.3 in 1, 3, 5 and 8; 10 dimensions 0.7; 100,000 rows asked 1,000 times 0.9.
DIMS, ROWS, QUERIES, SHARE = 8, 1000, 1000, 40
MOST = (
    128  # neighbours: those of a query are kept in order, which takes as long as all rows for 300
)
PIECES = 8  # of the rows, split by a thread each
GROUP = 512  # queries of a task


def tree_is_faster(q: int, n: int, d: int, k: int) -> bool:
    """Whether a tree is the faster way to k of n rows for q queries."""
    return d <= DIMS and n >= ROWS and q >= max(QUERIES, n // SHARE) and k <= min(MOST, n // 8)


def tree_bytes(q: int, n: int, d: int) -> int:
    """What a search by tree takes at most: lines of rows and of queries, copies of them on the way, boxes."""
    return 8 * (3 * d + 2) * (q + n) + n * d + (1 << 16)


def _split(rows: np.ndarray, leaf: int, workers: Workers) -> np.ndarray:
    """(D + 1, columns) float64: rows (N, D) in leaves that follow one another, and their indices; then Inf."""
    n, d = rows.shape
    columns = -(-n // leaf) * leaf
    x = empty_lines((d + 1, columns), np.float64)
    x[:, n:] = np.inf
    x[:d, :n] = rows.T
    x[d, :n] = np.arange(n)
    size = leaf << (columns // leaf - 1).bit_length()
    while size > leaf:
        pieces = -(-columns // size)
        stop = size // 2 if pieces < PIECES else leaf

        def split(_slot: int, i: int, size: int = size, stop: int = stop) -> None:
            kernels.tree.split_rows(x, i * size, min(n, (i + 1) * size), size, stop)

        workers.run(split, pieces)
        size = stop
    return x


def order(queries: np.ndarray, workers: Workers) -> np.ndarray:
    """(Q,) float64: queries in an order in which neighbours follow one another."""
    return _split(queries, kernels.tree.NEAR, workers)[-1, : len(queries)]


class Tree:
    """Rows (N, D) float64, finite, split into leaves, and the boxes around these."""

    def __init__(self, rows: np.ndarray, workers: Workers) -> None:
        n, d = rows.shape
        self.workers = workers
        self.x = _split(rows, kernels.tree.LEAF, workers)
        self.order = self.x[-1, :n]
        leaves, level = -(-n // kernels.tree.LEAF), -(-n // (kernels.tree.LEAF * kernels.tree.FAN))
        nodes = level
        while level > 1:
            level = -(-level // kernels.tree.FAN)
            nodes += level
        self.boxes = np.empty((nodes, d, 2, kernels.tree.FAN))
        self.children, self.least = np.empty(nodes, np.int64), np.empty(leaves + nodes)
        kernels.tree.bound_nodes(self.x, n, self.boxes, self.children, self.least)

    def search(self, queries: np.ndarray, order: np.ndarray, skip: int, out: Found) -> None:
        """Fill `out`, distances and indices (Q, k), for queries (Q, D) float64 in some order; no query i gets row skip + i."""
        tree = self.x, self.boxes, self.children, self.least

        def search(_slot: int, i: int) -> None:
            kernels.tree.search_tree(*tree, queries, order[i * GROUP : (i + 1) * GROUP], skip, *out)

        self.workers.run(search, -(-len(order) // GROUP))
