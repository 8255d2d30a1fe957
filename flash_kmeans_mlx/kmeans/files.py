"""Labels of vectors in files: a thread reads the next chunk while one is labelled."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import numpy as np

from .. import validation
from ..files import CHUNK_BYTES, Progress, Vectors, ahead
from .assign import assign

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
    """Return (N,) uint32, the best centroid of every row of a file.

    Args:
        vectors: (N, D).
        centroids: (K, D).
        metric: As in `assign`.
        max_mem_gb: As in `assign`.
        backend: As in `assign`.
        progress: Called with the rows labelled so far and their number.

    Raises:
        ValueError: As in `assign`.
    """
    n, d = vectors.shape
    shape = tuple(centroids.shape)
    if len(shape) != 2 or shape[1] != d:
        raise ValueError(
            f"the vectors must have D={shape[-1]} like the centroids of shape {shape},"
            f" got {(n, d)} from {vectors}"
        )
    max_bytes = validation.cap(max_mem_gb)
    row_bytes = vectors.row_bytes + vectors.reading_bytes
    chunk_rows = min(n, max(1, CHUNK_BYTES // vectors.row_bytes))
    if max_bytes:
        room = max_bytes - 4 * n  # beside the labels
        chunk_rows = min(chunk_rows, max(1, room // 2 // row_bytes))
        room -= chunk_rows * row_bytes
        if room <= 0:
            raise ValueError(
                f"max_mem_gb={max_mem_gb:g} must be > {(4 * n + row_bytes) / 1e9:.3g}:"
                f" {n} labels take that much"
            )
        max_mem_gb = room / 1e9
    labels = np.empty(n, np.uint32)
    done = 0
    with closing(ahead(vectors, chunk_rows)) as chunks:
        for chunk in chunks:
            labels[done : done + len(chunk)] = assign(
                chunk, centroids, metric, max_mem_gb=max_mem_gb, backend=backend
            )
            done += len(chunk)
            del chunk
            if progress is not None:
                progress(done, n)
    return labels
