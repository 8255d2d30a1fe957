"""Stores saved in a directory, and a check of what a load gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from small_indexes import D, X, trained

from flash_kmeans_mlx.index import EmbeddingStore

ROWS = np.random.default_rng(0).standard_normal((3000, D)).astype(np.float32)


def saved_store(path: Path, kind: str | None = None, n: int = 3000) -> EmbeddingStore:
    """Save a store of the first n of `ROWS`, with metadata, and return it."""
    one = EmbeddingStore("euclidean", index=None if kind is None else trained(kind))
    one.add(ROWS[:n], metadata=[{"row": i} for i in range(n)])
    one.save(path)
    return one


def check_load(path: Path, one: EmbeddingStore) -> EmbeddingStore:
    """Check that a load gives the same store, and return it."""
    again = EmbeddingStore.load(path)
    assert list(again) == list(one)
    mine, other = (each.get(list(each)) for each in (one, again))
    assert mine.metadata == other.metadata
    np.testing.assert_array_equal(mine.embeddings, other.embeddings)
    assert again._current.read().names == one._current.read().names
    # Metadata of ids that are gone are gone too.
    assert again._current.read().metadata == one._current.read().metadata
    hits, others = one.search(X[:5], 7), again.search(X[:5], 7)
    np.testing.assert_array_equal(hits.ids, others.ids)
    np.testing.assert_array_equal(hits.distances, others.distances)
    assert hits.metadata == others.metadata
    return again
