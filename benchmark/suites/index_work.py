"""Indexes of one contestant, in its worker process."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np

from ..contestants import Array
from ..memory import resident_trimmed
from ..worker import Work

K = 10  # neighbours of each query
DECODED = 20_000  # vectors whose error of quantization is measured
# Our recall is wrong if it is below faiss's by more. Another start moves it by up to 0.006.
RECALL_GAP = 0.01
LONG = 0.3  # seconds of a search that is repeated by other runs only
BATCHES = 3  # of a size that are timed at least


class IndexWork(Work):
    """An index of one contestant in its worker process."""

    x: Array
    queries: Array
    factory: str
    index: Any

    def load(self, x: str, queries: str, factory: str = "") -> None:
        """Load .npy files; the factory string says which index is built."""
        self.x = np.load(x)
        self.queries = np.load(queries)
        self.factory = factory

    def train(self) -> dict[str, Any]:
        """Return the seconds of training an index."""
        self.index = None
        begin = perf_counter()
        self.index = self.contestant.train_index(self.factory, self.x)
        return {"seconds": perf_counter() - begin}

    def add(self) -> dict[str, Any]:
        """Return the seconds of adding all vectors."""
        begin = perf_counter()
        self.index.add(self.x)
        return {"seconds": perf_counter() - begin}

    def build(self, factory: str) -> dict[str, Any]:
        """Train and fill an index, or return why the library does not make one."""
        self.factory = factory
        try:
            self.train()
        except (ValueError, RuntimeError) as error:  # of faiss, the latter
            return {"missing": str(error).splitlines()[0]}
        return self.add()

    def describe(self, save: str) -> None:
        """Write the centroids, and some vectors as the index stores them."""
        if self.factory.startswith("IVF"):
            np.save(save + "-centroids.npy", self.contestant.index_centroids(self.index))
        n = min(DECODED, len(self.x))
        np.save(save + "-kept.npy", self.contestant.decode_index(self.index, n))

    def memory(self) -> dict[str, Any]:
        """Return by how many bytes the process grows, searches included.

        The first index loads code and starts threads, and the second one is measured.
        """
        before = 0
        for _ in range(2):
            self.index = None
            before = resident_trimmed()
            self.train()
            self.add()
            nprobe = 1 if self.factory.startswith("IVF") else 0
            self.contestant.search_index(self.index, self.queries, K, nprobe)
        return {"bytes": resident_trimmed() - before}

    def search(self, nprobe: int, repeats: int, save: str) -> dict[str, Any]:
        """Return the seconds of searches, and write the ids found.

        The first one wakes threads and fills caches. Where searches are short, it is not counted.
        """
        spent: list[float] = []
        ids = np.zeros((0, K))
        while len(spent) <= repeats and not (spent and spent[0] > LONG):
            begin = perf_counter()
            ids = self.contestant.search_index(self.index, self.queries, K, nprobe)
            spent.append(perf_counter() - begin)
        np.save(save + ".npy", ids)
        return {"seconds": spent[1:] or spent}

    def batches(self, nprobe: int, size: int, seconds: float) -> dict[str, Any]:
        """Return the seconds of each of some batches of queries, after one that is not timed.

        Args:
            nprobe: As in `Contestant.search_index`.
            size: Queries of a batch.
            seconds: How long to go on.
        """
        n_batches = len(self.queries) // size
        spent: list[float] = []
        i = -1
        while len(spent) < BATCHES or sum(spent) < seconds:
            first = (i % n_batches) * size
            queries = self.queries[first : first + size]
            begin = perf_counter()
            self.contestant.search_index(self.index, queries, K, nprobe)
            if i >= 0:
                spent.append(perf_counter() - begin)
            i += 1
        return {"seconds": spent}


def recall(found: Array, truth: Array) -> float:
    """Return the share of the true ids (Q, K) that are among those found (Q, K)."""
    shared = [len(np.intersect1d(a, b)) for a, b in zip(found, truth, strict=True)]
    return float(np.mean(shared)) / truth.shape[1]
