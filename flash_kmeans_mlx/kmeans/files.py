"""Labels of vectors in files: one chunk is labelled while a thread reads the next."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import numpy as np

from .. import validation
from ..files import CHUNK_BYTES, Progress, Vectors, ahead
from .api import assign

__all__ = ["label_file"]


def label_file(
    vectors: Vectors,
    centroids: Any,
    metric: str,
    *,
    max_mem_gb: float = 0.0,
    backend: str | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """(N,) uint32, the best centroid (K, D) of every row of a file; arguments and errors as in `assign`.

    `progress` is called with the rows labelled so far and their number.
    """
    (n, d), shape = vectors.shape, tuple(centroids.shape)
    if len(shape) != 2 or shape[1] != d:
        raise ValueError(
            f"the vectors must have D={shape[-1]} like the centroids of shape {shape}, got {(n, d)} from {vectors}"
        )
    cap = validation.cap(max_mem_gb)
    per_row = vectors.row_bytes + vectors.reading_bytes
    rows = min(n, max(1, CHUNK_BYTES // vectors.row_bytes))
    if cap:
        rows = min(rows, max(1, (cap - 4 * n) // 2 // per_row))
        left = cap - 4 * n - rows * per_row
        if left <= 0:
            raise ValueError(
                f"max_mem_gb={max_mem_gb:g} must be > {(4 * n + per_row) / 1e9:.3g}: {n} labels take that much"
            )
        max_mem_gb = left / 1e9
    labels, done = np.empty(n, np.uint32), 0
    with closing(ahead(vectors, rows)) as chunks:
        for chunk in chunks:
            labels[done : done + len(chunk)] = assign(
                chunk, centroids, metric, max_mem_gb=max_mem_gb, backend=backend
            )
            done += len(chunk)
            del chunk
            if progress is not None:
                progress(done, n)
    return labels
