"""Rows, an iterable of chunks of them, and a check of reads for the tests of sources."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from flash_kmeans_mlx.shards.source import Source

RNG = np.random.default_rng(0)
X = RNG.standard_normal((97, 5)).astype(np.float32)
INTEGERS = RNG.integers(0, 99, (97, 5))


class Chunks:
    """Yields arrays anew in every pass."""

    def __init__(self, *chunks: Any) -> None:
        self.chunks = chunks

    def __iter__(self) -> Iterator[Any]:
        return iter(self.chunks)


def check_reads(source: Source, expected: np.ndarray, seed: int = 0, reads: int = 60) -> None:
    """Check random reads, mostly ascending, some of which skip rows or go back."""
    rng = np.random.default_rng(seed)
    n = len(expected)
    assert source.shape == expected.shape
    with source.cursor() as cursor:
        lo = 0
        for _ in range(reads):
            hi = lo + int(rng.integers(1, n - lo + 1) if rng.random() < 0.2 else 1)
            hi = min(n, hi + int(rng.integers(0, 9)))
            rows = cursor.read(lo, hi)
            assert rows.dtype == source.dtype and rows.strides[1] == rows.itemsize
            np.testing.assert_array_equal(rows, expected[lo:hi])
            lo = hi + int(rng.integers(0, 9)) * (rng.random() < 0.3)
            if lo >= n or rng.random() < 0.1:
                lo = int(rng.integers(0, n))
    index = rng.integers(0, n, 40)
    np.testing.assert_array_equal(source.take(index), expected[index])
    assert source.take([]).shape == (0, source.shape[1])
