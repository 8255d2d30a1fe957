"""Inverted lists as the scanning kernels take them."""

from typing import NamedTuple

import numpy as np

from .jit import njit

BLOCK = 16  # rows, as in index/lists.py


class Lists(NamedTuple):
    """Rows of all lists in one pool of blocks, transposed; see index/lists.py.

    A row's slot is BLOCK times its block plus its place there.

    Attributes:
        payload: (blocks, width, BLOCK) rows.
        ids: (slots,) int64.
        owner: (blocks,) the list that a block belongs to.
        next: (blocks,) the block that follows in the list, or -1.
        first: (lists,) the first block.
        counts: (lists,) rows.
    """

    payload: np.ndarray
    ids: np.ndarray
    owner: np.ndarray
    next: np.ndarray
    first: np.ndarray
    counts: np.ndarray


@njit
def queries_of_lists(probes, first, end, n_lists):
    """Return which queries probe each list, in columns first:end of the probes.

    Returns:
        numbers (L,): The lists that are probed; those of a single query in its order.
        starts (L + 1,), queries: queries[starts[i]:starts[i + 1]] probe list numbers[i].
    """
    n, n_columns = probes.shape[0], end - first
    if n == 1:
        return probes[0, first:end].copy(), np.arange(n_columns + 1), np.zeros(n_columns, np.int64)
    places = np.zeros(n_lists, np.int64)
    for q in range(n):
        for p in range(first, end):
            places[probes[q, p]] += 1
    numbers = np.empty(min(n_lists, n * n_columns), np.int64)
    starts = np.empty(numbers.size + 1, np.int64)
    n_probed, start = 0, 0
    for i in range(n_lists):
        if places[i]:
            numbers[n_probed], starts[n_probed] = i, start
            places[i], start = start, start + places[i]
            n_probed += 1
    starts[n_probed] = start
    queries = np.empty(start, np.int64)
    for q in range(n):
        for p in range(first, end):
            queries[places[probes[q, p]]] = q
            places[probes[q, p]] += 1
    return numbers[:n_probed], starts, queries
