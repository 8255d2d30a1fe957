"""Euclidean neighbours by a tree, where that is faster than scoring all rows."""

from __future__ import annotations

import numpy as np

from ..neighbours import Found
from . import kernels
from .store import empty_lines
from .workers import Workers

__all__ = ["Tree", "order", "tree_bytes", "tree_is_faster"]

# Measured on two AMD cores with scattered rows, the time of all rows over that of the tree: 1,000
# rows and queries 1.3 to 2.9 in up to 8 dimensions; 10,000 of both 6.7, 3.7, 2.7 and 1.3 in 1, 3,
# 5 and 8, 0.7 in 10; 100,000 rows and 1,000 queries 0.9.
MAX_DIMS = 8
MIN_ROWS = 1000
MIN_QUERIES = 1000
MAX_ROWS_PER_QUERY = 40
# Those of a query are kept in order, which takes as long as all rows for 300.
MAX_NEIGHBOURS = 128
PIECES = 8  # of the rows: each is then split by one thread
GROUP = 512  # queries of a task


def tree_is_faster(q: int, n: int, d: int, k: int) -> bool:
    """Return whether a tree is the faster way to k of n rows for q queries."""
    return (
        d <= MAX_DIMS
        and n >= MIN_ROWS
        and q >= max(MIN_QUERIES, n // MAX_ROWS_PER_QUERY)
        and k <= min(MAX_NEIGHBOURS, n // 8)
    )


def tree_bytes(q: int, n: int, d: int) -> int:
    """Return what a search takes at most: columns of rows and queries, their copies, and boxes."""
    return 8 * (3 * d + 2) * (q + n) + n * d + (1 << 16)


def _split(rows: np.ndarray, leaf: int, workers: Workers) -> np.ndarray:
    """Return rows (N, D) as columns, in leaves that follow one another.

    That is (D + 1, columns) float64, the last line their indices; Inf where there is no row.
    """
    n, d = rows.shape
    n_columns = -(-n // leaf) * leaf
    columns = empty_lines((d + 1, n_columns), np.float64)
    columns[:, n:] = np.inf
    columns[:d, :n] = rows.T
    columns[d, :n] = np.arange(n)
    size = leaf << (n_columns // leaf - 1).bit_length()
    while size > leaf:
        pieces = -(-n_columns // size)
        stop = size // 2 if pieces < PIECES else leaf

        def split(_slot: int, i: int, size: int = size, stop: int = stop) -> None:
            kernels.tree.split_rows(columns, i * size, min(n, (i + 1) * size), size, stop)

        workers.run(split, pieces)
        size = stop
    return columns


def order(queries: np.ndarray, workers: Workers) -> np.ndarray:
    """Return (Q,) float64: queries in an order in which neighbours follow one another."""
    return _split(queries, kernels.tree.NEAR, workers)[-1, : len(queries)]


class Tree:
    """Rows (N, D) float64, finite, split into leaves, and the boxes around these.

    Attributes:
        order: (N,) float64, rows in an order in which neighbours follow one another.
    """

    def __init__(self, rows: np.ndarray, workers: Workers) -> None:
        leaf, fan = kernels.tree.LEAF, kernels.tree.FAN
        n, d = rows.shape
        leaves = -(-n // leaf)
        level = -(-leaves // fan)
        nodes = level
        while level > 1:
            level = -(-level // fan)
            nodes += level
        columns = _split(rows, leaf, workers)
        self.order = columns[-1, :n]
        self._workers = workers
        self._tree = kernels.tree.Tree(
            columns=columns,
            boxes=np.empty((nodes, d, 2, fan)),
            children=np.empty(nodes, np.int64),
            least=np.empty(leaves + nodes),
        )
        kernels.tree.bound_nodes(self._tree, n)

    def search(self, queries: np.ndarray, order: np.ndarray, skip: int, out: Found) -> None:
        """Search for the nearest rows of queries.

        Args:
            queries: (Q, D) float64.
            order: (Q,) float64, an order of the queries.
            skip: Query i never gets row skip + i.
            out: Distances and indices (Q, k) to fill.
        """

        def search(_slot: int, i: int) -> None:
            mine = order[i * GROUP : (i + 1) * GROUP]
            kernels.tree.search_tree(self._tree, queries, mine, skip, *out)

        self._workers.run(search, -(-len(order) // GROUP), work=len(self.order))
