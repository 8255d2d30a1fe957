"""Growth of a store's index: exact search at first, inverted lists for many vectors."""

from __future__ import annotations

from typing import Any

import numpy as np

from .base import Index
from .centroids import LARGEST
from .hnsw import IndexHNSW
from .ivf import IndexIVFFlat

__all__ = ["bytes_per_vector", "check_memory", "lists_needed", "with_lists"]

# Vectors from which on lists are faster. Measured on two cores with 100,000 vectors, 2 sqrt(N)
# lists and a 16th of them searched: a query takes 0.5 to 0.8 ms instead of 10 to 12, 1,000 of them
# a quarter of the time, and 97 to 99% of the 10 nearest are found.
FIRST_LISTS_AT = 50_000
# Lists are made anew when there are this many times as many vectors.
NEW_LISTS_AFTER = 8
# A search looks at one of so many lists.
LISTS_PER_PROBE = 16


def bytes_per_vector(index: Index) -> int:
    """Return the bytes that a vector and its id take in an index."""
    if isinstance(index, IndexHNSW):
        # The graph has the vector again, links, a label, a lock and two references.
        return 8 + 4 * index.d + 4 * index.d + 8 * index.m + 144
    lists = getattr(index, "lists", None)
    if lists is None:
        return 8 + 4 * index.d
    return 8 + lists.payload.dtype.itemsize * lists.payload.shape[1]


def check_memory(most_gb: float, index: Index, n: int, shape: tuple[int, ...]) -> None:
    """Refuse n embeddings in an index that take more than `most_gb`; 0 for no limit.

    Raises:
        ValueError: Naming `max_memory_gb`.
    """
    needed = n * bytes_per_vector(index)
    if most_gb and needed > most_gb * 1e9:
        raise ValueError(
            f"max_memory_gb={most_gb:g} must be >= {needed / 1e9:.3g} for {n} embeddings"
            f" (embeddings.shape={shape}); raise it, delete some, or give an index that compresses"
            " them"
        )


def lists_needed(index: Index, n_new: int) -> int:
    """Return how many lists suit the vectors in `index` and n_new more; 0 if `index` suits them."""
    n = index.ntotal + n_new
    if isinstance(index, IndexIVFFlat):
        # It was made for about (nlist / 2)**2 vectors.
        limit = NEW_LISTS_AFTER * (index.nlist // 2) ** 2
    else:
        limit = FIRST_LISTS_AT
    return 0 if n < limit else int(2 * np.sqrt(n))


def with_lists(
    index: Index, snapshot: Any, new_rows: np.ndarray, ids: np.ndarray, nlist: int, seed: int
) -> IndexIVFFlat | None:
    """Return an index of lists with the vectors of a snapshot and new ones.

    Args:
        index: An `IndexFlat` or `IndexIVFFlat`.
        snapshot: Of this index.
        new_rows: (N, D) float32, new vectors.
        ids: (N,) int64, their ids.
        nlist: Lists.
        seed: Of the training.

    Returns:
        The index; None if vectors are too large for lists.
    """
    part = index._part(snapshot, index._ids(snapshot))
    # Rows in lists may be followed by 1 / their norm.
    old_rows = part["rows"][:, : index.d]
    if any(np.abs(rows).max(initial=0) > LARGEST for rows in (old_rows, new_rows)):
        return None
    rows = np.concatenate([old_rows, new_rows])
    all_ids = np.concatenate([part["ids"], ids])
    # Free the copies of rows, before training needs memory.
    del part, old_rows
    nprobe = nlist // LISTS_PER_PROBE
    grown = IndexIVFFlat(index.d, nlist, index.metric, nprobe, seed=seed, backend=index.backend)
    grown.train(rows)
    grown.add(rows, all_ids)
    grown._restore_next_id(snapshot.next_id, all_ids)
    return grown
