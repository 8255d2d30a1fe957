"""Results of a store's methods."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

__all__ = ["Hits", "Records"]


class Hits(NamedTuple):
    """Results of a search. Metadata are the store's own objects: copy them before you change them.

    Attributes:
        distances: (Q, k) float32.
        ids: (Q, k) int64, -1 where there is none; or strings and None, a NumPy array of objects.
        metadata: Q lists of k values, None where there is none.
    """

    distances: Any
    ids: Any
    metadata: list[list[Any]]


class Records(NamedTuple):
    """Embeddings and metadata of some ids, in their order. Metadata are the store's own objects.

    Attributes:
        embeddings: (M, D) float32, as exactly as the index keeps them.
        metadata: M values, None where there is none.
    """

    embeddings: np.ndarray
    metadata: list[Any]
