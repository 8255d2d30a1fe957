"""Small indexes and stores of every kind for the tests, trained once, and what there is to see of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from helpers import Array

from flash_kmeans_mlx.index import (
    EmbeddingStore,
    Index,
    IndexFlat,
    IndexHNSW,
    IndexIVFFlat,
    IndexIVFPQ,
    IndexIVFScalarQuantizer,
    IndexPQ,
    IndexPreTransform,
    IndexRefine,
    IndexScalarQuantizer,
    OPQMatrix,
)
from flash_kmeans_mlx.index.base import restore_index

D, NLIST = 8, 5
X = np.random.default_rng(0).standard_normal((400, D)).astype(np.float32)


def _rotation() -> OPQMatrix:
    return OPQMatrix(D, 4, 3, niter=1)


# By metric; searches look at all lists.
MAKE: dict[str, Callable[[str], Index]] = {
    "flat": lambda metric: IndexFlat(D, metric),
    "hnsw": lambda metric: IndexHNSW(D, 4, 20, metric),
    "ivf": lambda metric: IndexIVFFlat(D, NLIST, metric, NLIST, niter=1),
    "pq": lambda metric: IndexPQ(D, 4, 3, metric, niter=1),
    "ivfpq": lambda metric: IndexIVFPQ(D, NLIST, 4, 3, metric, NLIST, niter=1),
    "sq8": lambda metric: IndexScalarQuantizer(D, "8bit", metric),
    "ivffp16": lambda metric: IndexIVFScalarQuantizer(D, NLIST, "fp16", metric, NLIST, niter=1),
    "opq,ivf": lambda metric: IndexPreTransform(
        _rotation(), IndexIVFFlat(D, NLIST, metric, NLIST, niter=1)
    ),
    "opq,pq": lambda metric: IndexPreTransform(_rotation(), IndexPQ(D, 4, 3, metric, niter=1)),
    "opq,ivfpq": lambda metric: IndexPreTransform(
        _rotation(), IndexIVFPQ(D, NLIST, 4, 3, metric, NLIST, niter=1)
    ),
    # With every vector a candidate.
    "pq,refine": lambda metric: IndexRefine(IndexPQ(D, 4, 3, metric, niter=1), k_factor=1e6),
    "opq,ivfpq,refine": lambda metric: IndexRefine(MAKE["opq,ivfpq"](metric), k_factor=1e6),
}
# What `restore_index` takes: the name of the class, parameters and arrays.
State = tuple[str, dict[str, Any], dict[str, Array]]


def state(index: Index) -> State:
    return type(index).__name__, *index.state()


@cache
def trained_state(kind: str, metric: str) -> State:
    index = MAKE[kind](metric)
    index.train(X)
    return state(index)


def trained(kind: str, metric: str = "euclidean") -> Index:
    """A new empty index, without training again."""
    return restore_index(*trained_state(kind, metric))


def with_gaps(kind: str, metric: str = "euclidean") -> Index:
    """An index of 140 vectors, with ids of its own and of ours: rows were removed, and blocks are free."""
    index = trained(kind, metric)
    index.add(X[:150])
    index.add(X[150:190], np.arange(1000, 1040)[::-1])
    index.remove_ids(np.arange(0, 160, 3))
    return index


def fingerprint(index: Index) -> tuple[Any, ...]:
    """All that can be seen of an index."""
    parameters, arrays = index.state()
    found = index.search(X[:7], 300) if index.is_trained else ()
    parts = [*sorted(arrays.items()), *enumerate(found)]
    return (
        index.ntotal,
        index.is_trained,
        str(parameters),
        *((key, array.tobytes()) for key, array in parts),
    )


def empty_store() -> EmbeddingStore:
    return EmbeddingStore("euclidean")


def small_store() -> EmbeddingStore:
    """20 embeddings with metadata."""
    store = empty_store()
    store.add(X[:20], ids=np.arange(20), metadata=list(range(20)))
    return store


def store_with_lists() -> EmbeddingStore:
    """As `small_store`, in lists."""
    store = EmbeddingStore(index=trained("ivf"))
    store.add(X[:20], ids=np.arange(20), metadata=list(range(20)))
    return store


def store_contents(store: EmbeddingStore) -> dict[int, tuple[list[float], Any]]:
    """Embedding and metadata by id."""
    if store.index is None:
        return {}
    ids = store.index._ids(store.index._snapshot).tolist()
    rows = store.index.reconstruct_batch(ids).tolist() if ids else []
    return {
        key: (row, store._current.read().metadata.get(key))
        for key, row in zip(ids, rows, strict=True)
    }
